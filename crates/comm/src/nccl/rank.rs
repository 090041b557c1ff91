//! [`Nccl`]: one rank of a group that NCCL connects.

use std::ffi::c_int;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use kernels::{CudaDevice, DType, Device, KernelError, Tensor, ops};

use crate::nccl::library::{BFLOAT16, Code, FLOAT32, Library, Queue};
use crate::nccl::members::Members;
use crate::rendezvous::Rendezvous;
use crate::{Call, CommError, Communicator, Result, check};

/// Between two looks at a stream: short beside a step, long beside the look.
const POLL: Duration = Duration::from_micros(50);

/// A rank on a GPU.
///
/// A collective is queued on the device's stream and returns at once; the host learns how it went in
/// [`Communicator::wait`]. NCCL does not compare what the ranks call: ranks that disagree end by the deadline or with a
/// fault. Graphs that captured collectives are to be dropped before the communicator.
#[derive(Debug)]
pub struct Nccl {
    rank: usize,
    device: CudaDevice,
    deadline: Duration,
    /// Where the ranks meet on the host: barriers, and why the group ended.
    meeting: Arc<Rendezvous<()>>,
    members: Arc<Members>,
}

impl Nccl {
    /// Connects GPUs that are opened by this process, one rank each, in order. `folders` is where to look for NCCL
    /// first. No rank waits longer than `deadline` for its collectives.
    ///
    /// # Errors
    /// [`CommError::Transport`] if NCCL is missing, or refuses the GPUs.
    pub fn group(devices: &[Device], folders: &[PathBuf], deadline: Duration) -> Result<Vec<Self>> {
        let transport = |reason: String| CommError::Transport { reason };
        let on_gpu = |device: &Device| match device {
            Device::Cuda(device) => Ok(device.clone()),
            other => Err(transport(format!("NCCL connects GPUs, and a rank is on {other}"))),
        };
        let devices = devices.iter().map(on_gpu).collect::<Result<Vec<_>>>()?;
        for (rank, device) in devices.iter().enumerate() {
            if let Some(twin) = devices[..rank].iter().position(|d| d.ordinal() == device.ordinal()) {
                let ordinal = device.ordinal();
                let reason =
                    format!("ranks {twin} and {rank} are both on cuda:{ordinal}, and NCCL wants one each");
                return Err(transport(reason));
            }
        }
        let library = Library::find(folders).map_err(transport)?;
        let members = Arc::new(Members::connect(library, &devices).map_err(transport)?);
        let meeting = Arc::new(Rendezvous::new(devices.len(), deadline));
        let rank = |(rank, device)| {
            let (meeting, members) = (meeting.clone(), members.clone());
            Self { rank, device, deadline, meeting, members }
        };
        Ok(devices.into_iter().enumerate().map(rank).collect())
    }

    /// Ends the group with `error`, unless it has ended before, and gives the reason.
    fn end<R>(&self, error: CommError) -> Result<R> {
        let reason = self.meeting.fail(error);
        self.members.abort();
        Err(reason)
    }

    fn check<R>(&self, result: kernels::Result<R>) -> Result<R> {
        result.or_else(|source| self.end(CommError::Failed { rank: self.rank, source }))
    }

    /// An error of NCCL.
    fn error(&self, op: &str, message: String) -> CommError {
        let device = Device::Cuda(self.device.clone()).to_string();
        CommError::Failed {
            rank: self.rank,
            source: KernelError::Cuda { op: op.to_owned(), device, message },
        }
    }

