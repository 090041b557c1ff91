//! Multi-head latent attention in its absorbed form over the paged latent cache.
//!
//! With `W_UK` folded into the query and `W_UV` into the output, all heads attend to one shared row per token of
//! width `C + R` (latent and rope key), and the value is the row's first `C` columns: MQA over the latent cache
//! (DeepSeek-V2 report, section 2.1.2 and appendix C). The naive form, which expands keys and values per head, is
//! [`crate::reference::mla_naive`]. The attention itself is [`crate::ops::paged_mla`].

use crate::cpu::{self, Level};
use crate::{DType, KernelError, Result, Tensor, Weight};

/// The head sizes of an MLA layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MlaDims {
    /// Query heads `H` (of this rank).
    pub num_heads: usize,
    /// Channels of a head without position, `qk_nope_head_dim`.
    pub qk_nope_head_dim: usize,
    /// Rotated channels, `qk_rope_head_dim`.
    pub qk_rope_head_dim: usize,
    /// Value channels of a head, `v_head_dim`.
    pub v_head_dim: usize,
    /// Width of the latent, `kv_lora_rank`.
    pub kv_lora_rank: usize,
}

impl MlaDims {
    /// Width of a cache row: `kv_lora_rank + qk_rope_head_dim`.
    pub fn row_width(&self) -> usize {
        self.kv_lora_rank + self.qk_rope_head_dim
    }

    /// Width of a query head: `qk_nope_head_dim + qk_rope_head_dim`.
    pub fn qk_head_dim(&self) -> usize {
        self.qk_nope_head_dim + self.qk_rope_head_dim
    }

    fn check_kv_b(&self, op: &'static str, kv_b: &Weight) -> Result<()> {
        let rows = self.num_heads * (self.qk_nope_head_dim + self.v_head_dim);
        if kv_b.shape() == [1, rows, self.kv_lora_rank] {
            return Ok(());
        }
        let expected = format!("[1, {rows}, {}]", self.kv_lora_rank);
        Err(KernelError::shape(op, "kv_b", expected, &kv_b.shape()))
    }
}

/// Query in the latent space: `[q_nope W_UK | q_rope]` per head.
///
/// `q` is `[T, H, nope + rope]` with the rope part already rotated; `kv_b` is `kv_b_proj` `[H * (nope + v), C]`, per
/// head the key rows and then the value rows. The result is `[T, H, C + rope]`.
pub fn mla_absorb_query(q: &Tensor, kv_b: &Weight, dims: &MlaDims) -> Result<Tensor> {
    const OP: &str = "mla_absorb_query";
    let [tokens, heads, width] = q.dims(OP, "q", "[T, H, nope + rope]")?;
    if heads != dims.num_heads || width != dims.qk_head_dim() {
        let expected = format!("[T, {}, {}]", dims.num_heads, dims.qk_head_dim());
        return Err(KernelError::shape(OP, "q", expected, q.shape()));
    }
    dims.check_kv_b(OP, kv_b)?;
    q.expect_dtype(DType::F32, "F32", OP, "q")?;
    kv_b.data().expect_device(&q.device(), OP, "kv_b")?;
    #[cfg(feature = "cuda-host")]
    if q.is_cuda() {
        return crate::cuda::mla::absorb_query(q, kv_b, dims);
    }
    let q = q.f32s(OP, "q")?;
    let mut out = Tensor::output(&kv_b.device(), DType::F32, &[tokens, heads, dims.row_width()])?;
    cpu::absorb_query(Level::detect(), q, kv_b, dims, out.f32s_mut(OP, "out")?);
    Ok(out)
}

/// Values out of the latent space: `W_UV o` per head, `[T, H, C]` to `[T, H * v]`.
pub fn mla_project_value(o: &Tensor, kv_b: &Weight, dims: &MlaDims) -> Result<Tensor> {
    const OP: &str = "mla_project_value";
    let [tokens, heads, latent] = o.dims(OP, "o", "[T, H, C]")?;
    if heads != dims.num_heads || latent != dims.kv_lora_rank {
        let expected = format!("[T, {}, {}]", dims.num_heads, dims.kv_lora_rank);
        return Err(KernelError::shape(OP, "o", expected, o.shape()));
    }
    dims.check_kv_b(OP, kv_b)?;
    kv_b.data().expect_device(&o.device(), OP, "kv_b")?;
    #[cfg(feature = "cuda-host")]
    if o.is_cuda() {
        return crate::cuda::mla::project_value(o, kv_b, dims);
    }
    let o = o.f32s(OP, "o")?;
    let mut out = Tensor::output(&kv_b.device(), DType::F32, &[tokens, heads * dims.v_head_dim])?;
    cpu::project_value(Level::detect(), o, kv_b, dims, out.f32s_mut(OP, "out")?);
    Ok(out)
}
