//! Launches of `cuda/gemm.cu`: the matrix multiplication behind `linear`, `swiglu` and `moe_experts`.

use std::borrow::Cow;

use crate::cuda::quantize::{Quantized, quantize_rows};
use crate::cuda::tile::{Plan, Shape};
use crate::cuda::{Args, CudaDevice, Launch, elementwise};
use crate::{DType, KernelError, Precision, Result, Tensor, Weight, WeightFormat};

const STEM: &str = "gemm";
const THREADS: u32 = 256;
const FINISH_THREADS: u32 = 128;
/// Columns of K that one scale must cover for tensor cores (`kGroup` of the kernels).
const GROUP: usize = 32;

/// Rows of a result sorted by expert (`moe_align`).
pub(super) struct Groups {
    /// `[row_tiles * tile rows]`: slots, or all ones for padding.
    pub(super) sorted: Tensor,
    /// `[row_tiles]`: the expert of each tile, or all ones.
    pub(super) tile_experts: Tensor,
}

/// `slots` rows `x[slot / divisor] W^T`.
pub(super) struct Product<'a> {
    /// `[slots / divisor, K]`, see [`operands`].
    pub(super) x: &'a Operands<'a>,
    /// `[E, N, K]`.
    pub(super) weight: &'a Weight,
    /// Multiplies beside `weight`; the result is then `silu(x W^T) * x U^T`.
    pub(super) up: Option<&'a Weight>,
    /// Bound of the two factors; infinite for none.
    pub(super) limit: f32,
    /// `[N]`.
    pub(super) bias: Option<&'a Tensor>,
    /// Rows of the result.
    pub(super) slots: usize,
    /// Slots that share a row of `x`.
    pub(super) divisor: usize,
    /// Experts that one token needs.
    pub(super) top_k: usize,
}

/// The numbers of a launch, as `gemm::Problem` has them.
#[derive(Debug, Clone, Copy, bytemuck::NoUninit)]
#[repr(C)]
struct Problem {
    slots: u32,
    n: u32,
    k: u32,
    row_tiles: u32,
    steps_per_split: u32,
    divisor: u32,
    gated: u32,
    block_rows: u32,
    block_columns: u32,
    scale_rows: u32,
    scale_columns: u32,
    scale_bf16: u32,
    limit: f32,
}

/// A weight as the kernels see it.
struct Stored<'a> {
    name: &'static str,
    bits: usize,
    scales: Option<&'a Tensor>,
    zeros: Option<&'a Tensor>,
    block_rows: usize,
    block_columns: usize,
}

impl<'a> Stored<'a> {
    fn of(weight: &'a Weight) -> Self {
        let float = |name, bits| Self {
            name,
            bits,
            scales: None,
            zeros: None,
            block_rows: 1,
            block_columns: weight.cols().max(1),
        };
        match weight.format() {
            WeightFormat::Float => match weight.dtype() {
                DType::F32 => float("f32", 32),
                DType::F16 => float("f16", 16),
                _ => float("bf16", 16),
            },
            WeightFormat::Fp8(b) => Self::scaled("fp8", 8, &b.scales, [b.block_rows, b.block_cols]),
            WeightFormat::Int8(b) => Self::scaled("int8", 8, &b.scales, [b.block_rows, b.block_cols]),
            WeightFormat::Fp4(exponents) => Self::scaled("fp4", 4, exponents, [1, WeightFormat::FP4_GROUP]),
            WeightFormat::Int4(g) => {
                Self { zeros: Some(&g.zeros), ..Self::scaled("int4", 4, &g.scales, [1, g.group]) }
            }
            WeightFormat::Ggml(_) => unreachable!("decoded on the way to a GPU"),
        }
    }

    fn scaled(name: &'static str, bits: usize, scales: &'a Tensor, block: [usize; 2]) -> Self {
        let [block_rows, block_columns] = block;
        Self { name, bits, scales: Some(scales), zeros: None, block_rows, block_columns }
    }

