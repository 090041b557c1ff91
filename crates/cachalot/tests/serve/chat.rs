//! `/v1/chat/completions`: shapes, streams and what they add up to.

use cachalot::{GenerateOptions, LanguageModel, Message, ModelSource};
use serde_json::{Value, json};

use crate::support::{Frame, TestServer, chat, with};

const QUESTION: &str = "What is 12 + 30?";

/// What the library says to the same messages, greedily.
fn expected(content: &str, thinking: bool) -> (String, String) {
    let model = LanguageModel::load(ModelSource::Embedded, Default::default()).unwrap();
    let options = GenerateOptions { thinking: Some(thinking), ..GenerateOptions::greedy() };
    let output = model.generate(vec![Message::user(content)], &options).unwrap();
    (output.text, output.reasoning)
}

#[test]
fn an_answer_has_the_shape_and_the_text_that_clients_expect() {
    let server = TestServer::new();
    for path in ["/v1/chat/completions", "/chat/completions", "/beta/chat/completions"] {
        let reply = server.post(path, &chat(QUESTION));
        assert_eq!(reply.status, 200, "{}", reply.body);
        assert_eq!(reply.header("content-type"), Some("application/json"));
        let body = reply.json();
        assert!(body["id"].as_str().unwrap().starts_with("chatcmpl-"));
        assert_eq!(body["object"], "chat.completion");
        assert_eq!(body["model"], "demo");
        assert!(body["created"].as_u64().unwrap() > 1_700_000_000);
        assert!(body["system_fingerprint"].as_str().unwrap().starts_with("fp_"));
        let choice = &body["choices"][0];
        assert_eq!(choice["index"], 0);
        assert_eq!(choice["finish_reason"], "stop");
        assert!(choice["logprobs"].is_null());
        assert_eq!(choice["message"]["role"], "assistant");
        assert_eq!(choice["message"]["content"], expected(QUESTION, false).0);
        assert!(choice["message"].get("reasoning_content").is_none());
        let usage = &body["usage"];
        let count = |field: &str| usage[field].as_u64().unwrap();
        assert_eq!(count("total_tokens"), count("prompt_tokens") + count("completion_tokens"));
        assert_eq!(
            count("prompt_tokens"),
            count("prompt_cache_hit_tokens") + count("prompt_cache_miss_tokens")
        );
        assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_cache_hit_tokens"]);
        assert_eq!(usage["completion_tokens_details"]["reasoning_tokens"], 0);
    }
}

/// Content, reasoning and finish reason of a stream's first choice.
fn add_up(frames: &[Frame]) -> (String, String, Vec<String>) {
    let (mut content, mut reasoning, mut reasons) = (String::new(), String::new(), Vec::new());
    for chunk in frames.iter().filter(|frame| frame.data != "[DONE]").map(Frame::json) {
        for choice in chunk["choices"].as_array().unwrap() {
            content.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
            reasoning.push_str(choice["delta"]["reasoning_content"].as_str().unwrap_or_default());
            reasons.extend(choice["finish_reason"].as_str().map(str::to_owned));
        }
    }
    (content, reasoning, reasons)
}

#[test]
fn a_stream_adds_up_to_the_same_answer() {
    let server = TestServer::new();
    let frames = server.stream("/v1/chat/completions", &chat(QUESTION));
    let first = frames[0].json();
    assert_eq!(first["object"], "chat.completion.chunk");
    let choice = &first["choices"][0];
    assert_eq!(choice["delta"]["role"], "assistant");
    assert_eq!(choice["delta"]["content"], "");
    assert!(choice["finish_reason"].is_null() && first.get("usage").is_none());
    assert_eq!(frames.last().unwrap().data, "[DONE]");
    let ids: Vec<Value> = frames[..frames.len() - 1].iter().map(|frame| frame.json()["id"].clone()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]));
    let (content, reasoning, reasons) = add_up(&frames);
    assert_eq!((content, reasoning), (expected(QUESTION, false).0, String::new()));
    assert_eq!(reasons, ["stop"]);
    // More than one piece of text, or it was no stream.
    assert!(frames.len() > 5, "{frames:?}");
}

#[test]
fn usage_comes_in_a_chunk_of_its_own_when_asked_for() {
    let server = TestServer::new();
    let body = with(chat(QUESTION), json!({"stream_options": {"include_usage": true}}));
    let frames = server.stream("/v1/chat/completions", &body);
    let (last, earlier) = frames[..frames.len() - 1].split_last().unwrap();
    assert_eq!(last.json()["choices"], json!([]));
    assert!(last.json()["usage"]["completion_tokens"].as_u64().unwrap() > 0);
    assert!(
        earlier.iter().all(|frame| frame.json()["usage"] == Value::Null && frame.data.contains("\"usage\""))
    );
}

