//! The software driver under an unmodified cudarc: several devices, streams, events, asynchronous copies, graph capture
//! and replay, limits and errors.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may panic, and says what it skips"
)]

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use cudarc::driver::sys::{self, CUresult, CUstreamCaptureMode, CUstreamCaptureStatus};
use cudarc::driver::{CudaContext, CudaFunction, CudaStream, DriverError, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;
use softgpu::{Driver, Unit};

const GLOBAL: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;

/// Faults and allocation counts belong to the devices, so the tests of this file take turns.
fn driver() -> (&'static Driver, MutexGuard<'static, ()>) {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let driver = softgpu::load(3).unwrap();
    driver.reset_errors();
    (driver, turn)
}

fn kernel(context: &Arc<CudaContext>, name: &str) -> CudaFunction {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels/compact.cu");
    let object = Unit::kernels("compact.so").flag("-O0").source(source).build().unwrap();
    context.load_module(Ptx::from_file(object)).unwrap().load_function(name).unwrap()
}

/// Adds the number of positive elements of `x` to `count`; with `n` beyond the slice it reads out of bounds.
fn count_positive(
    stream: &Arc<CudaStream>,
    function: &CudaFunction,
    x: &cudarc::driver::CudaSlice<i32>,
    n: i32,
    indices: &mut cudarc::driver::CudaSlice<i32>,
    count: &mut cudarc::driver::CudaSlice<i32>,
) -> Result<(), DriverError> {
    let mut builder = stream.launch_builder(function);
    builder.arg(x).arg(&n).arg(indices).arg(count);
    let config = LaunchConfig {
        grid_dim: ((n as u32).div_ceil(96), 1, 1),
        block_dim: (96, 1, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: the arguments are the kernel's, in its order.
    unsafe { builder.launch(config) }.map(|_| ())
}

#[test]
fn devices_have_names_attributes_and_memory_of_their_own() {
    let _turn = driver();
    assert_eq!(CudaContext::device_count().unwrap(), 3);
    assert_eq!(CudaContext::new(3).unwrap_err().0, CUresult::CUDA_ERROR_INVALID_DEVICE);
    let contexts: Vec<_> = (0..3).map(|i| CudaContext::new(i).unwrap()).collect();
    assert_eq!(contexts[1].compute_capability().unwrap(), (8, 0));
    assert!(contexts[0].name().unwrap().contains("softgpu"));
    assert!(contexts[0].has_async_alloc());
    let (free, total) = contexts[2].mem_get_info().unwrap();
    assert_eq!((free, total), (2 << 30, 2 << 30));
    let stream = contexts[2].new_stream().unwrap();
    let held = stream.alloc_zeros::<u8>(1 << 20).unwrap();
    assert_eq!(contexts[2].mem_get_info().unwrap().0, free - (1 << 20));
    assert_eq!(contexts[1].mem_get_info().unwrap().0, free, "another device's memory is untouched");
    drop(held);
    contexts[2].synchronize().unwrap();
    assert_eq!(contexts[2].mem_get_info().unwrap().0, free);
    let too_much = contexts[0].default_stream().alloc_zeros::<u8>((2 << 30) + 1).unwrap_err();
    assert_eq!(too_much.0, CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    assert!(format!("{too_much:?}").contains("more do not fit"), "{too_much:?}");
}

#[test]
fn copies_go_everywhere_and_streams_keep_their_order() {
    let (driver, _turn) = driver();
    let contexts: Vec<_> = (0..2).map(|i| CudaContext::new(i).unwrap()).collect();
    let streams: Vec<_> = contexts.iter().map(|c| c.new_stream().unwrap()).collect();
    let host: Vec<u32> = (0..100_000).collect();
    let on_0 = streams[0].clone_htod(&host).unwrap();
    let mut on_1 = streams[1].alloc_zeros::<u32>(host.len()).unwrap();
    streams[0].synchronize().unwrap();
    streams[1].memcpy_dtod(&on_0, &mut on_1).unwrap();
    assert_eq!(streams[1].clone_dtoh(&on_1).unwrap(), host);
    streams[1].memset_zeros(&mut on_1.slice_mut(10..20)).unwrap();
    let back = streams[1].clone_dtoh(&on_1).unwrap();
    assert!(back[10..20].iter().all(|&x| x == 0) && back[20..] == host[20..] && back[..10] == host[..10]);

    // Pinned memory is read when the copy runs; an event tells when that was.
    // SAFETY: the whole buffer is written before it is read.
    let mut pinned = unsafe { contexts[0].alloc_pinned::<u32>(host.len()) }.unwrap();
    pinned.as_mut_slice().unwrap().copy_from_slice(&back);
    let from_pinned = streams[0].clone_htod(&pinned).unwrap();
    let event = streams[0].record_event(None).unwrap();
    let other = contexts[0].new_stream().unwrap();
    other.wait(&event).unwrap();
    assert_eq!(other.clone_dtoh(&from_pinned).unwrap(), back);
    assert!(event.is_complete());
    drop((on_0, on_1, from_pinned));
    contexts.iter().for_each(|context| context.synchronize().unwrap());
    assert_eq!((driver.live_allocations(0), driver.live_allocations(1)), (0, 0), "nothing leaks");
}

#[test]
fn events_measure_and_order() {
    let _turn = driver();
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
    let begin = stream.record_event(flags).unwrap();
    let held = stream.alloc_zeros::<u8>(1 << 22).unwrap();
    let end = stream.record_event(flags).unwrap();
    end.synchronize().unwrap();
    assert!(begin.elapsed_ms(&end).unwrap() >= 0.0);
    drop(held);
}

#[test]
fn a_graph_replays_what_was_captured_over_two_streams() {
    let (driver, _turn) = driver();
    let launches = driver.graph_launches();
    let context = CudaContext::new(0).unwrap();
    // SAFETY: every dependency between the streams is made by hand below.
    unsafe { context.disable_event_tracking() };
    let (main, side) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let function = kernel(&context, "compact");
    let mut x = main.clone_htod(&[1, -1, 2, -2, 3]).unwrap();
    let mut indices = main.alloc_zeros::<i32>(64).unwrap();
    let mut count = main.alloc_zeros::<i32>(1).unwrap();
    let mut copy = main.alloc_zeros::<i32>(1).unwrap();
    main.synchronize().unwrap();

    main.begin_capture(GLOBAL).unwrap();
    assert_eq!(main.capture_status().unwrap(), CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE);
    count_positive(&main, &function, &x, 5, &mut indices, &mut count).unwrap();
    side.wait(&main.record_event(None).unwrap()).unwrap();
    side.memcpy_dtod(&count, &mut copy).unwrap();
    main.wait(&side.record_event(None).unwrap()).unwrap();
    let graph = main.end_capture(sys::CUgraphInstantiate_flags(0)).unwrap().unwrap();

    assert_eq!(main.clone_dtoh(&count).unwrap(), [0], "a captured launch does not run");
    graph.launch().unwrap();
    main.memcpy_htod(&[1, 1, 1, 1, 1], &mut x).unwrap();
    graph.launch().unwrap();
    assert_eq!(main.clone_dtoh(&copy).unwrap(), [3 + 5], "a replay reads what is there when it runs");
    assert_eq!(driver.graph_launches() - launches, 2);
    drop(graph);
    main.synchronize().unwrap();
}

#[test]
fn what_a_capture_cannot_hold_invalidates_it() {
    let (driver, _turn) = driver();
    let context = CudaContext::new(0).unwrap();
    // SAFETY: every dependency between the streams is made by hand below.
    unsafe { context.disable_event_tracking() };
    let (main, side) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let mut x = main.alloc_zeros::<i32>(4).unwrap();
    main.synchronize().unwrap();

    main.begin_capture(GLOBAL).unwrap();
    assert_eq!(main.synchronize().unwrap_err().0, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    assert_eq!(
        main.end_capture(sys::CUgraphInstantiate_flags(0)).err().unwrap().0,
        CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
    );

    main.begin_capture(GLOBAL).unwrap();
    assert_eq!(
        main.memcpy_htod(&[1], &mut x).unwrap_err().0,
        CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
    );
    assert!(driver.last_error().contains("only pinned host memory"), "{}", driver.last_error());
    assert!(main.end_capture(sys::CUgraphInstantiate_flags(0)).is_err());

    main.begin_capture(GLOBAL).unwrap();
    side.wait(&main.record_event(None).unwrap()).unwrap();
    side.memset_zeros(&mut x).unwrap();
    let unjoined = main.end_capture(sys::CUgraphInstantiate_flags(0)).err().unwrap();
    assert_eq!(unjoined.0, CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    side.memset_zeros(&mut x).unwrap();
    assert_eq!(side.clone_dtoh(&x).unwrap(), [0; 4], "the stream is usable again");
}

#[test]
fn a_fault_is_sticky_until_reset_and_says_where() {
    let (driver, _turn) = driver();
    let context = CudaContext::new(1).unwrap();
    let stream = context.new_stream().unwrap();
    let function = kernel(&context, "compact");
    let x = stream.clone_htod(&[1; 100]).unwrap();
    let mut indices = stream.alloc_zeros::<i32>(128).unwrap();
    let mut count = stream.alloc_zeros::<i32>(1).unwrap();
    stream.synchronize().unwrap();
    // The launch itself may still succeed: like on hardware the fault shows at the next synchronisation.
    let _ = count_positive(&stream, &function, &x, 101, &mut indices, &mut count);
    let fault = stream.synchronize().unwrap_err();
    assert_eq!(fault.0, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    let words = driver.last_error();
    assert!(words.starts_with("kernel compact, block (1,0,0), thread (4,0,0), compact.cu:"), "{words}");
    assert!(words.ends_with("0 bytes past the end of an allocation of 400 bytes on device 1"), "{words}");
    assert!(
        fault.error_string().unwrap().to_string_lossy().ends_with(&words),
        "the client's own message carries it"
    );
    assert!(stream.alloc_zeros::<u8>(1).is_err(), "the context is lost");
    assert!(CudaContext::new(0).unwrap().new_stream().is_ok(), "other devices are not");
    driver.reset_errors();
    assert_eq!(stream.clone_dtoh(&x).unwrap(), [1; 100]);
}

#[test]
fn memory_of_another_device_and_freed_memory_are_refused() {
    let (driver, _turn) = driver();
    let contexts: Vec<_> = (0..2).map(|i| CudaContext::new(i).unwrap()).collect();
    let (stream, elsewhere) = (contexts[0].new_stream().unwrap(), contexts[1].new_stream().unwrap());
    let function = kernel(&contexts[0], "compact");
    let far = elsewhere.clone_htod(&[1; 8]).unwrap();
    elsewhere.synchronize().unwrap();
    let mut indices = stream.alloc_zeros::<i32>(8).unwrap();
    let mut count = stream.alloc_zeros::<i32>(1).unwrap();
    let _ = count_positive(&stream, &function, &far, 8, &mut indices, &mut count);
    assert!(stream.synchronize().is_err());
    assert!(
        driver.last_error().contains("memory of device 1, which device 0 has no peer access to"),
        "{}",
        driver.last_error()
    );
    driver.reset_errors();

    // The address of freed memory, smuggled past Rust's ownership.
    let stale = stream.clone_htod(&[1; 8]).unwrap();
    // SAFETY: the duplicate is only used to show that the driver refuses it, and is forgotten.
    let duplicate = unsafe {
        stream.upgrade_device_ptr::<i32>(cudarc::driver::DevicePtr::device_ptr(&stale, &stream).0, 8)
    };
    drop(stale);
    stream.synchronize().unwrap();
    let _ = count_positive(&stream, &function, &duplicate, 8, &mut indices, &mut count);
    assert!(stream.synchronize().is_err());
    assert!(
        driver.last_error().contains("use after free: byte 0 of a freed allocation of 32 bytes on device 0"),
        "{}",
        driver.last_error()
    );
    driver.reset_errors();
    let copied = stream.clone_dtoh(&duplicate);
    assert_eq!(copied.unwrap_err().0, CUresult::CUDA_ERROR_INVALID_VALUE);
    std::mem::forget(duplicate);
    driver.reset_errors();
}

#[test]
fn modules_and_launches_are_checked() {
    let (driver, _turn) = driver();
    let context = CudaContext::new(0).unwrap();
    let function = kernel(&context, "compact");
    let image = context.load_module(Ptx::from_src("not a module")).unwrap_err();
    assert_eq!(image.0, CUresult::CUDA_ERROR_INVALID_IMAGE);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels/compact.cu");
    let object = Unit::kernels("compact.so").flag("-O0").source(source).build().unwrap();
    let by_path = context.load_module(Ptx::from_src(format!("softgpu:{}", object.display()))).unwrap();
    assert_eq!(by_path.load_function("missing").unwrap_err().0, CUresult::CUDA_ERROR_NOT_FOUND);
    assert!(driver.last_error().contains("missing"), "{}", driver.last_error());
    assert!(by_path.load_function("compact").is_ok());

    let stream = context.new_stream().unwrap();
    let launch = |threads: u32, shared_mem_bytes: u32| {
        let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes };
        let x = stream.alloc_zeros::<i32>(1)?;
        let (mut indices, mut count) = (stream.alloc_zeros::<i32>(1)?, stream.alloc_zeros::<i32>(1)?);
        let n = 1;
        let mut builder = stream.launch_builder(&function);
        builder.arg(&x).arg(&n).arg(&mut indices).arg(&mut count);
        // SAFETY: the arguments are the kernel's, in its order.
        unsafe { builder.launch(config) }.map(|_| ())
    };
    launch(1024, 48 << 10).unwrap();
    assert_eq!(launch(1025, 0).unwrap_err().0, CUresult::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch(32, (48 << 10) + 1).unwrap_err().0, CUresult::CUDA_ERROR_INVALID_VALUE);
    let limit = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    assert!(function.set_attribute(limit, 163 << 10).is_ok());
    assert!(function.set_attribute(limit, 164 << 10).is_err());
}
