//! Where the ranks of one process meet: each hands in an item and takes away everyone's, or all of them fail.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::{Call, CommError, Result};

/// A meeting point for `size` ranks that goes round after round.
#[derive(Debug)]
pub(crate) struct Rendezvous<T> {
    size: usize,
    deadline: Duration,
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    /// How many rounds are complete.
    round: u64,
    /// What has been handed in to this round, by rank.
    handed_in: Vec<Option<(Call, T)>>,
    /// The last complete round, until the next one is.
    complete: Arc<[T]>,
    /// Ranks that are gone, and whether a panic took them.
    left: Vec<Option<bool>>,
    /// The first failure. It ends the group.
    failure: Option<CommError>,
}

impl<T> Rendezvous<T> {
    /// For `size` ranks, none of which waits longer than `deadline` for the others.
    pub(crate) fn new(size: usize, deadline: Duration) -> Self {
        let state = State {
            round: 0,
            handed_in: (0..size).map(|_| None).collect(),
            complete: Arc::new([]),
            left: vec![None; size],
            failure: None,
        };
        Self { size, deadline, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// How many ranks meet here.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Hands in `item` and returns every rank's, in rank order, once all have called with the same `call`.
    pub(crate) fn exchange(&self, rank: usize, call: &Call, item: T) -> Result<Arc<[T]>> {
        let mut state = self.lock();
        if let Some(failure) = &state.failure {
            return Err(failure.clone());
        }
        let met = state.handed_in.iter().enumerate().find_map(|(r, e)| e.as_ref().map(|(c, _)| (r, c)));
        if let Some((other_rank, other_call)) = met
            && other_call != call
        {
            let (call, other_call) = (Box::new(call.clone()), Box::new(other_call.clone()));
            return Err(self.end(&mut state, CommError::Mismatch { rank, call, other_rank, other_call }));
        }
        if state.handed_in[rank].is_some() {
            let reason = format!("{}: two threads use the communicator of one rank at once", call.op);
            return Err(self.end(&mut state, CommError::Aborted { rank, reason }));
        }
        state.handed_in[rank] = Some((call.clone(), item));
        let round = state.round;
        if state.handed_in.iter().all(Option::is_some) {
            state.complete = state.handed_in.iter_mut().flat_map(|e| e.take().map(|(_, i)| i)).collect();
            state.round += 1;
            self.changed.notify_all();
        }
        Ok(self.wait_for(state, round, call.op)?.complete.clone())
    }

    /// Waits until `round` is complete. A rank of a complete round gets its items even if the group has failed or
    /// lost a rank since: the others have them already.
    fn wait_for<'a>(
        &self,
        mut state: MutexGuard<'a, State<T>>,
        round: u64,
        op: &'static str,
    ) -> Result<MutexGuard<'a, State<T>>> {
        let begin = Instant::now();
        loop {
            if state.round > round {
                return Ok(state);
            }
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            let missing: Vec<usize> = (0..self.size).filter(|&r| state.handed_in[r].is_none()).collect();
            let gone = missing.iter().find_map(|&rank| state.left[rank].map(|panicked| (rank, panicked)));
            if let Some((rank, panicked)) = gone {
                return Err(self.end(&mut state, CommError::Left { rank, panicked }));
            }
            let left = self.deadline.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Err(self.end(&mut state, CommError::Late { op, missing, deadline: self.deadline }));
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Why the group has ended, if it has.
    pub(crate) fn failure(&self) -> Result<()> {
        self.lock().failure.clone().map_or(Ok(()), Err)
    }

    /// As [`Rendezvous::failure`], for a rank that is about to need all others: one that is gone ends the group.
    #[cfg_attr(
        not(feature = "cuda-host"),
        expect(dead_code, reason = "the ranks of NCCL alone ask before they begin")
    )]
    pub(crate) fn check(&self) -> Result<()> {
        self.failure()?;
        self.gone()
            .first()
            .map_or(Ok(()), |&(rank, panicked)| Err(self.fail(CommError::Left { rank, panicked })))
    }

    /// The ranks that are gone, and whether a panic took them.
    pub(crate) fn gone(&self) -> Vec<(usize, bool)> {
        let left = &self.lock().left;
        left.iter().enumerate().filter_map(|(rank, panicked)| Some((rank, (*panicked)?))).collect()
    }

    /// Ends the group with `error`, unless it has ended before, and returns why it ended.
    pub(crate) fn fail(&self, error: CommError) -> CommError {
        self.end(&mut self.lock(), error)
    }

    /// `rank` will not come again. An error only for ranks that need it.
    pub(crate) fn leave(&self, rank: usize, panicked: bool) {
        self.lock().left[rank] = Some(panicked);
        self.changed.notify_all();
    }

    fn end(&self, state: &mut State<T>, error: CommError) -> CommError {
        state.handed_in.fill_with(|| None);
        self.changed.notify_all();
        state.failure.get_or_insert(error).clone()
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
