//! [`Library`]: libnccl, found by path, and the calls that are made of it.

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::fs;
use std::path::{Path, PathBuf};

/// Handle of one rank's communicator.
pub(super) type Comm = *mut c_void;
/// A call's result: NCCL's own error code.
pub(super) type Code = Result<(), c_int>;

/// `ncclUint8`: what only moves is moved as bytes.
pub(super) const BYTES: c_int = 1;
/// `ncclFloat32`.
pub(super) const FLOAT32: c_int = 7;
/// `ncclBfloat16`.
pub(super) const BFLOAT16: c_int = 9;
/// `ncclSum`.
const SUM: c_int = 0;
/// `ncclInProgress`.
const IN_PROGRESS: c_int = 7;

const NAME: &str = "libnccl.so.2";
/// 2.10, the first with bf16.
const OLDEST: c_int = 21000;

/// Folders where packages put the library.
const STANDARD_FOLDERS: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/local/cuda/lib64",
    "/usr/local/nccl/lib",
];
/// Where Python environments lie that nobody named.
const STANDARD_ENVIRONMENTS: &[&str] = &["/usr", "/usr/local", "/opt/conda", "/opt/venv"];

macro_rules! library {
    ($($field:ident $symbol:literal ($($type:ty),*);)*) => {
        /// The loaded library.
        #[derive(Debug)]
        pub(super) struct Library {
            version: c_int,
            error_string: unsafe extern "C" fn(c_int) -> *const c_char,
            $($field: unsafe extern "C" fn($($type),*) -> c_int,)*
            /// Keeps the functions valid.
            _library: libloading::Library,
        }

        impl Library {
            /// Takes the functions out of a library.
            fn bind(library: libloading::Library) -> Result<Self, libloading::Error> {
                // SAFETY: the symbols of NCCL 2 have these signatures, and the library stays loaded beside them.
                unsafe {
                    Ok(Self {
                        version: 0,
                        error_string: *library.get(b"ncclGetErrorString\0")?,
                        $($field: *library.get(concat!($symbol, "\0").as_bytes())?,)*
                        _library: library,
                    })
                }
            }
        }
    };
}

library! {
    get_version "ncclGetVersion" (*mut c_int);
    init_all "ncclCommInitAll" (*mut Comm, c_int, *const c_int);
    destroy "ncclCommDestroy" (Comm);
    abort "ncclCommAbort" (Comm);
    async_error "ncclCommGetAsyncError" (Comm, *mut c_int);
    group_start "ncclGroupStart" ();
    group_end "ncclGroupEnd" ();
    all_reduce "ncclAllReduce" (*const c_void, *mut c_void, usize, c_int, c_int, Comm, *mut c_void);
    reduce "ncclReduce" (*const c_void, *mut c_void, usize, c_int, c_int, c_int, Comm, *mut c_void);
    reduce_scatter "ncclReduceScatter" (*const c_void, *mut c_void, usize, c_int, c_int, Comm, *mut c_void);
    all_gather "ncclAllGather" (*const c_void, *mut c_void, usize, c_int, Comm, *mut c_void);
    broadcast "ncclBroadcast" (*const c_void, *mut c_void, usize, c_int, c_int, Comm, *mut c_void);
    send "ncclSend" (*const c_void, usize, c_int, c_int, Comm, *mut c_void);
    recv "ncclRecv" (*mut c_void, usize, c_int, c_int, Comm, *mut c_void);
}

/// `folder` itself and what a Python environment of that prefix would hold.
fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![folder.to_path_buf()];
    let versions = fs::read_dir(folder.join("lib")).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_python = |path: &PathBuf| {
        path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with("python3"))
    };
    for version in versions.filter(is_python) {
        for packages in ["site-packages", "dist-packages"] {
            found.push(version.join(packages).join("nvidia/nccl/lib"));
        }
    }
    found
}

