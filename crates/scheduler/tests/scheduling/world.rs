//! A world without a model: a KV cache whose rows say which history they hold, and a caller who checks every read.
//!
//! The key of a token is a hash of the token and of all keys before it, read through the block table as attention
//! would. So whatever is shared, copied, evicted or reused wrongly shows as a wrong key, at the next read at the
//! latest.

use std::collections::{BTreeMap, HashSet};

use scheduler::{
    BlockAllocator, BlockTable, Chunk, OwnerId, Plan, Scheduler, SchedulerError, SchedulerOptions,
    SequenceId, SequenceSpec,
};

use crate::states::States;

pub(crate) const VOCABULARY: u64 = 3;

/// What a row of the cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Row {
    key: u64,
    /// For whom it was computed, or by which table outside the scheduler it was taken.
    salt: u64,
}

/// What the caller knows about a sequence.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) owner: u64,
    pub(crate) salt: u64,
    pub(crate) tokens: Vec<u32>,
    pub(crate) prompt_len: usize,
    pub(crate) max_tokens: usize,
    /// Tokens computed, once it has run.
    pub(crate) computed: Option<usize>,
    pub(crate) cached_tokens: usize,
    pub(crate) paused: bool,
    /// It has all it wanted.
    pub(crate) complete: bool,
}

impl Job {
    pub(crate) fn generated(&self) -> &[u32] {
        &self.tokens[self.prompt_len..]
    }
}

/// A scheduler, its cache, its caller, and users of the pool that the scheduler does not know.
pub(crate) struct World {
    pub(crate) allocator: BlockAllocator,
    pub(crate) scheduler: Scheduler,
    pub(crate) rows: Vec<Row>,
    pub(crate) jobs: BTreeMap<u64, Job>,
    /// Those that ended: a plan may still compute them.
    dead: BTreeMap<u64, Job>,
    pub(crate) outside: Vec<(BlockTable, u64)>,
    pub(crate) next_id: u64,
    pub(crate) preempted: usize,
    pub(crate) states: States,
    /// Guesses that were right.
    pub(crate) right_guesses: usize,
    stamps: u64,
}

