//! Launches of `cuda/gate.cu`.

use bytemuck::{Pod, Zeroable};

use crate::cuda::{Args, Launch};
use crate::ops::{GateConfig, GroupScore, Routing, Scoring};
use crate::{DType, KernelError, Result, Tensor};

/// Tokens of a block, a warp each.
const WARPS: usize = 4;
/// A lane per chosen expert.
const MAX_TOP_K: usize = 32;

/// `Gate` of `gate.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Gate {
    experts: u32,
    top_k: u32,
    groups: u32,
    topk_group: u32,
    scoring: u32,
    top_two: u32,
    normalise: u32,
    factor: f32,
}

impl Gate {
    fn new(experts: usize, config: &GateConfig) -> Self {
        Self {
            experts: experts as u32,
            top_k: config.top_k as u32,
            groups: config.n_group as u32,
            topk_group: config.topk_group as u32,
            scoring: match config.scoring {
                Scoring::Softmax => 0,
                Scoring::Sigmoid => 1,
                Scoring::SqrtSoftplus => 2,
            },
            top_two: u32::from(config.group_score == GroupScore::TopTwoSum),
            normalise: u32::from(config.norm_topk_prob),
            factor: config.routed_scaling_factor,
        }
    }
}

fn launch(tokens: usize) -> Launch {
    Launch { grid: [tokens.div_ceil(WARPS) as u32, 1, 1], threads: 32 * WARPS as u32, shared_bytes: 0 }
}

/// Weighs the experts that rows `token_ids` `[T]` of `table` `[V, top_k]` name; shapes have been checked.
pub(crate) fn route_by_token(
    logits: &Tensor,
    table: &Tensor,
    token_ids: &Tensor,
    config: &GateConfig,
) -> Result<Routing> {
    const OP: &str = "route_by_token";
    let ([tokens, experts], top_k) = (logits.dims(OP, "logits", "[T, E]")?, config.top_k);
    if top_k > MAX_TOP_K || config.scoring == Scoring::Softmax {
        let expected = format!("at most {MAX_TOP_K} experts, each scored by itself, on a GPU");
        return Err(KernelError::value(OP, "config", expected, format!("{top_k}, {:?}", config.scoring)));
    }
    let device = logits.cuda(OP)?;
    let mut ids = Tensor::output(&logits.device(), DType::U32, &[tokens, top_k])?;
    let mut weights = Tensor::output(&logits.device(), DType::F32, &[tokens, top_k])?;
    if tokens > 0 {
        let args = Args::new().fault(device).tensor(logits)?.tensor(table)?.tensor(token_ids)?;
        let args = args.output(&mut ids)?.output(&mut weights)?.value(tokens as u32);
        let args = args.value(table.dim(0) as u32).value(Gate::new(experts, config));
        device.launch("gate", "route_by_token", launch(tokens), args)?;
    }
    Ok(Routing { experts: ids, weights })
}

/// Chooses from `logits` `[T, E]`; the config has been checked.
pub(crate) fn route(logits: &Tensor, bias: Option<&Tensor>, config: &GateConfig) -> Result<Routing> {
    const OP: &str = "route";
    let [tokens, experts] = logits.dims(OP, "logits", "[T, E]")?;
    let kernel = match experts {
        0..=64 => "route_64",
        65..=256 => "route_256",
        257..=512 => "route_512",
        _ => {
            let expected = "[T, at most 512 experts on a GPU]";
            return Err(KernelError::shape(OP, "logits", expected, logits.shape()));
        }
    };
    let top_k = config.top_k;
    if top_k > MAX_TOP_K {
        return Err(KernelError::value(OP, "top_k", format!("at most {MAX_TOP_K} on a GPU"), top_k));
    }
    let mut ids = Tensor::output(&logits.device(), DType::U32, &[tokens, top_k])?;
    let mut weights = Tensor::output(&logits.device(), DType::F32, &[tokens, top_k])?;
    if tokens > 0 {
        let args = Args::new().tensor(logits)?.optional(bias)?.output(&mut ids)?.output(&mut weights)?;
        let args = args.value(tokens as u32).value(Gate::new(experts, config));
        logits.cuda(OP)?.launch("gate", kernel, launch(tokens), args)?;
    }
    Ok(Routing { experts: ids, weights })
}
