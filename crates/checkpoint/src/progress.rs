//! What a loader reports while tensors are read, and the bookkeeping of which tensors were used.

use std::fmt;
use std::sync::{Mutex, PoisonError};

/// How much of a checkpoint has been read. A tensor counts once, however often it is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadProgress {
    /// Tensors read so far.
    pub tensors_done: usize,
    /// Tensors in the checkpoint, those that no layer reads included, MTP layers only if they are wanted.
    pub tensors_total: usize,
    /// Bytes of the tensors read so far.
    pub bytes_done: u64,
    /// Bytes of all tensors.
    pub bytes_total: u64,
}

/// Receives a report after each tensor.
pub(crate) type ProgressHook = Box<dyn FnMut(LoadProgress) + Send>;

/// Which tensors have been read, and who wants to hear of it.
pub(crate) struct Tally(Mutex<State>);

struct State {
    used: Vec<bool>,
    progress: LoadProgress,
    hook: Option<ProgressHook>,
}

impl Tally {
    /// Nothing read yet of `tensors_total` tensors.
    pub(crate) fn new(tensors_total: usize, bytes_total: u64) -> Self {
        let progress = LoadProgress { tensors_total, bytes_total, ..LoadProgress::default() };
        Self(Mutex::new(State { used: vec![false; tensors_total], progress, hook: None }))
    }

    pub(crate) fn set_hook(&mut self, hook: ProgressHook) {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner).hook = Some(hook);
    }

    /// Notes that tensor `index` of `bytes` bytes has been read.
    pub(crate) fn mark(&self, index: usize, bytes: usize) {
        // A hook that panicked leaves counters that are still sound.
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut state.used[index], true) {
            return;
        }
        state.progress.tensors_done += 1;
        state.progress.bytes_done += bytes as u64;
        let progress = state.progress;
        if let Some(hook) = &mut state.hook {
            hook(progress);
        }
    }

    /// Whether each tensor has been read.
    pub(crate) fn used(&self) -> Vec<bool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).used.clone()
    }
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_tuple("Tally").field(&state.progress).finish()
    }
}