pub(crate) fn mix(state: u64, value: u64) -> u64 {
    let mixed = (state ^ value.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ (mixed >> 32)
}

pub(crate) fn options(
    max_num_seqs: usize,
    max_num_batched_tokens: usize,
    prefix_cache: bool,
) -> SchedulerOptions {
    SchedulerOptions { max_num_seqs, max_num_batched_tokens, max_waiting: 1000, prefix_cache }
}

/// What a sequence samples after this history, alone or not.
pub(crate) fn next_token(id: u64, history: u64) -> u32 {
    (mix(history, id) % VOCABULARY) as u32
}

/// The digest of a history by its tokens, which is what the cache must say too.
pub(crate) fn digest(tokens: &[u32]) -> u64 {
    tokens.iter().fold(0, |state, &token| mix(state, mix(state, u64::from(token) + 1)))
}

/// What the sequence generates if everything is right.
pub(crate) fn alone(id: u64, prompt: &[u32], max_tokens: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..max_tokens {
        tokens.push(next_token(id, digest(&tokens)));
    }
    tokens.split_off(prompt.len())
}

impl World {
    pub(crate) fn new(blocks: usize, block_size: usize, options: SchedulerOptions) -> Self {
        Self::over(BlockAllocator::new(blocks, block_size).unwrap(), options)
    }

    pub(crate) fn over(allocator: BlockAllocator, options: SchedulerOptions) -> Self {
        Self {
            scheduler: Scheduler::new(allocator.clone(), options).unwrap(),
            rows: vec![Row::default(); allocator.capacity()],
            allocator,
            jobs: BTreeMap::new(),
            dead: BTreeMap::new(),
            outside: Vec::new(),
            next_id: 0,
            preempted: 0,
            states: States::default(),
            right_guesses: 0,
            stamps: 1 << 40,
        }
    }

    /// The same for a model that keeps state per sequence, and `snapshots` of it.
    pub(crate) fn with_snapshots(
        allocator: BlockAllocator,
        snapshots: usize,
        options: SchedulerOptions,
    ) -> Self {
        let states = States::new(snapshots);
        Self { states, ..Self::over(allocator.with_snapshots(snapshots), options) }
    }

    /// Adds a prompt of `n` sequences and returns the name of the first; the others follow.
    pub(crate) fn add(&mut self, owner: u64, salt: u64, prompt: &[u32], max_tokens: usize, n: u64) -> u64 {
        self.try_add(owner, salt, prompt, max_tokens, n).unwrap()
    }

    pub(crate) fn try_add(
        &mut self,
        owner: u64,
        salt: u64,
        prompt: &[u32],
        max_tokens: usize,
        n: u64,
    ) -> Result<u64, SchedulerError> {
        let id = self.next_id;
        self.scheduler.add(SequenceSpec {
            id: SequenceId(id),
            owner: OwnerId(owner),
            salt,
            prompt: prompt.to_vec(),
            max_tokens,
            siblings: (id + 1..id + n).map(SequenceId).collect(),
        })?;
        self.next_id += n;
        self.states.add(id..id + n);
        let job = Job {
            owner,
            salt,
            tokens: prompt.to_vec(),
            prompt_len: prompt.len(),
            max_tokens,
            computed: None,
            cached_tokens: 0,
            paused: false,
            complete: false,
        };
        self.jobs.extend((id..id + n).map(|id| (id, job.clone())));
        Ok(id)
    }

    /// Schedules, runs and commits one step, and ends what is complete. False if nothing ran.
    pub(crate) fn step(&mut self) -> bool {
        let plan = self.schedule();
        let ran = !plan.is_empty();
        let sampled = self.run(&plan);
        self.commit(plan, &sampled);
        self.finish_complete();
        ran
    }

    pub(crate) fn run_to_the_end(&mut self) -> usize {
        let mut steps = 0;
        while self.step() {
            steps += 1;
        }
        assert!(self.jobs.is_empty(), "left over: {:?}", self.jobs);
        steps
    }

    pub(crate) fn schedule(&mut self) -> Plan {
        let plan = self.scheduler.schedule();
        for SequenceId(id) in &plan.preempted {
            self.preempted += 1;
            if let Some(job) = self.jobs.get_mut(id) {
                job.computed = None;
            }
            self.states.forget(*id);
        }
        self.scheduler.check_integrity().unwrap();
        plan
    }

    /// Guesses `count` tokens after each sequence, of which the first `right` are.
    pub(crate) fn guess(&mut self, count: usize, right: usize) {
        for (&id, job) in &self.jobs {
            let mut tokens = job.tokens.clone();
            for i in 0..count {
                let next = next_token(id, digest(&tokens));
                tokens.push(if i < right { next } else { (next + 1) % VOCABULARY as u32 });
            }
            self.scheduler.guess(SequenceId(id), tokens.split_off(job.tokens.len()));
        }
    }

    /// The tokens of the chunk's sequence up to the last guess.
    fn history(&self, chunk: &Chunk) -> Vec<u32> {
        [&self.job(chunk).tokens[..chunk.start], &chunk.tokens].concat()
    }

    fn job(&self, chunk: &Chunk) -> &Job {
        self.jobs.get(&chunk.id.0).unwrap_or_else(|| &self.dead[&chunk.id.0])
    }

    fn row(&self, chunk: &Chunk, position: usize) -> usize {
        let size = self.allocator.block_size();
        chunk.blocks[position / size] as usize * size + position % size
    }

    /// Reads the first `len` keys of the chunk's sequence.
    fn read(&self, chunk: &Chunk, len: usize) -> u64 {
        let salt = self.job(chunk).salt;
        (0..len).fold(0, |state, position| {
            let row = self.rows[self.row(chunk, position)];
            assert_eq!(salt, row.salt, "{:?} reads what is not its own", chunk.id);
            mix(state, row.key)
        })
    }

    /// Does what a device would, and returns the sampled tokens.
    pub(crate) fn run(&mut self, plan: &Plan) -> Vec<(SequenceId, u32)> {
        self.check_shape(plan);
        self.copy_blocks(plan);
        // All reads of earlier steps' keys come before any write: no chunk may rely on another of the same step.
        let before: Vec<u64> = plan.chunks.iter().map(|chunk| self.read(chunk, chunk.start)).collect();
        let tokens = |chunk: &Chunk| {
            let job = self.jobs.get(&chunk.id.0).unwrap_or_else(|| &self.dead[&chunk.id.0]);
            &job.tokens[..]
        };
        self.states.run(plan, self.allocator.block_size(), tokens);
        let mut sampled = Vec::new();
        for (chunk, &before) in plan.chunks.iter().zip(&before) {
            let job = self.job(chunk);
            let end = chunk.start + chunk.tokens.len();
            let known = end - chunk.guesses;
            assert_eq!(before, digest(&job.tokens[..chunk.start]), "{:?} reads a foreign history", chunk.id);
            assert_eq!(chunk.tokens[..known - chunk.start], job.tokens[chunk.start..known]);
            let most = job.prompt_len + job.max_tokens.max(1) - 1;
            assert!(end <= most, "{:?} computes what nobody wants", chunk.id);
            assert!(job.computed.is_none_or(|c| c == chunk.start), "{:?} skips tokens", chunk.id);
            let salt = job.salt;
            let mut state = before;
            for (position, &token) in (chunk.start..end).zip(&chunk.tokens) {
                let key = mix(state, u64::from(token) + 1);
                let row = self.row(chunk, position);
                self.rows[row] = Row { key, salt };
                state = mix(state, key);
            }
        }
        for chunk in &plan.chunks {
            let end = chunk.start + chunk.tokens.len();
            for end in end - chunk.guesses..=end {
                let history = self.read(chunk, end);
                assert_eq!(history, digest(&self.history(chunk)[..end]), "{:?} was overwritten", chunk.id);
                sampled.extend(chunk.sample.iter().map(|&id| (id, next_token(id.0, history))));
            }
        }
        self.check_outside();
        sampled
    }

    fn check_shape(&self, plan: &Plan) {
        let from: HashSet<u32> = plan.copies.iter().map(|copy| copy.from).collect();
        let to: HashSet<u32> = plan.copies.iter().map(|copy| copy.to).collect();
        assert_eq!(to.len(), plan.copies.len(), "a block is the target of two copies");
        assert!(from.is_disjoint(&to), "a block is copied from and to");
        let ids: HashSet<_> = plan.chunks.iter().map(|chunk| chunk.id).collect();
        assert_eq!(ids.len(), plan.chunks.len(), "a sequence has two chunks");
        assert!(plan.chunks.iter().all(|chunk| !chunk.tokens.is_empty()), "a chunk is empty");
    }

    fn copy_blocks(&mut self, plan: &Plan) {
        let size = self.allocator.block_size();
        for copy in &plan.copies {
            let from = copy.from as usize * size;
            self.rows.copy_within(from..from + size, copy.to as usize * size);
        }
    }

    /// Commits, and keeps the caller's books.
    pub(crate) fn commit(&mut self, plan: Plan, sampled: &[(SequenceId, u32)]) {
        let fresh: HashSet<SequenceId> = sampled.iter().map(|&(id, _)| id).collect();
        let mut tokens: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        sampled.iter().for_each(|&(id, token)| tokens.entry(id.0).or_default().push(token));
        for chunk in &plan.chunks {
            let end = chunk.start + chunk.tokens.len() - chunk.guesses;
            let guesses = &chunk.tokens[chunk.tokens.len() - chunk.guesses..];
            let members = if chunk.sample.is_empty() { &vec![chunk.id] } else { &chunk.sample };
            let lives = |id: &&SequenceId| self.jobs.contains_key(&id.0);
            let failed =
                !chunk.sample.is_empty() && !chunk.sample.iter().filter(lives).any(|id| fresh.contains(id));
            for id in members {
                let Some(job) = self.jobs.get_mut(&id.0) else { continue };
                let repeats = !chunk.sample.is_empty() && !fresh.contains(id);
                let right = tokens.get_mut(&id.0).map_or(0, |tokens| {
                    let right =
                        tokens.iter().zip(guesses).take_while(|(token, guess)| token == guess).count();
                    tokens.truncate(right + 1);
                    tokens.len() - 1
                });
                self.right_guesses += right;
                job.computed = Some(if failed { chunk.start } else { end + right - usize::from(repeats) });
                job.cached_tokens = chunk.cached_tokens;
                job.complete |= job.max_tokens == 0 && end == job.prompt_len;
            }
        }
        for (id, tokens) in tokens {
            let Some(job) = self.jobs.get_mut(&id) else { continue };
            job.tokens.extend(tokens);
            job.complete |= job.generated().len() == job.max_tokens;
        }
        self.scheduler.commit(plan, sampled);
        for (&id, job) in &self.jobs {
            assert_eq!(self.scheduler.tokens(SequenceId(id)), Some(&job.tokens[..]), "the same history");
        }
        self.scheduler.check_integrity().unwrap();
    }

    /// The step fails half way: what it was to write is garbage now, unless it was there before.
    pub(crate) fn abort(&mut self, plan: Plan) {
        let size = self.allocator.block_size();
        let poison = Row { key: 0xdead, salt: 0xdead };
        for copy in &plan.copies {
            self.rows[copy.to as usize * size..][..size].fill(poison);
        }
        for chunk in &plan.chunks {
            for position in chunk.start..chunk.start + chunk.tokens.len() {
                let row = self.row(chunk, position);
                let tokens = self.history(chunk);
                let key = mix(digest(&tokens[..position]), u64::from(tokens[position]) + 1);
                if self.rows[row].key != key {
                    self.rows[row] = poison;
                }
            }
        }
        self.states.abort(&plan);
        self.scheduler.abort(plan);
        self.scheduler.check_integrity().unwrap();
    }

    /// Ends every sequence that has all it wanted and checks what it got.
    pub(crate) fn finish_complete(&mut self) {
        let complete: Vec<u64> =
            self.jobs.iter().filter(|(_, job)| job.complete).map(|(&id, _)| id).collect();
        for id in complete {
            let job = self.jobs.remove(&id).unwrap();
            assert_eq!(job.generated(), alone(id, &job.tokens[..job.prompt_len], job.max_tokens));
            self.dead.insert(id, job);
            self.scheduler.finish(SequenceId(id));
        }
        self.scheduler.check_integrity().unwrap();
    }

    pub(crate) fn cancel(&mut self, id: u64) {
        let job = self.jobs.remove(&id);
        assert_eq!(self.scheduler.cancel(SequenceId(id)), job.is_some());
        self.dead.extend(job.map(|job| (id, job)));
        self.scheduler.check_integrity().unwrap();
    }

    pub(crate) fn pause(&mut self, id: u64, paused: bool) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.paused = paused;
        }
        self.scheduler.pause(SequenceId(id), paused);
        self.scheduler.check_integrity().unwrap();
    }

    /// A user of the pool whom the scheduler does not know takes blocks and writes to them at once.
    pub(crate) fn take_outside(&mut self, tokens: usize) -> bool {
        let mut table = self.allocator.table();
        if table.grow_to(tokens).is_err() {
            return false;
        }
        self.stamps += 1;
        let stamp = Row { key: self.stamps, salt: self.stamps };
        let size = self.allocator.block_size();
        for &block in table.blocks() {
            self.rows[block as usize * size..][..size].fill(stamp);
        }
        self.outside.push((table, self.stamps));
        true
    }

    pub(crate) fn check_outside(&self) {
        let size = self.allocator.block_size();
        for (table, stamp) in &self.outside {
            for &block in table.blocks() {
                let rows = &self.rows[block as usize * size..][..size];
                assert!(rows.iter().all(|row| row.salt == *stamp), "block {block} of a table was written to");
            }
        }
    }
}
