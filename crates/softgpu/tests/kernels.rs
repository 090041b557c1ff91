//! The test kernels through the driver and an unmodified cudarc: the sound ones equal naive references under every
//! schedule and mode of `cp.async`; each planted bug is caught, by a fault that names the place or by a wrong result.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may panic, and says what it skips"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use half::bf16;
use softgpu::{Copies, Driver, Schedule, Unit};

/// Schedules belong to the process, so the tests of this file take turns.
struct Gpu {
    driver: &'static Driver,
    stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
    _turn: MutexGuard<'static, ()>,
}

fn gpu() -> Gpu {
    static TURN: Mutex<()> = Mutex::new(());
    static MODULE: OnceLock<Arc<CudaModule>> = OnceLock::new();
    let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let driver = softgpu::load(1).unwrap();
    let context = CudaContext::new(0).unwrap();
    let module = MODULE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels");
        let object =
            Unit::kernels("planted.so").flag("-O0").source(folder.join("planted.cpp")).build().unwrap();
        context.load_module(Ptx::from_file(object)).unwrap()
    });
    Gpu { driver, stream: context.new_stream().unwrap(), module: module.clone(), _turn: turn }
}

const SCHEDULES: [Schedule; 4] =
    [Schedule::RoundRobin, Schedule::Shuffled, Schedule::Ahead, Schedule::Random];
const COPIES: [Copies; 3] = [Copies::Lazy, Copies::Eager, Copies::Random];

/// A launch's outcome: right, or what was wrong with it.
type Outcome = Result<(), String>;

impl Gpu {
    fn function(&self, name: &str) -> CudaFunction {
        self.module.load_function(name).unwrap()
    }

    /// Runs a case under every schedule and mode; the settings under which it was not right, each with its words.
    fn under_all_settings(&self, case: impl Fn(&Self) -> Outcome) -> BTreeMap<String, String> {
        let mut wrong = BTreeMap::new();
        for schedule in SCHEDULES {
            for copies in COPIES {
                self.driver.configure(schedule, copies, 3);
                if let Err(words) = case(self) {
                    wrong.insert(format!("{schedule:?}/{copies:?}"), words);
                }
                self.driver.reset_errors();
                // cudarc keeps the error of a failed free for its next call.
                let _ = self.stream.context().check_err();
            }
        }
        wrong
    }

    /// The driver's words if the launch faulted, else the comparison's.
    fn outcome<T>(
        &self,
        result: Result<T, cudarc::driver::DriverError>,
        compare: impl FnOnce(T) -> Outcome,
    ) -> Outcome {
        match result {
            Ok(value) => compare(value),
            Err(_) => Err(self.driver.last_error()),
        }
    }
}

fn launch(grid: (u32, u32, u32), threads: u32, shared_mem_bytes: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: grid, block_dim: (threads, 1, 1), shared_mem_bytes }
}

fn differ<T: PartialEq + std::fmt::Debug>(got: &[T], want: &[T]) -> Outcome {
    match got.iter().zip(want).position(|(g, w)| g != w) {
        Some(i) => Err(format!("wrong result at {i}: {:?}, want {:?}", got[i], want[i])),
        None => Ok(()),
    }
}

/// A value that looks random and is exact in bf16.
fn sample(i: usize) -> f32 {
    ((i * 2_654_435_761) % 1_000_003 % 33) as f32 / 8.0 - 2.0
}

