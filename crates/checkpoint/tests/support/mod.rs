//! Writes small checkpoints: a directory is a map of file names to bytes, so that a test can damage any part of it.

// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::path::Path;

use checkpoint::{Checkpoint, CheckpointError};
use serde_json::{Map, Value, json};

/// The files of a model directory.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// First and second shard of [`sound`].
pub(crate) const SHARD_1: &str = "model-00001-of-00002.safetensors";
pub(crate) const SHARD_2: &str = "model-00002-of-00002.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// A tensor to be written.
pub(crate) struct Draft {
    pub(crate) name: String,
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn draft(name: &str, dtype: &'static str, shape: &[usize], bytes: Vec<u8>) -> Draft {
    Draft { name: name.to_owned(), dtype, shape: shape.to_vec(), bytes }
}

pub(crate) fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

pub(crate) fn bf16_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect()
}

pub(crate) fn f16_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect()
}

/// `count` different small numbers that every float format here holds exactly.
pub(crate) fn ramp(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i % 13) as f32 * 0.25 - 1.5).collect()
}

/// `count` e4m3 bytes without NaN.
pub(crate) fn e4m3_bytes(count: usize) -> Vec<u8> {
    (0..count).map(|i| ((i * 7 + 3) % 0x70) as u8 | if i % 3 == 0 { 0x80 } else { 0 }).collect()
}

/// A safetensors file.
pub(crate) fn safetensors(tensors: &[Draft]) -> Vec<u8> {
    let mut header = Map::new();
    let mut data = Vec::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    for tensor in tensors {
        let begin = data.len();
        data.extend(&tensor.bytes);
        let offsets = [begin, data.len()];
        header.insert(
            tensor.name.clone(),
            json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets}),
        );
    }
    with_header(&Value::Object(header).to_string(), &data)
}

/// A safetensors file with this header text.
pub(crate) fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

/// Header text and data of a safetensors file.
pub(crate) fn split(file: &[u8]) -> (String, Vec<u8>) {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    (String::from_utf8(file[8..8 + length].to_vec()).unwrap(), file[8 + length..].to_vec())
}

/// Rewrites the header of one file.
pub(crate) fn edit_header(files: &mut Files, file: &str, edit: impl FnOnce(&mut Value)) {
    let (header, data) = split(&files[file]);
    let mut header = serde_json::from_str(&header).unwrap();
    edit(&mut header);
    files.insert(file.to_owned(), with_header(&header.to_string(), &data));
}

/// Rewrites a JSON file.
pub(crate) fn edit_json(files: &mut Files, file: &str, edit: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&files[file]).unwrap();
    edit(&mut value);
    files.insert(file.to_owned(), value.to_string().into_bytes());
}

/// Where the bytes of `tensor` lie in `file`.
pub(crate) fn position(files: &Files, file: &str, tensor: &str) -> usize {
    let (header, data) = split(&files[file]);
    let header: Value = serde_json::from_str(&header).unwrap();
    let begin = header[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
    files[file].len() - data.len() + begin
}

/// A `config.json` of a tiny V3 with FP8 blocks of 4x8.
pub(crate) fn v3_config() -> Value {
    serde_json::from_str(include_str!("v3_config.json")).unwrap()
}

pub(crate) const EXPERTS: [&str; 2] =
    ["model.layers.1.mlp.experts.0.up_proj", "model.layers.1.mlp.experts.1.up_proj"];
pub(crate) const GATE_PROJ: &str = "model.layers.0.mlp.gate_proj";
pub(crate) const BIAS: &str = "model.layers.1.mlp.gate.e_score_correction_bias";

/// A sound checkpoint of two shards with an index: every dtype that a layer reads, partial FP8 blocks included.
pub(crate) fn sound() -> Files {
    let first = [
        draft("model.embed_tokens.weight", "BF16", &[16, 8], bf16_bytes(&ramp(128))),
        draft("model.norm.weight", "F32", &[8], f32_bytes(&ramp(8))),
        draft("lm_head.weight", "F16", &[16, 8], f16_bytes(&ramp(128))),
    ];
    let mut second = vec![
        draft(&format!("{GATE_PROJ}.weight"), "F8_E4M3", &[6, 10], e4m3_bytes(60)),
        draft(&format!("{GATE_PROJ}.weight_scale_inv"), "F32", &[2, 2], f32_bytes(&[0.5, 1.0, 2.0, 4.0])),
        draft(BIAS, "F32", &[4], f32_bytes(&ramp(4))),
        draft("hash_table", "I64", &[2], vec![0; 16]),
    ];
    for (index, (expert, scale)) in EXPERTS.iter().zip([0.25, 8.0]).enumerate() {
        let bytes = e4m3_bytes(64)[index * 32..][..32].to_vec();
        second.push(draft(&format!("{expert}.weight"), "F8_E4M3", &[4, 8], bytes));
        second.push(draft(&format!("{expert}.weight_scale_inv"), "F32", &[1, 1], f32_bytes(&[scale])));
    }
    let mut weight_map = Map::new();
    for (file, tensors) in [(SHARD_1, first.as_slice()), (SHARD_2, second.as_slice())] {
        weight_map.extend(tensors.iter().map(|tensor| (tensor.name.clone(), json!(file))));
    }
    Files::from([
        ("config.json".to_owned(), v3_config().to_string().into_bytes()),
        ("generation_config.json".to_owned(), br#"{"temperature": 0.6, "top_p": 0.95}"#.to_vec()),
        (SHARD_1.to_owned(), safetensors(&first)),
        (SHARD_2.to_owned(), safetensors(&second)),
        (INDEX.to_owned(), json!({"metadata": {}, "weight_map": weight_map}).to_string().into_bytes()),
    ])
}

/// Writes `files` into `dir`.
pub(crate) fn write(files: &Files, dir: &Path) {
    for (name, bytes) in files {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
}

/// Opens `dir` and reads what a model made of [`sound`] would read.
pub(crate) fn load(dir: &Path) -> Result<Checkpoint, CheckpointError> {
    let checkpoint = Checkpoint::open(dir)?;
    checkpoint.weight("model.embed_tokens", [16, 8])?;
    checkpoint.tensor_f32("model.norm.weight", &[8])?;
    checkpoint.weight("lm_head", [16, 8])?;
    checkpoint.weight(GATE_PROJ, [6, 10])?;
    checkpoint.tensor_f32(BIAS, &[4])?;
    checkpoint.stacked_weight(&EXPERTS.map(str::to_owned), [4, 8])?;
    Ok(checkpoint)
}