    /// Words per 32 columns in a stage: a scale, and INT4's zero point.
    fn entries(&self) -> usize {
        usize::from(self.scales.is_some()) + usize::from(self.zeros.is_some())
    }
}

/// What a kernel multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operand {
    /// Single precision, for checks and for what bf16 does not hold.
    F32,
    /// bf16 on tensor cores.
    Bf16,
    /// Integers on tensor cores, activations with a scale per row.
    S8,
}

impl Operand {
    /// The type that multiplies `weight` on `device`: on one of bf16, integers for INT8, and bf16 where it holds the
    /// stored values exactly; for either, one scale must cover every 32 columns.
    fn of(device: &CudaDevice, weight: &Weight) -> Self {
        let stored = Stored::of(weight);
        let exact = stored.bits < 16 || stored.name == "bf16";
        let regular = stored.block_columns.is_multiple_of(GROUP) || stored.block_columns >= weight.cols();
        match device.precision() {
            Precision::Bf16 if exact && regular && stored.name == "int8" => Self::S8,
            Precision::Bf16 if exact && regular => Self::Bf16,
            _ => Self::F32,
        }
    }

    /// Bytes of an element.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
            Self::S8 => 1,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::S8 => "s8",
        }
    }

    /// The dtype of activations that a gated product gives.
    fn activations(self) -> DType {
        if self == Self::F32 { DType::F32 } else { DType::BF16 }
    }
}

/// Activations as a kernel multiplies them.
pub(super) struct Operands<'a> {
    operand: Operand,
    /// `[rows, K]` of the operand type.
    values: Cow<'a, Tensor>,
    /// `[rows]`, of integers.
    scales: Option<Tensor>,
}

/// `x` in the operand type of `weight`.
pub(super) fn operands<'a>(x: &'a Tensor, weight: &Weight) -> Result<Operands<'a>> {
    let operand = Operand::of(x.cuda("matmul")?, weight);
    let (values, scales) = match operand {
        Operand::F32 => (elementwise::cast(x, DType::F32)?, None),
        Operand::Bf16 => (elementwise::cast(x, DType::BF16)?, None),
        Operand::S8 => {
            let Quantized { codes, scales } = quantize_rows(x)?;
            (Cow::Owned(codes), Some(scales))
        }
    };
    Ok(Operands { operand, values, scales })
}

