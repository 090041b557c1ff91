//! Random tensors and packed weights, made quickly enough for hundreds of megabytes.

use half::{bf16, f16};
use kernels::cpu::AlignedBytes;
use kernels::{BlockScales, DType, Device, Result, Tensor, Weight, f32_to_e4m3};

/// Values of a pool from which weights are copied in windows: far more than a cache line, far less than a weight.
const POOL: usize = 1 << 20;

/// Approximately normal values of standard deviation one, the same for the same seed.
pub fn normal(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    // Four uniforms of variance 1/12 each.
    (0..count).map(|_| (uniform() + uniform() + uniform() + uniform()) * 3_f32.sqrt()).collect()
}

/// A random `F32` tensor.
pub fn activations(seed: u64, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_f32(&Device::Cpu, shape, &normal(seed, shape.iter().product()))
}

/// A random weight `[E, N, K]` whose rows have a norm of about one; `F8_E4M3` comes with 128 x 128 block scales.
pub fn weight(seed: u64, dtype: DType, shape: [usize; 3]) -> Result<Weight> {
    let [e, n, k] = shape;
    let deviation = 1.0 / (k as f32).sqrt();
    let pool = normal(seed, POOL);
    // An 8-bit block spans -448..448; four standard deviations are its largest value.
    let pool: Vec<u8> = match dtype {
        DType::F32 => pool.iter().flat_map(|v| (v * deviation).to_le_bytes()).collect(),
        DType::F16 => pool.iter().flat_map(|v| f16::from_f32(v * deviation).to_le_bytes()).collect(),
        DType::BF16 => pool.iter().flat_map(|v| bf16::from_f32(v * deviation).to_le_bytes()).collect(),
        _ => pool.iter().map(|v| f32_to_e4m3(v * 112.0)).collect(),
    };
    let mut bytes = AlignedBytes::zeroed(e * n * k * dtype.size());
    for chunk in bytes.chunks_mut(pool.len()) {
        chunk.copy_from_slice(&pool[..chunk.len()]);
    }
    let data = Tensor::from_bytes(&Device::Cpu, dtype, &[e, n, k], bytes)?;
    if dtype != DType::F8E4M3 {
        return Weight::new(data, None);
    }
    let shape = [e, n.div_ceil(128), k.div_ceil(128)];
    let scales = vec![deviation / 112.0; shape.iter().product()];
    let scales = Tensor::from_f32(&Device::Cpu, &shape, &scales)?;
    Weight::new(data, Some(BlockScales { scales, block_rows: 128, block_cols: 128 }))
}