fn gemm_bf16(gpu: &Gpu, name: &str, (m, n, k): (usize, usize, usize)) -> Outcome {
    let a: Vec<bf16> = (0..m * k).map(|i| bf16::from_f32(sample(i))).collect();
    let b: Vec<bf16> = (0..n * k).map(|i| bf16::from_f32(sample(i + 17))).collect();
    // Sums of these values are exact in f32, whatever their order.
    let dot =
        |i: usize, j: usize| (0..k).map(|x| f32::from(a[i * k + x]) * f32::from(b[j * k + x])).sum::<f32>();
    let want: Vec<f32> = (0..m * n).map(|i| dot(i / n, i % n)).collect();
    let run = || {
        let (a, b) = (gpu.stream.clone_htod(&a)?, gpu.stream.clone_htod(&b)?);
        let mut c = gpu.stream.alloc_zeros::<f32>(m * n)?;
        let function = gpu.function(name);
        let mut builder = gpu.stream.launch_builder(&function);
        let sizes = [m as i32, n as i32, k as i32];
        builder.arg(&a).arg(&b).arg(&mut c).arg(&sizes[0]).arg(&sizes[1]).arg(&sizes[2]);
        let grid = (n.div_ceil(64) as u32, m.div_ceil(64) as u32, 1);
        // SAFETY: the arguments are the kernel's, in its order.
        unsafe { builder.launch(launch(grid, 128, 3 * 128 * 64)) }?;
        gpu.stream.clone_dtoh(&c)
    };
    gpu.outcome(run(), |c| differ(&c, &want))
}

fn gemm_s8(gpu: &Gpu, name: &str, (m, n, k): (usize, usize, usize)) -> Outcome {
    let a: Vec<i8> = (0..m * k).map(|i| (i * 31 % 255) as u8 as i8).collect();
    let b: Vec<i8> = (0..n * k).map(|i| (i * 57 % 253) as u8 as i8).collect();
    let dot =
        |i: usize, j: usize| (0..k).map(|x| i32::from(a[i * k + x]) * i32::from(b[j * k + x])).sum::<i32>();
    let want: Vec<i32> = (0..m * n).map(|i| dot(i / n, i % n)).collect();
    let run = || {
        let (a, b) = (gpu.stream.clone_htod(&a)?, gpu.stream.clone_htod(&b)?);
        let mut c = gpu.stream.alloc_zeros::<i32>(m * n)?;
        let function = gpu.function(name);
        let mut builder = gpu.stream.launch_builder(&function);
        let sizes = [n as i32, k as i32];
        builder.arg(&a).arg(&b).arg(&mut c).arg(&sizes[0]).arg(&sizes[1]);
        // SAFETY: the arguments are the kernel's, in its order.
        unsafe { builder.launch(launch(((n / 32) as u32, (m / 32) as u32, 1), 64, 0)) }?;
        gpu.stream.clone_dtoh(&c)
    };
    gpu.outcome(run(), |c| differ(&c, &want))
}

fn softmax(gpu: &Gpu, name: &str, (rows, n): (usize, usize)) -> Outcome {
    // The maxima grow with the row index inside a row, so that a stale maximum matters.
    let x: Vec<f32> = (0..rows * n).map(|i| sample(i) + (i % n) as f32 * 0.25).collect();
    let run = || {
        let input = gpu.stream.clone_htod(&x)?;
        let mut output = gpu.stream.alloc_zeros::<f32>(rows * n)?;
        let (function, size) = (gpu.function(name), n as i32);
        let mut builder = gpu.stream.launch_builder(&function);
        builder.arg(&input).arg(&mut output).arg(&size);
        // SAFETY: the arguments are the kernel's, in its order.
        unsafe { builder.launch(launch((rows as u32, 1, 1), 128, 0)) }?;
        gpu.stream.clone_dtoh(&output)
    };
    gpu.outcome(run(), |y| {
        for (row, (x, y)) in x.chunks(n).zip(y.chunks(n)).enumerate() {
            let largest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let total: f64 = x.iter().map(|v| f64::from(v - largest).exp()).sum();
            for (column, (x, y)) in x.iter().zip(y).enumerate() {
                let want = f64::from(x - largest).exp() / total;
                if (f64::from(*y) - want).abs().is_nan() || (f64::from(*y) - want).abs() > 1e-6 {
                    return Err(format!("wrong result at row {row}, column {column}: {y}, want {want}"));
                }
            }
        }
        Ok(())
    })
}

