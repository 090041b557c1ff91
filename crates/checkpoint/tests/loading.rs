//! What tensors become: values, dtypes, block scales with partial blocks, stacks, and the bookkeeping around them.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::{Arc, Mutex};

use checkpoint::{Checkpoint, Dtype, LoadProgress};
use kernels::{DType, e4m3_to_f32};
use support::{
    Draft, EXPERTS, Files, GATE_PROJ, SHARD_1, bf16_bytes, draft, e4m3_bytes, edit_json, f32_bytes, load,
    ramp, safetensors, sound, v3_config, write,
};

fn single(tensors: &[Draft]) -> Checkpoint {
    let bytes = safetensors(tensors).leak();
    Checkpoint::from_parts(v3_config().to_string().as_bytes(), bytes).unwrap()
}

fn open(files: &Files) -> (tempfile::TempDir, Checkpoint) {
    let dir = tempfile::tempdir().unwrap();
    write(files, dir.path());
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    (dir, checkpoint)
}

#[test]
fn stored_dtypes_are_kept_and_values_exact() {
    let (_dir, checkpoint) = open(&sound());
    for (prefix, dtype) in [("model.embed_tokens", DType::BF16), ("lm_head", DType::F16)] {
        let weight = checkpoint.weight(prefix, [16, 8]).unwrap();
        assert_eq!((weight.dtype(), weight.to_vec_f32()), (dtype, ramp(128)));
        let widened = checkpoint.tensor_f32(&format!("{prefix}.weight"), &[16, 8]).unwrap();
        assert_eq!((widened.dtype(), widened.to_vec_f32()), (DType::F32, ramp(128)));
    }
    assert_eq!(checkpoint.tensor_f32("model.norm.weight", &[8]).unwrap().to_vec_f32(), ramp(8));
    assert_eq!(checkpoint.generation_config().temperature, Some(0.6));
    assert_eq!(checkpoint.info("hash_table").unwrap().dtype, Dtype::I64);
    assert_eq!(checkpoint.bytes("hash_table").unwrap(), [0; 16]);
}

/// Plain loops over the definition: element (r, c) times scale (r / 4, c / 8).
fn dequantised(bytes: &[u8], [n, k]: [usize; 2], scales: &[f32]) -> Vec<f32> {
    let scale_cols = k.div_ceil(8);
    let mut values = vec![];
    for r in 0..n {
        for c in 0..k {
            values.push(e4m3_to_f32(bytes[r * k + c]) * scales[r / 4 * scale_cols + c / 8]);
        }
    }
    values
}

#[test]
fn fp8_blocks_may_be_partial_in_both_directions() {
    let (_dir, checkpoint) = open(&sound());
    let weight = checkpoint.weight(GATE_PROJ, [6, 10]).unwrap();
    let expected = dequantised(&e4m3_bytes(60), [6, 10], &[0.5, 1.0, 2.0, 4.0]);
    assert_eq!(weight.dtype(), DType::F8E4M3);
    assert_eq!(weight.to_vec_f32(), expected);
    let widened = checkpoint.tensor_f32(&format!("{GATE_PROJ}.weight"), &[6, 10]).unwrap();
    assert_eq!(widened.to_vec_f32(), expected);
}

#[test]
fn scales_come_as_f32_bf16_or_e8m0_under_either_name() {
    let scales = [0.5, 2.0, 4.0, 8.0, 1.0, 0.25];
    let e8m0 = vec![126, 128, 129, 130, 127, 125];
    for (suffix, dtype, bytes) in [
        ("weight_scale_inv", "F32", f32_bytes(&scales)),
        ("weight_scale_inv", "BF16", bf16_bytes(&scales)),
        ("scale", "F8_E8M0", e8m0),
    ] {
        let checkpoint = single(&[
            draft("a.weight", "F8_E4M3", &[9, 16], e4m3_bytes(144)),
            draft(&format!("a.{suffix}"), dtype, &[3, 2], bytes),
        ]);
        let weight = checkpoint.weight("a", [9, 16]).unwrap();
        assert_eq!(weight.to_vec_f32(), dequantised(&e4m3_bytes(144), [9, 16], &scales), "{suffix} {dtype}");
        assert!(checkpoint.unused().is_empty());
    }
}

