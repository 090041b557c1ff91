//! [`Threads`]: ranks that are threads of one process and meet in its memory.
//!
//! A rank hands in a clone of its tensor (shared storage, no copy), works on what the others handed in, and the
//! collective ends when all have let go of it again. Tensors of a device travel through the host, which is correct
//! and slow: with CUDA ranks that is the fallback where NCCL is missing, and it cannot be captured in a graph.

use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use kernels::{KernelError, Tensor};

use crate::rendezvous::Rendezvous;
use crate::{Call, CommError, Communicator, Result, rows};

/// A rank that is a thread (or runs on one at a time).
///
/// Dropping it, also by a panic, ends the group for ranks that still need it.
#[derive(Debug)]
pub struct Threads {
    rank: usize,
    meeting: Arc<Rendezvous<Parcel>>,
}

/// What a rank hands in.
#[derive(Debug, Default)]
struct Parcel {
    /// On the host; none for a barrier, or from a rank that only receives.
    tensor: Option<Tensor>,
    /// Sizes that differ between ranks.
    sizes: Vec<usize>,
}

impl Threads {
    /// The communicators of a group of `size` ranks, in rank order. No rank waits longer than `deadline` for the
    /// others, so it has to cover the longest time that one may compute while another waits.
    pub fn group(size: usize, deadline: Duration) -> Vec<Self> {
        let meeting = Arc::new(Rendezvous::new(size, deadline));
        (0..size).map(|rank| Self { rank, meeting: meeting.clone() }).collect()
    }

    /// Hands in a parcel, lets `work` read everyone's, and returns its result when all ranks have read: no tensor is
    /// shared any more then.
    fn collect<R>(
        &self,
        call: &Call,
        parcel: Parcel,
        work: impl FnOnce(&[Parcel]) -> kernels::Result<R>,
    ) -> Result<R> {
        let parcels = self.meeting.exchange(self.rank, call, parcel)?;
        let result = self.check(work(&parcels))?;
        drop(parcels);
        self.meeting.exchange(self.rank, call, Parcel::default())?;
        Ok(result)
    }

    /// An error of this rank alone ends the group, so that the others need not wait for the deadline.
    fn check<R>(&self, result: kernels::Result<R>) -> Result<R> {
        result.map_err(|source| self.meeting.fail(CommError::Argument { rank: self.rank, source }))
    }

    fn check_sizes(&self, op: &'static str, arg: &'static str, sizes: &[usize]) -> Result<()> {
        let size = self.size();
        self.check(if sizes.len() == size {
            Ok(())
        } else {
            Err(KernelError::shape(op, arg, format!("[{size}], one per rank"), &[sizes.len()]))
        })
    }

    /// The rows and columns of `x`, if it has both and `rows` and `cols` where those are given.
    fn check_matrix(
        &self,
        op: &'static str,
        x: &Tensor,
        rows: Option<usize>,
        cols: Option<usize>,
    ) -> Result<[usize; 2]> {
        let in_words =
            |size: Option<usize>, name: &str| size.map_or_else(|| name.to_owned(), |s| s.to_string());
        self.check(match *x.shape() {
            [r, c] if rows.is_none_or(|rows| rows == r) && cols.is_none_or(|cols| cols == c) => Ok([r, c]),
            _ => {
                let expected = format!("[{}, {}]", in_words(rows, "R"), in_words(cols, "C"));
                Err(KernelError::shape(op, "x", expected, x.shape()))
            }
        })
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.meeting.leave(self.rank, thread::panicking());
    }
}

impl Parcel {
    fn of(x: &Tensor) -> Self {
        Self { tensor: Some(x.clone()), sizes: Vec::new() }
    }
}

/// The tensors of all parcels that have one.
fn tensors(parcels: &[Parcel]) -> Vec<&Tensor> {
    parcels.iter().filter_map(|parcel| parcel.tensor.as_ref()).collect()
}

fn call(op: &'static str, x: Option<&Tensor>, shape: &[usize], sizes: &[usize]) -> Call {
    Call { op, dtype: x.map(Tensor::dtype), shape: shape.to_vec(), sizes: sizes.to_vec() }
}

/// Rank `rank`'s part of `len` elements.
fn slice_of(len: usize, rank: usize, size: usize) -> Range<usize> {
    len * rank / size..len * (rank + 1) / size
}

/// Where block `index` of blocks of these sizes lies.
fn block(sizes: &[usize], index: usize) -> Range<usize> {
    let begin = sizes[..index].iter().sum();
    begin..begin + sizes[index]
}

