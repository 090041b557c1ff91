//! Broken GGUF files: one flaw each, each with an error of its own that names the key or the tensor, at once and without
//! allocating what the file promises.

#![allow(clippy::unwrap_used)]

#[path = "support/gguf_file.rs"]
mod gguf_file;

use std::path::{Path, PathBuf};

use checkpoint::Checkpoint;
use gguf_file::{GgufFile, Meta, TensorDraft, f32_tensor, open_bytes};
use proptest::prelude::*;

fn corrupt(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../testkit/fixtures/gguf/corrupt")
        .join(format!("{name}.gguf"))
}

#[test]
fn every_broken_file_says_what_is_wrong_with_it() {
    Checkpoint::open(&corrupt("ok_base")).unwrap();
    for (name, parts) in [
        ("bad_magic", &["magic: expected GGUF, found `GGUX`"][..]),
        ("version_99", &["version: expected 2 or 3, found 99"]),
        ("n_tensors_2e60", &["tensor count: expected at most", "found 1152921504606846976"]),
        ("n_kv_2e60", &["metadata count: expected at most", "found 1152921504606846976"]),
        ("string_length_overflow", &["general.name: expected text: 18446744073709551608 bytes"]),
        ("array_nesting_bomb", &["general.name", "element type", "found an array of arrays"]),
        (
            "offset_beyond_file",
            &["`blk.0.ffn_down.weight`: data", "found 0 of them until its end at byte 42624"],
        ),
        ("overlapping_tensors", &["`blk.0.attn_q.weight`", "`blk.0.attn_k.weight`", "an overlap"]),
        ("misaligned_offset", &["`blk.0.attn_v.weight`: offset: expected a multiple of 32"]),
        ("dims_product_overflow", &["`blk.0.ffn_up.weight`: shape", "[8589934592, 8589934592] of F16"]),
        ("unknown_type_id", &["`blk.0.ffn_gate.weight`: type", "type 200, which does not exist"]),
        (
            "truncated_data",
            &[
                "`blk.0.ffn_down.weight`: data: expected 4096 bytes from byte 38400 of the file",
                "found 3096 of them until its end at byte 41496: it is cut off",
            ],
        ),
    ] {
        let error = Checkpoint::open(&corrupt(name)).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{name}.gguf: ")), "{name}: {error}");
        for part in parts {
            assert!(error.contains(part), "{name}: {part} in {error}");
        }
    }
}