#[test]
fn reasoning_has_its_own_field() {
    let server = TestServer::new();
    let body = with(chat("What is 128 + 256?"), json!({"thinking": {"type": "enabled"}}));
    let (text, reasoning) = expected("What is 128 + 256?", true);
    assert!(!reasoning.is_empty());
    let reply = server.post("/v1/chat/completions", &body).json();
    let message = &reply["choices"][0]["message"];
    assert_eq!(message["content"], text);
    assert_eq!(message["reasoning_content"], reasoning);
    let tokens = reply["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap();
    assert!(tokens > 0 && tokens < reply["usage"]["completion_tokens"].as_u64().unwrap());
    let frames = server.stream("/v1/chat/completions", &body);
    assert_eq!(
        frames[0].json()["choices"][0]["delta"],
        json!({"role": "assistant", "content": "", "reasoning_content": ""})
    );
    // Client loops add `reasoning_content` where it is not empty and else `content`, in every delta but the last frame.
    let deltas: Vec<Value> =
        frames[..frames.len() - 1].iter().map(|frame| frame.json()["choices"][0]["delta"].clone()).collect();
    for delta in &deltas {
        let reasons = delta["reasoning_content"].as_str().is_some_and(|text| !text.is_empty());
        assert!(
            delta.get("reasoning_content").is_some() && (reasons || delta["content"].is_string()),
            "{delta}"
        );
    }
    assert_eq!(deltas.last().unwrap()["content"], "");
    assert_eq!(add_up(&frames), (text, reasoning, vec!["stop".to_owned()]));
}

#[test]
fn stop_strings_and_lengths_end_an_answer() {
    let server = TestServer::new();
    let story = "Tell me a story about a fox.";
    let (text, _) = expected(story, false);
    let stop = text.split_whitespace().nth(4).unwrap();
    let body = with(chat(story), json!({"stop": [stop, "never said"]}));
    let choice = server.post("/v1/chat/completions", &body).json()["choices"][0].clone();
    assert_eq!(choice["message"]["content"], text[..text.find(stop).unwrap()]);
    assert_eq!(choice["finish_reason"], "stop");
    assert!(server.becomes_idle(), "a stop string ends the generation");
    let body = with(chat(story), json!({"max_tokens": 3}));
    let reply = server.post("/v1/chat/completions", &body).json();
    assert_eq!(reply["choices"][0]["finish_reason"], "length");
    assert_eq!(reply["usage"]["completion_tokens"], 3);
}

#[test]
fn several_choices_differ_and_are_told_apart() {
    let server = TestServer::new();
    let body = with(
        chat("Tell me a story about a fox."),
        json!({"n": 3, "seed": 7, "temperature": 1.5, "max_tokens": 24}),
    );
    let reply = server.post("/v1/chat/completions", &body).json();
    let choices = reply["choices"].as_array().unwrap();
    let texts: Vec<&str> = choices.iter().map(|c| c["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(choices.iter().map(|c| c["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(texts[0] != texts[1] && texts[1] != texts[2] && texts[0] != texts[2], "{texts:?}");
    let mut streamed = vec![String::new(); 3];
    for frame in server.stream("/v1/chat/completions", &body) {
        if frame.data != "[DONE]" {
            let choice = frame.json()["choices"][0].clone();
            let piece = choice["delta"]["content"].as_str().unwrap_or_default();
            streamed[choice["index"].as_u64().unwrap() as usize].push_str(piece);
        }
    }
    assert_eq!(streamed, texts);
}

#[test]
fn logprobs_tell_every_token_and_its_alternatives() {
    let server = TestServer::new();
    let body = with(chat(QUESTION), json!({"logprobs": true, "top_logprobs": 3}));
    let choice = server.post("/v1/chat/completions", &body).json()["choices"][0].clone();
    let tokens = choice["logprobs"]["content"].as_array().unwrap();
    let text: String = tokens.iter().map(|token| token["token"].as_str().unwrap()).collect();
    assert_eq!(choice["message"]["content"], text);
    for token in tokens {
        let top = token["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        // Greedy: the chosen one is the best.
        assert_eq!(top[0]["token"], token["token"]);
        assert!((top[0]["logprob"].as_f64().unwrap() - token["logprob"].as_f64().unwrap()).abs() < 1e-4);
        assert!(top[0]["logprob"].as_f64() >= top[1]["logprob"].as_f64());
        let bytes: Vec<u8> = serde_json::from_value(token["bytes"].clone()).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), token["token"].as_str().unwrap());
    }
    let mut streamed = Vec::new();
    for frame in server.stream("/v1/chat/completions", &body) {
        if frame.data != "[DONE]"
            && let Some(more) = frame.json()["choices"][0]["logprobs"]["content"].as_array()
        {
            streamed.extend(more.clone());
        }
    }
    assert_eq!(&streamed, tokens);
}

#[test]
fn aliases_ask_for_a_mode() {
    let server = TestServer::new();
    let reasons = |model: &str, fields: Value| {
        let body = with(with(chat(QUESTION), json!({"model": model})), fields);
        let reply = server.post("/v1/chat/completions", &body).json();
        assert_eq!(reply["model"], model, "{reply}");
        reply["choices"][0]["message"].get("reasoning_content").is_some()
    };
    assert!(!reasons("demo", json!({})));
    assert!(!reasons("deepseek-chat", json!({})));
    assert!(reasons("deepseek-reasoner", json!({})));
    assert!(reasons("demo", json!({"reasoning_effort": "high"})));
    assert!(!reasons("deepseek-reasoner", json!({"reasoning_effort": "none"})));
    assert!(!reasons(
        "deepseek-reasoner",
        json!({"reasoning_effort": "high", "thinking": {"type": "disabled"}})
    ));
    assert!(reasons("demo", json!({"chat_template_kwargs": {"thinking": true}})));
}
