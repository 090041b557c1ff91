//! [`Runner`]: the engine thread. A turn hears what came, then is three calls: schedule, run, commit.

use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use scheduler::{OwnerId, Plan, Scheduler, SchedulerOptions, SequenceId, SequenceSpec};

use super::batch::{self, Outcome};
use super::events::Reader;
use super::job::{Admitted, Job, Task};
use super::live::{Advance, Continuation, LiveJob, Lives, Mean};
use super::shared::{Message, Shared};
use super::{ServiceOptions, TokenEvent};
use crate::ranks::panic_words;
use crate::speculation::{Drafter, Speculation, ngram};
use crate::{Engine, EngineError, FinishReason, Sampled};

/// How long to wait for blocks that generations outside of the service hold: they tell nobody when they end.
const BLOCKS_RETRY: Duration = Duration::from_millis(5);

/// What the engine thread owns.
pub(crate) struct Runner {
    engine: Arc<Engine>,
    scheduler: Scheduler,
    shared: Arc<Shared>,
    inbox: Receiver<Message>,
    jobs: HashMap<u64, LiveJob>,
    lives: Lives,
    num_sequences: u64,
    is_stopping: bool,
}

impl Runner {
    pub(crate) fn new(
        engine: Arc<Engine>,
        options: &ServiceOptions,
        shared: Arc<Shared>,
        inbox: Receiver<Message>,
    ) -> Result<Self, EngineError> {
        let most = if engine.keeps_state() { engine.slots().count() } else { usize::MAX };
        let options = SchedulerOptions {
            max_num_seqs: options.max_num_seqs.min(most),
            max_num_batched_tokens: options.max_num_batched_tokens,
            // Whoever comes here has been let in.
            max_waiting: usize::MAX,
            prefix_cache: options.prefix_cache,
        };
        Ok(Self {
            scheduler: Scheduler::new(engine.allocator().clone(), options)?,
            engine,
            shared,
            inbox,
            jobs: HashMap::new(),
            lives: Lives::default(),
            num_sequences: 0,
            is_stopping: false,
        })
    }

    /// The body of the thread: ends when no handle is left, or when the engine is lost.
    pub(crate) fn run(mut self) {
        let result = catch_unwind(AssertUnwindSafe(|| self.turns()));
        let result = result.unwrap_or_else(|panic| Err(EngineError::Panic { words: panic_words(&*panic) }));
        if let Err(error) = result {
            // In this order: who hears of it must not find the service alive.
            self.shared.die(error.to_string());
            let failed = || TokenEvent::Failed { error: error.to_string(), is_request: false };
            for job in self.jobs.values_mut() {
                job.events.push(failed());
                job.events.flush();
                let count = job.sequences.len() as u64;
                self.shared.metrics(|metrics| metrics.request_success.error += count);
            }
        }
    }

    fn turns(&mut self) -> Result<(), EngineError> {
        loop {
            while let Ok(message) = self.inbox.try_recv() {
                self.hear(message);
            }
            if self.is_stopping {
                return Ok(());
            }
            self.shared.beat();
            let plan = self.scheduler.schedule();
            for id in &plan.preempted {
                self.lives.means.entry(*id).and_modify(Mean::clear);
            }
            if plan.is_empty() {
                self.publish_stats();
                self.wait(plan.short_of_blocks);
                continue;
            }
            self.begin(&plan);
            self.publish_stats();
            let started = Instant::now();
            let outcome = batch::run(&self.engine, &plan, &mut self.lives)?;
            self.commit(plan, outcome, started.elapsed());
        }
    }

    /// Nothing can be computed before a message comes.
    fn wait(&mut self, is_short_of_blocks: bool) {
        if !is_short_of_blocks {
            self.shared.rest();
        }
        let message = match is_short_of_blocks {
            true => self.inbox.recv_timeout(BLOCKS_RETRY),
            false => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match message {
            Ok(message) => self.hear(message),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => self.is_stopping = true,
        }
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Submit(admitted) => self.submit(admitted),
            Message::Cancel(number) => self.abandon(number),
            Message::Resume(number) => self.flush(number),
            Message::CancelAll => self.cancel_all(),
            Message::Stop => {
                self.cancel_all();
                self.is_stopping = true;
            }
        }
    }

