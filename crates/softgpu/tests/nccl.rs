//! The software NCCL under cudarc's safe layer: ranks as threads, one soft device each; every collective against plain
//! loops, grouped sends and receives, a rank that never arrives, graphs.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may panic, and says what it skips"
)]

use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, CudaStream};
use cudarc::nccl::safe::{Comm, Id, ReduceOp, group_end, group_start};
use half::bf16;
use softgpu::Driver;

/// Faults belong to the devices, so the tests of this file take turns.
fn driver() -> (&'static Driver, MutexGuard<'static, ()>) {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let driver = softgpu::load(4).unwrap();
    driver.reset_errors();
    (driver, turn)
}

/// Runs a closure on `ranks` threads, each with a device, a stream and a communicator.
fn on_ranks<T: Send>(ranks: usize, run: impl Fn(Comm, Arc<CudaStream>, usize) -> T + Sync) -> Vec<T> {
    let id = Id::new().unwrap();
    let run = &run;
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..ranks)
            .map(|rank| {
                scope.spawn(move || {
                    let context = CudaContext::new(rank).unwrap();
                    // SAFETY: a rank uses one stream only.
                    unsafe { context.disable_event_tracking() };
                    let stream = context.new_stream().unwrap();
                    let comm = Comm::from_rank(stream.clone(), rank, ranks, id).unwrap();
                    run(comm, stream, rank)
                })
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    })
}

#[test]
fn collectives_equal_plain_loops() {
    let _turn = driver();
    for ranks in [1, 2, 4] {
        on_ranks(ranks, |comm, stream, rank| {
            let own: Vec<f32> = (0..8).map(|i| (rank * 10 + i) as f32).collect();
            let sum = |i: usize| (0..ranks).map(|r| (r * 10 + i) as f32).sum::<f32>();
            let x = stream.clone_htod(&own).unwrap();
            let mut y = stream.alloc_zeros::<f32>(8).unwrap();
            comm.all_reduce(&x, &mut y, &ReduceOp::Sum).unwrap();
            assert_eq!(stream.clone_dtoh(&y).unwrap(), (0..8).map(sum).collect::<Vec<_>>());
            comm.all_reduce(&x, &mut y, &ReduceOp::Max).unwrap();
            assert_eq!(stream.clone_dtoh(&y).unwrap()[3], ((ranks - 1) * 10 + 3) as f32);

            let mut halves = stream.clone_htod(&[bf16::from_f32(rank as f32 + 0.5); 3]).unwrap();
            comm.all_reduce_in_place(&mut halves, &ReduceOp::Avg).unwrap();
            assert_eq!(
                stream.clone_dtoh(&halves).unwrap(),
                [bf16::from_f32((ranks - 1) as f32 / 2.0 + 0.5); 3]
            );

            let mut all = stream.alloc_zeros::<f32>(8 * ranks).unwrap();
            comm.all_gather(&x, &mut all).unwrap();
            let gathered = stream.clone_dtoh(&all).unwrap();
            assert!((0..8 * ranks).all(|i| gathered[i] == (i / 8 * 10 + i % 8) as f32), "{gathered:?}");

            let mut part = stream.alloc_zeros::<f32>(8).unwrap();
            comm.reduce_scatter(&all, &mut part, &ReduceOp::Sum).unwrap();
            let want: Vec<f32> = (0..8).map(|i| ((rank * 10 + i) * ranks) as f32).collect();
            assert_eq!(stream.clone_dtoh(&part).unwrap(), want);

            let root = ranks as i32 - 1;
            comm.broadcast(Some(&x), &mut y, root).unwrap();
            assert_eq!(stream.clone_dtoh(&y).unwrap()[1], (root * 10 + 1) as f32);
            stream.memset_zeros(&mut y).unwrap();
            comm.reduce(&x, Some(&mut y), &ReduceOp::Sum, 0).unwrap();
            assert_eq!(stream.clone_dtoh(&y).unwrap()[2], if rank == 0 { sum(2) } else { 0.0 });
        });
    }
}

#[test]
fn a_group_exchanges_all_to_all() {
    let _turn = driver();
    on_ranks(3, |comm, stream, rank| {
        let x = stream.clone_htod(&[rank as i32 * 10, rank as i32 * 10 + 1, rank as i32 * 10 + 2]).unwrap();
        let mut y = stream.alloc_zeros::<i32>(3).unwrap();
        group_start().unwrap();
        for peer in 0..3 {
            comm.send(&x.slice(peer..=peer), peer as i32).unwrap();
            comm.recv(&mut y.slice_mut(peer..=peer), peer as i32).unwrap();
        }
        group_end().unwrap();
        let rank = rank as i32;
        assert_eq!(stream.clone_dtoh(&y).unwrap(), [rank, 10 + rank, 20 + rank]);
    });
}

