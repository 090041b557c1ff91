//! Tokenizers from the metadata of GGUF files, against the goldens of the reference library.

#![allow(clippy::unwrap_used, reason = "a test that cannot read its data has to fail")]

mod support;

use serde_json::Value;
use text::{ChatRequest, Error, Generation, GgufVocabulary, PromptFormat, SpecialTokens, Tokenizer};

/// Metadata and goldens of a file under tests/data/gguf.
fn file(name: &str) -> (GgufVocabulary, Value) {
    let json = std::fs::read_to_string(support::data(&format!("gguf/{name}.json"))).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    (vocabulary(&json["metadata"]), json["golden"].clone())
}

fn vocabulary(metadata: &Value) -> GgufVocabulary {
    let id = |key: &str| metadata[key].as_u64().map(|id| u32::try_from(id).unwrap());
    let text = |key: &str| metadata[key].as_str().map(str::to_owned);
    let list = |key: &str| serde_json::from_value(metadata[key].clone()).unwrap();
    GgufVocabulary {
        model: text("ggml.model").unwrap(),
        pre: text("ggml.pre"),
        tokens: list("ggml.tokens"),
        token_types: serde_json::from_value(metadata["ggml.token_type"].clone()).unwrap(),
        merges: list("ggml.merges"),
        bos_token_id: id("ggml.bos_token_id"),
        eos_token_id: id("ggml.eos_token_id"),
        eot_token_id: id("ggml.eot_token_id"),
        padding_token_id: id("ggml.padding_token_id"),
        add_bos_token: metadata["ggml.add_bos_token"].as_bool(),
        chat_template: text("chat_template"),
    }
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn check(name: &str, model_type: &str, generation: Generation) {
    let (vocabulary, golden) = file(name);
    let tokenizer = Tokenizer::from_gguf(&vocabulary).unwrap();
    assert_eq!(tokenizer.vocab_size() as u64, golden["vocab_size"].as_u64().unwrap());
    assert_eq!(tokenizer.bos_id().map(u64::from), golden["bos_token_id"].as_u64());
    assert_eq!(tokenizer.eos_ids(), ids(&serde_json::json!([golden["eos_token_id"]])));
    assert_eq!(tokenizer.config().add_bos_token(), golden["add_bos_token"].as_bool().unwrap());
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 60);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let expected = ids(&case["ids"]);
        let prompt = support::with_controls(&tokenizer, text);
        assert_eq!(tokenizer.encode_prompt(&prompt).unwrap(), expected, "{text:?}");
        assert_eq!(tokenizer.decode(&expected, SpecialTokens::Show), case["decoded"].as_str().unwrap());
        let skipped = case["decoded_skip_special"].as_str().unwrap();
        assert_eq!(tokenizer.decode(&expected, SpecialTokens::Skip), skipped);
    }
    let format = PromptFormat::new(&tokenizer, model_type).unwrap();
    assert_eq!(format.generation(), Some(generation));
    let chats = golden["chat"].as_array().unwrap();
    assert_eq!(chats.len(), 3);
    for chat in chats {
        let request: ChatRequest = serde_json::from_value(chat.clone()).unwrap();
        let prompt = format.render(&request).unwrap();
        assert_eq!(prompt.to_string(), chat["text"].as_str().unwrap());
        assert_eq!(tokenizer.encode_prompt(&prompt).unwrap(), ids(&chat["ids"]));
    }
}

#[test]
fn deepseek_llm() {
    check("v2lite", "deepseek_v2", Generation::R1);
}

#[test]
fn deepseek_v3() {
    check("v3", "deepseek_v3", Generation::R1);
}

#[test]
fn llama_bpe() {
    check("llama", "llama", Generation::DistillLlama);
}

#[test]
fn deepseek_r1_qwen() {
    check("qwen2", "qwen2", Generation::DistillQwen);
}

/// The 256 bytes, and `12`, `ab` and `é` as tokens, of which only the first and the last have a merge.
fn small(pre: Option<&str>) -> GgufVocabulary {
    let (v3, _) = file("v3");
    let bytes = v3
        .tokens
        .iter()
        .zip(&v3.token_types)
        .filter(|(token, kind)| **kind == 1 && token.chars().count() == 1);
    let tokens: Vec<String> =
        bytes.map(|(token, _)| token.clone()).chain(["12", "ab", "Ã©"].map(String::from)).collect();
    assert_eq!(tokens.len(), 259);
    GgufVocabulary {
        model: "gpt2".to_owned(),
        pre: pre.map(str::to_owned),
        merges: vec!["1 2".to_owned(), "Ã ©".to_owned()],
        tokens,
        ..GgufVocabulary::default()
    }
}

