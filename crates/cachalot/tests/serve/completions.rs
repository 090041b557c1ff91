//! `/v1/completions`, `/beta/completions`, `/tokenize` and `/detokenize`.

use cachalot::{GenerateOptions, Input, LanguageModel, ModelSource};
use serde_json::{Value, json};

use crate::support::{Frame, TestServer, with};

fn completion(prompt: Value) -> Value {
    json!({"model": "demo", "prompt": prompt, "temperature": 0, "max_tokens": 12})
}

fn expected(input: Input) -> String {
    let model = LanguageModel::load(ModelSource::Embedded, Default::default()).unwrap();
    let options = GenerateOptions { max_tokens: Some(12), ..GenerateOptions::greedy() };
    model.generate(input, &options).unwrap().text
}

#[test]
fn text_is_continued() {
    let server = TestServer::new();
    let text = expected(Input::Raw("Once upon a time".into()));
    let reply = server.post("/v1/completions", &completion(json!("Once upon a time")));
    assert_eq!(reply.status, 200, "{}", reply.body);
    let body = reply.json();
    assert!(body["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(body["object"], "text_completion");
    assert_eq!(body["choices"][0]["text"], text);
    assert!(body["choices"][0]["logprobs"].is_null());
    let body =
        with(completion(json!("Once upon a time")), json!({"stream_options": {"include_usage": true}}));
    let frames = server.stream("/v1/completions", &body);
    let (done, chunks) = frames.split_last().unwrap();
    assert_eq!(done.data, "[DONE]");
    let piece = |frame: &Frame| frame.json()["choices"][0]["text"].as_str().unwrap_or_default().to_owned();
    assert_eq!(chunks.iter().map(piece).collect::<String>(), text);
    assert_eq!(chunks.last().unwrap().json()["usage"]["completion_tokens"], 12);
}

#[test]
fn several_prompts_and_choices_are_counted_through() {
    let server = TestServer::new();
    let prompts = ["Once upon a time", "The fox"];
    let body = with(completion(json!(prompts)), json!({"n": 2, "echo": true}));
    let reply = server.post("/v1/completions", &body).json();
    let choices = reply["choices"].as_array().unwrap();
    assert_eq!(choices.iter().map(|c| c["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2, 3]);
    for (index, choice) in choices.iter().enumerate() {
        let prompt = prompts[index / 2];
        let text = format!("{prompt}{}", expected(Input::Raw(prompt.into())));
        assert_eq!(choice["text"], text);
    }
    assert_eq!(reply["usage"]["completion_tokens"], 48);
}

#[test]
fn token_ids_are_a_prompt_too() {
    let server = TestServer::new();
    let tokens = server.post("/tokenize", &json!({"prompt": "Once upon a time"})).json();
    let reply = server.post("/v1/completions", &completion(tokens["tokens"].clone())).json();
    assert_eq!(reply["choices"][0]["text"], expected(Input::Raw("Once upon a time".into())));
    assert_eq!(reply["usage"]["prompt_tokens"], tokens["count"]);
    let reply =
        server.post("/v1/completions", &completion(json!([tokens["tokens"], tokens["tokens"]]))).json();
    assert_eq!(reply["choices"].as_array().unwrap().len(), 2);
}

#[test]
fn a_suffix_makes_a_hole() {
    let server = TestServer::new();
    let (prefix, suffix) = ("def half(x):\n", "    return y\n");
    let expected = expected(Input::FillInTheMiddle { prefix: prefix.to_owned(), suffix: suffix.to_owned() });
    let body = with(completion(json!(prefix)), json!({"suffix": suffix}));
    let reply = server.post("/beta/completions", &body).json();
    assert_eq!(reply["choices"][0]["text"], expected);
    let reply = server.post("/v1/completions", &body).json();
    assert_eq!(reply["choices"][0]["text"], expected);
}

#[test]
fn completion_logprobs_have_the_old_form() {
    let server = TestServer::new();
    let body = with(completion(json!("Once upon a time")), json!({"logprobs": 2}));
    let choice = server.post("/v1/completions", &body).json()["choices"][0].clone();
    let logprobs = &choice["logprobs"];
    let tokens: Vec<String> = serde_json::from_value(logprobs["tokens"].clone()).unwrap();
    assert_eq!(tokens.concat(), choice["text"].as_str().unwrap());
    let mut offset = 0;
    for (index, token) in tokens.iter().enumerate() {
        assert_eq!(logprobs["text_offset"][index], offset);
        offset += token.chars().count();
        assert!(logprobs["token_logprobs"][index].as_f64().unwrap() <= 0.0);
        assert_eq!(logprobs["top_logprobs"][index].as_object().unwrap().len(), 2);
    }
}

#[test]
fn tokens_and_text_go_both_ways() {
    let server = TestServer::new();
    let text = "A whale, <｜User｜> and ünïcödé";
    for path in ["", "/v1"] {
        let body = json!({"model": "demo", "prompt": text, "return_token_strs": true});
        let reply = server.post(&format!("{path}/tokenize"), &body).json();
        assert_eq!(reply["max_model_len"], 2048);
        let count = reply["count"].as_u64().unwrap() as usize;
        assert_eq!(reply["tokens"].as_array().unwrap().len(), count);
        assert_eq!(reply["token_strs"].as_array().unwrap().len(), count);
        let back = server.post(&format!("{path}/detokenize"), &json!({"tokens": reply["tokens"]})).json();
        assert_eq!(back["prompt"], text);
    }
    // What a user types never becomes a control token; what the format writes does.
    let typed = server.post("/tokenize", &json!({"prompt": "<｜User｜>"})).json();
    assert!(typed["count"].as_u64().unwrap() > 1);
    let written = json!({"messages": [{"role": "user", "content": "hi"}]});
    let written = server.post("/tokenize", &written).json();
    let text = server.post("/detokenize", &json!({"tokens": written["tokens"]})).json();
    assert_eq!(text["prompt"], "<｜begin▁of▁sentence｜><｜User｜>hi<｜Assistant｜></think>");
}
