//! Builds and loads the software driver, and talks to it beside the CUDA API: schedules, errors, leak checks.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::Error;
use crate::compile::{Unit, target_dir};

/// In which order the threads of a block run; they switch only where CUDA lets them meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Every warp in turn, lanes in order.
    RoundRobin,
    /// Every warp in turn, warps and lanes in random order.
    Shuffled,
    /// One random warp runs until it must wait for the others.
    Ahead,
    /// Random warps for random stretches.
    Random,
}

/// When the bytes of a `cp.async` land.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copies {
    /// At the wait: finds a missing wait.
    Lazy,
    /// At once: finds a refill that comes too early.
    Eager,
    /// Either, by chance.
    Random,
}

/// The loaded driver.
#[derive(Debug)]
pub struct Driver {
    configure: unsafe extern "C" fn(c_int, c_int, u64) -> c_int,
    last_error: unsafe extern "C" fn(*mut c_char, usize) -> c_int,
    reset_errors: unsafe extern "C" fn() -> c_int,
    live_allocations: unsafe extern "C" fn(c_int) -> usize,
    graph_launches: unsafe extern "C" fn() -> usize,
    set_kernels: unsafe extern "C" fn(*const c_char) -> c_int,
    fail_next: unsafe extern "C" fn(*const c_char) -> c_int,
}

/// Builds `libcuda.so.1` and `libnccl.so` and gives the folder that holds them, fit for `LD_LIBRARY_PATH`.
pub fn prepare() -> Result<PathBuf, Error> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let library = |name: &str, folder: &str, source: &str, soname: &str| {
        Unit::library(name).source(root.join(folder).join(source)).flag(&format!("-Wl,-soname,{soname}"))
    };
    let cuda = library("libcuda.so.1", "driver", "libcuda.cpp", "libcuda.so");
    let nccl = library("libnccl.so", "nccl", "libnccl.cpp", "libnccl.so");
    let (cuda, nccl) = (cuda.build()?, nccl.build()?);
    let tag =
        |path: &Path| path.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    let folder = target_dir().join(format!(
        "lib-{}-{}",
        tag(&cuda).unwrap_or_default(),
        tag(&nccl).unwrap_or_default()
    ));
    fs::create_dir_all(&folder).map_err(|source| Error::Io { path: folder.display().to_string(), source })?;
    for (name, library) in
        [("libcuda.so", &cuda), ("libcuda.so.1", &cuda), ("libnccl.so", &nccl), ("libnccl.so.2", &nccl)]
    {
        // Another process may have linked it in the meantime; what counts is that it is there.
        let _ = symlink(library, folder.join(name));
    }
    Ok(folder)
}

/// Loads the driver into this process, so that a client that looks for `libcuda.so` or `libnccl.so` afterwards finds it,
/// even where a real one is installed. `devices` (1 to 8) counts on the first call; later calls must agree.
///
/// No environment variable is needed. Call it before the first use of the client.
pub fn load(devices: usize) -> Result<&'static Driver, Error> {
    static DRIVER: OnceLock<Result<Driver, String>> = OnceLock::new();
    let driver = DRIVER.get_or_init(|| open().map_err(|error| error.to_string())).as_ref();
    let driver = driver.map_err(|error| Error::Load(error.clone()))?;
    let cuda = open_library(&prepare()?.join("libcuda.so.1"))?;
    // SAFETY: the symbol is this crate's own, with this signature.
    let set_devices: unsafe extern "C" fn(c_int) -> c_int = unsafe { symbol(cuda, c"softgpu_set_devices")? };
    // SAFETY: the call takes a number and touches nothing of ours.
    match unsafe { set_devices(devices as c_int) } {
        0 => Ok(driver),
        _ => Err(Error::Driver(driver.last_error())),
    }
}

/// A list of paths as the driver reads it.
pub fn join(objects: &[PathBuf]) -> String {
    objects.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(":")
}

