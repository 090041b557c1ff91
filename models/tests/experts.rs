//! Routed experts re-quantised to INT8 at load. Catches: projections exchanged, experts out of order, a scale of
//! another expert, a report that is not of what was loaded, `Auto` that takes what it must not.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use checkpoint::Checkpoint;
use comm::Solo;
use kernels::ops::Int8Scales;
use kernels::{DType, Device};
use models::{ExpertFormat, Footprint, Model, ModelOptions, int8_report, load_with};
use support::{argmax, load, prompt_logits};
use testkit::Fixture;

fn load_as(checkpoint: &Checkpoint, experts: ExpertFormat) -> Box<dyn Model> {
    let options = ModelOptions { experts, ..Default::default() };
    load_with(checkpoint, &Device::Cpu, Arc::new(Solo), options, &mut |_| {}).unwrap()
}

/// Root mean square of the distances, relative to that of `want`.
fn relative_rms(got: &[f32], want: &[f32]) -> f64 {
    let square = |v: f32| f64::from(v) * f64::from(v);
    let distance: f64 = got.iter().zip(want).map(|(g, w)| square(g - w)).sum();
    (distance / want.iter().map(|w| square(*w)).sum::<f64>()).sqrt()
}

#[test]
fn int8_experts_answer_nearly_as_before() {
    for name in
        ["deepseek_v2_lite", "deepseek_moe_v1", "deepseek_v3_bf16", "deepseek_v3_fp8", "deepseek_v3_mtp"]
    {
        let fixture = Fixture::open(name);
        let (stored, int8) = (load(&fixture), load_as(&fixture.checkpoint(), ExpertFormat::Int8));
        let reports = int8.int8_experts();
        assert!(!reports.is_empty() && reports.len().is_multiple_of(3), "{name}: {}", reports.len());
        let worst = reports.iter().map(|r| r.worst().relative_rms).fold(0.0, f32::max);
        assert!(worst > 0.001 && worst < 0.01, "{name}: {worst}");
        if name != "deepseek_v3_fp8" {
            assert!(int8.weight_bytes() < stored.weight_bytes(), "{name}");
        }
        let golden = fixture.golden();
        let tokens = golden.u32s("p33.ids");
        let (want, got) = (prompt_logits(&*stored, &tokens), prompt_logits(&*int8, &tokens));
        // A choice of experts that was close may flip, and move a few logits further than the rounding does.
        let apart = relative_rms(&got, &want);
        assert!(apart < 0.03 && apart > 1e-5, "{name}: {apart}");
        println!("{name}: experts off by {:.2} %, logits by {:.2} %", 100.0 * worst, 100.0 * apart);
        let vocab = int8.config().common().vocab_size;
        let same = want.chunks(vocab).zip(got.chunks(vocab)).filter(|(a, b)| argmax(a) == argmax(b)).count();
        assert!(same >= 30, "{name}: {same} of 33 positions have the same best token");
    }
}

#[test]
fn what_is_loaded_is_what_the_report_measures() {
    let checkpoint = Fixture::open("deepseek_v3_fp8").checkpoint();
    let model = load_as(&checkpoint, ExpertFormat::Int8);
    let report = int8_report(&checkpoint, Int8Scales::PerRow, &mut |_| {}).unwrap();
    // The report is sorted by name within a layer.
    let mut loaded = model.int8_experts().to_vec();
    loaded.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(loaded, report);
    assert!(report.iter().all(|r| r.errors.len() == 8), "{report:?}");
    let by_block = int8_report(&checkpoint, Int8Scales::PerBlock, &mut |_| {}).unwrap();
    assert_eq!(by_block.len(), report.len());
    assert!(by_block.iter().zip(&report).all(|(a, b)| a.name == b.name && a.errors != b.errors));
}