/// Catches: names mixed up, digits kept together or cut, whole tokens put together from merges, the normal form left out.
#[test]
fn every_name_cuts_as_its_tokenizer_does() {
    for (pre, numbers, words, composed, bos) in [
        (Some("deepseek-llm"), false, false, false, false),
        (Some("deepseek-coder"), false, false, false, false),
        (Some("deepseek-v3"), true, false, false, false),
        (Some("deepseek-r1-qwen"), false, false, false, false),
        (Some("qwen2"), false, false, true, false),
        (Some("llama-bpe"), true, true, false, true),
        (Some("smollm"), false, false, false, false),
        (Some("gpt-2"), true, false, false, false),
        (Some("default"), true, false, false, false),
        (None, true, false, false, false),
    ] {
        let tokenizer = Tokenizer::from_gguf(&small(pre)).unwrap();
        let pieces = |text: &str| tokenizer.encode_text(text).unwrap().len();
        assert_eq!(pieces("12") == 1, numbers, "{pre:?}");
        assert_eq!(pieces("ab") == 1, words, "{pre:?}");
        assert_eq!(pieces("e\u{301}") == 1, composed, "{pre:?}");
        assert_eq!(pieces("é"), 1, "{pre:?}");
        assert_eq!(tokenizer.config().add_bos_token(), bos, "{pre:?}");
        let text = "x = [1, 22,\n\t333]; // naïve 汉字 👍🏽\r\n\n  ok ";
        let ids = tokenizer.encode_text(text).unwrap();
        assert_eq!(tokenizer.decode(&ids, SpecialTokens::Show), text, "{pre:?}");
    }
}

/// Catches: keys that are wrong passed over, a merge that makes the library panic, errors that do not name the key.
#[test]
fn what_is_wrong_is_named() {
    let broken = |change: &dyn Fn(&mut GgufVocabulary)| {
        let mut vocabulary = small(Some("qwen2"));
        change(&mut vocabulary);
        match Tokenizer::from_gguf(&vocabulary) {
            Err(Error::Malformed { field, found, .. }) => format!("{field}: {found}"),
            other => panic!("{other:?}"),
        }
    };
    for (found, expected) in [
        (broken(&|v| v.model = "llama".to_owned()), r#"tokenizer.ggml.model: "llama""#),
        (broken(&|v| v.pre = Some("tekken".to_owned())), r#"tokenizer.ggml.pre: "tekken""#),
        (broken(&|v| v.token_types = vec![1; 3]), "tokenizer.ggml.token_type: 3 for 259 tokens"),
        (broken(&|v| v.token_types = [vec![1; 258], vec![6]].concat()), "tokenizer.ggml.token_type[258]: 6"),
        (broken(&|v| v.merges.clear()), "tokenizer.ggml.merges: nothing"),
        (broken(&|v| v.merges.push("12 12".to_owned())), r#"tokenizer.ggml.merges[2]: "12 12""#),
        (broken(&|v| v.merges.push("ab".to_owned())), r#"tokenizer.ggml.merges[2]: "ab""#),
        (broken(&|v| v.tokens.push("12".to_owned())), r#"tokenizer.ggml.tokens[259]: "12" a second time"#),
        (broken(&|v| v.eos_token_id = Some(259)), "tokenizer.ggml.eos_token_id: 259 of 259"),
        (broken(&|v| v.eot_token_id = Some(900)), "tokenizer.ggml.eot_token_id: 900 of 259"),
    ] {
        assert_eq!(found, expected);
    }
}

/// Catches: control tokens that come out of text, unused ids that spell their filler, the end of a turn left out.
#[test]
fn kinds_of_tokens_are_kept_apart() {
    let mut vocabulary = small(Some("llama-bpe"));
    vocabulary.tokens.extend(["<eot>", "<think>", "[PAD261]"].map(String::from));
    vocabulary.token_types = [vec![1; 259], vec![3, 4, 5]].concat();
    (vocabulary.eos_token_id, vocabulary.eot_token_id) = (Some(0), Some(259));
    let tokenizer = Tokenizer::from_gguf(&vocabulary).unwrap();
    assert_eq!(tokenizer.eos_ids(), [0, 259]);
    assert!(tokenizer.is_control(259) && tokenizer.is_control(260) && !tokenizer.is_control(258));
    assert_eq!(tokenizer.encode_text("<eot>").unwrap().len(), 5);
    assert_eq!(tokenizer.decode(&[259, 260, 261], SpecialTokens::Show), "<eot><think>");
    assert_eq!(tokenizer.decode(&[259, 260, 261], SpecialTokens::Skip), "<think>");
}
