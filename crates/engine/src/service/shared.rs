//! [`Shared`]: what a service's handles and its engine thread both see, and the messages between them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::job::Admitted;
use super::{Health, ServiceMetrics, SubmitError};

/// What the engine thread is told. Their number is bounded by that of the jobs: each is submitted once, cancelled at
/// most once, and resumed at most once after each time that it stalled.
#[derive(Debug)]
pub(crate) enum Message {
    Submit(Admitted),
    /// The reader of this job is gone.
    Cancel(u64),
    /// The reader of this job has read again.
    Resume(u64),
    CancelAll,
    /// No handle is left.
    Stop,
}

/// The heartbeat's value while the thread has nothing to do.
const IDLE: u64 = u64::MAX;

/// One waiting job in [`Shared::jobs`].
const WAITING: u64 = 1;
/// One running job there.
const RUNNING: u64 = 1 << 32;

/// How many jobs there are.
struct Jobs {
    /// Taken and not yet begun.
    waiting: usize,
    /// Begun and not yet over.
    running: usize,
}

impl Jobs {
    fn of(jobs: u64) -> Self {
        Self { waiting: (jobs % RUNNING) as usize, running: (jobs / RUNNING) as usize }
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    started: Instant,
    /// Milliseconds after `started` of the last turn's beginning, or [`IDLE`].
    heartbeat: AtomicU64,
    numbers: AtomicU64,
    /// [`Jobs`] in one number, so that nobody sees a job that begins counted twice or not at all.
    jobs: AtomicU64,
    draining: AtomicBool,
    dead: OnceLock<String>,
    metrics: Mutex<ServiceMetrics>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            heartbeat: AtomicU64::new(IDLE),
            numbers: AtomicU64::new(0),
            jobs: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            dead: OnceLock::new(),
            metrics: Mutex::new(ServiceMetrics::default()),
        }
    }
}

impl Shared {
    /// The number of a new job, if one more may wait.
    pub(crate) fn admit(&self, max_waiting: usize) -> Result<u64, SubmitError> {
        if self.dead.get().is_some() {
            return Err(self.dead_error());
        }
        if self.draining.load(Ordering::SeqCst) {
            return Err(SubmitError::Draining);
        }
        let one_more = |jobs| (Jobs::of(jobs).waiting < max_waiting).then_some(jobs + WAITING);
        self.jobs
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more)
            .map_err(|jobs| SubmitError::QueueFull { waiting: Jobs::of(jobs).waiting, max_waiting })?;
        Ok(self.numbers.fetch_add(1, Ordering::Relaxed))
    }

    /// A waiting job begins.
    pub(crate) fn begin(&self) {
        self.jobs.fetch_add(RUNNING - WAITING, Ordering::SeqCst);
    }

    /// A job that had begun is over.
    pub(crate) fn end(&self) {
        self.jobs.fetch_sub(RUNNING, Ordering::SeqCst);
    }

    /// A job that never began is over.
    pub(crate) fn forget_queued(&self) {
        self.jobs.fetch_sub(WAITING, Ordering::SeqCst);
    }

    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Whether nothing waits or runs; a dead engine runs nothing.
    pub(crate) fn is_idle(&self) -> bool {
        self.dead.get().is_some() || self.jobs.load(Ordering::SeqCst) == 0
    }

    /// Nothing runs any more, for the first reason given.
    pub(crate) fn die(&self, reason: impl Into<String>) {
        let _ = self.dead.set(reason.into());
    }

    /// What a submitter hears from a dead engine.
    pub(crate) fn dead_error(&self) -> SubmitError {
        SubmitError::Dead { reason: self.cause_of_death() }
    }

    /// Why nothing runs any more.
    pub(crate) fn cause_of_death(&self) -> String {
        self.dead.get().cloned().unwrap_or_else(|| "the engine has stopped".into())
    }

    /// A turn of the loop begins.
    pub(crate) fn beat(&self) {
        self.heartbeat.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Nothing to do until a message comes.
    pub(crate) fn rest(&self) {
        self.heartbeat.store(IDLE, Ordering::Relaxed);
    }

    pub(crate) fn health(&self) -> Health {
        let since_last_step = match self.heartbeat.load(Ordering::Relaxed) {
            IDLE => Duration::ZERO,
            beat => self.started.elapsed().saturating_sub(Duration::from_millis(beat)),
        };
        let error = self.dead.get().cloned();
        let Jobs { waiting, running } = Jobs::of(self.jobs.load(Ordering::SeqCst));
        Health {
            alive: error.is_none(),
            error,
            since_last_step,
            running,
            waiting,
            draining: self.draining.load(Ordering::SeqCst),
        }
    }

    /// Reads or changes the metrics.
    pub(crate) fn metrics<R>(&self, with: impl FnOnce(&mut ServiceMetrics) -> R) -> R {
        with(&mut self.metrics.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