/// The bytes of `parts`, one after the other, become `x`'s.
fn write(op: &'static str, x: &mut Tensor, parts: &[&Tensor]) -> kernels::Result<()> {
    let mut bytes = x.host_bytes_mut(op, "x")?;
    for part in parts {
        let part = part.host_bytes()?;
        let (head, tail) = bytes.split_at_mut(part.len());
        head.copy_from_slice(&part);
        bytes = tail;
    }
    Ok(())
}

impl Communicator for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.meeting.size()
    }

    fn is_capturable(&self) -> bool {
        false
    }

    /// Each rank sums its slice, then takes over the others' slices.
    fn all_reduce(&self, x: &mut Tensor) -> Result<()> {
        const OP: &str = "all_reduce";
        let call = call(OP, Some(x), x.shape(), &[]);
        let slice = slice_of(x.len(), self.rank, self.size());
        let parcels = self.meeting.exchange(self.rank, &call, Parcel::of(x))?;
        let sum = self.check(rows::sum(OP, &tensors(&parcels), slice))?;
        drop(parcels);
        let sums = self.meeting.exchange(self.rank, &call, Parcel::of(&sum))?;
        self.check(write(OP, x, &tensors(&sums)))
    }

    fn all_gather_cols(&self, x: &Tensor, widths: &[usize]) -> Result<Tensor> {
        const OP: &str = "all_gather_cols";
        self.check_sizes(OP, "widths", widths)?;
        let [rows, _] = self.check_matrix(OP, x, None, Some(widths[self.rank]))?;
        let call = call(OP, Some(x), &[rows], widths);
        self.collect(&call, Parcel::of(x), |parcels| rows::concat_cols(&tensors(parcels)))
    }

    fn reduce_scatter_rows(&self, x: &Tensor, rows: &[usize]) -> Result<Tensor> {
        const OP: &str = "reduce_scatter_rows";
        self.check_sizes(OP, "rows", rows)?;
        let [_, cols] = self.check_matrix(OP, x, Some(rows.iter().sum()), None)?;
        let call = call(OP, Some(x), x.shape(), rows);
        let own = block(rows, self.rank);
        self.collect(&call, Parcel::of(x), |parcels| {
            let sum = rows::sum(OP, &tensors(parcels), own.start * cols..own.end * cols)?;
            sum.reshape(&[own.len(), cols])
        })
    }

    fn all_to_all(&self, x: &Tensor, send: &[usize], receive: &[usize]) -> Result<Tensor> {
        const OP: &str = "all_to_all";
        self.check_sizes(OP, "send", send)?;
        self.check_sizes(OP, "receive", receive)?;
        let [_, cols] = self.check_matrix(OP, x, Some(send.iter().sum()), None)?;
        let parcel = Parcel { sizes: send.to_vec(), ..Parcel::of(x) };
        self.collect(&call(OP, Some(x), &[cols], &[]), parcel, |parcels| {
            for (from, parcel) in parcels.iter().enumerate() {
                let sent = parcel.sizes[self.rank];
                if sent != receive[from] {
                    let expected = format!("{sent} rows from rank {from}, as it sends");
                    return Err(KernelError::value(OP, "receive", expected, receive[from]));
                }
            }
            let blocks = parcels.iter().map(|p| block(&p.sizes, self.rank));
            rows::concat_rows(&tensors(parcels).into_iter().zip(blocks).collect::<Vec<_>>())
        })
    }

    fn broadcast(&self, x: &mut Tensor, root: usize) -> Result<()> {
        const OP: &str = "broadcast";
        if root >= self.size() {
            let expected = format!("a rank below {}", self.size());
            return self.check(Err(KernelError::value(OP, "root", expected, root)));
        }
        let call = call(OP, Some(x), x.shape(), &[root]);
        let parcel = if self.rank == root { Parcel::of(x) } else { Parcel::default() };
        self.collect(
            &call,
            parcel,
            |parcels| {
                if self.rank == root { Ok(()) } else { write(OP, x, &tensors(parcels)) }
            },
        )
    }

    fn barrier(&self) -> Result<()> {
        let parcel = Parcel::default();
        self.meeting.exchange(self.rank, &call("barrier", None, &[], &[]), parcel).map(drop)
    }

    fn abort(&self, reason: &str) {
        self.meeting.fail(CommError::Aborted { rank: self.rank, reason: reason.to_owned() });
    }
}