    /// Takes in a job that was validated.
    fn submit(&mut self, admitted: Admitted) {
        let Admitted { number, task, events, accepted } = admitted;
        let job = LiveJob { events, accepted, queued: None, sequences: Vec::new(), is_stalled: false };
        self.jobs.insert(number, job);
        let result = match task {
            Task::Embed { prompt, owner, salt } => self.embed(number, prompt, (owner, salt)),
            Task::Generate(job) => self.generate(number, *job),
        };
        if let Err(error) = result {
            self.fail(number, &error);
            self.flush(number);
        }
    }

    fn generate(&mut self, number: u64, mut job: Job) -> Result<(), EngineError> {
        let left = self.engine.context_len() - job.request.prompt.len();
        let max_tokens = job.request.max_tokens.unwrap_or(left);
        let mut ids = Vec::with_capacity(job.n);
        for continuation in Continuation::all(number, &mut job, max_tokens)? {
            let id = self.next_id();
            self.lives.continuations.insert(id, Box::new(continuation));
            ids.push(id);
        }
        self.add(number, ids, max_tokens, job.request.prompt, (job.owner, job.salt))
    }

    fn embed(
        &mut self,
        number: u64,
        prompt: Vec<u32>,
        owner_and_salt: (u64, u64),
    ) -> Result<(), EngineError> {
        let id = self.next_id();
        self.lives.means.insert(id, Mean::new(number, prompt.len()));
        self.add(number, vec![id], 0, prompt, owner_and_salt)
    }

    fn next_id(&mut self) -> SequenceId {
        self.num_sequences += 1;
        SequenceId(self.num_sequences)
    }

    /// Gives the sequences `ids` of a job to the scheduler.
    fn add(
        &mut self,
        number: u64,
        ids: Vec<SequenceId>,
        max_tokens: usize,
        prompt: Vec<u32>,
        (owner, salt): (u64, u64),
    ) -> Result<(), EngineError> {
        let siblings = ids[1..].to_vec();
        let id = ids[0];
        if let Some(job) = self.jobs.get_mut(&number) {
            job.sequences = ids;
        }
        let owner = OwnerId(owner);
        Ok(self.scheduler.add(SequenceSpec { id, owner, salt, prompt, max_tokens, siblings })?)
    }

    /// Tells the readers of those whose first step this is.
    fn begin(&mut self, plan: &Plan) {
        for chunk in &plan.chunks {
            let Some(number) = self.lives.job_of(chunk.id) else { continue };
            let Some(job) = self.jobs.get_mut(&number).filter(|job| job.queued.is_none()) else { continue };
            let (queued, cached_tokens) = (job.accepted.elapsed(), chunk.cached_tokens);
            job.queued = Some(queued);
            let mut prompt_tokens = self.lives.means.get(&chunk.id).map_or(0, Mean::prompt_tokens);
            for id in &job.sequences {
                if let Some(continuation) = self.lives.continuations.get_mut(id) {
                    let stats = &mut continuation.stats;
                    (stats.queued, stats.cached_tokens) = (queued, cached_tokens);
                    prompt_tokens = stats.prompt_tokens;
                }
            }
            job.events.push(TokenEvent::Started { cached_tokens, queued });
            self.shared.begin();
            self.shared.metrics(|metrics| {
                metrics.request_queue_time.observe(queued.as_secs_f64());
                metrics.prompt_tokens += prompt_tokens as u64;
            });
        }
    }

