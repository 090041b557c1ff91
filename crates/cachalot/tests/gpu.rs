//! Whole models on a GPU: the software device, with the engine's own kernels behind an unmodified driver client, or the
//! machine's own with `CACHALOT_TEST_GPU=1`.

#![allow(clippy::unwrap_used, clippy::result_large_err, reason = "a test may panic, and is in no hurry")]

use cachalot::verify::{Outcome, Report, VerifyOptions, verify_checkpoint};
use cachalot::{
    DeviceChoice, DeviceOptions, GenerateOptions, LanguageModel, LoadOptions, ModelSource, Precision,
};
use testkit::{Fixture, soft_gpu};

fn gpu(precision: Precision) -> DeviceOptions {
    DeviceOptions { choice: DeviceChoice::Cuda(0), precision, ..DeviceOptions::default() }
}

fn verify(name: &str, options: &VerifyOptions) -> Report {
    verify_checkpoint(Fixture::open(name).dir(), options, &mut |_| {}).unwrap()
}

/// Single precision on the GPU is held to the same tolerances as the CPU: the same kernels as in bf16, with other
/// operands.
#[test]
fn every_fixture_holds_in_single_precision() {
    let _gpu = soft_gpu();
    for fixture in Fixture::all() {
        let options = VerifyOptions { device: gpu(Precision::F32), ..Default::default() };
        let report = verify(fixture.name(), &options);
        assert_eq!(report.outcome(), Outcome::Pass, "{}\n{report}", fixture.name());
    }
}

#[test]
fn chunks_hold_in_single_precision() {
    let _gpu = soft_gpu();
    for name in ["deepseek_v3_mtp", "deepseek_v32", "deepseek_v4_smallhca", "llama3_distill"] {
        let options = VerifyOptions { chunk: Some(7), device: gpu(Precision::F32), ..Default::default() };
        let report = verify(name, &options);
        assert_eq!(report.outcome(), Outcome::Pass, "{name}\n{report}");
    }
}

/// At load MXFP4 becomes FP4, and ggml's other blocks become floats.
#[test]
fn blocks_of_ggml_hold_in_single_precision() {
    let _gpu = soft_gpu();
    for name in ["gguf/v2lite-MXFP4_MOE", "gguf/llama-Q3_K_M"] {
        let report = verify(name, &VerifyOptions { device: gpu(Precision::F32), ..Default::default() });
        assert_eq!(report.outcome(), Outcome::Pass, "{name}\n{report}");
    }
}

#[test]
fn the_demo_model_says_the_same_in_bf16() {
    let _gpu = soft_gpu();
    let say = |device: DeviceOptions| {
        let options = LoadOptions { device, context_len: Some(256), max_sequences: 1, ..Default::default() };
        let model = LanguageModel::load(ModelSource::Embedded, options).unwrap();
        let options = GenerateOptions { max_tokens: Some(24), ..GenerateOptions::greedy() };
        model.generate("What is 128 + 256?", &options).unwrap().text
    };
    let cpu = DeviceOptions { choice: DeviceChoice::Cpu, ..Default::default() };
    assert_eq!(say(gpu(Precision::Bf16)), say(cpu));
}
