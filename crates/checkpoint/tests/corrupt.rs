//! Damaged checkpoints: one corruption per row, each with an error that names the file, the tensor or key, what was
//! expected and what was found.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::{
    BIAS, EXPERTS, Files, GATE_PROJ, INDEX, SHARD_1, SHARD_2, edit_header, edit_json, f32_bytes, load,
    position, sound, split, with_header, write,
};

type Row = (&'static str, fn(&mut Files), &'static [&'static str]);

const NORM: &str = "model.norm.weight";
const SCALE: &str = "model.layers.0.mlp.gate_proj.weight_scale_inv";

fn header(files: &mut Files, file: &str, edit: impl FnOnce(&mut Value)) {
    edit_header(files, file, edit);
}

fn truncate(files: &mut Files, length: fn(usize) -> usize) {
    let bytes = files.get_mut(SHARD_1).unwrap();
    bytes.truncate(length(bytes.len()));
}

fn poke(files: &mut Files, file: &str, tensor: &str, at: usize, bytes: &[u8]) {
    let start = position(files, file, tensor) + at;
    files.get_mut(file).unwrap()[start..start + bytes.len()].copy_from_slice(bytes);
}

fn config(files: &mut Files, key: &str, value: Value) {
    edit_json(files, "config.json", |config| config[key] = value);
}

const FILE_ROWS: &[Row] = &[
    (
        "shard cut in its data",
        |f| truncate(f, |length| length - 5),
        &[SHARD_1, "lm_head.weight", "an end within the 539 data bytes", "cut off"],
    ),
    (
        "shard cut in its header",
        |f| truncate(f, |_| 60),
        &[SHARD_1, "header length", "at most the 52 bytes that follow"],
    ),
    ("shard cut in its length", |f| truncate(f, |_| 5), &[SHARD_1, "at least 8 bytes", "found 5 bytes"]),
    ("empty shard", |f| drop(f.insert(SHARD_1.into(), vec![])), &[SHARD_1, "file size", "found 0 bytes"]),
    (
        "absurd header length",
        |f| f.get_mut(SHARD_2).unwrap()[..8].copy_from_slice(&u64::MAX.to_le_bytes()),
        &[SHARD_2, "header length", "at most 100000000 bytes", "18446744073709551615"],
    ),
    ("header is not UTF-8", |f| f.get_mut(SHARD_2).unwrap()[9] = 0xFF, &[SHARD_2, "header", "UTF-8"]),
    (
        "header is not JSON",
        |f| f.get_mut(SHARD_2).unwrap()[8] = b'x',
        &[SHARD_2, "JSON object", "line 1 column 1"],
    ),
    (
        "header is a list",
        |f| drop(f.insert(SHARD_2.into(), with_header("[1]", b""))),
        &[SHARD_2, "JSON object"],
    ),
    (
        "bytes after the data",
        |f| f.get_mut(SHARD_1).unwrap().extend([0; 3]),
        &[SHARD_1, "data: expected 544 bytes, where `lm_head.weight` ends", "found 547 bytes"],
    ),
    (
        "shard missing",
        |f| drop(f.remove(SHARD_2)),
        &[SHARD_2, "a shard with 8 tensors", INDEX, "no such file"],
    ),
    (
        "shard missing without an index",
        |f| {
            f.remove(SHARD_2);
            f.remove(INDEX);
        },
        &[SHARD_2, "2 shards", SHARD_1, "no such file"],
    ),
    (
        "no weights",
        |f| f.retain(|name, _| name == "config.json"),
        &["model.safetensors is missing", "config.json"],
    ),
    (
        "only pickles",
        |f| {
            f.retain(|n, _| n == "config.json");
            f.insert("pytorch_model.bin".into(), vec![1]);
        },
        &["model.safetensors is missing", "pickled .bin and .pt files are not read", "pytorch_model.bin"],
    ),
    ("no config", |f| drop(f.remove("config.json")), &["cannot read", "config.json", "No such file"]),
    ("index is not JSON", |f| drop(f.insert(INDEX.into(), b"{".to_vec())), &[INDEX, "valid JSON", "EOF"]),
    (
        "index without a map",
        |f| drop(f.insert(INDEX.into(), b"{}".to_vec())),
        &[INDEX, "weight_map", "found nothing"],
    ),
    (
        "index with an empty map",
        |f| edit_json(f, INDEX, |i| i["weight_map"] = json!({})),
        &[INDEX, "at least one tensor"],
    ),
    (
        "index leaves the directory",
        |f| edit_json(f, INDEX, |i| i["weight_map"][NORM] = json!("../a.safetensors")),
        &[INDEX, "weight_map.model.norm.weight", "in this directory", "../a.safetensors"],
    ),
    (
        "index is absolute",
        |f| edit_json(f, INDEX, |i| i["weight_map"][NORM] = json!("/a.safetensors")),
        &[INDEX, "in this directory", "/a.safetensors"],
    ),
    (
        "index names a pickle",
        |f| edit_json(f, INDEX, |i| i["weight_map"][NORM] = json!("model.bin")),
        &[INDEX, ".safetensors", "model.bin"],
    ),
    (
        "index names a file by number",
        |f| edit_json(f, INDEX, |i| i["weight_map"][NORM] = json!(7)),
        &[INDEX, "found 7"],
    ),
    (
        "index names a tensor that nobody has",
        |f| edit_json(f, INDEX, |i| i["weight_map"]["ghost"] = json!(SHARD_1)),
        &[SHARD_1, "`ghost`", INDEX, "found none"],
    ),
    (
        "index names the wrong shard",
        |f| edit_json(f, INDEX, |i| i["weight_map"][NORM] = json!(SHARD_2)),
        &[SHARD_2, NORM, INDEX, "it in model-00001-of-00002"],
    ),
    (
        "a tensor in two shards",
        |f| {
            let copy = f[SHARD_1].clone();
            f.insert(SHARD_2.into(), copy);
        },
        &[SHARD_2, "one copy", SHARD_1, "a second copy"],
    ),
];

const HEADER_ROWS: &[Row] = &[
    (
        "begin after end",
        |f| header(f, SHARD_1, |h| h[NORM]["data_offsets"] = json!([288, 256])),
        &[SHARD_1, NORM, "begin <= end", "[288, 256]"],
    ),
    (
        "offsets outside the file",
        |f| {
            header(f, SHARD_1, |h| {
                h["lm_head.weight"]["data_offsets"] = json!([1_000_000, 1_000_256]);
            });
        },
        &[SHARD_1, "lm_head.weight", "within the 544 data bytes", "[1000000, 1000256]"],
    ),
    (
        "overlap",
        |f| header(f, SHARD_1, |h| h[NORM]["data_offsets"] = json!([252, 284])),
        &[SHARD_1, NORM, "a begin of 256, where `model.embed_tokens.weight` ends", "an overlap"],
    ),
    (
        "hole",
        |f| {
            let (text, mut data) = split(&f[SHARD_1]);
            let mut h: Value = serde_json::from_str(&text).unwrap();
            h["lm_head.weight"]["data_offsets"] = json!([292, 548]);
            data.extend([0; 4]);
            f.insert(SHARD_1.into(), with_header(&h.to_string(), &data));
        },
        &[SHARD_1, "lm_head.weight", "a begin of 288, where `model.norm.weight` ends", "a hole"],
    ),
    (
        "size is not shape times dtype",
        |f| header(f, SHARD_1, |h| h[NORM]["shape"] = json!([9])),
        &[SHARD_1, NORM, "36 bytes for [9] of F32", "32 bytes"],
    ),
    (
        "dtype of another width",
        |f| header(f, SHARD_1, |h| h[NORM]["dtype"] = json!("F64")),
        &[SHARD_1, NORM, "64 bytes for [8] of F64", "32 bytes"],
    ),
    (
        "shape overflows",
        |f| header(f, SHARD_1, |h| h[NORM]["shape"] = json!([1u64 << 40, 1u64 << 40])),
        &[SHARD_1, NORM, "a size that fits the address space", "1099511627776"],
    ),
    (
        "negative dimension",
        |f| header(f, SHARD_1, |h| h[NORM]["shape"] = json!([-8])),
        &[SHARD_1, NORM, "-8"],
    ),
    (
        "unknown dtype",
        |f| header(f, SHARD_1, |h| h[NORM]["dtype"] = json!("F12")),
        &[SHARD_1, NORM, "a safetensors dtype", "\"F12\""],
    ),
    (
        "entry without offsets",
        |f| {
            header(f, SHARD_1, |h| {
                h[NORM].as_object_mut().unwrap().remove("data_offsets");
            });
        },
        &[SHARD_1, NORM, "data_offsets"],
    ),
    (
        "name twice in one header",
        |f| {
            let (text, data) = split(&f[SHARD_1]);
            let twice = text.replace("\"lm_head.weight\"", "\"model.norm.weight\"");
            f.insert(SHARD_1.into(), with_header(&twice, &data));
        },
        &[SHARD_1, NORM, "one per name", "a second one"],
    ),
];

const TENSOR_ROWS: &[Row] = &[
    (
        "missing tensor",
        |f| {
            rename(f, NORM, "model.other");
        },
        &[NORM, "2 safetensors files", "a tensor of this name"],
    ),
    (
        "wrong shape",
        |f| header(f, SHARD_1, |h| h[NORM]["shape"] = json!([2, 4])),
        &[SHARD_1, NORM, "shape", "expected [8]", "found [2, 4]"],
    ),
    (
        "integers where floats belong",
        |f| header(f, SHARD_1, |h| h[NORM]["dtype"] = json!("I32")),
        &[SHARD_1, NORM, "a float", "I32"],
    ),
    (
        "integers where a weight belongs",
        |f| header(f, SHARD_1, |h| h["lm_head.weight"]["dtype"] = json!("I16")),
        &[SHARD_1, "lm_head.weight", "F32, F16, BF16, F8_E4M3 or I8 (FP4)", "I16"],
    ),
    (
        "missing scale",
        |f| {
            rename(f, SCALE, "elsewhere");
        },
        &[SHARD_2, "gate_proj.weight`", "gate_proj.weight_scale_inv` or", "found neither"],
    ),
    (
        "transposed scale",
        |f| {
            header(f, SHARD_2, |h| h[SCALE]["shape"] = json!([4, 1]));
        },
        &[SHARD_2, SCALE, "[2, 2] for a weight of [6, 10] in blocks of 4x8", "[4, 1]"],
    ),
    (
        "flat scale",
        |f| header(f, SHARD_2, |h| h[SCALE]["shape"] = json!([4])),
        &[SHARD_2, SCALE, "[2, 2]", "[4]"],
    ),
    (
        "scale of integers",
        |f| header(f, SHARD_2, |h| h[SCALE]["dtype"] = json!("I32")),
        &[SHARD_2, SCALE, "F32, BF16 or F8_E8M0", "I32"],
    ),
    (
        "NaN scale",
        |f| poke(f, SHARD_2, SCALE, 4, &f32_bytes(&[f32::NAN])),
        &[SHARD_2, SCALE, "positive", "NaN in block [0, 1]"],
    ),
    (
        "infinite scale",
        |f| poke(f, SHARD_2, SCALE, 8, &f32_bytes(&[f32::INFINITY])),
        &[SCALE, "inf in block [1, 0]"],
    ),
    ("negative scale", |f| poke(f, SHARD_2, SCALE, 12, &f32_bytes(&[-1.0])), &[SCALE, "-1 in block [1, 1]"]),
    ("zero scale", |f| poke(f, SHARD_2, SCALE, 0, &f32_bytes(&[0.0])), &[SCALE, "0 in block [0, 0]"]),
    (
        "NaN in FP8 data",
        |f| poke(f, SHARD_2, &format!("{GATE_PROJ}.weight"), 17, &[0x7F]),
        &[SHARD_2, "gate_proj.weight", "finite numbers", "NaN at index 17"],
    ),
    (
        "negative NaN in an FP8 expert",
        |f| poke(f, SHARD_2, &format!("{}.weight", EXPERTS[1]), 31, &[0xFF]),
        &[SHARD_2, "experts.1.up_proj.weight", "NaN at index 31"],
    ),
    (
        "infinity in a bias",
        |f| poke(f, SHARD_2, BIAS, 4, &f32_bytes(&[f32::NEG_INFINITY])),
        &[BIAS, "-inf at index 1"],
    ),
    (
        "NaN in BF16 data",
        |f| poke(f, SHARD_1, "model.embed_tokens.weight", 20, &[0xC0, 0x7F]),
        &[SHARD_1, "model.embed_tokens.weight", "NaN at index 10"],
    ),
    (
        "FP8 without a quantisation config",
        |f| config(f, "quantization_config", Value::Null),
        &[SHARD_2, "gate_proj.weight", "other than F8_E4M3", "config.json has no quantization_config"],
    ),
    (
        "block size of another model",
        |f| {
            edit_json(f, "config.json", |c| c["quantization_config"]["weight_block_size"] = json!([4, 4]));
        },
        &[SHARD_2, SCALE, "[2, 3] for a weight of [6, 10] in blocks of 4x4", "[2, 2]"],
    ),
    (
        "experts of two dtypes",
        |f| header(f, SHARD_2, |h| h[format!("{}.weight", EXPERTS[1])]["dtype"] = json!("U8")),
        &["experts.1.up_proj.weight", "F8_E4M3, as `model.layers.1.mlp.experts.0.up_proj.weight` has", "U8"],
    ),
    (
        "FP4 without exponents",
        |f| header(f, SHARD_2, |h| h[format!("{}.weight", EXPERTS[1])]["dtype"] = json!("I8")),
        &["experts.1.up_proj.weight", "experts.1.up_proj.scale` beside it, as FP4 has"],
    ),
];

/// Renames a tensor in the shard and in the index.
fn rename(files: &mut Files, from: &str, to: &str) {
    for file in [SHARD_1, SHARD_2] {
        edit_header(files, file, |h| {
            if let Some(entry) = h.as_object_mut().unwrap().remove(from) {
                h[to] = entry;
            }
        });
    }
    edit_json(files, INDEX, |i| {
        let file = i["weight_map"].as_object_mut().unwrap().remove(from).unwrap();
        i["weight_map"][to] = file;
    });
}

#[test]
fn the_sound_checkpoint_loads() {
    let dir = tempfile::tempdir().unwrap();
    write(&sound(), dir.path());
    let checkpoint = load(dir.path()).unwrap();
    assert_eq!(checkpoint.unused(), ["hash_table"]);
}

fn check(rows: &[Row]) {
    for (name, corrupt, fragments) in rows {
        let mut files = sound();
        corrupt(&mut files);
        assert_ne!(files, sound(), "{name}: nothing was corrupted");
        let dir = tempfile::tempdir().unwrap();
        write(&files, dir.path());
        let message = match load(dir.path()) {
            Ok(_) => panic!("{name}: the damaged checkpoint loaded"),
            Err(error) => error.to_string(),
        };
        for fragment in *fragments {
            assert!(message.contains(fragment), "{name}: `{fragment}` is not in: {message}");
        }
    }
}

#[test]
fn damaged_files_are_named() {
    check(FILE_ROWS);
}

#[test]
fn damaged_headers_are_named() {
    check(HEADER_ROWS);
}

#[test]
fn damaged_tensors_are_named() {
    check(TENSOR_ROWS);
}

#[test]
fn there_are_at_least_thirty_corruptions() {
    assert!(FILE_ROWS.len() + HEADER_ROWS.len() + TENSOR_ROWS.len() >= 50);
}