    /// Takes note of what a plan gave, and tells the readers.
    fn commit(&mut self, plan: Plan, outcome: Outcome, elapsed: Duration) {
        let touched: BTreeSet<u64> =
            plan.chunks.iter().filter_map(|chunk| self.lives.job_of(chunk.id)).collect();
        for chunk in plan.chunks.iter().filter(|chunk| chunk.sample.is_empty()) {
            if let Some(continuation) = self.lives.continuations.get_mut(&chunk.id) {
                continuation.book(elapsed);
            }
        }
        let (mut sampled, mut failed) = (Vec::new(), outcome.failed);
        for (id, result) in outcome.sampled {
            match result {
                Ok(token) => sampled.push((id, token)),
                Err(error) => failed.push((id, error)),
            }
        }
        // Before the commit, which would otherwise let others find keys that are not what they should be.
        for (id, error) in failed {
            if let Some(number) = self.lives.job_of(id) {
                self.fail(number, &error);
            }
        }
        let tokens = sampled.iter().flat_map(|(id, sampled)| sampled.iter().map(|s| (*id, s.token)));
        let tokens: Vec<_> = tokens.collect();
        self.count_guesses(&plan, &sampled);
        self.scheduler.commit(plan, &tokens);
        for (id, count, rows) in outcome.hidden {
            self.embedded(id, count, &rows);
        }
        for (id, sampled) in sampled {
            // The time of the step is that of the first of its tokens.
            let times = std::iter::once(Some(elapsed)).chain(std::iter::repeat(None));
            for (sampled, elapsed) in sampled.into_iter().zip(times) {
                self.sampled(id, sampled, elapsed);
            }
        }
        self.guess(outcome.guesses, &tokens);
        touched.into_iter().for_each(|number| self.flush(number));
    }

    /// Books what was guessed, and what was right.
    fn count_guesses(&mut self, plan: &Plan, sampled: &[(SequenceId, Vec<Sampled>)]) {
        let guesses: HashMap<SequenceId, usize> =
            plan.chunks.iter().filter(|c| c.guesses > 0).map(|chunk| (chunk.id, chunk.guesses)).collect();
        for (id, sampled) in sampled {
            let (Some(&guessed), Some(continuation)) =
                (guesses.get(id), self.lives.continuations.get_mut(id))
            else {
                continue;
            };
            let accepted = sampled.len() - 1;
            continuation.stats.guessed_tokens += guessed;
            continuation.stats.accepted_tokens += accepted;
            self.shared.metrics(|metrics| {
                metrics.spec_decode_num_drafts += 1;
                metrics.spec_decode_num_draft_tokens += guessed as u64;
                metrics.spec_decode_num_accepted_tokens += accepted as u64;
            });
        }
    }

    /// Has what may follow the sequences that got `tokens` computed with their next step. Those under a constraint go
    /// token by token: what it allows after a guess is known only when the guess has been accepted.
    fn guess(&mut self, drafted: Vec<(SequenceId, Vec<u32>)>, tokens: &[(SequenceId, u32)]) {
        let guesses = match self.engine.speculation() {
            None => return,
            Some(Speculation { drafter: Drafter::Mtp, .. }) => drafted,
            Some(Speculation { drafter: Drafter::Ngram, num_tokens }) => {
                let ids: BTreeSet<SequenceId> = tokens.iter().map(|(id, _)| *id).collect();
                let guess = |id| Some((id, ngram(self.scheduler.tokens(id)?, num_tokens)));
                ids.into_iter().filter_map(guess).collect()
            }
        };
        for (id, guesses) in guesses {
            if self.lives.continuations.get(&id).is_some_and(|continuation| !continuation.is_constrained()) {
                self.scheduler.guess(id, guesses);
            }
        }
    }

    fn sampled(&mut self, id: SequenceId, sampled: Sampled, elapsed: Option<Duration>) {
        let Some(number) = self.lives.job_of(id) else { return };
        let (Some(continuation), Some(job)) =
            (self.lives.continuations.get_mut(&id), self.jobs.get_mut(&number))
        else {
            return;
        };
        match continuation.advance(sampled, job.accepted, elapsed) {
            Err(error) => self.fail(number, &error),
            Ok(Advance { token, finish, gap }) => {
                let first = continuation.stats.time_to_first_token.unwrap_or_default();
                self.shared.metrics(|metrics| {
                    metrics.generation_tokens += 1;
                    match gap {
                        Some(gap) => metrics.inter_token_latency.observe(gap.as_secs_f64()),
                        None => metrics.time_to_first_token.observe(first.as_secs_f64()),
                    }
                });
                let index = continuation.index;
                token.into_iter().for_each(|sampled| job.events.push(TokenEvent::Token { index, sampled }));
                finish.into_iter().for_each(|reason| self.finish(id, reason));
            }
        }
    }

