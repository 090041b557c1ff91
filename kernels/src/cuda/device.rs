//! [`CudaDevice`]: one GPU, its stream, its loaded kernels and its step memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{CudaContext, CudaStream, DriverError, result, sys};

use crate::cuda::arena::Arena;
use crate::cuda::fault::FaultRecord;
use crate::cuda::modules::Modules;
use crate::cuda::staging::Staging;
use crate::cuda::{Args, DeviceBuffer};
use crate::device::{CudaOptions, Precision};
use crate::{DType, KernelError, Result};

/// Step memory grows by at least so much.
const ARENA_CHUNK: usize = 32 << 20;
/// What the driver must support, as CUDA counts versions: 12.4, of driver 550.
const MIN_DRIVER_VERSION: i32 = 12_040;

/// One GPU and one stream of work on it. Clones share both; equality means the same stream.
#[derive(Clone)]
pub struct CudaDevice {
    inner: Arc<Inner>,
}

/// Sizes of a launch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Launch {
    /// Blocks in x, y, z; none may be 0.
    pub(crate) grid: [u32; 3],
    /// Threads per block.
    pub(crate) threads: u32,
    /// Dynamic shared memory per block.
    pub(crate) shared_bytes: u32,
}

struct Inner {
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
    options: CudaOptions,
    sm_count: usize,
    capability: (i32, i32),
    fault: sys::CUdeviceptr,
    modules: Mutex<Modules>,
    arena: Mutex<Arena>,
    staging: Mutex<Staging>,
}

impl PartialEq for CudaDevice {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl Eq for CudaDevice {}

impl std::fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CudaDevice").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The maps are whole after every statement, so a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CudaDevice {
    /// How many GPUs the driver offers.
    ///
    /// # Errors
    /// [`KernelError::Unavailable`] without a driver.
    pub fn count() -> Result<usize> {
        let unavailable = |reason: String| KernelError::Unavailable { device: "cuda".into(), reason };
        // SAFETY: looks for the library, calls nothing in it.
        if !unsafe { sys::is_culib_present() } {
            return Err(unavailable(
                "no NVIDIA driver (libcuda.so.1) on this machine; use --device cpu".into(),
            ));
        }
        let mut version = 0;
        // SAFETY: the library is there; this call needs no initialisation.
        let asked = unsafe { sys::cuDriverGetVersion(&raw mut version) }.result();
        asked.map_err(|error| unavailable(words(error)))?;
        if version < MIN_DRIVER_VERSION {
            // Checked before anything else is called: an older driver lacks functions that would be looked up.
            let (major, minor) = (version / 1000, version % 1000 / 10);
            return Err(unavailable(format!(
                "its driver supports CUDA {major}.{minor}; CUDA 12.4 is needed: update the NVIDIA driver to 550 or newer"
            )));
        }
        let count = CudaContext::device_count().map_err(|error| unavailable(words(error)))?;
        Ok(count as usize)
    }

    /// Opens GPU `options.ordinal`.
    ///
    /// # Errors
    /// [`KernelError::Unavailable`] without a driver, without that GPU, or below sm_80.
    pub fn open(options: &CudaOptions) -> Result<Self> {
        let unavailable =
            |reason: String| KernelError::Unavailable { device: format!("cuda:{}", options.ordinal), reason };
        let count = Self::count()?;
        if options.ordinal >= count {
            return Err(unavailable(format!("the driver offers {count} GPUs, counted from 0")));
        }
        let open = || -> std::result::Result<_, DriverError> {
            let context = CudaContext::new(options.ordinal)?;
            // All memory is ours and all work on one stream: there is nothing to track.
            // SAFETY: no `CudaSlice` of cudarc is used with this context.
            unsafe { context.disable_event_tracking() };
            let capability = context.compute_capability()?;
            let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
            let sm_count = context.attribute(attribute)?;
            Ok((context.new_stream()?, capability, sm_count))
        };
        let (stream, capability, sm_count) = open().map_err(|error| unavailable(words(error)))?;
        if capability < (8, 0) {
            let (major, minor) = capability;
            return Err(unavailable(format!(
                "compute capability {major}.{minor}; 8.0 (A100) or newer is needed"
            )));
        }
        // SAFETY: the context is bound by its creation; the record is freed with the device.
        let fault = unsafe { result::malloc_sync(size_of::<FaultRecord>()) };
        let fault = fault.map_err(|error| unavailable(words(error)))?;
        let inner = Inner {
            context: stream.context().clone(),
            stream,
            options: *options,
            sm_count: sm_count as usize,
            capability,
            fault,
            modules: Mutex::default(),
            arena: Mutex::default(),
            staging: Mutex::default(),
        };
        let device = Self { inner: Arc::new(inner) };
        device.clear_fault_record()?;
        Ok(device)
    }