fn compact(gpu: &Gpu, name: &str, n: usize) -> Outcome {
    let x: Vec<i32> = (0..n).map(|i| (i * 7 % 11) as i32 - 5).collect();
    let want: Vec<i32> = (0..n).filter(|&i| x[i] > 0).map(|i| i as i32).collect();
    let run = || {
        let input = gpu.stream.clone_htod(&x)?;
        let mut indices = gpu.stream.alloc_zeros::<i32>(want.len().max(1))?;
        let mut count = gpu.stream.alloc_zeros::<i32>(1)?;
        let (function, size) = (gpu.function(name), n as i32);
        let mut builder = gpu.stream.launch_builder(&function);
        builder.arg(&input).arg(&size).arg(&mut indices).arg(&mut count);
        // SAFETY: the arguments are the kernel's, in its order.
        unsafe { builder.launch(launch((n.div_ceil(96).max(1) as u32, 1, 1), 96, 0)) }?;
        Ok((gpu.stream.clone_dtoh(&indices)?, gpu.stream.clone_dtoh(&count)?))
    };
    gpu.outcome(run(), |(mut indices, count)| {
        indices.truncate(want.len());
        indices.sort_unstable();
        differ(&count, &[want.len() as i32])?;
        differ(&indices, &want)
    })
}

fn gather_pad(gpu: &Gpu, name: &str, (used, width, step): (usize, usize, i32)) -> Outcome {
    let rows = [2, 0, 1, 2];
    let x: Vec<u8> = (0..3 * width).map(|i| (i % 251) as u8 + 1).collect();
    let cell = |row: i32, at: usize| if at < used { x[row as usize * width + at] } else { 0 };
    let want: Vec<u8> = rows.iter().flat_map(|&row| (0..width).map(move |at| cell(row, at))).collect();
    let run = || {
        let (input, rows) = (gpu.stream.clone_htod(&x)?, gpu.stream.clone_htod(&rows)?);
        let mut output = gpu.stream.alloc_zeros::<u8>(want.len())?;
        let (function, sizes) = (gpu.function(name), [used as i32, width as i32]);
        let mut builder = gpu.stream.launch_builder(&function);
        builder.arg(&input).arg(&rows).arg(&mut output).arg(&sizes[0]).arg(&sizes[1]).arg(&step);
        // SAFETY: the arguments are the kernel's, in its order.
        unsafe { builder.launch(launch((4, 1, 1), 32, width as u32)) }?;
        gpu.stream.clone_dtoh(&output)
    };
    gpu.outcome(run(), |output| differ(&output, &want))
}

