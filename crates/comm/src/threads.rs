//! [`Threads`]: ranks that are threads of one process and meet in its memory.
//!
//! A rank hands in a clone of its tensor (shared storage, no copy), works on what the others handed in, and the
//! collective ends when all have let go of it again. Tensors of a device travel through the host, which is correct
//! and slow: with CUDA ranks that is the fallback where NCCL is missing, and it cannot be captured in a graph.

use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use kernels::{Device, KernelError, Tensor};

use crate::rendezvous::Rendezvous;
use crate::{Call, CommError, Communicator, Result, check, rows};

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
        result.map_err(|source| self.meeting.fail(CommError::Failed { rank: self.rank, source }))
    }

    /// `x` as a parcel; waits for its device.
    fn pack(&self, x: &Tensor) -> Result<Parcel> {
        let tensor = Some(self.check(x.to_device(&Device::Cpu))?);
        Ok(Parcel { tensor, sizes: Vec::new() })
    }

    /// A result moves to where `x` lives.
    fn unpack(&self, result: Tensor, x: &Tensor) -> Result<Tensor> {
        self.check(result.to_device(&x.device()))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.meeting.leave(self.rank, thread::panicking());
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

/// The elements of `parts`, one part after the other, become `x`'s. On a device they are new memory.
fn write(op: &'static str, x: &mut Tensor, parts: &[&Tensor]) -> kernels::Result<()> {
    if x.device() != Device::Cpu {
        let mut whole = Tensor::zeros(&Device::Cpu, x.dtype(), x.shape())?;
        write(op, &mut whole, parts)?;
        *x = whole.to_device(&x.device())?;
        return Ok(());
    }
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
        self.check(check::summable(OP, x))?;
        let call = call(OP, Some(x), x.shape(), &[]);
        let slice = slice_of(x.len(), self.rank, self.size());
        let parcels = self.meeting.exchange(self.rank, &call, self.pack(x)?)?;
        let sum = self.check(rows::sum(&tensors(&parcels), slice))?;
        drop(parcels);
        let sums = self.meeting.exchange(self.rank, &call, self.pack(&sum)?)?;
        self.check(write(OP, x, &tensors(&sums)))
    }

    fn all_gather_cols(&self, x: &Tensor, widths: &[usize]) -> Result<Tensor> {
        const OP: &str = "all_gather_cols";
        self.check(check::sizes(OP, "widths", widths, self.size()))?;
        let [rows, _] = self.check(check::matrix(OP, x, None, Some(widths[self.rank])))?;
        let call = call(OP, Some(x), &[rows], widths);
        let whole = self.collect(&call, self.pack(x)?, |parcels| rows::concat_cols(&tensors(parcels)))?;
        self.unpack(whole, x)
    }

    fn reduce_scatter_rows(&self, x: &Tensor, rows: &[usize]) -> Result<Tensor> {
        const OP: &str = "reduce_scatter_rows";
        self.check(check::sizes(OP, "rows", rows, self.size()))?;
        let [_, cols] = self.check(check::matrix(OP, x, Some(rows.iter().sum()), None))?;
        self.check(check::summable(OP, x))?;
        let call = call(OP, Some(x), x.shape(), rows);
        let own = block(rows, self.rank);
        let sum = self.collect(&call, self.pack(x)?, |parcels| {
            let sum = rows::sum(&tensors(parcels), own.start * cols..own.end * cols)?;
            sum.reshape(&[own.len(), cols])
        })?;
        self.unpack(sum, x)
    }

    fn all_to_all(&self, x: &Tensor, send: &[usize], receive: &[usize]) -> Result<Tensor> {
        const OP: &str = "all_to_all";
        self.check(check::sizes(OP, "send", send, self.size()))?;
        self.check(check::sizes(OP, "receive", receive, self.size()))?;
        let [_, cols] = self.check(check::matrix(OP, x, Some(send.iter().sum()), None))?;
        let parcel = Parcel { sizes: send.to_vec(), ..self.pack(x)? };
        let got = self.collect(&call(OP, Some(x), &[cols], &[]), parcel, |parcels| {
            for (from, parcel) in parcels.iter().enumerate() {
                let sent = parcel.sizes[self.rank];
                if sent != receive[from] {
                    let expected = format!("{sent} rows from rank {from}, as it sends");
                    return Err(KernelError::value(OP, "receive", expected, receive[from]));
                }
            }
            let blocks = parcels.iter().map(|p| block(&p.sizes, self.rank));
            rows::concat_rows(&tensors(parcels).into_iter().zip(blocks).collect::<Vec<_>>())
        })?;
        self.unpack(got, x)
    }

    fn broadcast(&self, x: &mut Tensor, root: usize) -> Result<()> {
        const OP: &str = "broadcast";
        self.check(check::root(OP, root, self.size()))?;
        let call = call(OP, Some(x), x.shape(), &[root]);
        let parcel = if self.rank == root { self.pack(x)? } else { Parcel::default() };
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

    /// Collectives are done when they return; this tells whether the group is alive.
    fn wait(&self) -> Result<()> {
        self.meeting.failure()
    }

    fn abort(&self, reason: &str) {
        self.meeting.fail(CommError::Aborted { rank: self.rank, reason: reason.to_owned() });
    }
}