impl Library {
    /// Looks in `folders` first, then where the system's loader looks, then in the standard places.
    ///
    /// # Errors
    /// What was looked for and where, and what to do.
    pub(super) fn find(folders: &[PathBuf]) -> Result<Self, String> {
        let below_all = |folders: Vec<PathBuf>| folders.into_iter().flat_map(|folder| below(&folder));
        let standard = STANDARD_FOLDERS.iter().map(PathBuf::from);
        let environments = below_all(STANDARD_ENVIRONMENTS.iter().map(PathBuf::from).collect());
        let mut candidates: Vec<_> = below_all(folders.to_vec()).map(|folder| folder.join(NAME)).collect();
        // The bare name is for the system's loader.
        candidates.push(PathBuf::from(NAME));
        candidates.extend(standard.chain(environments).map(|folder| folder.join(NAME)));
        Self::first_of(&candidates).map_err(|broken| {
            let found = match broken.is_empty() {
                true => "NCCL not found".to_owned(),
                false => format!("no NCCL that can be used ({})", broken.join("; ")),
            };
            let given: String = folders.iter().map(|folder| format!("{}, ", folder.display())).collect();
            format!(
                "{found}: looked for {NAME} in {given}the system's library path, {} and Python environments; install \
                 the package libnccl2 (or nvidia-nccl-cu12 with pip), or let the ranks exchange through host memory \
                 with --tp-transport host",
                STANDARD_FOLDERS.join(", ")
            )
        })
    }

    /// The first that can be opened, or what is wrong with those that are there.
    fn first_of(candidates: &[PathBuf]) -> Result<Self, Vec<String>> {
        let mut broken = Vec::new();
        for path in candidates {
            let is_there = path.exists();
            match Self::open(path) {
                Ok(library) => return Ok(library),
                Err(reason) if is_there => broken.push(format!("{}: {reason}", path.display())),
                Err(_) => {}
            }
        }
        Err(broken)
    }

    fn open(path: &Path) -> Result<Self, String> {
        // SAFETY: the initialisers of libnccl set up its own data only.
        let library = unsafe { libloading::Library::new(path) }.map_err(|error| error.to_string())?;
        let mut library = Self::bind(library).map_err(|error| error.to_string())?;
        // SAFETY: writes one number.
        let code = unsafe { (library.get_version)(&raw mut library.version) };
        library.check(code).map_err(|code| library.words(code))?;
        if library.version < OLDEST {
            return Err(format!("version code {}; 2.10 ({OLDEST}) or newer is needed", library.version));
        }
        Ok(library)
    }

    fn check(&self, code: c_int) -> Code {
        if code == 0 { Ok(()) } else { Err(code) }
    }

    /// What NCCL calls an error.
    pub(super) fn words(&self, code: c_int) -> String {
        // SAFETY: NCCL gives a string of its own for every number.
        let text = unsafe { CStr::from_ptr((self.error_string)(code)) };
        format!("NCCL error {code}: {}", text.to_string_lossy())
    }

    /// Communicators for these devices, all made by this thread.
    pub(super) fn init_all(&self, ordinals: &[c_int]) -> Result<Vec<Comm>, c_int> {
        let mut comms = vec![std::ptr::null_mut(); ordinals.len()];
        // SAFETY: both lists have as many entries as the call is told.
        let code = unsafe { (self.init_all)(comms.as_mut_ptr(), ordinals.len() as c_int, ordinals.as_ptr()) };
        self.check(code).map(|()| comms)
    }

    /// # Safety
    /// `comm` came from [`Library::init_all`]; nobody uses it afterwards.
    pub(super) unsafe fn destroy(&self, comm: Comm) -> Code {
        // SAFETY: as the caller promises.
        self.check(unsafe { (self.destroy)(comm) })
    }

    /// # Safety
    /// As for [`Library::destroy`], though a call that is stuck in `comm` may be ended by this.
    pub(super) unsafe fn abort(&self, comm: Comm) -> Code {
        // SAFETY: as the caller promises.
        self.check(unsafe { (self.abort)(comm) })
    }

    /// Whether something went wrong in `comm` since it was made.
    ///
    /// # Safety
    /// `comm` is alive.
    pub(super) unsafe fn async_error(&self, comm: Comm) -> Code {
        let mut state = 0;
        // SAFETY: as the caller promises; the call writes one number.
        self.check(unsafe { (self.async_error)(comm, &raw mut state) })?;
        if state == IN_PROGRESS { Ok(()) } else { self.check(state) }
    }

    /// Runs calls as one group, which is closed in any case.
    pub(super) fn grouped(&self, calls: impl FnOnce() -> Code) -> Code {
        // SAFETY: the two calls take nothing, and every start has its end.
        self.check(unsafe { (self.group_start)() })?;
        let done = calls();
        // SAFETY: as above.
        let ended = self.check(unsafe { (self.group_end)() });
        done.and(ended)
    }
}