#[test]
fn auto_takes_quantised_experts_only() {
    for name in ["deepseek_v3", "deepseek_v3_bf16"] {
        let fixture = Fixture::open(name);
        let auto = load_as(&fixture.checkpoint(), ExpertFormat::Auto);
        assert!(auto.int8_experts().is_empty(), "{name}");
        assert_eq!(auto.weight_bytes(), load(&fixture).weight_bytes());
    }
    let checkpoint = Fixture::open("deepseek_v3_fp8").checkpoint();
    let auto = load_as(&checkpoint, ExpertFormat::Auto);
    assert_eq!(auto.int8_experts(), load_as(&checkpoint, ExpertFormat::Int8).int8_experts());
    assert!(!auto.int8_experts().is_empty());
}

/// The last matrix of the only layer with experts: everything that was read before it is read again as stored.
#[test]
fn one_matrix_that_loses_too_much_keeps_its_layer_as_stored() {
    let fixture = Fixture::open("deepseek_v3_fp8");
    let dir = fixture.copy();
    let path = dir.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
    let range = &header["model.layers.1.mlp.experts.7.down_proj.weight"]["data_offsets"];
    let [start, end] = [0, 1].map(|i| 8 + header_len + range[i].as_u64().unwrap() as usize);
    // Rows of 1.75 with one element of 448: a step is 3.5, and all the others become zero.
    for (i, byte) in bytes[start..end].iter_mut().enumerate() {
        *byte = if i % 136 == 0 { 0x7E } else { 0x3E };
    }
    std::fs::write(&path, bytes).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let auto = load_as(&checkpoint, ExpertFormat::Auto);
    assert!(auto.int8_experts().is_empty(), "{:?}", auto.int8_experts());
    let stored = load_as(&checkpoint, ExpertFormat::AsStored);
    assert_eq!(auto.weight_bytes(), stored.weight_bytes());
    assert!(auto.unknown_tensors().is_empty());
    let tokens = fixture.golden().u32s("p7.ids");
    assert_eq!(prompt_logits(&*auto, &tokens), prompt_logits(&*stored, &tokens));
    let forced = load_as(&checkpoint, ExpertFormat::Int8);
    let worst = forced.int8_experts().iter().map(|r| r.worst().relative_rms).fold(0.0, f32::max);
    assert!(worst > 0.03, "{worst}");
}

#[test]
fn ranks_requantise_their_slices() {
    let fixture = Fixture::open("deepseek_v3_fp8");
    let tokens = fixture.golden().u32s("p7.ids");
    let whole = prompt_logits(&*load_as(&fixture.checkpoint(), ExpertFormat::Int8), &tokens);
    let logits = testkit::ranks(2, |comm| {
        let checkpoint = fixture.checkpoint();
        let options = ModelOptions { experts: ExpertFormat::Int8, ..Default::default() };
        let model = load_with(&checkpoint, &Device::Cpu, comm, options, &mut |_| {}).unwrap();
        prompt_logits(&*model, &tokens)
    });
    for rank in logits {
        let apart = relative_rms(&rank, &whole);
        assert!(apart < 0.03, "{apart}");
    }
}

#[test]
fn the_footprint_counts_experts_as_they_are_kept() {
    for (name, experts) in [
        ("deepseek_v3_bf16", ExpertFormat::AsStored),
        ("deepseek_v3_bf16", ExpertFormat::Int8),
        ("deepseek_v3_bf16", ExpertFormat::Auto),
        ("deepseek_v3_fp8", ExpertFormat::Int8),
        ("deepseek_v3_fp8", ExpertFormat::Auto),
    ] {
        let checkpoint = Fixture::open(name).checkpoint();
        let kept = load_as(&checkpoint, experts).weight_bytes() as f64;
        let options = ModelOptions { experts, ..Default::default() };
        let planned =
            Footprint::new(&checkpoint, 1, DType::BF16, 0, 16, options).unwrap().weight_bytes as f64;
        assert!(
            (1.0..1.01).contains(&(planned / kept)),
            "{name} {experts:?}: planned {planned}, kept {kept}"
        );
    }
}
