//! Expert routing: scores, group limits, top-k, weights.

use crate::cpu::{self, Level};
use crate::{DType, KernelError, Result, Tensor};

/// How router logits become scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scoring {
    /// Softmax over all experts (V2, deepseek-moe).
    Softmax,
    /// Sigmoid per expert (V3).
    Sigmoid,
    /// Square root of softplus per expert (V4).
    SqrtSoftplus,
}

/// How a group of experts is scored before whole groups are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupScore {
    /// The best expert of the group (V2, `group_limited_greedy`).
    Max,
    /// The sum of the two best (V3, `noaux_tc`).
    TopTwoSum,
}

/// The routing rule of one family, from the checkpoint's config.
#[derive(Debug, Clone, PartialEq)]
pub struct GateConfig {
    /// How logits become scores.
    pub scoring: Scoring,
    /// Experts chosen per token.
    pub top_k: usize,
    /// Groups the experts fall into; 1 means no group limit.
    pub n_group: usize,
    /// Groups that stay eligible.
    pub topk_group: usize,
    /// How groups are ranked.
    pub group_score: GroupScore,
    /// Whether the chosen weights are divided by their sum (plus 1e-20).
    pub norm_topk_prob: bool,
    /// Factor on the final weights.
    pub routed_scaling_factor: f32,
}

/// The chosen experts of every token, best first.
#[derive(Debug, Clone)]
pub struct Routing {
    /// `[T, top_k]`, `U32`.
    pub experts: Tensor,
    /// `[T, top_k]`, `F32`, after normalisation and scaling.
    pub weights: Tensor,
}

/// Chooses experts from router `logits` `[T, E]`.
///
/// `correction_bias` `[E]` is added to the scores for choosing only; weights come from the scores alone
/// (`e_score_correction_bias`, DeepSeek-V3 report section 2.1.2). Groups that lose are masked with minus infinity.
/// Ties go to the lowest index, for groups and for experts.
pub fn route(logits: &Tensor, correction_bias: Option<&Tensor>, config: &GateConfig) -> Result<Routing> {
    const OP: &str = "route";
    let [tokens, experts] = logits.dims(OP, "logits", "[T, E]")?;
    check(experts, config)?;
    if let Some(bias) = correction_bias.filter(|b| b.shape() != [experts]) {
        return Err(KernelError::shape(OP, "correction_bias", format!("[{experts}]"), bias.shape()));
    }
    logits.expect_dtype(DType::F32, "F32", OP, "logits")?;
    if let Some(bias) = correction_bias {
        bias.expect_dtype(DType::F32, "F32", OP, "correction_bias")?;
        bias.expect_device(&logits.device(), OP, "correction_bias")?;
    }
    #[cfg(feature = "cuda-host")]
    if logits.is_cuda() {
        return crate::cuda::gate::route(logits, correction_bias, config);
    }
    let bias = correction_bias.map(|b| b.f32s(OP, "correction_bias")).transpose()?;
    let mut ids = Tensor::output(&logits.device(), DType::U32, &[tokens, config.top_k])?;
    let mut weights = Tensor::output(&logits.device(), DType::F32, &[tokens, config.top_k])?;
    let logits = logits.f32s(OP, "logits")?;
    let chosen = bytemuck::cast_slice_mut(ids.bytes_mut(OP, "experts")?);
    let target = (chosen, weights.f32s_mut(OP, "weights")?);
    cpu::route(Level::detect(), logits, bias, experts, config, target);
    Ok(Routing { experts: ids, weights })
}

/// As [`route`], but the experts of a token are fixed by its id: row `token_ids[t]` of `table` `[V, top_k]` (`U32`), in
/// the table's order. The weights still come from the logits (V4's hash-routed layers, `tid2eid`).
///
/// # Errors
/// A token beyond the table, or an entry that is no expert.
pub fn route_by_token(
    logits: &Tensor,
    table: &Tensor,
    token_ids: &Tensor,
    config: &GateConfig,
) -> Result<Routing> {
    const OP: &str = "route_by_token";
    let [tokens, experts] = logits.dims(OP, "logits", "[T, E]")?;
    let [vocab, top_k] = table.dims(OP, "table", "[V, top_k]")?;
    if token_ids.shape() != [tokens] {
        return Err(KernelError::shape(OP, "token_ids", format!("[{tokens}]"), token_ids.shape()));
    }
    if top_k != config.top_k {
        return Err(KernelError::shape(OP, "table", format!("[V, {}]", config.top_k), table.shape()));
    }
    logits.expect_dtype(DType::F32, "F32", OP, "logits")?;
    for (arg, list) in [("table", table), ("token_ids", token_ids)] {
        list.expect_device(&logits.device(), OP, arg)?;
        list.expect_dtype(DType::U32, "U32", OP, arg)?;
    }
    #[cfg(feature = "cuda-host")]
    if logits.is_cuda() {
        return crate::cuda::gate::route_by_token(logits, table, token_ids, config);
    }
    let (table, token_ids) = (table.u32s(OP, "table")?, token_ids.u32s(OP, "token_ids")?);
    let mut ids = Tensor::output(&logits.device(), DType::U32, &[tokens, top_k])?;
    let chosen: &mut [u32] = bytemuck::cast_slice_mut(ids.bytes_mut(OP, "experts")?);
    for (row, &token) in chosen.chunks_exact_mut(top_k.max(1)).zip(token_ids) {
        if token as usize >= vocab {
            return Err(KernelError::value(OP, "token_ids", format!("token ids below {vocab}"), token));
        }
        row.copy_from_slice(&table[token as usize * top_k..][..top_k]);
        if let Some(id) = row.iter().find(|&&id| id as usize >= experts) {
            return Err(KernelError::value(OP, "table", format!("experts below {experts}"), id));
        }
    }
    let mut weights = Tensor::output(&logits.device(), DType::F32, &[tokens, top_k])?;
    let logits = logits.f32s(OP, "logits")?;
    cpu::weigh_chosen(Level::detect(), logits, chosen, experts, config, weights.f32s_mut(OP, "weights")?);
    Ok(Routing { experts: ids, weights })
}

fn check(experts: usize, config: &GateConfig) -> Result<()> {
    let GateConfig { top_k, n_group, topk_group, .. } = *config;
    let Some(group_size) = experts.checked_div(n_group).filter(|size| size * n_group == experts) else {
        return Err(KernelError::value(
            "route",
            "n_group",
            format!("a divisor of {experts} experts"),
            n_group,
        ));
    };
    let eligible = group_size * topk_group;
    if topk_group == 0 || topk_group > n_group {
        return Err(KernelError::value("route", "topk_group", format!("1 to {n_group}"), topk_group));
    }
    if top_k == 0 || top_k > eligible {
        return Err(KernelError::value("route", "top_k", format!("1 to {eligible} eligible experts"), top_k));
    }
    Ok(())
}
