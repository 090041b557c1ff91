//! [`comm::Threads`] and [`comm::Solo`]: every collective against plain loops on 1 to 8 ranks, and every way in which
//! a group can fail: all ranks get the reason, at once or within the deadline, and none hangs.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use comm::{CommError, Communicator, Solo, Threads};
use half::bf16;
use kernels::cpu::AlignedBytes;
use kernels::{DType, Device, Tensor};

/// Long for what should end at once, short for a test that waits for it.
const DEADLINE: Duration = Duration::from_secs(20);
/// What "at once" may take on a busy machine.
const SOON: Duration = Duration::from_secs(10);

fn on_ranks<R: Send>(size: usize, deadline: Duration, run: impl Fn(Threads) -> R + Sync) -> Vec<R> {
    let run = &run;
    thread::scope(|scope| {
        let ranks: Vec<_> =
            Threads::group(size, deadline).into_iter().map(|c| scope.spawn(move || run(c))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// All ranks fail, soon, with the same reason; returns it.
fn all_fail<R: Send + std::fmt::Debug>(
    size: usize,
    run: impl Fn(Threads) -> Result<R, CommError> + Sync,
) -> CommError {
    let begin = Instant::now();
    let mut errors: Vec<_> = on_ranks(size, DEADLINE, |c| run(c).unwrap_err());
    assert!(begin.elapsed() < SOON, "took {:?}", begin.elapsed());
    errors.dedup();
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors.remove(0)
}

/// Values whose sum depends on the order in which they are added.
fn value(rank: usize, i: usize) -> f32 {
    [1e8, 1.25, -1e8, 3.1e-3, 7.7e4, -0.1, 1e-7, 12345.678][(rank + i) % 8] * (1.0 + i as f32 * 0.01)
}

fn tensor(dtype: DType, shape: &[usize], value: impl Fn(usize) -> f32) -> Tensor {
    let values = (0..shape.iter().product()).map(value);
    match dtype {
        DType::BF16 => {
            let values: Vec<bf16> = values.map(bf16::from_f32).collect();
            let bytes = AlignedBytes::copy_of(bytemuck::cast_slice(&values));
            Tensor::from_bytes(&Device::Cpu, dtype, shape, bytes).unwrap()
        }
        _ => Tensor::from_f32(&Device::Cpu, shape, &values.collect::<Vec<_>>()).unwrap(),
    }
}

fn floats(shape: &[usize], value: impl Fn(usize) -> f32) -> Tensor {
    tensor(DType::F32, shape, value)
}

/// Sum in rank order, as bits.
fn sum_bits(dtype: DType, size: usize, i: usize) -> u32 {
    let round = |v: f32| if dtype == DType::BF16 { bf16::from_f32(v).to_f32() } else { v };
    let sum = (1..size).fold(round(value(0, i)), |sum, rank| sum + round(value(rank, i)));
    round(sum).to_bits()
}

fn bits(x: &Tensor) -> Vec<u32> {
    x.to_vec_f32().into_iter().map(f32::to_bits).collect()
}

#[test]
fn all_reduce_sums_in_rank_order_with_the_same_bits_everywhere() {
    for size in 1..=8 {
        for dtype in [DType::F32, DType::BF16] {
            for shape in [[0, 5], [1, 1], [1, 7], [3, 5], [2, 1024], [5, 2049]] {
                let got = on_ranks(size, DEADLINE, |c| {
                    let mut x = tensor(dtype, &shape, |i| value(c.rank(), i));
                    c.all_reduce(&mut x).unwrap();
                    assert_eq!((x.dtype(), x.shape()), (dtype, &shape[..]));
                    bits(&x)
                });
                let want: Vec<u32> = (0..shape[0] * shape[1]).map(|i| sum_bits(dtype, size, i)).collect();
                assert!(got.iter().all(|g| *g == want), "{size} ranks, {dtype} {shape:?}");
            }
        }
    }
}

/// The same tensor is reduced, written and reduced again at once: a clone that another rank still holds would end in
/// an aliasing error, a rank that reads late in a wrong sum.
#[test]
fn a_tensor_is_free_again_when_the_collective_returns() {
    on_ranks(4, DEADLINE, |c| {
        let mut x = floats(&[3, 5], |_| 1.0);
        for round in 1..=200 {
            c.all_reduce(&mut x).unwrap();
            c.broadcast(&mut x, round % 4).unwrap();
            assert_eq!(c.all_gather_cols(&x, &[5; 4]).unwrap().shape(), [3, 20]);
            let bytes = x.host_bytes_mut("test", "x").unwrap();
            bytemuck::cast_slice_mut::<u8, f32>(bytes).iter_mut().for_each(|v| *v = *v / 4.0 + 1.0);
            assert!(x.to_vec_f32().iter().all(|&v| v == round as f32 + 1.0), "round {round}");
        }
    });
}

#[test]
fn columns_of_uneven_widths_are_gathered_in_rank_order() {
    let tables: [&[usize]; 5] = [&[3], &[2, 5], &[0, 4, 1], &[7, 0, 0, 1], &[1, 2, 3, 4, 5, 6, 7, 8]];
    for widths in tables {
        for rows in [0, 1, 3] {
            let cols: usize = widths.iter().sum();
            let begin = |rank: usize| widths[..rank].iter().sum::<usize>();
            let got = on_ranks(widths.len(), DEADLINE, |c| {
                let width = widths[c.rank()];
                // The value of an element is its place in the whole.
                let x = floats(&[rows, width], |i| {
                    (i / width.max(1) * cols + begin(c.rank()) + i % width.max(1)) as f32
                });
                let whole = c.all_gather_cols(&x, widths).unwrap();
                assert_eq!(whole.shape(), [rows, cols]);
                whole.to_vec_f32()
            });
            let want: Vec<f32> = (0..rows * cols).map(|i| i as f32).collect();
            assert!(got.iter().all(|g| *g == want), "{widths:?}, {rows} rows: {got:?}");
        }
    }
}

#[test]
fn a_rank_keeps_its_rows_of_the_sum() {
    for rows in [&[4usize][..], &[1, 2], &[0, 3, 1], &[2, 0, 0, 5]] {
        let (size, total) = (rows.len(), rows.iter().sum::<usize>());
        let got = on_ranks(size, DEADLINE, |c| {
            let x = floats(&[total, 7], |i| value(c.rank(), i));
            let own = c.reduce_scatter_rows(&x, rows).unwrap();
            assert_eq!(own.shape(), [rows[c.rank()], 7]);
            bits(&own)
        });
        let want: Vec<u32> = (0..total * 7).map(|i| sum_bits(DType::F32, size, i)).collect();
        assert_eq!(got.concat(), want);
    }
}

#[test]
fn rows_go_all_to_all() {
    // counts[from][to]
    let counts = [[1usize, 0, 2], [3, 1, 0], [0, 0, 4]];
    let name = |from: usize, to: usize, i: usize| (from * 100 + to * 10 + i) as f32;
    on_ranks(3, DEADLINE, |c| {
        let (me, send) = (c.rank(), counts[c.rank()]);
        let receive = counts.map(|row| row[me]);
        let rows = |names: &mut dyn Iterator<Item = f32>| names.flat_map(|n| [n, -n]).collect::<Vec<_>>();
        let sent = rows(&mut (0..3).flat_map(|to| (0..send[to]).map(move |i| name(me, to, i))));
        let want = rows(&mut (0..3).flat_map(|from| (0..receive[from]).map(move |i| name(from, me, i))));
        let x = Tensor::from_f32(&Device::Cpu, &[sent.len() / 2, 2], &sent).unwrap();
        let got = c.all_to_all(&x, &send, &receive).unwrap();
        assert_eq!(got.shape(), [want.len() / 2, 2]);
        assert_eq!(got.to_vec_f32(), want);
    });
}

#[test]
fn broadcast_gives_every_rank_the_roots_values() {
    for size in 1..=5 {
        for root in 0..size {
            on_ranks(size, DEADLINE, |c| {
                let mut x = Tensor::from_u32(&Device::Cpu, &[3], &[c.rank() as u32; 3]).unwrap();
                c.broadcast(&mut x, root).unwrap();
                assert_eq!(x.to_vec_u32().unwrap(), [root as u32; 3]);
                let mut empty = floats(&[0, 4], |_| 0.0);
                c.broadcast(&mut empty, root).unwrap();
            });
        }
    }
}

#[test]
fn solo_leaves_everything_as_it_is() {
    let mut x = floats(&[2, 3], |i| i as f32);
    Solo.all_reduce(&mut x).unwrap();
    Solo.broadcast(&mut x, 0).unwrap();
    Solo.barrier().unwrap();
    for y in [
        Solo.all_gather_cols(&x, &[3]).unwrap(),
        Solo.reduce_scatter_rows(&x, &[2]).unwrap(),
        Solo.all_to_all(&x, &[2], &[2]).unwrap(),
    ] {
        assert_eq!((y.shape(), y.to_vec_f32()), (x.shape(), x.to_vec_f32()));
    }
    assert_eq!((Solo.rank(), Solo.size(), Solo.is_capturable()), (0, 1, true));
}

#[test]
fn barrier_holds_back_until_the_last_rank() {
    for last in 0..3 {
        let arrived = AtomicUsize::new(0);
        on_ranks(3, DEADLINE, |c| {
            if c.rank() == last {
                // Time for the others to go on, if anything lets them.
                thread::sleep(Duration::from_millis(50));
            }
            arrived.fetch_add(1, Ordering::SeqCst);
            c.barrier().unwrap();
            assert_eq!(arrived.load(Ordering::SeqCst), 3, "rank {} went on before rank {last}", c.rank());
        });
    }
}

#[test]
fn ranks_that_disagree_are_told_both_calls() {
    let shape = all_fail(3, |c| c.all_reduce(&mut floats(&[1, 4 + c.rank() / 2], |_| 0.0))).to_string();
    assert!(shape.contains("all_reduce of F32 [1, 4]") && shape.contains("[1, 5]"), "{shape}");

    let op =
        all_fail(2, |c| if c.rank() == 0 { c.barrier() } else { c.all_reduce(&mut floats(&[2], |_| 0.0)) });
    assert!(op.to_string().contains("calls barrier") && op.to_string().contains("calls all_reduce"), "{op}");

    let dtypes = [DType::F32, DType::BF16];
    let dtype = all_fail(2, |c| c.all_reduce(&mut tensor(dtypes[c.rank()], &[2], |_| 0.0))).to_string();
    assert!(dtype.contains("F32 [2]") && dtype.contains("BF16 [2]"), "{dtype}");

    let root = all_fail(2, |c| c.broadcast(&mut floats(&[2], |_| 0.0), c.rank()));
    assert!(matches!(root, CommError::Mismatch { .. }), "{root}");

    let widths = all_fail(2, |c| c.all_gather_cols(&floats(&[1, 2], |_| 0.0), [&[2, 2], &[3, 2]][c.rank()]));
    assert!(widths.to_string().contains("[2, 2]") && widths.to_string().contains("[3, 2]"), "{widths}");

    let rows = all_fail(2, |c| c.all_gather_cols(&floats(&[1 + c.rank(), 2], |_| 0.0), &[2, 2]));
    assert!(rows.to_string().contains("F32 [1]") && rows.to_string().contains("F32 [2]"), "{rows}");

    let lost = all_fail(2, |c| c.all_to_all(&floats(&[2, 1], |_| 0.0), &[1, 1], &[1, 2 - c.rank()]));
    assert!(lost.to_string().contains("rank 0: all_to_all: receive holds 2"), "{lost}");
}

#[test]
fn one_ranks_bad_argument_ends_the_call_of_all() {
    let integers = all_fail(2, |c| c.all_reduce(&mut Tensor::from_u32(&Device::Cpu, &[1], &[7]).unwrap()));
    assert!(integers.to_string().contains("x is U32, expected F32 or BF16"), "{integers}");

    let wide = all_fail(3, |c| c.all_gather_cols(&floats(&[1, 2 + c.rank() / 2], |_| 0.0), &[2; 3]));
    assert!(
        wide.to_string().contains("rank 2: all_gather_cols: x has shape [1, 3], expected [R, 2]"),
        "{wide}"
    );

    let short = all_fail(2, |c| c.reduce_scatter_rows(&floats(&[2, 1], |_| 0.0), &[1, 1][c.rank()..]));
    assert!(short.to_string().contains("rows has shape [1], expected [2], one per rank"), "{short}");

    let root = all_fail(2, |c| c.broadcast(&mut floats(&[1], |_| 0.0), 2 * c.rank()));
    assert!(root.to_string().contains("rank 1: broadcast: root holds 2"), "{root}");
    let shared = all_fail(2, |c| {
        let mut x = floats(&[4], |_| 1.0);
        let _kept = (c.rank() == 1).then(|| x.clone());
        c.all_reduce(&mut x).and_then(|()| c.barrier())
    });
    assert!(shared.to_string().contains("rank 1: all_reduce: x shares its storage"), "{shared}");
}

#[test]
fn a_rank_that_gives_up_ends_the_wait_of_the_others_and_every_later_call() {
    let error = all_fail(4, |c| {
        if c.rank() == 2 {
            thread::sleep(Duration::from_millis(30));
            c.abort("out of memory");
            c.abort("a second reason");
        }
        let first = c.barrier().unwrap_err();
        assert_eq!(c.all_reduce(&mut floats(&[1], |_| 0.0)), Err(first));
        c.barrier()
    });
    assert_eq!(error, CommError::Aborted { rank: 2, reason: "out of memory".to_owned() });
    assert_eq!(error.to_string(), "rank 2 gave up: out of memory");
}

/// The one that gives up does nothing else, so that nothing else can wake the one that waits.
#[test]
fn giving_up_wakes_a_rank_that_waits() {
    let group = Threads::group(2, DEADLINE);
    let begin = Instant::now();
    thread::scope(|scope| {
        let waits = scope.spawn(|| group[0].barrier());
        thread::sleep(Duration::from_millis(100));
        group[1].abort("no");
        assert!(waits.join().unwrap().is_err());
    });
    assert!(begin.elapsed() < SOON);
}

#[test]
fn a_rank_that_leaves_or_panics_is_named() {
    for panics in [false, true] {
        let errors = on_ranks(3, DEADLINE, |c| {
            c.barrier().unwrap();
            if c.rank() == 1 {
                // The others wait by now, and have to be woken.
                thread::sleep(Duration::from_millis(100));
                // `resume_unwind` is a panic without the message on stderr.
                let death = catch_unwind(AssertUnwindSafe(move || {
                    let _dies_with_it = c;
                    if panics {
                        std::panic::resume_unwind(Box::new("planned"));
                    }
                }));
                assert_eq!(death.is_err(), panics);
                return None;
            }
            let begin = Instant::now();
            let error = c.all_reduce(&mut floats(&[9], |_| 0.0)).unwrap_err();
            assert!(begin.elapsed() < SOON);
            Some(error)
        });
        let left = CommError::Left { rank: 1, panicked: panics };
        assert_eq!(errors, [Some(left.clone()), None, Some(left)]);
    }
}

/// The last collective is over when a rank has its result: that it goes then harms nobody.
#[test]
fn leaving_after_the_last_collective_is_no_failure() {
    for _ in 0..100 {
        on_ranks(4, DEADLINE, |c| {
            let mut x = floats(&[3], |_| 1.0);
            c.all_reduce(&mut x).unwrap();
            c.all_gather_cols(&x.reshape(&[1, 3]).unwrap(), &[3; 4]).unwrap();
        });
    }
}

#[test]
fn a_rank_that_does_not_come_in_time_is_an_error_on_all() {
    // Long enough for the other two to come, on a machine that is busy.
    let deadline = Duration::from_secs(3);
    let begin = Instant::now();
    let errors = on_ranks(3, deadline, |c| {
        // It comes when the others have given up.
        while c.rank() == 1 && c.wait().is_ok() && begin.elapsed() < SOON {
            thread::sleep(Duration::from_millis(10));
        }
        c.barrier().unwrap_err()
    });
    let late = CommError::Late { op: "barrier", missing: vec![1], deadline };
    assert_eq!(errors, [late.clone(), late.clone(), late]);
    assert!(begin.elapsed() >= deadline && begin.elapsed() < SOON);
}

#[test]
fn two_threads_on_one_rank_are_an_error_not_a_mixed_up_sum() {
    let group = Threads::group(2, DEADLINE);
    thread::scope(|scope| {
        let calls: Vec<_> = (0..2).map(|_| scope.spawn(|| group[0].barrier())).collect();
        for call in calls {
            let error = call.join().unwrap().unwrap_err().to_string();
            assert!(error.contains("two threads use the communicator of one rank"), "{error}");
        }
    });
}