/// One rank's communicator, stream and library: the calls that put collectives on the stream. Addresses are of device
/// memory of that rank's GPU.
#[derive(Clone, Copy)]
pub(super) struct Queue<'a> {
    pub(super) library: &'a Library,
    pub(super) comm: Comm,
    pub(super) stream: *mut c_void,
}

/// # Safety
/// The same for every call: the communicator is alive, and the memory is this rank's, large enough, and stays what it is
/// until the stream has passed the call.
impl Queue<'_> {
    pub(super) unsafe fn all_reduce(&self, x: u64, count: usize, dtype: c_int) -> Code {
        let Self { library, comm, stream } = *self;
        // SAFETY: as the caller promises.
        library.check(unsafe {
            (library.all_reduce)(x as *const c_void, x as *mut c_void, count, dtype, SUM, comm, stream)
        })
    }

    pub(super) unsafe fn reduce(&self, x: u64, out: u64, count: usize, dtype: c_int, root: usize) -> Code {
        let Self { library, comm, stream } = *self;
        let (x, out, root) = (x as *const c_void, out as *mut c_void, root as c_int);
        // SAFETY: as the caller promises.
        library.check(unsafe { (library.reduce)(x, out, count, dtype, SUM, root, comm, stream) })
    }

    pub(super) unsafe fn reduce_scatter(&self, x: u64, out: u64, count: usize, dtype: c_int) -> Code {
        let Self { library, comm, stream } = *self;
        let (x, out) = (x as *const c_void, out as *mut c_void);
        // SAFETY: as the caller promises.
        library.check(unsafe { (library.reduce_scatter)(x, out, count, dtype, SUM, comm, stream) })
    }

    pub(super) unsafe fn all_gather(&self, x: u64, out: u64, bytes: usize) -> Code {
        let Self { library, comm, stream } = *self;
        let (x, out) = (x as *const c_void, out as *mut c_void);
        // SAFETY: as the caller promises.
        library.check(unsafe { (library.all_gather)(x, out, bytes, BYTES, comm, stream) })
    }

    pub(super) unsafe fn broadcast(&self, x: u64, out: u64, bytes: usize, root: usize) -> Code {
        let Self { library, comm, stream } = *self;
        let (x, out, root) = (x as *const c_void, out as *mut c_void, root as c_int);
        // SAFETY: as the caller promises.
        library.check(unsafe { (library.broadcast)(x, out, bytes, BYTES, root, comm, stream) })
    }

    pub(super) unsafe fn send(&self, x: u64, bytes: usize, to: usize) -> Code {
        let Self { library, comm, stream } = *self;
        // SAFETY: as the caller promises.
        library.check(unsafe { (library.send)(x as *const c_void, bytes, BYTES, to as c_int, comm, stream) })
    }

    pub(super) unsafe fn recv(&self, out: u64, bytes: usize, from: usize) -> Code {
        let Self { library, comm, stream } = *self;
        // SAFETY: as the caller promises.
        library
            .check(unsafe { (library.recv)(out as *mut c_void, bytes, BYTES, from as c_int, comm, stream) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_broken_library_is_described() {
        let folder = std::env::temp_dir().join(format!("comm-library-{}", std::process::id()));
        let packages = folder.join("lib/python3.11/site-packages/nvidia/nccl/lib");
        fs::create_dir_all(&packages).unwrap();
        let path = packages.join(NAME);
        assert!(below(&folder).contains(&packages), "{:?}", below(&folder));
        assert_eq!(Library::first_of(std::slice::from_ref(&path)).err(), Some(Vec::new()));
        fs::write(&path, "not a library").unwrap();
        let broken = Library::first_of(&[path]).unwrap_err().remove(0);
        assert!(broken.contains("nvidia/nccl/lib/libnccl.so.2: "), "{broken}");
        // Any library that is not NCCL: the test finds the symbol that is missing, not a crash at the first call.
        let foreign = Library::first_of(&[PathBuf::from("libc.so.6")]).err();
        assert_eq!(foreign, Some(Vec::new()));
        fs::remove_dir_all(&folder).unwrap();
        // Where a machine has NCCL, it is found, and nothing is to be said.
        if let Err(words) = Library::find(std::slice::from_ref(&folder)) {
            assert!(words.starts_with("NCCL not found: looked for libnccl.so.2 in "), "{words}");
            assert!(
                words.contains("--tp-transport host") && words.contains(&*folder.to_string_lossy()),
                "{words}"
            );
        }
    }
}
