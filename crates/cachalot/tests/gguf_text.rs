//! GGUF models from text to text, with the vocabulary and the template of their metadata. Catches: a vocabulary that is
//! looked for beside the file, ids of another prompt format, a path that only some of the doors take.

#![allow(clippy::unwrap_used, clippy::result_large_err, reason = "a test may panic, and is in no hurry")]

use std::path::{Path, PathBuf};
use std::process::Command;

use cachalot::{
    DeviceChoice, DeviceOptions, GenerateOptions, Input, LanguageModel, LoadOptions, ModelSource,
};
use serde_json::Value;
use testkit::{Fixture, GGUF_FIXTURES};
use text::{ChatRequest, SpecialTokens};

fn dir(name: &str) -> PathBuf {
    Fixture::open(&format!("gguf/{name}")).dir().to_path_buf()
}

fn load(path: PathBuf) -> LanguageModel {
    let device = DeviceOptions { choice: DeviceChoice::Cpu, ..DeviceOptions::default() };
    let options = LoadOptions { device, ..LoadOptions::default() };
    LanguageModel::load(ModelSource::Path(path), options).unwrap()
}

fn continued(model: &LanguageModel, text: &str) -> cachalot::Output {
    let options = GenerateOptions { max_tokens: Some(12), ignore_eos: true, ..GenerateOptions::greedy() };
    model.generate(Input::Raw(text.to_owned()), &options).unwrap()
}

#[test]
fn every_file_continues_text() {
    for name in GGUF_FIXTURES {
        let model = load(dir(name));
        let output = continued(&model, "The number 42 is");
        assert_eq!(output.tokens.len(), 12, "{name}");
        assert_eq!(output.text, model.tokenizer().decode(&output.tokens, SpecialTokens::Skip), "{name}");
        assert!(model.unknown_tensors().is_empty(), "{name}: {:?}", model.unknown_tensors());
    }
}

/// The rendered conversations of the reference library's template, and the ids of its tokenizer.
#[test]
fn conversations_are_written_by_the_template_inside() {
    for (name, goldens) in [("llama-Q3_K_M", "llama"), ("qwen2-Q4_0", "qwen2"), ("v2lite-Q4_1", "v2lite")] {
        let model = load(dir(name));
        let path = format!("../text/tests/data/gguf/{goldens}.json");
        let bytes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
        let golden: Value = serde_json::from_slice(&bytes).unwrap();
        let chats = golden["golden"]["chat"].as_array().unwrap();
        assert_eq!(chats.len(), 3);
        for chat in chats {
            let request: ChatRequest = serde_json::from_value(chat.clone()).unwrap();
            let ids: Vec<u32> = serde_json::from_value(chat["ids"].clone()).unwrap();
            assert_eq!(model.encode(request, &GenerateOptions::default()).unwrap(), ids, "{name}");
        }
    }
}

#[test]
fn a_file_and_any_part_of_one_are_models() {
    let parts = dir("v2lite_s-SPLIT");
    let whole = continued(&load(parts.clone()), "One and");
    let part = continued(&load(parts.join("model-00003-of-00003.gguf")), "One and");
    assert_eq!((part.tokens, part.text), (whole.tokens, whole.text));
}

#[test]
fn the_binary_takes_a_file() {
    let file = dir("qwen2-Q4_0").join("model.gguf");
    let cachalot = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cachalot"));
        let output = command.args(args).env("CACHALOT_DEVICE", "cpu").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let path = file.to_str().unwrap();
    let said = cachalot(&["run", "--raw", "--temperature", "0", "--max-tokens", "12", path, "12 + 30"]);
    let model = load(file.clone());
    let options = GenerateOptions { max_tokens: Some(12), ..GenerateOptions::greedy() };
    let output = model.generate(Input::Raw("12 + 30".to_owned()), &options).unwrap();
    assert_eq!(said.trim_end_matches('\n'), output.text.trim_end_matches('\n'));
    let inspection: Value = serde_json::from_str(&cachalot(&["inspect", "--json", path])).unwrap();
    assert_eq!(inspection["model_type"], "qwen2");
    assert!(inspection["weight_bytes_by_dtype"]["Q4_0"].as_u64().unwrap() > 0, "{inspection}");
    assert!(!inspection["prompt_format"].is_null(), "{inspection}");
    let report: Value = serde_json::from_str(&cachalot(&["verify", "--json", path])).unwrap();
    assert_eq!(report["outcome"], "pass", "{report}");
    // Another model's file finds no goldens beside it.
    let lonely = tempfile::tempdir().unwrap();
    let copy = lonely.path().join("model.gguf");
    std::fs::copy(&file, &copy).unwrap();
    let refused = || {
        let verify = Command::new(env!("CARGO_BIN_EXE_cachalot")).arg("verify").arg(&copy).output().unwrap();
        assert_eq!(verify.status.code(), Some(1));
        String::from_utf8(verify.stderr).unwrap()
    };
    let message = refused();
    assert!(message.contains("golden.safetensors"), "{message}");
    // A damaged one says that before.
    let len = std::fs::metadata(&copy).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&copy).unwrap().set_len(len - 100).unwrap();
    let message = refused();
    assert!(message.contains("model.gguf: tensor `") && message.contains("found"), "{message}");
}
