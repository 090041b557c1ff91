//! [`Ranks`]: the ranks of a tensor-parallel model, and the one way to run something on all of them.
//!
//! Rank 0 works on the thread that calls, every other rank on a thread of its own, and a step is the same function on
//! each. They meet inside it, in the model's collectives. A rank that fails aborts the group, which ends the step on
//! all others; the group is dead from then on, because nobody knows how far its caches got.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use comm::{CommError, Communicator, Solo};
use kernels::{Device, Tensor};
use models::{KvCache, Model, ModelError};

use crate::EngineError;
use crate::draft::DraftState;
use crate::recorded::RecordedDecode;
use crate::step::StepChunk;

/// How long to wait for the other ranks' reports once it is known that the step has failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// One rank of a model, loaded.
pub struct Rank {
    /// Its part of the model.
    pub model: Box<dyn Model>,
    /// Where that part lives.
    pub device: Device,
    /// The communicator that the model's layers hold.
    pub comm: Arc<dyn Communicator>,
}

impl Rank {
    /// The only rank of a model.
    pub fn solo(model: Box<dyn Model>, device: Device) -> Self {
        Self { model, device, comm: Arc::new(Solo) }
    }

    fn view<'a>(&'a self, state: &'a mut RankState) -> RankView<'a> {
        let RankState { kv, decode, draft } = state;
        let (model, comm) = (&*self.model, &*self.comm);
        RankView { model, device: &self.device, comm, kv, decode: decode.as_mut(), draft: draft.as_mut() }
    }
}

/// What a rank's part of a step works on.
pub struct RankView<'a> {
    /// Its part of the model.
    pub model: &'a dyn Model,
    /// Where that part lives.
    pub device: &'a Device,
    /// Its way to the other ranks.
    pub comm: &'a dyn Communicator,
    /// Its cache; the blocks are the same on every rank.
    pub kv: &'a mut KvCache,
    decode: Option<&'a mut RecordedDecode>,
    pub(crate) draft: Option<&'a mut DraftState>,
}

impl RankView<'_> {
    /// What `read` makes of one decode step over `chunks` from a recording, or `None` where none is made. Its hidden states
    /// are the MTP layer's, if that guesses.
    pub(crate) fn decode<R>(
        &mut self,
        chunks: &[StepChunk],
        read: &mut impl FnMut(&Tensor) -> Result<R, EngineError>,
    ) -> Result<Option<R>, EngineError> {
        let Self { model, device, comm, kv, decode, draft } = self;
        let Some(decode) = decode else { return Ok(None) };
        decode.step(device, *comm, *model, kv, chunks, &mut |kept| {
            if let Some(draft) = draft {
                draft.hidden.clone_from(&kept.hidden);
            }
            read(&kept.logits)
        })
    }
}

/// Call before a result is read. What a GPU queued for it may need a rank that is lost, so the group is asked first: it
/// gives up after its deadline, where a read would wait forever.
pub(crate) fn ask_group(comm: &dyn Communicator) -> Result<(), EngineError> {
    Ok(comm.wait().map_err(ModelError::from)?)
}

/// What a rank's steps change.
pub(crate) struct RankState {
    pub(crate) kv: KvCache,
    /// `None` if decode steps are not to be recorded.
    pub(crate) decode: Option<RecordedDecode>,
    /// `None` unless the model's MTP layer guesses.
    pub(crate) draft: Option<DraftState>,
}