    /// Puts calls on the stream.
    fn queue(&self, op: &'static str, calls: impl FnOnce(Queue<'_>) -> Code) -> Result<()> {
        self.meeting.check().or_else(|gone| self.end(gone))?;
        self.check(self.device.make_current())?;
        match self.members.call(self.rank, calls) {
            Some(Ok(())) => Ok(()),
            Some(Err(words)) => self.end(self.error(op, words)),
            // Aborted since the check above: the reason is there by now.
            None => {
                self.meeting.check().and_then(|()| self.end(self.error(op, "the group has ended".to_owned())))
            }
        }
    }

    fn address(&self, op: &'static str, x: &Tensor) -> Result<u64> {
        self.check(self.own(op, x).and_then(|()| x.device_address(op, "x")))
    }

    fn address_mut(&self, op: &'static str, x: &mut Tensor) -> Result<u64> {
        self.check(self.own(op, x).and_then(|()| x.device_address_mut(op, "x")))
    }

    fn own(&self, op: &'static str, x: &Tensor) -> kernels::Result<()> {
        let (own, found) = (Device::Cuda(self.device.clone()), x.device());
        if found == own {
            return Ok(());
        }
        Err(KernelError::Placement { op, arg: "x", expected: own.to_string(), found: found.to_string() })
    }

    fn summed(&self, op: &'static str, x: &Tensor) -> Result<c_int> {
        self.check(check::summable(op, x))?;
        Ok(if x.dtype() == DType::F32 { FLOAT32 } else { BFLOAT16 })
    }

    /// Whether the group lives, and every rank that is gone has called all that this rank has called.
    fn check_peers(&self) -> Result<()> {
        self.meeting.failure()?;
        let behind = self.members.behind(self.rank);
        match self.meeting.gone().into_iter().find(|(rank, _)| behind.contains(rank)) {
            Some((rank, panicked)) => self.end(CommError::Left { rank, panicked }),
            None => Ok(()),
        }
    }

    fn output(&self, x: &Tensor, shape: &[usize]) -> Result<Tensor> {
        self.check(Tensor::for_step(&self.device, x.dtype(), shape))
    }
}

/// Runs `call` for the blocks that have elements: with its index, the elements before it, and its own.
fn each_block(sizes: &[usize], mut call: impl FnMut(usize, usize, usize) -> Code) -> Code {
    let mut begin = 0;
    for (index, &size) in sizes.iter().enumerate() {
        if size > 0 {
            call(index, begin, size)?;
        }
        begin += size;
    }
    Ok(())
}

fn all_equal(sizes: &[usize]) -> bool {
    sizes.iter().all(|size| *size == sizes[0])
}

