//! GPUs as such: opening one, memory, faults, uploads, recorded steps. On the soft device unless
//! `CACHALOT_TEST_GPU=1`.

use kernels::{CudaOptions, DType, Device, KernelError, Precision, Tensor, ops};
use testkit::{Gpu, soft_gpu};

fn device(gpu: &Gpu) -> Device {
    gpu.open(CudaOptions { precision: Precision::F32, ..CudaOptions::default() })
}

fn ones(device: &Device, n: usize) -> Tensor {
    Tensor::from_f32(device, &[n], &vec![1.0; n]).unwrap()
}

#[test]
fn a_gpu_that_is_not_there() {
    let _gpu = soft_gpu();
    let error = Device::cuda(&CudaOptions { ordinal: 99, ..CudaOptions::default() }).unwrap_err();
    let expected =
        format!("cuda:99 is not available: the driver offers {} GPUs, counted from 0", Device::cuda_count());
    assert_eq!(error.to_string(), expected);
}

#[test]
fn tensors_come_back_as_they_went() {
    let gpu = soft_gpu();
    let device = device(&gpu);
    // More than the page-locked ring holds, so that it goes round.
    let values: Vec<f32> = (0..6_000_000).map(|i| i as f32 * 0.5).collect();
    let tensor = Tensor::from_f32(&device, &[values.len()], &values).unwrap();
    assert!(tensor.read_f32().unwrap() == values, "24 MB survive the ring");
    let mut ids = Tensor::from_u32(&device, &[3], &[1, 2, 3]).unwrap();
    ids.write_u32(&[7, 8, 9]).unwrap();
    assert_eq!(ids.to_vec_u32().unwrap(), [7, 8, 9]);
    assert!(matches!(ids.write_u32(&[1]), Err(KernelError::Shape { .. })));
    let nan = Tensor::filled(&device, DType::BF16, &[5], 0xFF).unwrap().to_vec_f32();
    assert!(nan.len() == 5 && nan.iter().all(|v| v.is_nan()));
    let back = tensor.to_device(&Device::Cpu).unwrap();
    assert!(back.device() == Device::Cpu && back.to_vec_f32() == values);
}

#[test]
fn memory_that_is_not_there() {
    let gpu = soft_gpu();
    if gpu.driver().is_none() {
        return;
    }
    let device = device(&gpu);
    let error = Tensor::zeros(&device, DType::F32, &[1 << 30]).unwrap_err();
    assert!(matches!(error, KernelError::OutOfMemory { requested, .. } if requested == 4 << 30), "{error}");
    assert!(error.to_string().contains("shorten the context"), "{error}");
    assert_eq!(ones(&device, 2).to_vec_f32(), [1.0, 1.0], "the device works on");
}

#[test]
fn everything_is_given_back() {
    let gpu = soft_gpu();
    let Some(driver) = gpu.driver() else { return };
    let before = driver.live_allocations(0);
    {
        let device = device(&gpu);
        let mut x = ones(&device, 100);
        ops::add_assign(&mut x, &ones(&device, 100)).unwrap();
        let _ids = Tensor::from_u32(&device, &[1], &[1]).unwrap();
    }
    assert_eq!(driver.live_allocations(0), before);
}

#[test]
fn a_failing_kernel_is_named_and_ends_only_its_device() {
    let gpu = soft_gpu();
    let Some(driver) = gpu.driver() else { return };
    let [broken, sound] = [0, 1].map(|ordinal| {
        gpu.open(CudaOptions { ordinal, precision: Precision::F32, ..CudaOptions::default() })
    });
    let (mut x, y) = (ones(&broken, 4), ones(&broken, 4));
    driver.fail_next(c"add_assign_f32");
    let added = ops::add_assign(&mut x, &y);
    let error = added.and_then(|()| broken.synchronize()).unwrap_err().to_string();
    assert!(error.contains("elementwise") || error.contains("add_assign"), "{error}");
    assert!(error.contains("cuda:0") && error.contains("CUDA_ERROR_LAUNCH_FAILED"), "{error}");
    assert!(x.read_f32().is_err(), "a context that faulted is lost");
    let mut z = ones(&sound, 4);
    ops::add_assign(&mut z, &ones(&sound, 4)).unwrap();
    assert_eq!(z.to_vec_f32(), [2.0; 4], "other devices work on");
    driver.reset_errors();
}

#[test]
fn rows_are_written_over_by_those_of_their_kind() {
    let gpu = soft_gpu();
    for device in [Device::Cpu, device(&gpu)] {
        let mut target = Tensor::zeros(&device, DType::F32, &[2, 3]).unwrap();
        let from = |shape: &[usize], value: f32| {
            Tensor::from_f32(&device, shape, &vec![value; shape.iter().product()]).unwrap()
        };
        target.write_rows(&from(&[2, 3], 1.5)).unwrap();
        assert_eq!(target.to_vec_f32(), [1.5; 6]);
        target.write_rows(&from(&[1, 3], 2.5)).unwrap();
        assert_eq!(target.to_vec_f32(), [2.5, 2.5, 2.5, 1.5, 1.5, 1.5]);
        for shape in [&[3, 2][..], &[3, 3], &[6], &[]] {
            assert!(matches!(target.write_rows(&from(shape, 3.5)), Err(KernelError::Shape { .. })));
        }
        let ids = Tensor::from_u32(&device, &[2, 3], &[1; 6]).unwrap();
        assert!(matches!(target.write_rows(&ids), Err(KernelError::DType { .. })));
        let other = target.clone();
        assert!(matches!(target.write_rows(&from(&[2, 3], 3.5)), Err(KernelError::Aliased { .. })));
        assert_eq!(other.to_vec_f32()[0], 2.5);
        drop(other);
    }
}

#[test]
fn the_cpu_records_nothing() {
    let recording = Device::Cpu.record(|| -> Result<(), KernelError> { panic!("not called") });
    assert!(recording.unwrap().is_none());
}

#[test]
fn a_recorded_step_runs_again_on_new_inputs() {
    let gpu = soft_gpu();
    let device = device(&gpu);
    let (mut sum, step) = (ones(&device, 300), ones(&device, 300));
    let recording = device.record(|| ops::add_assign(&mut sum, &step)).unwrap().unwrap();
    recording.replay().unwrap();
    recording.replay().unwrap();
    assert_eq!(sum.to_vec_f32(), [4.0; 300], "once to warm up, never while recording, twice replayed");
    let mut kept = Tensor::zeros(&device, DType::F32, &[300]).unwrap();
    let recording_of_result = device.record(|| kept.write_rows(&sum)).unwrap().unwrap();
    recording.replay().unwrap();
    recording_of_result.replay().unwrap();
    assert_eq!(kept.to_vec_f32(), [5.0; 300], "a copy to memory that is kept is recorded, too");
    let refused = device.record(|| Tensor::from_u32(&device, &[1], &[1]).map(|_| ()));
    let Err(error) = refused else { panic!("an upload cannot be recorded") };
    assert!(error.to_string().contains("cannot copy from the host"), "{error}");
    recording.replay().unwrap();
    assert_eq!(sum.to_vec_f32(), [6.0; 300], "a failed recording leaves the stream in order");
}
