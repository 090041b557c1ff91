//! [`Gpu`]: GPUs for tests. Without hardware they are the software device with the engine's own kernels, compiled
//! once per content; with `CACHALOT_TEST_GPU=1` they are the machine's.
//!
//! `CACHALOT_KERNEL_SOURCES` names another folder of kernels, for instance one with a planted bug.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use kernels::{CudaOptions, Device, Precision};
use softgpu::{Copies, Driver, Schedule};

/// Soft devices per process.
const DEVICES: usize = 4;

/// The schedules and copy modes of a full run. Round robin with late copies is what a single run uses.
const SETTINGS: [(Schedule, Copies); 9] = [
    (Schedule::RoundRobin, Copies::Lazy),
    (Schedule::RoundRobin, Copies::Eager),
    (Schedule::RoundRobin, Copies::Random),
    (Schedule::Shuffled, Copies::Lazy),
    (Schedule::Ahead, Copies::Lazy),
    (Schedule::Ahead, Copies::Eager),
    (Schedule::Ahead, Copies::Random),
    (Schedule::Random, Copies::Eager),
    (Schedule::Random, Copies::Random),
];

/// A turn on the GPUs of this process: schedules belong to the process, so tests that use them go one after another.
pub struct Gpu {
    driver: Option<&'static Driver>,
    _turn: MutexGuard<'static, ()>,
}

/// Whether tests run on the machine's own GPUs.
pub fn hardware() -> bool {
    std::env::var_os("CACHALOT_TEST_GPU").is_some_and(|value| value == "1")
}

/// Waits for a turn on the GPUs.
pub fn soft_gpu() -> Gpu {
    static TURN: Mutex<()> = Mutex::new(());
    static DRIVER: OnceLock<&'static Driver> = OnceLock::new();
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if hardware() {
        return Gpu { driver: None, _turn: turn };
    }
    let driver = DRIVER.get_or_init(|| {
        let driver = softgpu::load(DEVICES).unwrap_or_else(|error| panic!("{error}"));
        let objects = softgpu::kernel_objects(&kernel_sources()).unwrap_or_else(|error| panic!("{error}"));
        driver.stand_in(&objects).unwrap_or_else(|error| panic!("{error}"));
        driver
    });
    driver.reset_errors();
    driver.configure(Schedule::RoundRobin, Copies::Lazy, 1);
    Gpu { driver: Some(driver), _turn: turn }
}

/// The environment in which another program finds the software driver and the engine's kernels.
pub fn soft_environment() -> [(&'static str, OsString); 2] {
    let libraries = softgpu::prepare().unwrap_or_else(|error| panic!("{error}"));
    let objects = softgpu::kernel_objects(&kernel_sources()).unwrap_or_else(|error| panic!("{error}"));
    [("LD_LIBRARY_PATH", libraries.into()), ("SOFTGPU_KERNELS", softgpu::join(&objects).into())]
}

/// Where the kernels are.
fn kernel_sources() -> PathBuf {
    let ours = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels/cuda");
    std::env::var_os("CACHALOT_KERNEL_SOURCES").map_or_else(ours, PathBuf::from)
}

impl Gpu {
    /// Device 0 with every activation in an allocation of its own, so that a step past its end is seen.
    pub fn device(&self, precision: Precision) -> Device {
        self.open(CudaOptions { precision, separate_allocations: true, ..CudaOptions::default() })
    }

    /// A device opened as the caller wants it.
    pub fn open(&self, options: CudaOptions) -> Device {
        Device::cuda(&options).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs `case` on a device of `precision` under three schedules and three modes of `cp.async` and more mixtures of
    /// both. On hardware: once.
    pub fn under_all_schedules(&self, precision: Precision, case: impl Fn(&Device)) {
        let device = self.device(precision);
        let Some(driver) = self.driver else { return case(&device) };
        for (seed, (schedule, copies)) in SETTINGS.into_iter().enumerate() {
            driver.configure(schedule, copies, seed as u64 + 1);
            case(&device);
        }
        driver.configure(Schedule::RoundRobin, Copies::Lazy, 1);
    }

    /// The soft driver's words about the last fault; empty on hardware.
    pub fn last_error(&self) -> String {
        self.driver.map(Driver::last_error).unwrap_or_default()
    }

    /// The soft driver, for tests of faults. `None` on hardware.
    pub fn driver(&self) -> Option<&'static Driver> {
        self.driver
    }
}