    /// A continuation is over.
    fn finish(&mut self, id: SequenceId, reason: FinishReason) {
        let Some(number) = self.lives.job_of(id) else { return };
        let (Some(continuation), Some(job)) =
            (self.lives.continuations.remove(&id), self.jobs.get_mut(&number))
        else {
            return;
        };
        self.lives.states.remove(id);
        self.scheduler.finish(id);
        job.sequences.retain(|other| *other != id);
        let Continuation { index, stats, .. } = *continuation;
        job.events.push(TokenEvent::Finish { index, reason, stats });
        let latency = job.accepted.elapsed().as_secs_f64();
        self.shared.metrics(|metrics| {
            metrics.request_success.count(reason);
            metrics.e2e_request_latency.observe(latency);
        });
    }

    fn embedded(&mut self, id: SequenceId, count: usize, rows: &[f32]) {
        let Some(number) = self.lives.job_of(id) else { return };
        let (Some(mean), Some(job)) = (self.lives.means.get_mut(&id), self.jobs.get_mut(&number)) else {
            return;
        };
        mean.add(rows, count);
        match mean.finish() {
            None => {}
            Some(Err(error)) => self.fail(number, &error),
            Some(Ok(embedding)) => {
                job.events.push(TokenEvent::Embedding(embedding));
                job.sequences.clear();
                let latency = job.accepted.elapsed().as_secs_f64();
                self.lives.remove(id);
                self.scheduler.finish(id);
                self.shared.metrics(|metrics| {
                    metrics.request_success.stop += 1;
                    metrics.e2e_request_latency.observe(latency);
                });
            }
        }
    }

    /// Ends a job with an error; the next flush forgets it.
    fn fail(&mut self, number: u64, error: &EngineError) {
        let count = self.drop_sequences(number);
        let Some(job) = self.jobs.get_mut(&number) else { return };
        job.events.push(TokenEvent::Failed { error: error.to_string(), is_request: true });
        self.shared.metrics(|metrics| metrics.request_success.error += count as u64);
    }

    /// Nobody waits for a job any more.
    fn abandon(&mut self, number: u64) {
        let count = self.drop_sequences(number);
        self.shared.metrics(|metrics| metrics.request_success.abort += count as u64);
        self.forget(number);
    }

    fn cancel_all(&mut self) {
        let mut numbers: Vec<u64> = self.jobs.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            let ids = self.jobs.get(&number).map(|job| job.sequences.clone()).unwrap_or_default();
            for id in ids {
                match self.lives.means.contains_key(&id) {
                    true => self.fail(number, &EngineError::Cancelled),
                    false => self.finish(id, FinishReason::Cancelled),
                }
            }
            self.flush(number);
        }
    }

    /// Takes a job's sequences away from the scheduler; says how many there were.
    fn drop_sequences(&mut self, number: u64) -> usize {
        let Some(job) = self.jobs.get_mut(&number) else { return 0 };
        let ids = std::mem::take(&mut job.sequences);
        for &id in &ids {
            self.scheduler.cancel(id);
            self.lives.remove(id);
        }
        ids.len()
    }

    /// Sends a job's reader what there is for it; pauses the job if that is too much, and forgets it after its last
    /// event.
    fn flush(&mut self, number: u64) {
        let Some(job) = self.jobs.get_mut(&number) else { return };
        let reader = job.events.flush();
        if reader == Reader::Gone {
            return self.abandon(number);
        }
        let is_stalled = reader == Reader::Stalled;
        if job.is_stalled != is_stalled {
            job.is_stalled = is_stalled;
            job.sequences.iter().for_each(|id| self.scheduler.pause(*id, is_stalled));
        }
        if !is_stalled && job.sequences.is_empty() {
            self.forget(number);
        }
    }

    fn forget(&mut self, number: u64) {
        match self.jobs.remove(&number) {
            Some(LiveJob { queued: Some(_), .. }) => self.shared.end(),
            Some(LiveJob { queued: None, .. }) => self.shared.forget_queued(),
            None => {}
        }
    }

    fn publish_stats(&self) {
        let stats = self.scheduler.stats();
        self.shared.metrics(|metrics| metrics.take(&stats));
    }
}