fn sound() -> GgufFile {
    GgufFile {
        meta: vec![
            ("general.architecture", Meta::Text("llama")),
            ("llama.block_count", Meta::U32(1)),
            ("llama.embedding_length", Meta::U32(8)),
            ("llama.feed_forward_length", Meta::U32(16)),
            ("llama.attention.head_count", Meta::U32(2)),
            ("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5)),
        ],
        tensors: vec![
            f32_tensor("token_embd.weight", &[8, 3], &[0.5; 24]),
            f32_tensor("output_norm.weight", &[8], &[1.0; 8]),
        ],
    }
}

#[test]
fn what_the_metadata_may_not_say() {
    sound().open().unwrap();
    let error = |file: GgufFile| file.open().unwrap_err().to_string();
    for (file, part) in [
        (
            sound().without_key("llama.block_count"),
            "model.gguf: llama.block_count: expected an integer from 1",
        ),
        (
            sound().with("llama.block_count", Meta::U32(1 << 20)),
            "llama.block_count: expected an integer from 1",
        ),
        (
            sound().with("llama.embedding_length", Meta::Text("8")),
            "llama.embedding_length: expected an integer",
        ),
        (
            sound().with("llama.rope.freq_base", Meta::F32(f32::NAN)),
            "llama.rope.freq_base: expected a number",
        ),
        (sound().with("llama.expert_count", Meta::U32(8)), "llama.expert_count: expected 0 or nothing"),
        (
            sound().with("llama.rope.dimension_count", Meta::U32(2)),
            "llama.rope.dimension_count: expected 4, the width of a head, found 2",
        ),
        (
            sound().with("llama.rope.scaling.type", Meta::Text("longrope")),
            "llama.rope.scaling.type: expected `default` or `linear`",
        ),
        (
            sound().with("general.architecture", Meta::Text("gemma3")),
            "general.architecture: expected llama, qwen2 or deepseek2, found `gemma3`",
        ),
        (sound().without_key("general.architecture"), "general.architecture: expected llama"),
        (sound().with("general.alignment", Meta::U32(24)), "general.alignment: expected a power of two"),
        (sound().with("split.count", Meta::U16(2)), "split.count: expected 1"),
        (
            sound().with("tokenizer.ggml.eos_token_id", Meta::F32(1.0)),
            "tokenizer.ggml.eos_token_id: expected a token id, found 1",
        ),
    ] {
        let error = error(file);
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[test]
fn what_a_tensor_may_not_be() {
    let draft = |ne: &[u64], kind: u32, bytes: usize| TensorDraft {
        name: "blk.0.attn_v.weight".to_owned(),
        ne: ne.to_vec(),
        kind,
        data: vec![0; bytes],
    };
    for (tensor, part) in [
        (draft(&[], 0, 0), "dimensions: expected 1 to 4, found 0"),
        (draft(&[1; 5], 0, 4), "dimensions: expected 1 to 4, found 5"),
        (draft(&[8, 0], 0, 0), "shape: expected dimensions of at least 1"),
        (draft(&[48, 2], 2, 54), "shape: expected rows of whole blocks of 32, found [48, 2] of Q4_0"),
        (draft(&[256], 16, 66), "found IQ2_XXS (type 16), which nothing here decodes"),
        (draft(&[1 << 62, 1], 0, 0), "shape: expected dimensions of at least 1"),
    ] {
        let error = sound().with_tensor(tensor).open().unwrap_err().to_string();
        assert!(error.contains("`blk.0.attn_v.weight`: ") && error.contains(part), "{part} in {error}");
    }
    let mut twice = sound();
    twice.tensors.push(twice.tensors[1].clone());
    let error = twice.open().unwrap_err().to_string();
    assert!(error.contains("`output_norm.weight`: header entry: expected one per name"), "{error}");
    let mut twice = sound();
    twice.meta.push(twice.meta[1].clone());
    let error = twice.open().unwrap_err().to_string();
    assert!(error.contains("llama.block_count: expected key: one per name"), "{error}");
    let stack = f32_tensor("blk.0.ffn_up_exps.weight", &[8, 4], &[0.0; 32]);
    let error = sound().with_tensor(stack).open().unwrap_err().to_string();
    assert!(error.contains("expected one matrix per expert, found [4, 8]"), "{error}");
}

/// Offsets are the running sum of padded sizes, so bytes that belong to no tensor are damage.
#[test]
fn a_hole_between_tensors_is_refused() {
    let mut bytes = sound().bytes();
    let data_start = bytes.len() - (96 + 32);
    let offset = bytes[..data_start].windows(8).rposition(|eight| eight == 96_u64.to_le_bytes()).unwrap();
    bytes[offset..offset + 8].copy_from_slice(&128_u64.to_le_bytes());
    bytes.extend([0; 32]);
    let error = open_bytes(&bytes).unwrap_err().to_string();
    assert!(error.contains("`output_norm.weight`") && error.contains("a hole"), "{error}");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = sound().bytes();
    for length in 0..bytes.len() {
        assert!(open_bytes(&bytes[..length]).is_err(), "cut to {length} bytes");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// No damage to the header panics or hangs; what opens can be read.
    #[test]
    fn random_damage(damage in proptest::collection::vec((0_usize..900, any::<u8>()), 1..6)) {
        let mut bytes = sound().bytes();
        let length = bytes.len();
        for (at, byte) in damage {
            bytes[at % length] = byte;
        }
        if let Ok(checkpoint) = open_bytes(&bytes) {
            for name in checkpoint.names() {
                let shape = checkpoint.info(name).map(|info| info.shape.clone()).unwrap_or_default();
                drop(checkpoint.tensor_f32(name, &shape));
            }
        }
    }
}
