//! [`ranks`]: one closure on the ranks of a group, as tensor-parallel code runs.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use comm::{Communicator, Threads};

/// How long a rank of [`ranks`] waits for the others.
pub const RANKS_DEADLINE: Duration = Duration::from_secs(60);

/// Runs `run` on `size` ranks, each a thread with its communicator, and returns the results in rank order.
///
/// # Panics
/// If a rank panics, after the others have ended.
pub fn ranks<R: Send>(size: usize, run: impl Fn(Arc<dyn Communicator>) -> R + Sync) -> Vec<R> {
    let run = &run;
    thread::scope(|scope| {
        let threads: Vec<_> = Threads::group(size, RANKS_DEADLINE)
            .into_iter()
            .map(|rank| scope.spawn(move || run(Arc::new(rank))))
            .collect();
        let results: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
        results.into_iter().map(|result| result.unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}
