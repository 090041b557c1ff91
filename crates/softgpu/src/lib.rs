//! A software CUDA device for tests, never shipped: kernels run as ordinary C++ on fibers, under adversarial schedules,
//! behind a `libcuda.so` that an unmodified CUDA client cannot tell from the real one.
//!
//! Three parts, each usable alone:
//! - `include/simt/device.h`, the one header of a kernel. nvcc sees PTX; any other C++ compiler sees a model of warps,
//!   shared memory, `cp.async`, `ldmatrix` and `mma` that ends a launch with words where hardware would be undefined:
//!   "kernel gemm, block (0,1,0), thread (37,0,0), gemm.cu:57: ldmatrix reads shared memory that a cp.async of thread
//!   12 is still writing".
//! - `driver/` and `nccl/`, shared libraries named `libcuda.so` and `libnccl.so` with the calls that cudarc makes:
//!   devices with memory of their own that is bounds checked, streams that run beside the caller, events, graphs,
//!   collectives whose ranks are threads.
//! - this crate, which compiles both with the machine's C++ compiler and loads them ([`load`]), compiles kernels
//!   ([`Unit`]), and sets schedules and reads errors ([`Driver`]).
//!
//! What it shows is that a kernel computes what its reference computes under every order in which its threads may run,
//! and that a client makes its calls in an order that works. It shows **neither speed nor real tensor-core rounding**,
//! and knows nothing of occupancy, bank conflicts, weak memory between blocks or of what a real driver refuses. Blocks
//! of a launch run one after another, so a kernel whose blocks wait for each other cannot run here.
//!
//! | environment variable, read by the driver only | values, the default first |
//! |---|---|
//! | `SOFTGPU_DEVICES` | 1 to 8 |
//! | `SOFTGPU_MEMORY_MIB` | 2048; per device |
//! | `SOFTGPU_SCHEDULE` | `round-robin`, `shuffled`, `ahead`, `random` |
//! | `SOFTGPU_COPIES` | `lazy`, `eager`, `random`: when a `cp.async` lands |
//! | `SOFTGPU_SEED` | 1 |
//! | `SOFTGPU_THREADS` | 1; OS threads for the blocks of one launch |
//! | `SOFTGPU_STREAMS` | `eager`, `late`: work is put off until somebody waits for it |
//! | `SOFTGPU_KERNELS` | shared objects of kernels that stand in for real machine code, separated by `:` |
//! | `SOFTGPU_DRIVER_VERSION` | 13000; what the driver says of itself |
//! | `SOFTGPU_CAPABILITY` | 80; what the devices say of themselves |
//! | `SOFTGPU_NCCL_DEADLINE_MS` | 20000 |

mod compile;
mod driver;

pub use compile::{Sanitizer, Unit, include_dir, kernel_objects};
pub use driver::{Copies, Driver, Schedule, join, load, prepare};

/// What can go wrong while a library is built or loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The C++ compiler is missing or refused the sources.
    #[error("{command}: {message}")]
    Compiler {
        /// The command line.
        command: String,
        /// What the compiler said.
        message: String,
    },
    /// A source could not be read, or a result not be written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A library could not be loaded, or is not what it should be.
    #[error("{0}")]
    Load(String),
    /// The driver refused a setting.
    #[error("{0}")]
    Driver(String),
}