impl Product<'_> {
    /// How the product is launched.
    pub(super) fn plan(&self) -> Result<Plan> {
        let [matrices, n, k] = self.weight.shape();
        let (operand, gated) = (self.x.operand, self.up.is_some());
        Ok(Plan::new(&Shape { slots: self.slots, matrices, top_k: self.top_k, n, k, gated, operand }))
    }

    /// `[slots, N]`: `F32`, or for a gated product activations.
    pub(super) fn run(&self, plan: &Plan, groups: Option<&Groups>) -> Result<Tensor> {
        let n = self.weight.rows();
        let dtype = if self.up.is_some() { self.x.operand.activations() } else { DType::F32 };
        if self.slots * n == 0 {
            return Tensor::output(&self.x.values.device(), dtype, &[self.slots, n]);
        }
        if plan.splits == 1 {
            let mut out = Tensor::output(&self.x.values.device(), dtype, &[self.slots, n])?;
            self.launch(plan, groups, self.bias, &mut out)?;
            return Ok(out);
        }
        let parts = self.parts(plan, groups)?;
        let mut out = Tensor::output(&self.x.values.device(), dtype, &[self.slots, n])?;
        let mut args = Args::new().tensor(&parts)?;
        let name = match (self.up.is_some(), dtype) {
            (false, _) => {
                args = args.optional(self.bias)?;
                "gemm_finish"
            }
            (true, DType::F32) => "gemm_finish_gated_f32",
            (true, _) => "gemm_finish_gated_bf16",
        };
        let sizes = [plan.splits, self.slots, n].map(|size| size as u32);
        let args = sizes.into_iter().fold(args.output(&mut out)?, Args::value);
        let args = if self.up.is_some() { args.value(self.limit) } else { args };
        let grid = [self.slots as u32, (n as u32).div_ceil(FINISH_THREADS), 1];
        let launch = Launch { grid, threads: FINISH_THREADS, shared_bytes: 0 };
        self.x.values.cuda(STEM)?.launch(STEM, name, launch, args)?;
        Ok(out)
    }

    /// The sums of each part of K, `F32` `[splits, slots, N]`, of a gated product `[splits, slots, 2 N]`.
    pub(super) fn parts(&self, plan: &Plan, groups: Option<&Groups>) -> Result<Tensor> {
        let width = if self.up.is_some() { 2 } else { 1 } * self.weight.rows();
        let mut parts =
            Tensor::output(&self.x.values.device(), DType::F32, &[plan.splits, self.slots, width])?;
        if !parts.is_empty() {
            self.launch(plan, groups, None, &mut parts)?;
        }
        Ok(parts)
    }

    fn launch(
        &self,
        plan: &Plan,
        groups: Option<&Groups>,
        bias: Option<&Tensor>,
        out: &mut Tensor,
    ) -> Result<()> {
        let (stored, [_, n, k]) = (Stored::of(self.weight), self.weight.shape());
        let up = self.up.map(Stored::of);
        let operand = self.x.operand;
        let problem = Problem {
            slots: self.slots as u32,
            n: n as u32,
            k: k as u32,
            row_tiles: plan.row_tiles as u32,
            steps_per_split: plan.steps_per_split as u32,
            divisor: self.divisor as u32,
            gated: self.up.is_some().into(),
            block_rows: stored.block_rows as u32,
            block_columns: stored.block_columns as u32,
            scale_rows: n.div_ceil(stored.block_rows) as u32,
            scale_columns: k.div_ceil(stored.block_columns) as u32,
            scale_bf16: stored.scales.is_some_and(|s| s.dtype() == DType::BF16).into(),
            limit: self.limit,
        };
        let args = Args::new().tensor(&self.x.values)?;
        let args = args.tensor(self.weight.data())?.optional(stored.scales)?.optional(stored.zeros)?;
        let args = args.optional(self.up.map(Weight::data))?;
        let args = args.optional(up.as_ref().and_then(|u| u.scales))?;
        let args = args.optional(up.as_ref().and_then(|u| u.zeros))?.optional(bias)?;
        let args = args.optional(self.x.scales.as_ref())?;
        let args = args.optional(groups.map(|g| &g.sorted))?.optional(groups.map(|g| &g.tile_experts))?;
        let args = args.output(out)?.value(problem);
        let launch = Launch {
            grid: [(plan.row_tiles * plan.column_tiles) as u32, 1, plan.splits as u32],
            threads: THREADS,
            shared_bytes: plan.tile.shared_bytes(operand, stored.bits, stored.entries()) as u32,
        };
        let name = format!("gemm_{}_{}_m{}", stored.name, operand.name(), plan.tile.rows);
        self.x.values.cuda(STEM)?.launch(STEM, &name, launch, args)
    }
}

/// Fails unless the kernels can multiply both by one walk: the same form, the same blocks.
pub(super) fn expect_alike(op: &'static str, gate: &Weight, up: &Weight) -> Result<()> {
    let form = |w: &Weight| {
        let stored = Stored::of(w);
        let scales = stored.scales.map_or(String::new(), |s| {
            format!(", {} scales of {}x{}", s.dtype(), stored.block_rows, stored.block_columns)
        });
        format!("{}{scales}", stored.name)
    };
    let (expected, found) = (form(gate), form(up));
    if expected == found {
        Ok(())
    } else {
        Err(KernelError::value(op, "up", format!("gate's form: {expected}"), found))
    }
}