impl Communicator for Nccl {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.members.size()
    }

    fn is_capturable(&self) -> bool {
        true
    }

    fn all_reduce(&self, x: &mut Tensor) -> Result<()> {
        const OP: &str = "all_reduce";
        let (dtype, count, address) = (self.summed(OP, x)?, x.len(), self.address_mut(OP, x)?);
        self.queue(OP, |nccl| {
            // SAFETY: `x` is this rank's and nobody else's, `count` elements long, and reused in stream order only.
            if count > 0 { unsafe { nccl.all_reduce(address, count, dtype) } } else { Ok(()) }
        })
    }

    /// Uneven widths go as one broadcast per rank in a group, which NCCL runs as one kernel.
    fn all_gather_cols(&self, x: &Tensor, widths: &[usize]) -> Result<Tensor> {
        const OP: &str = "all_gather_cols";
        self.check(check::sizes(OP, "widths", widths, self.size()))?;
        let [rows, _] = self.check(check::matrix(OP, x, None, Some(widths[self.rank])))?;
        let mut blocks = self.output(x, &[rows, widths.iter().sum()])?;
        let (from, to) = (self.address(OP, x)?, self.address_mut(OP, &mut blocks)?);
        let bytes = |cols: usize| cols * rows * x.dtype().size();
        let broadcasts = |nccl: Queue<'_>| {
            each_block(widths, |root, begin, width| {
                let at = to + bytes(begin) as u64;
                // SAFETY: the block lies within `blocks`; the root's `x` is as large.
                if rows == 0 { Ok(()) } else { unsafe { nccl.broadcast(from, at, bytes(width), root) } }
            })
        };
        self.queue(OP, |nccl| match all_equal(widths) {
            // SAFETY: `blocks` is as large as all ranks' `x` together.
            true if !x.is_empty() => unsafe { nccl.all_gather(from, to, x.size_bytes()) },
            true => Ok(()),
            false => nccl.library.grouped(|| broadcasts(nccl)),
        })?;
        self.check(ops::join_cols(&blocks, widths))
    }

    /// Uneven shares go as one reduction per rank in a group.
    fn reduce_scatter_rows(&self, x: &Tensor, rows: &[usize]) -> Result<Tensor> {
        const OP: &str = "reduce_scatter_rows";
        self.check(check::sizes(OP, "rows", rows, self.size()))?;
        let [_, cols] = self.check(check::matrix(OP, x, Some(rows.iter().sum()), None))?;
        let dtype = self.summed(OP, x)?;
        let mut out = self.output(x, &[rows[self.rank], cols])?;
        let (from, to) = (self.address(OP, x)?, self.address_mut(OP, &mut out)?);
        let reductions = |nccl: Queue<'_>| {
            each_block(rows, |root, begin, rows| {
                let at = from + (begin * cols * x.dtype().size()) as u64;
                // SAFETY: the rows lie within `x`; the root's `out` is as large, and only the root's is written.
                unsafe { nccl.reduce(at, to, rows * cols, dtype, root) }
            })
        };
        self.queue(OP, |nccl| match (x.is_empty(), all_equal(rows)) {
            (true, _) => Ok(()),
            // SAFETY: `x` is as large as all ranks' `out` together.
            (false, true) => unsafe { nccl.reduce_scatter(from, to, out.len(), dtype) },
            (false, false) => nccl.library.grouped(|| reductions(nccl)),
        })?;
        Ok(out)
    }

    fn all_to_all(&self, x: &Tensor, send: &[usize], receive: &[usize]) -> Result<Tensor> {
        const OP: &str = "all_to_all";
        self.check(check::sizes(OP, "send", send, self.size()))?;
        self.check(check::sizes(OP, "receive", receive, self.size()))?;
        let [_, cols] = self.check(check::matrix(OP, x, Some(send.iter().sum()), None))?;
        let mut out = self.output(x, &[receive.iter().sum(), cols])?;
        let (from, to) = (self.address(OP, x)?, self.address_mut(OP, &mut out)?);
        let bytes = |rows: usize| rows * cols * x.dtype().size();
        let exchange = |nccl: Queue<'_>| {
            // SAFETY: the rows lie within `x`.
            each_block(send, |peer, begin, rows| unsafe {
                nccl.send(from + bytes(begin) as u64, bytes(rows), peer)
            })?;
            // SAFETY: the rows lie within `out`.
            each_block(receive, |peer, begin, rows| unsafe {
                nccl.recv(to + bytes(begin) as u64, bytes(rows), peer)
            })
        };
        self.queue(OP, |nccl| if cols == 0 { Ok(()) } else { nccl.library.grouped(|| exchange(nccl)) })?;
        Ok(out)
    }

    fn broadcast(&self, x: &mut Tensor, root: usize) -> Result<()> {
        const OP: &str = "broadcast";
        self.check(check::root(OP, root, self.size()))?;
        let (bytes, address) = (x.size_bytes(), self.address_mut(OP, x)?);
        self.queue(OP, |nccl| {
            // SAFETY: `x` is this rank's and nobody else's, and `bytes` long.
            if bytes > 0 { unsafe { nccl.broadcast(address, address, bytes, root) } } else { Ok(()) }
        })
    }

    /// On the host: the streams need none, since a collective waits for all ranks by itself.
    fn barrier(&self) -> Result<()> {
        let call = Call { op: "barrier", dtype: None, shape: Vec::new(), sizes: Vec::new() };
        self.meeting.exchange(self.rank, &call, ()).map(drop).or_else(|error| self.end(error))
    }

    /// Looks at the stream until it is idle, since a wait of the driver's would have no deadline.
    fn wait(&self) -> Result<()> {
        let begin = Instant::now();
        loop {
            self.check_peers()?;
            match self.device.is_idle() {
                Ok(true) => break,
                Ok(false) if begin.elapsed() <= self.deadline => thread::sleep(POLL),
                Ok(false) => {
                    let behind = self.members.behind(self.rank);
                    return self.end(CommError::Stalled { rank: self.rank, behind, deadline: self.deadline });
                }
                Err(source) => {
                    // A rank that left may be what broke the device.
                    self.check_peers()?;
                    return self.end(CommError::Failed { rank: self.rank, source });
                }
            }
        }
        self.meeting.failure()?;
        self.members.async_error(self.rank).or_else(|words| self.end(self.error("wait", words)))
    }

    fn abort(&self, reason: &str) {
        let _: Result<()> = self.end(CommError::Aborted { rank: self.rank, reason: reason.to_owned() });
    }
}

/// A rank that leaves in good order has done its part of what it called; one that a panic takes has not.
impl Drop for Nccl {
    fn drop(&mut self) {
        let panicked = thread::panicking();
        if panicked {
            let _: Result<()> = self.end(CommError::Left { rank: self.rank, panicked });
            self.meeting.leave(self.rank, panicked);
            return;
        }
        let done = self.wait();
        // Before the rank can be missed.
        self.meeting.leave(self.rank, panicked);
        if done.is_ok() {
            self.members.destroy(self.rank);
        }
    }
}
