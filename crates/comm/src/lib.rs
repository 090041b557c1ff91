//! The collectives between the ranks of a tensor-parallel model.
//!
//! A layer holds a [`Communicator`] and calls it where its shard's result has to meet the others'; which ranks there
//! are and how bytes travel is decided once, when the model is loaded ([`group`]): [`Solo`] for one rank, [`Threads`]
//! for ranks that are threads of one process and meet in its memory, [`nccl`] for ranks on GPUs.
//!
//! Two promises hold for every implementation. *Same bits everywhere*: a sum is taken once, in an order that does not
//! depend on who arrives when ([`Threads`]: rank order), and every rank receives that result, so replicated state
//! cannot drift apart. *No hang*: a rank that fails, panics, calls
//! something else or is late ends the collective with an error on all ranks within the group's deadline; a group
//! that failed once is dead and repeats why.

mod check;
mod error;
mod group;
pub mod nccl;
mod rendezvous;
mod rows;
mod solo;
mod threads;

use std::fmt;

use kernels::Tensor;

pub use error::{Call, CommError, Result};
pub use group::{GroupOptions, Transport, group};
pub use solo::Solo;
pub use threads::Threads;

/// One rank's end of a group of ranks.
///
/// Every method but `rank`, `size`, `is_capturable`, `wait` and `abort` is a collective: all ranks of the group must
/// call it, in the same order, with arguments that agree. Sums are for `F32` and `BF16`; what only moves data takes every
/// dtype. Tensors may have no elements.
pub trait Communicator: Send + Sync + fmt::Debug {
    /// Which rank this is, `0..size`.
    fn rank(&self) -> usize;

    /// How many ranks the group has.
    fn size(&self) -> usize;

    /// Whether the collectives run on the device's stream, so that a CUDA graph may capture them.
    fn is_capturable(&self) -> bool;

    /// The elementwise sum of all ranks' `x`, in place. Shape and dtype agree; `x` shares its storage with no other
    /// tensor. `BF16` is summed in `F32` and rounded once where the transport allows it.
    fn all_reduce(&self, x: &mut Tensor) -> Result<()>;

    /// The ranks' `x` `[R, widths[rank]]` side by side in rank order: `[R, sum of widths]`. `widths` lists every
    /// rank's columns and is the same on all of them.
    fn all_gather_cols(&self, x: &Tensor, widths: &[usize]) -> Result<Tensor>;

    /// The elementwise sum of all ranks' `x` `[R, C]`, of which this rank keeps its block of rows
    /// `[rows[rank], C]`. `rows` lists every rank's share, sums to `R` and is the same on all of them.
    fn reduce_scatter_rows(&self, x: &Tensor, rows: &[usize]) -> Result<Tensor>;

    /// Sends each rank its block of rows of `x` `[sum of send, C]`, ordered by receiver, and returns what came from
    /// every rank in rank order: `[sum of receive, C]`. What `a` sends to `b` is what `b` receives from `a`.
    fn all_to_all(&self, x: &Tensor, send: &[usize], receive: &[usize]) -> Result<Tensor>;

    /// Every rank's `x` becomes rank `root`'s. Shape and dtype agree; `x` shares its storage with no other tensor.
    fn broadcast(&self, x: &mut Tensor, root: usize) -> Result<()>;

    /// Returns when every rank has called it.
    fn barrier(&self) -> Result<()>;

    /// Returns when everything that this rank's device was asked to do is done, collectives included, or why the group
    /// has ended. A collective on a GPU is only queued when it returns, and reading its result without this would wait
    /// for a lost rank forever: call it once per step, before the step's results are read.
    fn wait(&self) -> Result<()>;

    /// This rank gives up: ranks that wait in a collective, or enter one later, get [`CommError::Aborted`] at once.
    /// The first failure of a group is the one it reports.
    fn abort(&self, reason: &str);
}
