//! The binary serves the same answers from several ranks and from a GPU.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use testkit::soft_environment;

use crate::command::{Running, command};

/// The greedy answer to one question, whole and streamed.
fn answers(running: &Running, max_tokens: usize) -> (String, String) {
    let body = |stream: bool| {
        let messages = json!([{"role": "user", "content": "What is 2 + 3?"}]);
        json!({"model": "demo", "messages": messages, "temperature": 0, "max_tokens": max_tokens, "stream": stream})
    };
    let post = |stream| {
        let url = format!("{}/v1/chat/completions", running.url);
        let mut response = ureq::post(url).send(body(stream).to_string()).unwrap();
        response.body_mut().read_to_string().unwrap()
    };
    let whole: Value = serde_json::from_str(&post(false)).unwrap();
    let stream = post(true);
    let data = stream.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    let pieces = data.filter_map(|data| {
        let chunk: Value = serde_json::from_str(data).unwrap();
        Some(chunk["choices"][0]["delta"]["content"].as_str()?.to_owned())
    });
    assert!(stream.trim_end().ends_with("data: [DONE]"), "{stream}");
    (whole["choices"][0]["message"]["content"].as_str().unwrap().to_owned(), pieces.collect())
}

fn on_one_rank(max_tokens: usize) -> (String, String) {
    let running = Running::start(command(&["--port", "0"]));
    let answers = answers(&running, max_tokens);
    assert!(!answers.0.is_empty() && answers.0 == answers.1, "{answers:?}");
    answers
}

/// Holds what OpenAI's own SDK reads from the server against what we read, where `CACHALOT_CLIENT_PYTHON` names a Python
/// that has it; `scripts/client-tests.sh` does.
fn check_real_client(running: &Running, max_tokens: usize, expected: &(String, String)) {
    let Some(python) = std::env::var_os("CACHALOT_CLIENT_PYTHON") else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../server/tests/clients/device_client.py");
    let output =
        Command::new(python).arg(script).args([&running.url, &max_tokens.to_string()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read: (String, String) = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(&read, expected);
}

#[test]
fn two_ranks_serve_what_one_does() {
    let running = Running::start(command(&["--port", "0", "--tp", "2"]));
    let expected = on_one_rank(24);
    assert_eq!(answers(&running, 24), expected);
    check_real_client(&running, 24, &expected);
    let (code, log) = running.terminate();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn a_soft_gpu_serves_what_the_cpu_does() {
    let args = ["--port", "0", "--device", "cuda", "--ctx-size", "128", "--kv-contexts", "2"];
    let mut command = command(&args);
    command.envs(soft_environment());
    let running = Running::start(command);
    let expected = on_one_rank(4);
    assert_eq!(answers(&running, 4), expected);
    check_real_client(&running, 4, &expected);
    let (code, log) = running.terminate();
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("cuda:0 needs"), "not on the GPU: {log}");
}
