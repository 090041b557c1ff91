//! [`Members`]: the communicators of all ranks of one group, and how the whole group ends.
//!
//! A rank that waits on its GPU for a peer cannot be reached on the host: what frees it is to abort its communicator
//! from another thread. So the ranks share their communicators, and the first failure aborts all of them.

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use kernels::CudaDevice;

use crate::nccl::library::{Code, Comm, Library, Queue};

/// How long an abort lets a call of another thread end by itself.
const GRACE: Duration = Duration::from_secs(1);

/// What the ranks of a group share.
#[derive(Debug)]
pub(super) struct Members {
    library: Arc<Library>,
    members: Vec<Arc<Member>>,
}

#[derive(Debug)]
struct Member {
    device: CudaDevice,
    /// Null once it is aborted or destroyed.
    comm: AtomicPtr<c_void>,
    /// Held while a call is being queued.
    queuing: Mutex<()>,
    /// Collectives called so far: who is behind when others wait.
    calls: AtomicU64,
}

impl Members {
    /// Connects the GPUs.
    pub(super) fn connect(library: Library, devices: &[CudaDevice]) -> Result<Self, String> {
        let ordinals: Vec<_> = devices.iter().map(|device| device.ordinal() as i32).collect();
        let comms = library.init_all(&ordinals).map_err(|code| library.words(code))?;
        let member = |(device, comm): (&CudaDevice, Comm)| {
            Arc::new(Member {
                device: device.clone(),
                comm: AtomicPtr::new(comm),
                queuing: Mutex::new(()),
                calls: AtomicU64::new(0),
            })
        };
        Ok(Self { members: devices.iter().zip(comms).map(member).collect(), library: Arc::new(library) })
    }

    pub(super) fn size(&self) -> usize {
        self.members.len()
    }

    /// Calls NCCL for `rank`, and counts it. `None` once the group has ended.
    pub(super) fn call(
        &self,
        rank: usize,
        calls: impl FnOnce(Queue<'_>) -> Code,
    ) -> Option<Result<(), String>> {
        let member = &self.members[rank];
        let _queuing = member.queuing.lock().unwrap_or_else(PoisonError::into_inner);
        let comm = member.comm.load(Ordering::Acquire);
        if comm.is_null() {
            return None;
        }
        member.calls.fetch_add(1, Ordering::Relaxed);
        let queue = Queue { library: &self.library, comm, stream: member.device.stream_handle() };
        Some(calls(queue).map_err(|code| self.library.words(code)))
    }

    /// What went wrong on the GPUs or between them, as far as NCCL has noticed.
    pub(super) fn async_error(&self, rank: usize) -> Result<(), String> {
        let member = &self.members[rank];
        let _queuing = member.queuing.lock().unwrap_or_else(PoisonError::into_inner);
        let comm = member.comm.load(Ordering::Acquire);
        if comm.is_null() {
            return Ok(());
        }
        // SAFETY: an abort takes the handle away first and then waits for `queuing`.
        unsafe { self.library.async_error(comm) }.map_err(|code| self.library.words(code))
    }

    /// Ranks that have called fewer collectives than `rank`.
    pub(super) fn behind(&self, rank: usize) -> Vec<usize> {
        let calls = |rank: usize| self.members[rank].calls.load(Ordering::Relaxed);
        (0..self.size()).filter(|&other| calls(other) < calls(rank)).collect()
    }

    /// `rank` is done and nothing of its work is left.
    pub(super) fn destroy(&self, rank: usize) {
        let comm = self.members[rank].comm.swap(null_mut(), Ordering::AcqRel);
        if !comm.is_null() {
            // SAFETY: the handle was taken, so this is its last use. An error leaves nothing to be done.
            let _ = unsafe { self.library.destroy(comm) };
        }
    }

    /// Ends what every rank has begun or queued. Does not wait: to abort one communicator may take until another is
    /// aborted too, or until a graph that captured it is dropped, so each is ended by a thread of its own.
    pub(super) fn abort(&self) {
        for member in &self.members {
            let comm = member.comm.swap(null_mut(), Ordering::AcqRel) as usize;
            let (library, member) = (self.library.clone(), member.clone());
            if comm != 0 {
                // Without a thread there is nothing to be done: the group has ended, and says so.
                let _ = thread::Builder::new()
                    .name("nccl abort".to_owned())
                    .spawn(move || member.abort(&library, comm as Comm));
            }
        }
    }
}

impl Member {
    fn abort(&self, library: &Library, comm: Comm) {
        // A call that only queues ends soon. One that is stuck in there is what the abort is for.
        let begin = Instant::now();
        while self.queuing.try_lock().is_err() && begin.elapsed() < GRACE {
            thread::sleep(Duration::from_millis(1));
        }
        if self.device.make_current().is_ok() {
            // SAFETY: the handle was taken, so this is its last use but for a stuck call, which NCCL allows.
            let _ = unsafe { library.abort(comm) };
        }
    }
}