fn open() -> Result<Driver, Error> {
    let folder = prepare()?;
    let cuda = open_library(&folder.join("libcuda.so.1"))?;
    open_library(&folder.join("libnccl.so"))?;
    // SAFETY: the symbols are this crate's own, with these signatures.
    unsafe {
        Ok(Driver {
            configure: symbol(cuda, c"softgpu_configure")?,
            last_error: symbol(cuda, c"softgpu_last_error")?,
            reset_errors: symbol(cuda, c"softgpu_reset_errors")?,
            live_allocations: symbol(cuda, c"softgpu_live_allocations")?,
            graph_launches: symbol(cuda, c"softgpu_graph_launches")?,
            set_kernels: symbol(cuda, c"softgpu_set_kernels")?,
            fail_next: symbol(cuda, c"softgpu_fail_next")?,
        })
    }
}

/// The library stays loaded for the life of the process; its name is then known to every later search.
fn open_library(path: &Path) -> Result<*mut c_void, Error> {
    let name =
        CString::new(path.as_os_str().as_encoded_bytes()).map_err(|error| Error::Load(error.to_string()))?;
    // SAFETY: the name is a valid C string; the library's initialisers only set up its own data.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(handle);
    }
    // SAFETY: after a failure dlerror gives a C string that lives until the next call.
    let message = unsafe { CStr::from_ptr(libc::dlerror()) };
    Err(Error::Load(message.to_string_lossy().into_owned()))
}

/// # Safety
/// `F` must be the symbol's function pointer type.
unsafe fn symbol<F: Copy>(library: *mut c_void, name: &CStr) -> Result<F, Error> {
    assert_eq!(size_of::<F>(), size_of::<*mut c_void>(), "a function pointer");
    // SAFETY: the handle came from dlopen, the name is a C string.
    let address = unsafe { libc::dlsym(library, name.as_ptr()) };
    if address.is_null() {
        return Err(Error::Load(format!("the driver has no {}", name.to_string_lossy())));
    }
    // SAFETY: the caller promises the type; the address is not null.
    Ok(unsafe { std::mem::transmute_copy(&address) })
}

impl Driver {
    /// How every later launch of this process runs.
    pub fn configure(&self, schedule: Schedule, copies: Copies, seed: u64) {
        // SAFETY: the call takes numbers and touches nothing of ours.
        let code = unsafe { (self.configure)(schedule as c_int, copies as c_int, seed) };
        assert_eq!(code, 0, "every schedule and mode is known to the driver");
    }

    /// Lets these shared objects of kernels stand in for every image that is none, as `SOFTGPU_KERNELS` does.
    pub fn stand_in(&self, objects: &[PathBuf]) -> Result<(), Error> {
        let list = join(objects);
        let list = CString::new(list).map_err(|error| Error::Load(error.to_string()))?;
        // SAFETY: the driver copies the C string.
        unsafe { (self.set_kernels)(list.as_ptr()) };
        Ok(())
    }

    /// Makes the next launch of `kernel` fail, and with it the device, as a defect of the hardware would.
    pub fn fail_next(&self, kernel: &CStr) {
        // SAFETY: the driver copies the C string.
        unsafe { (self.fail_next)(kernel.as_ptr()) };
    }

    /// The process's last error in words: for a faulted kernel its name, block, thread, source line and cause.
    pub fn last_error(&self) -> String {
        let mut text = [0u8; 2048];
        // SAFETY: the driver writes at most so many bytes, the last one zero.
        unsafe { (self.last_error)(text.as_mut_ptr().cast(), text.len()) };
        CStr::from_bytes_until_nul(&text).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Forgets the last error and makes every faulted device usable again, which hardware does only for a new process.
    pub fn reset_errors(&self) {
        // SAFETY: the call takes nothing and touches nothing of ours.
        unsafe { (self.reset_errors)() };
    }

    /// How many allocations of a device are alive: a leak check.
    pub fn live_allocations(&self, device: usize) -> usize {
        // SAFETY: the call takes a number and touches nothing of ours.
        unsafe { (self.live_allocations)(device as c_int) }
    }

    /// How many graphs the process launched so far.
    pub fn graph_launches(&self) -> usize {
        // SAFETY: the call takes nothing and touches nothing of ours.
        unsafe { (self.graph_launches)() }
    }
}