/// What one of the other ranks does in a step.
pub(crate) type Job = Arc<dyn Fn(&mut RankView<'_>) -> Result<(), EngineError> + Send + Sync>;

/// All ranks of one engine.
pub(crate) struct Ranks {
    /// Held for a whole step, so that all ranks see the steps in one order. Dropped before `first`: its recordings
    /// hold collectives of that rank's communicator.
    state: Mutex<State>,
    first: Rank,
    failure: OnceLock<Failure>,
    deadline: Duration,
}

struct State {
    first: RankState,
    workers: Vec<Worker>,
}

/// A rank on a thread of its own.
struct Worker {
    rank: usize,
    jobs: Sender<Job>,
    reports: Receiver<Result<(), Failure>>,
    thread: JoinHandle<()>,
}

/// Why a rank's part of a step failed.
#[derive(Debug, Clone)]
struct Failure {
    rank: usize,
    reason: String,
    /// Whether this is what the rank heard from the group, and not a failure of its own.
    is_hearsay: bool,
}

impl Ranks {
    /// The ranks in order, each with its state; `deadline` bounds how long the others may go on after the first has
    /// finished a step.
    pub(crate) fn new(ranks: Vec<(Rank, RankState)>, deadline: Duration) -> Result<Self, EngineError> {
        let mut ranks = ranks.into_iter();
        let Some((first, state)) = ranks.next() else {
            return Err(EngineError::options("ranks", "at least 1", 0));
        };
        let workers = ranks.enumerate().map(|(i, (rank, state))| Worker::spawn(i + 1, rank, state));
        let state = Mutex::new(State { first: state, workers: workers.collect::<Result<_, _>>()? });
        Ok(Self { first, state, failure: OnceLock::new(), deadline })
    }

    /// Rank 0.
    pub(crate) fn first(&self) -> &Rank {
        &self.first
    }

    /// Runs `mine` on rank 0 and `theirs` on every other rank, and returns when all are done.
    pub(crate) fn run<R>(
        &self,
        mine: impl FnOnce(&mut RankView<'_>) -> Result<R, EngineError>,
        theirs: impl FnOnce() -> Job,
    ) -> Result<R, EngineError> {
        // Rows of other sequences are never read, so a step that panicked half way has damaged nobody else.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { first, workers } = &mut *state;
        let comm = &self.first.comm;
        let mut view = self.first.view(first);
        if workers.is_empty() {
            return mine(&mut view);
        }
        if let Some(failure) = self.failure.get() {
            return Err(failure.to_error());
        }
        let job = theirs();
        for worker in &*workers {
            // A thread that has ended says so when its report is awaited.
            let _ = worker.jobs.send(job.clone());
        }
        let result = guarded(0, &**comm, || mine(&mut view));
        let mut failures = Vec::new();
        let result = result.map_err(|failure| failures.push(failure)).ok();
        for worker in &*workers {
            let patience = if failures.is_empty() { self.deadline } else { self.deadline.min(AFTER_FAILURE) };
            if let Err(failure) = worker.report(patience) {
                // Whoever is late must not find the others gone on without it.
                comm.abort(&failure.reason);
                failures.push(failure);
            }
        }
        match (result, root(&failures)) {
            (Some(result), None) => Ok(result),
            (_, cause) => {
                let cause = cause.unwrap_or_else(|| Failure::own(0, "an unknown reason"));
                Err(self.failure.get_or_init(|| cause).to_error())
            }
        }
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        for Worker { jobs, thread, .. } in state.workers.drain(..) {
            drop(jobs);
            // A rank that never came back from a failed step cannot be waited for.
            if self.failure.get().is_none() {
                let _ = thread.join();
            }
        }
    }
}

impl Worker {
    fn spawn(index: usize, rank: Rank, mut state: RankState) -> Result<Self, EngineError> {
        let (jobs, todo) = channel::<Job>();
        let (report, reports) = channel();
        let work = move || {
            for job in todo {
                let mut view = rank.view(&mut state);
                let result = guarded(index, &*rank.comm, || job(&mut view));
                // Whoever waits for the report may count on nobody else having the job any more.
                drop(job);
                if report.send(result).is_err() {
                    break;
                }
            }
            // Its recordings hold collectives of the rank's communicator.
            drop(state);
        };
        let thread = thread::Builder::new()
            .name(format!("rank {index}"))
            .spawn(work)
            .map_err(|source| EngineError::Thread { what: format!("rank {index}"), source })?;
        Ok(Self { rank: index, jobs, reports, thread })
    }

    fn report(&self, patience: Duration) -> Result<(), Failure> {
        self.reports.recv_timeout(patience).unwrap_or_else(|error| {
            Err(Failure::own(
                self.rank,
                match error {
                    RecvTimeoutError::Timeout => format!("no answer within {patience:?}"),
                    RecvTimeoutError::Disconnected => "its thread has ended".to_owned(),
                },
            ))
        })
    }
}

/// Runs one rank's part; if it fails or panics, the others hear of it at once.
fn guarded<R>(
    rank: usize,
    comm: &dyn Communicator,
    part: impl FnOnce() -> Result<R, EngineError>,
) -> Result<R, Failure> {
    // After a panic nothing of the group is used again.
    let failure = match catch_unwind(AssertUnwindSafe(part)) {
        Ok(Ok(result)) => return Ok(result),
        Ok(Err(error)) => Failure::of(rank, &error),
        Err(panic) => Failure::own(rank, format!("panicked: {}", panic_words(&*panic))),
    };
    comm.abort(&failure.reason);
    Err(failure)
}

/// What a panic said.
pub(crate) fn panic_words(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    words.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

/// The failure that all others follow from.
fn root(failures: &[Failure]) -> Option<Failure> {
    failures.iter().find(|failure| !failure.is_hearsay).or(failures.first()).cloned()
}

impl Failure {
    fn own(rank: usize, reason: impl Into<String>) -> Self {
        Self { rank, reason: reason.into(), is_hearsay: false }
    }

    fn of(rank: usize, error: &EngineError) -> Self {
        let EngineError::Model(ModelError::Comm(heard)) = error else {
            return Self::own(rank, error.to_string());
        };
        let reason = heard.to_string();
        match heard {
            CommError::Aborted { rank, reason } => {
                Self { rank: *rank, reason: reason.clone(), is_hearsay: true }
            }
            CommError::Left { rank, .. } => Self { rank: *rank, reason, is_hearsay: true },
            // Nobody else has more to say about these.
            CommError::Late { missing, .. } => Self::own(missing.first().copied().unwrap_or(rank), reason),
            CommError::Stalled { behind, .. } => Self::own(behind.first().copied().unwrap_or(rank), reason),
            CommError::Failed { rank, .. } => Self::own(*rank, reason),
            CommError::Mismatch { .. } | CommError::Transport { .. } => Self::own(rank, reason),
        }
    }

    fn to_error(&self) -> EngineError {
        EngineError::Rank { rank: self.rank, reason: self.reason.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A transport may only say that the group is gone; the rank itself knows why.
    #[test]
    fn a_ranks_own_words_come_before_what_others_heard() {
        let heard = CommError::Left { rank: 2, panicked: true };
        let heard = Failure::of(0, &EngineError::Model(ModelError::Comm(heard)));
        assert_eq!((heard.rank, heard.is_hearsay), (2, true));
        let own = Failure::own(2, "panicked: out of range");
        let cause = root(&[heard.clone(), own]).unwrap();
        assert_eq!(cause.reason, "panicked: out of range");
        assert_eq!(root(&[heard]).unwrap().rank, 2, "better than nothing");
        assert!(root(&[]).is_none());
    }
}