    /// Which GPU.
    pub fn ordinal(&self) -> usize {
        self.inner.options.ordinal
    }

    /// How it was opened.
    pub fn options(&self) -> &CudaOptions {
        &self.inner.options
    }

    /// The driver's name for the GPU.
    ///
    /// # Errors
    /// [`KernelError::Cuda`].
    pub fn name(&self) -> Result<String> {
        self.check("device name", self.inner.context.name())
    }

    /// Major and minor compute capability.
    pub fn capability(&self) -> (i32, i32) {
        self.inner.capability
    }

    /// Streaming multiprocessors: how many blocks it takes to keep the GPU busy.
    pub fn sm_count(&self) -> usize {
        self.inner.sm_count
    }

    /// Free and total bytes of device memory.
    ///
    /// # Errors
    /// [`KernelError::Cuda`].
    pub fn memory_info(&self) -> Result<(usize, usize)> {
        self.check("memory info", self.inner.context.mem_get_info())
    }

    /// Bytes of step memory: most that was in use at once, and what is reserved.
    pub fn step_memory(&self) -> (u64, u64) {
        let arena = lock(&self.inner.arena);
        (arena.peak_bytes(), arena.capacity_bytes())
    }

    /// The dtype of tensors that feed a matmul.
    pub fn activation_dtype(&self) -> DType {
        match self.inner.options.precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        }
    }

    /// Operand type of matmuls.
    pub(crate) fn precision(&self) -> Precision {
        self.inner.options.precision
    }

    pub(crate) fn separate_allocations(&self) -> bool {
        self.inner.options.separate_allocations
    }

    /// The stream that all work goes to.
    pub(crate) fn stream(&self) -> sys::CUstream {
        self.inner.stream.cu_stream()
    }

    pub(crate) fn fault_address(&self) -> sys::CUdeviceptr {
        self.inner.fault
    }

    /// Makes the context current on this thread.
    pub(crate) fn bind(&self) -> Result<()> {
        self.check("context", self.inner.context.bind_to_thread())
    }

    /// Queues kernel `name` of `stem`.
    ///
    /// # Errors
    /// [`KernelError::Cuda`] if the driver refuses it; [`KernelError::Unavailable`] in a build without machine code.
    pub(crate) fn launch(&self, stem: &'static str, name: &str, shape: Launch, mut args: Args) -> Result<()> {
        self.bind()?;
        let function = lock(&self.inner.modules).function(self, stem, name, shape.shared_bytes)?;
        let [x, y, z] = shape.grid;
        // SAFETY: the wrapper in `cuda/<stem>.rs` passes the kernel's own parameters in order; the values live until
        // the driver has copied them, which it has on return; the memory behind addresses is reused in stream order.
        let launched = unsafe {
            let pointers = &mut args.pointers();
            result::launch_kernel(
                function,
                (x, y, z),
                (shape.threads, 1, 1),
                shape.shared_bytes,
                self.stream(),
                pointers,
            )
        };
        self.check(name, launched)?;
        if self.inner.options.synchronous { self.wait(name) } else { Ok(()) }
    }

    /// Waits for the device.
    ///
    /// # Errors
    /// A failed kernel since the last wait, or an index out of range that one reported.
    pub fn synchronize(&self) -> Result<()> {
        let recent = lock(&self.inner.modules).recent();
        self.bind()?;
        self.wait(&format!("one of the last launches ({recent})"))?;
        let mut record = [FaultRecord::default()];
        // SAFETY: the record is alive; the copy waits until it is done.
        let copied = unsafe {
            result::memcpy_dtoh_async(&mut record, self.inner.fault, self.stream())
                .and_then(|()| result::stream::synchronize(self.stream()))
        };
        self.check("fault record", copied)?;
        if record[0].code == 0 {
            return Ok(());
        }
        self.clear_fault_record()?;
        Err(record[0].error())
    }

    fn wait(&self, what: &str) -> Result<()> {
        // SAFETY: the stream is alive.
        let done = unsafe { result::stream::synchronize(self.stream()) };
        // An error that cudarc kept from an earlier free would be reported by the next call, about something else.
        if done.is_err() {
            let _ = self.inner.context.check_err();
        }
        self.check(what, done)
    }

    fn clear_fault_record(&self) -> Result<()> {
        // SAFETY: the record is alive and so large.
        let done =
            unsafe { result::memset_d8_async(self.inner.fault, 0, size_of::<FaultRecord>(), self.stream()) };
        self.check("fault record", done)
    }

    /// Fresh device memory.
    pub(super) fn allocate(&self, bytes: usize) -> Result<sys::CUdeviceptr> {
        self.bind()?;
        // SAFETY: the caller owns the memory from here on and frees it with `free`.
        unsafe { result::malloc_sync(bytes) }.map_err(|DriverError(code)| match code {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let (free, total) = self.inner.context.mem_get_info().unwrap_or((0, 0));
                let device = format!("cuda:{}", self.ordinal());
                KernelError::OutOfMemory { device, requested: bytes, free, total }
            }
            _ => self.error("allocation", words(DriverError(code))),
        })
    }

    /// Frees memory from `allocate` once the stream no longer uses it.
    pub(super) fn free(&self, address: sys::CUdeviceptr) {
        if self.bind().is_err() {
            return;
        }
        // SAFETY: the owner gives the memory up; the wait ends its last use. After a fault both may fail, and the
        // context, memory included, is lost in any case.
        unsafe {
            let _ = result::stream::synchronize(self.stream());
            let _ = result::free_sync(address);
        }
    }

    /// A range of step memory; grows the arena where it is full.
    pub(super) fn take_step_memory(&self, bytes: usize) -> Result<sys::CUdeviceptr> {
        let mut arena = lock(&self.inner.arena);
        if let Some(address) = arena.take(bytes) {
            return Ok(address);
        }
        let chunk = bytes.next_multiple_of(1 << 20).max(ARENA_CHUNK);
        arena.add_chunk(self.allocate(chunk)?, chunk as u64);
        arena.take(bytes).ok_or_else(|| self.error("step memory", "a fresh chunk is too small".into()))
    }

    /// From here on every range of step memory that is taken is noted.
    pub(super) fn note_step_memory(&self) {
        lock(&self.inner.arena).note();
    }

    /// The ranges noted.
    pub(super) fn noted_step_memory(&self) -> Vec<(u64, u64)> {
        lock(&self.inner.arena).noted()
    }

    /// Whether no tensor lies in a range of step memory.
    pub(super) fn is_step_memory_free(&self, start: u64, bytes: u64) -> bool {
        lock(&self.inner.arena).is_free(start, bytes)
    }

    /// Copies host bytes to a buffer of this device, through page-locked memory and in stream order.
    pub(super) fn upload(&self, buffer: &DeviceBuffer, bytes: &[u8]) -> Result<()> {
        self.bind()?;
        // SAFETY: the stream is alive.
        let status = self.check("upload", unsafe { result::stream::is_capturing(self.stream()) })?;
        if status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE {
            return Err(
                self.error("upload", "a step that is being recorded cannot copy from the host".into())
            );
        }
        // SAFETY: the buffer is alive, is this device's and has room for the bytes, as its own upload has checked.
        unsafe { lock(&self.inner.staging).upload(self, buffer.address(), bytes) }
    }

    pub(super) fn give_step_memory(&self, address: sys::CUdeviceptr, bytes: usize) {
        lock(&self.inner.arena).give(address, bytes);
    }

    /// Turns a driver result into ours.
    pub(crate) fn check<T>(&self, op: &str, result: std::result::Result<T, DriverError>) -> Result<T> {
        result.map_err(|error| self.error(op, words(error)))
    }

    pub(super) fn error(&self, op: &str, message: String) -> KernelError {
        KernelError::Cuda { op: op.to_owned(), device: format!("cuda:{}", self.ordinal()), message }
    }
}

/// What the driver calls an error.
pub(super) fn words(error: DriverError) -> String {
    let text = |words: std::result::Result<&std::ffi::CStr, DriverError>| {
        words.map(|w| w.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let (name, meaning) = (text(error.error_name()), text(error.error_string()));
    if name.is_empty() { format!("driver error {}", error.0 as u32) } else { format!("{name}: {meaning}") }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_err() {
            return;
        }
        let modules = self.modules.get_mut().unwrap_or_else(PoisonError::into_inner);
        let staging = self.staging.get_mut().unwrap_or_else(PoisonError::into_inner);
        let arena = self.arena.get_mut().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the last handle is gone, so nobody can queue more work or use these handles; the wait ends what runs.
        unsafe {
            let _ = result::stream::synchronize(self.stream.cu_stream());
            modules.unload();
            staging.release();
            for chunk in arena.chunks() {
                let _ = result::free_sync(chunk);
            }
            let _ = result::free_sync(self.fault);
        }
    }
}
