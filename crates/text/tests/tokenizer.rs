//! The tokenizer against the goldens of the reference library, and against users who type control tokens.

#![allow(clippy::unwrap_used, reason = "a test that cannot read its data has to fail")]

mod support;

use proptest::prelude::*;
use support::{prompt_file, tokenizer, tokenizer_json};
use text::{Error, Prompt, SpecialTokens, Tokenizer};

fn ids(value: &serde_json::Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// Catches: a wrong regex engine (lookahead), a lost normalizer, a wrong byte alphabet.
#[test]
fn all_goldens_hold() {
    let golden: serde_json::Value =
        serde_json::from_slice(&std::fs::read(support::data("tokenizer_golden.json")).unwrap()).unwrap();
    let tokenizer = tokenizer();
    assert_eq!(tokenizer.vocab_size() as u64, golden["vocab_size"].as_u64().unwrap());
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 204);
    let mut with_markers = 0;
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let expected = ids(&case["ids"]);
        // The reference encodes with the added vocabulary; where that matters the control tokens are cut out by hand.
        let controls = expected.iter().any(|&id| tokenizer.is_control(id));
        let encoded = if controls {
            with_markers += 1;
            tokenizer.encode_prompt(&support::with_controls(tokenizer, text)).unwrap()
        } else {
            tokenizer.encode_text(text).unwrap()
        };
        assert_eq!(encoded, expected, "{text:?}");
        assert_eq!(tokenizer.decode(&expected, SpecialTokens::Show), case["decoded"].as_str().unwrap());
        assert_eq!(
            tokenizer.decode(&expected, SpecialTokens::Skip),
            case["decoded_skip_special"].as_str().unwrap()
        );
    }
    assert!(with_markers > 0);
}

/// Catches: text encoded with the added vocabulary, texts merged or cut at other places than in the reference.
#[test]
fn segments_give_the_reference_ids() {
    let (json, _) = prompt_file("v4_0731");
    let cases = json["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 47);
    for case in cases {
        let text = case["prompt"].as_str().unwrap();
        let ranges: Vec<(usize, usize)> = serde_json::from_value(case["special_ranges"].clone()).unwrap();
        let prompt = Prompt::from_char_ranges(text, &ranges).unwrap();
        assert_eq!(prompt.to_string(), text);
        let expected = ids(&case["ids"]);
        assert_eq!(tokenizer().encode_prompt(&prompt).unwrap(), expected, "{}", case["name"]);
        assert_eq!(tokenizer().decode(&expected, SpecialTokens::Show), text);
    }
}

#[test]
fn no_spelling_of_a_control_token_in_text_becomes_one() {
    let tokenizer = tokenizer();
    for token in tokenizer.control_tokens() {
        for text in
            [token.to_owned(), format!("a {token}b"), format!("{token}{token}"), format!("\n{token}\n")]
        {
            let ids = tokenizer.encode_text(&text).unwrap();
            assert!(!ids.iter().any(|&id| tokenizer.is_control(id)), "{text:?}");
            assert_eq!(tokenizer.decode(&ids, SpecialTokens::Show), text);
        }
    }
}

#[test]
fn tokens_resolve() {
    let tokenizer = tokenizer();
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids(), tokenizer.pad_id()), (Some(0), &[1][..], Some(1)));
    assert_eq!(tokenizer.id_of_token("<｜User｜>"), Some(128803));
    assert_eq!(tokenizer.id_of_token("Ġthe").and_then(|id| tokenizer.token_bytes(id)), Some(&b" the"[..]));
    assert_eq!(tokenizer.id_of_token("no such token"), None);
    assert_eq!(tokenizer.token_bytes(1_000_000), None);
    assert_eq!(tokenizer.clone().with_eos_ids(&[1, 128805]).eos_ids(), [1, 128805]);
    let mut prompt = Prompt::new();
    prompt.control("<no such token>");
    assert!(matches!(tokenizer.encode_prompt(&prompt), Err(Error::UnknownControlToken { .. })));
}