#[test]
fn experts_stack_in_the_order_of_their_names() {
    let (_dir, checkpoint) = open(&sound());
    let [first, second] = EXPERTS.map(str::to_owned);
    let one = dequantised(&e4m3_bytes(32), [4, 8], &[0.25]);
    let two = dequantised(&e4m3_bytes(64)[32..], [4, 8], &[8.0]);
    let stack = checkpoint.stacked_weight(&[second, first], [4, 8]).unwrap();
    assert_eq!((stack.num_experts(), stack.rows(), stack.cols()), (2, 4, 8));
    assert_eq!(stack.to_vec_f32(), [two, one].concat());
    assert!(checkpoint.stacked_weight(&[], [4, 8]).is_err());
}

/// Two chunks and a bit, so that offsets of later chunks count.
#[test]
fn large_tensors_are_read_in_parallel_chunks() {
    let (rows, cols) = (2049, 1031);
    let values = ramp(rows * cols);
    let tensor = draft("a.weight", "BF16", &[rows, cols], bf16_bytes(&values));
    let files = Files::from([
        ("config.json".to_owned(), v3_config().to_string().into_bytes()),
        ("model.safetensors".to_owned(), safetensors(&[tensor])),
    ]);
    let (_dir, checkpoint) = open(&files);
    assert_eq!(checkpoint.weight("a", [rows, cols]).unwrap().to_vec_f32(), values);
    assert_eq!(checkpoint.tensor_f32("a.weight", &[rows, cols]).unwrap().to_vec_f32(), values);
    assert_eq!(checkpoint.file_bytes(), files["model.safetensors"].len() as u64);
}

#[test]
fn a_bad_value_in_a_late_chunk_has_its_own_index() {
    let mut bytes = vec![0x38; 3 << 20];
    bytes[2_500_000] = 0xFF;
    let checkpoint = single(&[
        draft("a.weight", "F8_E4M3", &[3, 1 << 20], bytes),
        draft("a.scale", "F32", &[1, 1 << 17], f32_bytes(&vec![1.0; 1 << 17])),
    ]);
    let error = checkpoint.weight("a", [3, 1 << 20]).unwrap_err().to_string();
    assert!(error.contains("NaN at index 2500000"), "{error}");
}

#[test]
fn one_file_or_several_without_an_index() {
    let mut files = sound();
    files.remove(support::INDEX);
    let dir = tempfile::tempdir().unwrap();
    write(&files, dir.path());
    load(dir.path()).unwrap();
    // A lone model.safetensors wins over anything else that lies beside it.
    files.insert("model.safetensors".to_owned(), safetensors(&[draft("x", "F32", &[1], f32_bytes(&[3.0]))]));
    let (_dir, checkpoint) = open(&files);
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["x"]);
}

#[test]
fn progress_counts_each_tensor_once() {
    let (_dir, checkpoint) = open(&sound());
    let reports = Arc::new(Mutex::new(Vec::<LoadProgress>::new()));
    let sink = Arc::clone(&reports);
    let checkpoint = checkpoint.with_progress(move |progress| sink.lock().unwrap().push(progress));
    assert_eq!(checkpoint.unused().len(), checkpoint.names().count());
    checkpoint.weight(GATE_PROJ, [6, 10]).unwrap();
    checkpoint.weight(GATE_PROJ, [6, 10]).unwrap();
    let reports = reports.lock().unwrap();
    assert_eq!(reports.iter().map(|r| r.tensors_done).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(reports[1].bytes_done, 60 + 16);
    assert_eq!(reports[1].tensors_total, 11);
    assert!(!checkpoint.unused().contains(&"model.layers.0.mlp.gate_proj.weight_scale_inv"));
}

#[test]
fn generation_config_is_optional_but_checked() {
    let mut files = sound();
    edit_json(&mut files, "generation_config.json", |c| c["top_p"] = serde_json::json!(1.5));
    let dir = tempfile::tempdir().unwrap();
    write(&files, dir.path());
    let error = Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("generation_config.json: top_p") && error.contains("found 1.5"), "{error}");
    files.remove("generation_config.json");
    let (_dir, checkpoint) = open(&files);
    assert_eq!(checkpoint.generation_config().top_p, None);
    assert!(files.contains_key(SHARD_1));
}
