//! Ranks on GPUs: every collective over NCCL and over host memory against plain loops, on two and four soft devices;
//! recorded steps; and every way in which a group can fail, which frees the ranks that wait on their GPU.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use comm::{CommError, Communicator, GroupOptions, Transport, group};
use kernels::cpu::AlignedBytes;
use kernels::{CudaOptions, DType, Device, KernelError, Precision, Tensor};
use testkit::{Gpu, hardware, soft_gpu};

/// Long for what should end at once.
const DEADLINE: Duration = Duration::from_secs(15);
/// What "at once" may take on a busy machine.
const SOON: Duration = Duration::from_secs(8);

fn devices(gpu: &Gpu, count: usize) -> Vec<Device> {
    // Step memory comes from the arena: an allocation cannot be recorded.
    let options = CudaOptions { precision: Precision::F32, ..CudaOptions::default() };
    (0..count).map(|ordinal| gpu.open(CudaOptions { ordinal, ..options })).collect()
}

fn options(transport: Transport, deadline: Duration) -> GroupOptions {
    let double = if hardware() { PathBuf::from("/nowhere") } else { softgpu::prepare().unwrap() };
    GroupOptions { transport, deadline, nccl_folders: vec![double] }
}

/// Runs `run` on `size` ranks, a thread and a GPU each.
fn on_ranks<R: Send>(
    size: usize,
    options: &GroupOptions,
    run: impl Fn(Arc<dyn Communicator>, &Device) -> R + Sync,
) -> Vec<R> {
    let gpu = soft_gpu();
    let devices = devices(&gpu, size);
    let (ranks, run) = (group(&devices, options).unwrap(), &run);
    thread::scope(|scope| {
        let threads: Vec<_> = ranks
            .into_iter()
            .zip(&devices)
            .map(|(comm, device)| scope.spawn(move || run(comm, device)))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Small integers: every sum of them is exact in every order, in bf16 too.
fn value(rank: usize, i: usize) -> f32 {
    (1 + (rank * 5 + i * 3) % 11) as f32
}

fn tensor(device: &Device, dtype: DType, shape: &[usize], value: impl Fn(usize) -> f32) -> Tensor {
    let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
    if dtype == DType::F32 {
        return Tensor::from_f32(device, shape, &values).unwrap();
    }
    let values: Vec<u8> = values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
    Tensor::from_bytes(device, dtype, shape, AlignedBytes::copy_of(&values)).unwrap()
}

fn sums(size: usize, count: usize) -> Vec<f32> {
    (0..count).map(|i| (0..size).map(|rank| value(rank, i)).sum()).collect()
}

/// Values after the rank has waited, as a step reads its results.
fn read(comm: &Arc<dyn Communicator>, x: &Tensor) -> Vec<f32> {
    comm.wait().unwrap();
    x.read_f32().unwrap()
}

fn reduces_and_broadcasts(comm: &Arc<dyn Communicator>, device: &Device, dtype: DType) {
    let (rank, size) = (comm.rank(), comm.size());
    for shape in [[0, 3], [1, 1], [3, 5], [2, 700]] {
        let mut x = tensor(device, dtype, &shape, |i| value(rank, i));
        comm.all_reduce(&mut x).unwrap();
        assert_eq!((x.dtype(), x.shape(), x.device()), (dtype, &shape[..], device.clone()));
        assert_eq!(read(comm, &x), sums(size, shape[0] * shape[1]));
        for root in 0..size {
            let mut x = tensor(device, dtype, &shape, |i| value(rank, i));
            comm.broadcast(&mut x, root).unwrap();
            let want: Vec<f32> = (0..shape[0] * shape[1]).map(|i| value(root, i)).collect();
            assert_eq!(read(comm, &x), want, "from {root}");
        }
    }
    for rows in [vec![2; size], (0..size).map(|r| (r * 3) % 4).collect(), vec![0; size]] {
        let total: usize = rows.iter().sum();
        let x = tensor(device, dtype, &[total, 3], |i| value(rank, i));
        let own = comm.reduce_scatter_rows(&x, &rows).unwrap();
        assert_eq!((own.shape(), own.dtype()), (&[rows[rank], 3][..], dtype));
        let begin: usize = rows[..rank].iter().sum();
        assert_eq!(read(comm, &own), sums(size, total * 3)[begin * 3..][..rows[rank] * 3], "{rows:?}");
    }
}

fn gathers_and_exchanges(comm: &Arc<dyn Communicator>, device: &Device, dtype: DType) {
    let (rank, size) = (comm.rank(), comm.size());
    for widths in [vec![4; size], (1..=size).collect(), (0..size).map(|r| r % 2 * 5).collect(), vec![0; size]]
    {
        let (cols, begin) = (widths.iter().sum::<usize>(), widths[..rank].iter().sum::<usize>());
        for rows in [0, 1, 3] {
            let width = widths[rank];
            let place = |i: usize| (i / width * cols + begin + i % width) as f32;
            let x = tensor(device, dtype, &[rows, width], place);
            let whole = comm.all_gather_cols(&x, &widths).unwrap();
            assert_eq!((whole.shape(), whole.dtype()), (&[rows, cols][..], dtype));
            let want: Vec<f32> = (0..rows * cols).map(|i| i as f32).collect();
            assert_eq!(read(comm, &whole), want, "{rows} rows of {widths:?}");
        }
    }
    let sent = |from: usize, to: usize| (from + 2 * to) % 3;
    let name = |from: usize, to: usize, i: usize| (from * 16 + to * 4 + i) as f32;
    let send: Vec<_> = (0..size).map(|to| sent(rank, to)).collect();
    let receive: Vec<_> = (0..size).map(|from| sent(from, rank)).collect();
    let out: Vec<_> = (0..size).flat_map(|to| (0..send[to]).map(move |i| name(rank, to, i))).collect();
    let want: Vec<_> =
        (0..size).flat_map(|from| (0..receive[from]).map(move |i| name(from, rank, i))).collect();
    let x = tensor(device, dtype, &[out.len(), 1], |i| out[i]);
    let got = comm.all_to_all(&x, &send, &receive).unwrap();
    assert_eq!((got.shape(), read(comm, &got)), (&[want.len(), 1][..], want));
}

#[test]
fn collectives_equal_plain_loops_over_both_transports() {
    for transport in [Transport::Nccl, Transport::Host] {
        for size in [2, 4] {
            on_ranks(size, &options(transport, DEADLINE), |comm, device| {
                assert_eq!(comm.is_capturable(), transport == Transport::Nccl);
                for dtype in [DType::F32, DType::BF16] {
                    reduces_and_broadcasts(&comm, device, dtype);
                    gathers_and_exchanges(&comm, device, dtype);
                }
                comm.barrier().unwrap();
            });
        }
    }
}

#[test]
fn recorded_collectives_meet_again_at_every_replay() {
    on_ranks(2, &options(Transport::Nccl, DEADLINE), |comm, device| {
        let mut x = tensor(device, DType::F32, &[2, 3], |_| 1.0);
        let whole = tensor(device, DType::F32, &[2, 1 + comm.rank()], |i| i as f32);
        let step = device
            .record(|| -> Result<Tensor, Failure> {
                comm.all_reduce(&mut x)?;
                Ok(comm.all_gather_cols(&whole, &[1, 2])?)
            })
            .unwrap()
            .unwrap();
        step.replay().unwrap();
        let gathered = step.replay().unwrap();
        comm.wait().unwrap();
        assert_eq!(gathered.read_f32().unwrap(), [0.0, 0.0, 1.0, 1.0, 2.0, 3.0]);
        drop(step);
        assert_eq!(x.read_f32().unwrap(), [8.0; 6], "once to warm up, twice replayed");
    });
}

/// Either error of a step.
#[derive(Debug)]
#[expect(dead_code, reason = "read by the panic message")]
enum Failure {
    Kernel(KernelError),
    Comm(CommError),
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Self {
        Self::Kernel(error)
    }
}

impl From<CommError> for Failure {
    fn from(error: CommError) -> Self {
        Self::Comm(error)
    }
}

/// Rank 1 does `fate` in place of a collective that rank 0 waits for on its GPU; returns what rank 0 is told, soon.
fn rank_0_is_told(deadline: Duration, fate: impl Fn(Arc<dyn Communicator>) + Sync) -> CommError {
    let told = on_ranks(2, &options(Transport::Nccl, deadline), |comm, device| {
        let mut x = tensor(device, DType::F32, &[4], |_| 1.0);
        comm.all_reduce(&mut x).unwrap();
        assert_eq!(read(&comm, &x), [2.0; 4]);
        if comm.rank() == 1 {
            // The other waits by now.
            thread::sleep(Duration::from_millis(100));
            fate(comm);
            return None;
        }
        let begin = Instant::now();
        comm.all_reduce(&mut x).unwrap();
        let error = comm.wait().unwrap_err();
        assert!(begin.elapsed() < SOON, "took {:?}", begin.elapsed());
        assert_eq!(comm.all_reduce(&mut x), Err(error.clone()), "later calls say the same");
        assert_eq!(comm.wait(), Err(error.clone()));
        Some(error)
    });
    told[0].clone().unwrap()
}

#[test]
fn a_rank_that_gives_up_frees_the_one_that_waits() {
    if hardware() {
        return;
    }
    let told = rank_0_is_told(DEADLINE, |comm| {
        comm.abort("no memory left");
        assert!(comm.barrier().is_err());
    });
    assert_eq!(told, CommError::Aborted { rank: 1, reason: "no memory left".to_owned() });
}

/// Both ranks stay, so that nothing but the abort can end what the GPU waits for.
#[test]
fn giving_up_frees_the_gpu_itself() {
    if hardware() {
        return;
    }
    let gpu = soft_gpu();
    let devices = devices(&gpu, 2);
    let ranks = group(&devices, &options(Transport::Nccl, DEADLINE)).unwrap();
    let mut x = tensor(&devices[0], DType::F32, &[4], |_| 1.0);
    ranks[0].all_reduce(&mut x).unwrap();
    ranks[1].abort("no");
    let Device::Cuda(cuda) = &devices[0] else { unreachable!("a GPU") };
    let begin = Instant::now();
    while cuda.is_idle() == Ok(false) {
        assert!(begin.elapsed() < SOON, "still waits for the other rank");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_rank_that_panics_or_leaves_frees_the_one_that_waits() {
    if hardware() {
        return;
    }
    for panicked in [true, false] {
        let told = rank_0_is_told(DEADLINE, |comm| {
            // `resume_unwind` is a panic without the message on stderr.
            let death = catch_unwind(AssertUnwindSafe(move || {
                let _dies_with_it = comm;
                if panicked {
                    std::panic::resume_unwind(Box::new("planned"));
                }
            }));
            assert_eq!(death.is_err(), panicked);
        });
        assert_eq!(told, CommError::Left { rank: 1, panicked });
    }
}

#[test]
fn a_rank_with_a_bad_argument_frees_the_one_that_waits() {
    if hardware() {
        return;
    }
    let told = rank_0_is_told(DEADLINE, |comm| {
        let mut x = Tensor::from_f32(&Device::Cpu, &[4], &[1.0; 4]).unwrap();
        assert!(comm.all_reduce(&mut x).is_err());
    });
    assert_eq!(told.to_string(), "rank 1: all_reduce: x lives on cpu, expected cuda:1");
}

#[test]
fn a_rank_that_does_not_come_is_named_after_the_deadline() {
    if hardware() {
        return;
    }
    // Long enough for the collective before, to which both come.
    let deadline = Duration::from_secs(4);
    let told = rank_0_is_told(deadline, |comm| {
        let begin = Instant::now();
        while comm.wait().is_ok() && begin.elapsed() < DEADLINE {
            thread::sleep(Duration::from_millis(10));
        }
        assert!(matches!(comm.barrier(), Err(CommError::Stalled { .. })));
    });
    assert_eq!(told, CommError::Stalled { rank: 0, behind: vec![1], deadline });
    let words = "the collectives of rank 0 did not end within 4s; ranks [1] had called fewer";
    assert_eq!(told.to_string(), words);
}

/// NCCL itself compares nothing; its double does, and a rank that it stops takes the others along.
#[test]
fn ranks_that_disagree_are_an_error_on_all() {
    if hardware() {
        return;
    }
    let errors = on_ranks(2, &options(Transport::Nccl, DEADLINE), |comm, device| {
        let mut x = tensor(device, DType::F32, &[4 + comm.rank()], |_| 1.0);
        comm.all_reduce(&mut x).and_then(|()| comm.wait()).unwrap_err()
    });
    assert_eq!(errors[0], errors[1]);
    assert!(matches!(&errors[0], CommError::Failed { source: KernelError::Cuda { .. }, .. }), "{errors:?}");
}

#[test]
fn devices_that_nccl_cannot_connect_are_refused() {
    let gpu = soft_gpu();
    let device = gpu.device(Precision::F32);
    let options = options(Transport::Nccl, DEADLINE);
    let refused = |devices: &[Device]| group(devices, &options).unwrap_err().to_string();
    let twins = refused(&[device.clone(), device.clone()]);
    assert_eq!(twins, "ranks 0 and 1 are both on cuda:0, and NCCL wants one each");
    let mixed = refused(&[device.clone(), Device::Cpu, Device::Cpu]);
    assert_eq!(mixed, "NCCL connects GPUs, and 2 of the 3 ranks are on the CPU");
    assert_eq!(group(&[Device::Cpu, Device::Cpu], &options).unwrap().len(), 2);
    assert_eq!(group(&[device], &options).unwrap()[0].size(), 1);
}