#[test]
fn sound_kernels_equal_their_references_under_every_schedule() {
    let gpu = gpu();
    let wrong = gpu.under_all_settings(|gpu| {
        for shape in [(64, 64, 32), (1, 1, 96), (70, 65, 160), (130, 3, 64)] {
            gemm_bf16(gpu, "gemm_bf16", shape).map_err(|e| format!("gemm_bf16 {shape:?}: {e}"))?;
        }
        for shape in [(32, 32, 64), (64, 32, 192)] {
            gemm_s8(gpu, "gemm_s8", shape).map_err(|e| format!("gemm_s8 {shape:?}: {e}"))?;
        }
        for shape in [(1, 1), (3, 31), (2, 300)] {
            softmax(gpu, "softmax", shape).map_err(|e| format!("softmax {shape:?}: {e}"))?;
        }
        for n in [1, 95, 200, 500] {
            compact(gpu, "compact", n).map_err(|e| format!("compact {n}: {e}"))?;
        }
        for shape in [(0, 16, 4), (5, 64, 4), (33, 48, 8), (100, 1040, 16), (1040, 1040, 8)] {
            gather_pad(gpu, "gather_pad", shape).map_err(|e| format!("gather_pad {shape:?}: {e}"))?;
        }
        Ok(())
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A planted bug must be caught under at least one setting, and `words` must be among what was said.
fn caught(gpu: &Gpu, bug: &str, words: &str, case: impl Fn(&Gpu, &str) -> Outcome) {
    let wrong = gpu.under_all_settings(|gpu| case(gpu, bug));
    let how = wrong.iter().find(|(_, text)| text.contains(words));
    let (setting, text) = how.unwrap_or_else(|| panic!("{bug}: nothing said \"{words}\": {wrong:#?}"));
    println!("{bug}: caught under {} of 12 settings; {setting}: {text}", wrong.len());
}

#[test]
fn planted_bugs_in_copies_and_barriers_are_caught() {
    let gpu = gpu();
    let gemm = |gpu: &Gpu, name: &str| gemm_bf16(gpu, name, (70, 66, 160));
    caught(&gpu, "gemm_bf16_weak_wait", "gemm_bf16.cu", gemm);
    caught(&gpu, "gemm_bf16_no_barrier_after_wait", "gemm_bf16.cu", gemm);
    caught(&gpu, "gemm_bf16_early_refill", "gemm_bf16.cu", gemm);
    let gemm = |gpu: &Gpu, name: &str| gemm_s8(gpu, name, (32, 32, 256));
    caught(&gpu, "gemm_s8_no_last_wait", "is still writing", gemm);
    caught(&gpu, "gemm_s8_no_barrier_before_refill", "is still writing", gemm);
    caught(&gpu, "gather_pad_no_wait", "wrong result", |gpu, name| gather_pad(gpu, name, (100, 1040, 16)));
    let rows = |gpu: &Gpu, name: &str| softmax(gpu, name, (4, 300));
    caught(&gpu, "softmax_shared_reuse", "wrong result", rows);
    caught(&gpu, "softmax_divergent_barrier", "deadlock", rows);
}

#[test]
fn planted_bugs_in_addresses_are_caught() {
    let gpu = gpu();
    let gemm = |gpu: &Gpu, name: &str| gemm_bf16(gpu, name, (70, 65, 64));
    caught(&gpu, "gemm_bf16_wrong_swizzle", "wrong result", gemm);
    caught(&gpu, "gemm_bf16_tail_out_of_bounds", "cp.async of 16 bytes", gemm);
    caught(&gpu, "gemm_bf16_misaligned_copy", "cp.async from global memory: misaligned", gemm);
    // One element past a matrix whose last row ends its allocation, and no other matrix behind it.
    caught(&gpu, "gemm_bf16_store_past_end", "past the end of an allocation", gemm);
    caught(&gpu, "gather_pad_shared_overflow", "shared memory overflow: ", |gpu, name| {
        gather_pad(gpu, name, (5, 48, 4))
    });
    caught(&gpu, "softmax_unset_shared", "wrong result", |gpu, name| softmax(gpu, name, (2, 300)));
    caught(&gpu, "compact_unguarded_store", "store of 4 bytes", |gpu, name| compact(gpu, name, 200));
}

#[test]
fn planted_bugs_in_lanes_are_caught() {
    let gpu = gpu();
    caught(&gpu, "softmax_wrong_mask", "softmax.cu", |gpu, name| softmax(gpu, name, (2, 300)));
    caught(&gpu, "softmax_divergent_shuffle", "__shfl_xor_sync", |gpu, name| softmax(gpu, name, (2, 50)));
    caught(&gpu, "compact_exited_lane", "exited", |gpu, name| compact(gpu, name, 200));
    // The lost update lies between blocks or warps that meet only there; it takes ThreadSanitizer (tests/runtime.rs).
    let wrong = gpu.under_all_settings(|gpu| compact(gpu, "compact_racing_count", 500));
    assert!(wrong.is_empty(), "threads switch only where CUDA lets them meet: {wrong:#?}");
}