#[test]
fn one_thread_can_drive_all_devices() {
    let _turn = driver();
    let streams: Vec<_> = (0..2).map(|i| CudaContext::new(i).unwrap().new_stream().unwrap()).collect();
    let comms = Comm::from_devices(streams.clone()).unwrap();
    let mut data: Vec<_> = streams.iter().map(|s| s.clone_htod(&[1.5f32, 2.5]).unwrap()).collect();
    group_start().unwrap();
    for (comm, data) in comms.iter().zip(&mut data) {
        comm.all_reduce_in_place(data, &ReduceOp::Sum).unwrap();
    }
    group_end().unwrap();
    for (stream, data) in streams.iter().zip(&data) {
        assert_eq!(stream.clone_dtoh(data).unwrap(), [3.0, 5.0]);
    }
}

#[test]
fn a_captured_collective_meets_again_at_every_replay() {
    let _turn = driver();
    on_ranks(2, |comm, stream, rank| {
        let mut x = stream.clone_htod(&[rank as i32 + 1]).unwrap();
        stream.synchronize().unwrap();
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).unwrap();
        comm.all_reduce_in_place(&mut x, &ReduceOp::Sum).unwrap();
        let graph = stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();
        graph.launch().unwrap();
        graph.launch().unwrap();
        assert_eq!(stream.clone_dtoh(&x).unwrap(), [6]);
    });
}

/// A rank that leaves without calling ends the others' call with an error that names it, at once.
#[test]
fn a_rank_that_never_arrives_is_an_error_not_a_hang() {
    let (driver, _turn) = driver();
    let begin = Instant::now();
    on_ranks(2, |comm, stream, rank| {
        if rank == 1 {
            return;
        }
        let mut x = stream.clone_htod(&[1.0f32]).unwrap();
        comm.all_reduce_in_place(&mut x, &ReduceOp::Sum).unwrap();
        assert!(stream.synchronize().is_err());
        assert!(driver.last_error().contains("all_reduce: rank 1 has left"), "{}", driver.last_error());
    });
    assert!(begin.elapsed().as_secs() < 15);
    driver.reset_errors();
}

/// The deadline is read when the process makes its first communicator, so this test runs in a process of its own.
#[test]
fn a_rank_that_stays_away_is_late_after_the_deadline() {
    const VARIABLE: &str = "SOFTGPU_NCCL_DEADLINE_MS";
    if std::env::var_os(VARIABLE).is_none() {
        let name = "a_rank_that_stays_away_is_late_after_the_deadline";
        let own = std::env::current_exe().unwrap();
        let output = Command::new(own).args(["--exact", name]).env(VARIABLE, "200").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    let (driver, _turn) = driver();
    let begin = Instant::now();
    on_ranks(2, |comm, stream, rank| {
        let mut x = stream.clone_htod(&[1.0f32]).unwrap();
        if rank == 1 {
            // Alive, but elsewhere.
            std::thread::sleep(Duration::from_secs(1));
            return;
        }
        comm.all_reduce_in_place(&mut x, &ReduceOp::Sum).unwrap();
        assert!(stream.synchronize().is_err());
        assert!(begin.elapsed() >= Duration::from_millis(200));
        let error = driver.last_error();
        assert!(error.contains("all_reduce: rank 1 did not arrive within 200 ms"), "{error}");
    });
}

#[test]
fn ranks_that_disagree_and_buffers_that_are_too_small_are_errors() {
    let (driver, _turn) = driver();
    on_ranks(2, |comm, stream, rank| {
        let mut x = stream.alloc_zeros::<f32>(4 + rank).unwrap();
        comm.all_reduce_in_place(&mut x, &ReduceOp::Sum).unwrap();
        assert!(stream.synchronize().is_err());
        assert!(driver.last_error().contains("differs from rank 0"), "{}", driver.last_error());
    });
    driver.reset_errors();
    on_ranks(2, |comm, stream, _| {
        let x = stream.alloc_zeros::<f32>(4).unwrap();
        let mut all = stream.alloc_zeros::<f32>(7).unwrap();
        comm.all_gather(&x, &mut all).unwrap();
        assert!(stream.synchronize().is_err());
        assert!(
            driver.last_error().contains("past the end of an allocation of 28 bytes"),
            "{}",
            driver.last_error()
        );
    });
    driver.reset_errors();
}
