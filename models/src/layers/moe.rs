//! [`Moe`]: the mixture-of-experts layer (DeepSeekMoE, arXiv 2401.06066; routing as in DeepSeek-V3 section 2.1.2).

use std::sync::Arc;

use comm::Communicator;
use kernels::ops::{self, Experts, GateConfig};
use kernels::{Tensor, Weight};

use crate::layers::Mlp;
use crate::{Batch, Result, StepContext};

/// Who chooses a token's experts; their weights come from the router's logits in any case.
#[derive(Debug)]
pub enum ExpertChoice {
    /// The router, by the best scores; with `e_score_correction_bias` `[E]` (`F32`), which shifts the choice.
    Scores(Option<Tensor>),
    /// The token's id: its row of a table `[V, top_k]` (`U32`).
    TokenId(Tensor),
}

/// `sum_k w_k * expert_k(x) + shared(x)`.
#[derive(Debug)]
pub struct Moe {
    /// Index of the decoder layer, for the probe.
    pub layer_idx: usize,
    /// Router `[E, D]`, held in `F32`: logits decide discrete choices and are never quantised.
    pub gate: Weight,
    /// Who chooses.
    pub choice: ExpertChoice,
    /// The rule that turns logits into experts and weights.
    pub gate_config: GateConfig,
    /// The routed experts; every rank has a slice of each.
    pub experts: Experts,
    /// All shared experts as one MLP of `n_shared_experts * moe_intermediate_size`, always with weight 1.
    pub shared_experts: Option<Mlp>,
    /// The ranks.
    pub comm: Arc<dyn Communicator>,
}

impl Moe {
    /// `x` `[T, D]`, normed, to `[T, D]`. Every rank routes alike, and routed and shared experts are reduced together.
    pub fn forward(&self, ctx: &mut StepContext<'_>, batch: &Batch, x: &Tensor) -> Result<Tensor> {
        let logits = ops::linear(x, &self.gate, None)?;
        let routing = match &self.choice {
            ExpertChoice::Scores(bias) => ops::route(&logits, bias.as_ref(), &self.gate_config)?,
            ExpertChoice::TokenId(table) => {
                ops::route_by_token(&logits, table, &batch.token_ids, &self.gate_config)?
            }
        };
        ctx.probe_router(self.layer_idx, &logits, &routing);
        let mut out = ops::moe_experts(x, &routing, &self.experts)?;
        if let Some(shared_experts) = &self.shared_experts {
            ops::add_assign(&mut out, &shared_experts.partial(x)?)?;
        }
        self.comm.all_reduce(&mut out)?;
        Ok(out)
    }
}
