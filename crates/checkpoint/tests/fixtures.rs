//! The family fixtures: each opens, and every tensor has the values that an independent decoder finds.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use checkpoint::{Checkpoint, DeepseekGeneration, ModelConfig};
use kernels::e4m3_to_f32;
use safetensors::{Dtype, SafeTensors};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testkit/fixtures")
}

/// The values of one tensor, by the reference reader and plain loops.
fn reference(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let view = file.tensor(name).unwrap();
    let bytes = view.data();
    match view.dtype() {
        Dtype::F32 => bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        // A bf16 is the upper half of an f32.
        Dtype::BF16 => bytes
            .chunks(2)
            .map(|b| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16))
            .collect(),
        Dtype::F8_E4M3 => {
            let (rows, cols) = (view.shape()[0], view.shape()[1]);
            let scales = match file.tensor(&format!("{name}_scale_inv")) {
                Ok(_) => reference(file, &format!("{name}_scale_inv")),
                Err(_) => reference(file, &name.replace(".weight", ".scale")),
            };
            let scale_cols = cols.div_ceil(128);
            let scale = |r: usize, c: usize| scales[r / 128 * scale_cols + c / 128];
            (0..rows * cols).map(|i| e4m3_to_f32(bytes[i]) * scale(i / cols, i % cols)).collect()
        }
        Dtype::F8_E8M0 => bytes.iter().map(|&b| 2f32.powi(i32::from(b) - 127)).collect(),
        // Two e2m1 codes in a byte, the even column in the low half.
        Dtype::I8 => {
            let values = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
            let cols = 2 * view.shape()[1];
            let scales = reference(file, &name.replace(".weight", ".scale"));
            let element = |i: usize| {
                let code = bytes[i / 2] >> (4 * (i % 2)) & 15;
                let sign = if code < 8 { 1.0 } else { -1.0 };
                let scale = scales[i / cols * cols.div_ceil(32) + i % cols / 32];
                sign * values[usize::from(code & 7)] * scale
            };
            (0..2 * bytes.len()).map(element).collect()
        }
        other => panic!("{name} is {other:?}"),
    }
}

#[test]
fn every_tensor_of_every_family_is_exact() {
    let mut families = 0;
    for dir in std::fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path()) {
        if !dir.join("model.safetensors").is_file() {
            continue;
        }
        families += 1;
        let checkpoint = Checkpoint::open(&dir).unwrap();
        let bytes = std::fs::read(dir.join("model.safetensors")).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(checkpoint.names().count(), file.len(), "{}", dir.display());
        for name in checkpoint.names() {
            let info = checkpoint.info(name).unwrap();
            let shape = &info.shape;
            if info.dtype == Dtype::I64 {
                let table = checkpoint.id_table(name, [shape[0], shape[1]], 8).unwrap();
                let ids =
                    file.tensor(name).unwrap().data().chunks(8).map(|b| u32::from(b[0])).collect::<Vec<_>>();
                assert_eq!(table.to_vec_u32().unwrap(), ids, "{name}");
                continue;
            }
            let expected = reference(&file, name);
            if info.dtype != Dtype::I8 {
                assert_eq!(checkpoint.tensor_f32(name, shape).unwrap().to_vec_f32(), expected, "{name}");
            }
            if let (Some(prefix), Some([n, k])) = (name.strip_suffix(".weight"), info.matrix()) {
                assert_eq!(checkpoint.weight(prefix, [n, k]).unwrap().to_vec_f32(), expected, "{name}");
            }
        }
        assert!(checkpoint.unused().is_empty());
    }
    assert!(families >= 15, "{families} fixtures");
}

#[test]
fn generations_and_biases_follow_the_config() {
    for (name, generation, mla, nextn) in [
        ("deepseek_moe_v1", DeepseekGeneration::V1, false, 0),
        ("deepseek_v2_lite", DeepseekGeneration::V2, true, 0),
        ("deepseek_v3_mtp", DeepseekGeneration::V3, true, 1),
    ] {
        let checkpoint = Checkpoint::open(&fixtures().join(name)).unwrap();
        let ModelConfig::Deepseek(config) = checkpoint.config() else { panic!("{name}") };
        let found = (config.generation, config.mla.is_some(), config.num_nextn_predict_layers);
        assert_eq!(found, (generation, mla, nextn), "{name}");
    }
    for (name, qkv_bias) in [("llama3_distill", false), ("qwen2_distill", true)] {
        let checkpoint = Checkpoint::open(&fixtures().join(name)).unwrap();
        let ModelConfig::Llama(config) = checkpoint.config() else { panic!("{name}") };
        assert_eq!((config.qkv_bias, config.o_bias, config.mlp_bias), (qkv_bias, false, false), "{name}");
    }
}