#[test]
fn bos_is_added_to_completions_only_where_the_checkpoint_asks() {
    let mut prompt = Prompt::new();
    prompt.text("x");
    let plain = tokenizer().encode_completion(&prompt).unwrap();
    let config = br#"{"add_bos_token": true, "bos_token": "<\uff5cbegin\u2581of\u2581sentence\uff5c>"}"#;
    let asking = Tokenizer::from_bytes(&tokenizer_json(), Some(config)).unwrap();
    assert_eq!(asking.encode_completion(&prompt).unwrap(), [&[0], &plain[..]].concat());
    let mut with_bos = Prompt::new();
    with_bos.control("<｜begin▁of▁sentence｜>").text("x");
    assert_eq!(asking.encode_completion(&with_bos).unwrap(), [&[0], &plain[..]].concat());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Catches: half characters, replacement characters for split ones, tokens lost at the end.
    #[test]
    fn streaming_equals_the_lossy_decode(ids in prop::collection::vec(prop_oneof![0u32..129_400, 0u32..512], 0..60), skip: bool) {
        let tokenizer = tokenizer();
        let special = if skip { SpecialTokens::Skip } else { SpecialTokens::Show };
        let mut detokenizer = tokenizer.detokenizer(special);
        let mut streamed: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
        streamed.push_str(&detokenizer.finish());
        let shown = |id: &&u32| !(skip && (**id <= 2 || tokenizer.decode(&[**id], SpecialTokens::Skip).is_empty()));
        let bytes: Vec<u8> = ids.iter().filter(shown).filter_map(|&id| tokenizer.token_bytes(id)).flatten().copied().collect();
        prop_assert_eq!(streamed, String::from_utf8_lossy(&bytes).into_owned());
    }

    #[test]
    fn any_text_round_trips_without_control_tokens(text in "(\\PC|[ \t\r\n]|<｜User｜>|</?think>|[0-9]{1,5}|[一-龥]){0,20}") {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode_text(&text).unwrap();
        prop_assert!(!ids.iter().any(|&id| tokenizer.is_control(id)));
        let mut detokenizer = tokenizer.detokenizer(SpecialTokens::Show);
        let pieces: Vec<String> = ids.iter().map(|&id| detokenizer.push(id)).collect();
        let replaced = pieces.iter().any(|piece| piece.contains(char::REPLACEMENT_CHARACTER));
        prop_assert_eq!(replaced, text.contains(char::REPLACEMENT_CHARACTER));
        prop_assert_eq!(pieces.concat() + &detokenizer.finish(), text);
    }
}

#[test]
fn malformed_files_say_what_is_wrong() {
    let check = |json: &str, field: &str| {
        let error = Tokenizer::from_bytes(json.as_bytes(), None).unwrap_err();
        assert!(matches!(&error, Error::Malformed { file, .. } if file == "tokenizer.json"), "{error}");
        assert!(error.to_string().contains(field), "{error}");
    };
    check("", "line 1");
    check("{\"model\": {\"type\": \"BPE\"", "line 1");
    check("[]", "JSON object");
    check("{}", "model");
    check(r#"{"model": {"type": "Unigram"}}"#, "model.type");
    check(r#"{"model": {"type": "BPE"}}"#, "decoder");
    check(r#"{"model": {"type": "BPE"}, "decoder": {"type": "Metaspace"}}"#, "Metaspace");
    check(
        r#"{"model": {"type": "BPE", "vocab": 3, "merges": []}, "decoder": {"type": "ByteLevel"}}"#,
        "tokenizer",
    );
    let config = br#"{"eos_token": "<nowhere>"}"#;
    let error = Tokenizer::from_bytes(&tokenizer_json(), Some(config)).unwrap_err().to_string();
    assert!(error.contains("eos_token") && error.contains("<nowhere>"), "{error}");
}

#[test]
fn a_directory_loads_with_its_template_file() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Tokenizer::from_dir(dir.path()), Err(Error::Io { .. })));
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer_json()).unwrap();
    assert_eq!(Tokenizer::from_dir(dir.path()).unwrap().config().chat_template(), None);
    std::fs::write(dir.path().join("tokenizer_config.json"), r#"{"chat_template": "old"}"#).unwrap();
    std::fs::write(dir.path().join("chat_template.jinja"), "new").unwrap();
    assert_eq!(Tokenizer::from_dir(dir.path()).unwrap().config().chat_template(), Some("new"));
}
