//! The `quantization_config` object: DeepSeek's block-scaled FP8 is supported, everything else is named and refused.

use serde_json::Value;

use super::fields::Fields;
use crate::Result;

/// Linear weights in e4m3 with one scale per block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fp8Config {
    /// Rows (out features) and columns (in features) that share a scale; the last blocks may be partial.
    pub weight_block_size: [usize; 2],
}

/// Largest block edge; the released ones are 32 and 128.
const MAX_BLOCK: usize = 1 << 16;

pub(crate) fn quantization(fields: &Fields<'_>) -> Result<Option<Fp8Config>> {
    let Some(fields) = fields.object("quantization_config", "quantization_config.")? else { return Ok(None) };
    fields.choice("quant_method", &[("fp8", ())], None)?;
    fields.choice("fmt", &[("e4m3", ())], Some(()))?;
    // A static scheme stores activation scales, which nothing here would apply.
    fields.choice("activation_scheme", &[("dynamic", ())], Some(()))?;
    let edge = |value: &Value| {
        value.as_u64().and_then(|v| usize::try_from(v).ok()).filter(|v| (1..=MAX_BLOCK).contains(v))
    };
    let block = match fields.get("weight_block_size") {
        Some(Value::Array(list)) => match list.as_slice() {
            [rows, cols] => edge(rows).zip(edge(cols)),
            _ => None,
        },
        _ => None,
    };
    let (rows, cols) = block.ok_or_else(|| {
        fields.error("weight_block_size", format!("[rows, columns], each from 1 to {MAX_BLOCK}"))
    })?;
    Ok(Some(Fp8Config { weight_block_size: [rows, cols] }))
}
