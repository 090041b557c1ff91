//! Launches of `cuda/shared_kv.cu`: one block per token.

use crate::cuda::{Args, Launch};
use crate::{DType, KernelError, Result, RopeTable, Tensor};

/// See [`crate::ops::shared_kv`], which has checked the shapes.
pub(crate) fn shared_kv(
    kv: &Tensor,
    weight: &Tensor,
    eps: f32,
    table: &RopeTable,
    (dtype, row_width): (DType, usize),
) -> Result<Tensor> {
    const OP: &str = "shared_kv";
    for (arg, tensor) in [("kv", kv), ("weight", weight), ("table", &table.cos), ("table", &table.sin)] {
        tensor.expect_dtype(DType::F32, "F32", OP, arg)?;
        tensor.expect_device(&kv.device(), OP, arg)?;
    }
    let name = match dtype {
        DType::F32 => "shared_kv_f32",
        DType::BF16 => "shared_kv_bf16",
        DType::U8 => "shared_kv_fp8",
        found => return Err(KernelError::DType { op: OP, arg: "dtype", expected: "F32, BF16 or U8", found }),
    };
    let [tokens, dim] = kv.dims(OP, "kv", "[T, D]")?;
    let mut out = Tensor::output(&kv.device(), dtype, &[tokens, row_width])?;
    if !out.is_empty() {
        let args = Args::new().tensor(kv)?.tensor(weight)?.tensor(&table.cos)?.tensor(&table.sin)?;
        let args = args.output(&mut out)?.value(dim as u32).value(table.cos.dim(1) as u32);
        let args = args.value((row_width * dtype.size()) as u32).value(eps);
        let launch = Launch { grid: [tokens as u32, 1, 1], threads: 256, shared_bytes: 0 };
        kv.cuda(OP)?.launch(OP, name, launch, args)?;
    }
    Ok(out)
}
