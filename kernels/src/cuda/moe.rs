//! `moe_experts` on a GPU: slots sorted by expert on the device, two grouped products, the weighted sum.

use crate::cuda::elementwise::activations;
use crate::cuda::gemm::{Groups, Product, expect_alike, operands};
use crate::cuda::tile::Plan;
use crate::cuda::{Args, CudaDevice, Launch};
use crate::ops::{Experts, Routing};
use crate::{DType, Result, Tensor};

const STEM: &str = "moe";
/// One block sorts; fewer threads than it may have where there are fewer slots.
const ALIGN_THREADS: usize = 1024;
const COMBINE_THREADS: u32 = 128;

/// The routed experts' sum for each token, `F32` `[T, D]`.
///
/// The grids follow from the number of slots alone: tiles past those that the routing needs end at once.
pub(crate) fn moe_experts(x: &Tensor, routing: &Routing, experts: &Experts) -> Result<Tensor> {
    let device = x.cuda("moe_experts")?.clone();
    expect_alike("moe_experts", &experts.gate, &experts.up)?;
    let (count, top_k) = (experts.gate.num_experts(), routing.experts.dim(1));
    let (tokens, slots) = (x.dim(0), routing.experts.len());
    let mut out = Tensor::output(&x.device(), DType::F32, &[tokens, experts.down.rows()])?;
    if out.is_empty() {
        return Ok(out);
    }
    let x = &operands(x, &experts.gate)?;
    let (weight, up) = (&experts.gate, Some(&experts.up));
    let limit = experts.swiglu_limit.unwrap_or(f32::INFINITY);
    let gated = Product { x, weight, up, limit, bias: None, slots, divisor: top_k, top_k };
    let plan = gated.plan()?;
    let groups = align(&device, routing, count, &plan)?;
    let hidden = gated.run(&plan, Some(&groups))?;

    // What feeds a matmul has been an activation, whatever the gate's operands were.
    let hidden = activations(&hidden)?;
    let x = &operands(&hidden, &experts.down)?;
    let down = Product { x, weight: &experts.down, up: None, limit, bias: None, slots, divisor: 1, top_k };
    let down_plan = down.plan()?;
    // The same slots and matrices: the rows of the tiles differ only if the operand types do.
    let regrouped;
    let groups = if down_plan.tile.rows == plan.tile.rows {
        &groups
    } else {
        regrouped = align(&device, routing, count, &down_plan)?;
        &regrouped
    };
    let parts = down.parts(&down_plan, Some(groups))?;
    combine(&device, &parts, routing, count, &mut out)?;
    Ok(out)
}

/// Sorts the slots by expert.
fn align(device: &CudaDevice, routing: &Routing, experts: usize, plan: &Plan) -> Result<Groups> {
    let (slots, rows) = (routing.experts.len(), plan.tile.rows);
    let place = routing.experts.device();
    let mut sorted = Tensor::output(&place, DType::U32, &[plan.row_tiles * rows])?;
    let mut tile_experts = Tensor::output(&place, DType::U32, &[plan.row_tiles])?;
    let args = Args::new().fault(device).tensor(&routing.experts)?;
    let args = args.output(&mut sorted)?.output(&mut tile_experts)?;
    let args = [slots, experts, plan.row_tiles, rows].into_iter().fold(args, |a, size| a.value(size as u32));
    let launch = Launch {
        grid: [1; 3],
        threads: (slots * 4).next_multiple_of(32).clamp(64, ALIGN_THREADS) as u32,
        shared_bytes: (experts * 8) as u32,
    };
    device.launch(STEM, "moe_align", launch, args)?;
    Ok(Groups { sorted, tile_experts })
}

/// `out[t] = sum_k weights[t, k] * row (t, k)`, in the order of `k`.
fn combine(
    device: &CudaDevice,
    parts: &Tensor,
    routing: &Routing,
    experts: usize,
    out: &mut Tensor,
) -> Result<()> {
    let (tokens, dim, top_k) = (out.dim(0), out.dim(1), routing.experts.dim(1));
    let args = Args::new().tensor(parts)?.tensor(&routing.experts)?.tensor(&routing.weights)?.output(out)?;
    let sizes = [parts.dim(0), tokens * top_k, dim, top_k, experts];
    let args = sizes.into_iter().fold(args, |args, size| args.value(size as u32));
    let grid = [tokens as u32, (dim as u32).div_ceil(COMBINE_THREADS), 1];
    device.launch(STEM, "moe_combine", Launch { grid, threads: COMBINE_THREADS, shared_bytes: 0 }, args)
}
