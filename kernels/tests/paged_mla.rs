//! Attention over the paged latent cache on the CPU. Catches: one visible key too many, stray reads of the cache.
//! The GPU's is in `paged_attention.rs`.

use kernels::cpu::{self, Attention, Level};
use kernels::{DType, KernelError, Tensor, ops, reference};

use crate::common::{close, tensor, values};
use crate::mla::DIMS;
use crate::paged::{Paged, STEPS};

#[test]
fn matches_the_reference() {
    for dtype in [DType::F32, DType::BF16] {
        for dims in &DIMS {
            let sizes = [dims.num_heads, dims.row_width(), dims.kv_lora_rank];
            for (i, step) in STEPS.into_iter().enumerate() {
                let paged = Paged::new(dtype, [16, 5][i % 2], dims.row_width(), step);
                let q = values(99, paged.tokens() * dims.num_heads * dims.row_width());
                let want = reference::mqa(&q, &paged.rows(), &paged.visible, sizes, 0.2);
                for level in Level::available() {
                    let mut store = Default::default();
                    let args = Attention {
                        q: &q,
                        cache: paged.typed(&mut store),
                        width: dims.row_width(),
                        block_size: paged.batch.block_size,
                        sequences: paged.walk(),
                        heads: dims.num_heads,
                        kv_heads: 1,
                        key_dim: dims.row_width(),
                        value_start: 0,
                        value_dim: dims.kv_lora_rank,
                        scale: 0.2,
                        sinks: None,
                    };
                    let mut got = vec![0.0; want.len()];
                    cpu::paged_attention(level, &args, &mut got);
                    // Means of up to 2049 values below 1, which the reference adds up one by one.
                    close(&format!("{dtype} {dims:?} {step:?} {level:?}"), &got, &want, 2e-5);
                }
            }
        }
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let shape = |r: kernels::Result<Tensor>| matches!(r, Err(KernelError::Shape { .. }));
    let paged = Paged::new(DType::F32, 4, 40, &[(1, 3)]);
    let q = tensor(&[1, 1, 40], &[0.0; 40]);
    assert!(ops::paged_mla(&q, &paged.cache, &paged.batch, None, 1.0, 32).is_ok());
    assert!(shape(ops::paged_mla(&q, &paged.cache, &paged.batch, None, 1.0, 41)));
    assert!(shape(ops::paged_mla(
        &tensor(&[2, 1, 40], &[0.0; 80]),
        &paged.cache,
        &paged.batch,
        None,
        1.0,
        32
    )));
}
