//! `cachalot serve` from the outside: where it listens, its config file, its log, its end.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

pub(crate) struct Running {
    child: Child,
    pub(crate) url: String,
}

pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cachalot"));
    command.arg("serve").args(args).env("CACHALOT_DEVICE", "cpu").env_remove("CACHALOT_API_KEY");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn start(args: &[&str]) -> Running {
    Running::start(command(args))
}

impl Running {
    /// Starts it and waits until it listens.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().split_once(" at ").unwrap_or_else(|| panic!("{line:?}")).1.to_owned();
        Self { child, url }
    }

    fn get(&self, path: &str) -> Value {
        ureq::get(format!("{}{path}", self.url)).call().unwrap().body_mut().read_json().unwrap()
    }

    /// Asks it to end as an operator would.
    pub(crate) fn ask_to_end(&self) {
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
    }

    /// Ends it as an operator would; exit code and log.
    pub(crate) fn terminate(self) -> (Option<i32>, String) {
        self.ask_to_end();
        self.end()
    }

    /// Waits for its end; exit code and log.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().code(), log)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

#[test]
fn it_says_where_it_listens_and_ends_with_zero() {
    let running = start(&["--port", "0", "--log-format", "json", "--api-key", "sesame"]);
    let chat = json!({"model": "demo", "max_tokens": 4, "messages": [{"role": "user", "content": "my secret question"}]});
    let url = format!("{}/v1/chat/completions", running.url);
    let response = ureq::post(url).header("authorization", "Bearer sesame").header("x-request-id", "trace-1");
    assert_eq!(response.send(chat.to_string()).unwrap().status(), 200);
    let (code, log) = running.terminate();
    assert_eq!(code, Some(0), "{log}");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let audit =
        lines.iter().find(|line| line["target"] == "audit" && line["request_id"] == "trace-1").unwrap();
    assert_eq!(
        (&audit["key"], &audit["status"], &audit["outcome"]),
        (&json!("key-1"), &json!(200), &json!("ok"))
    );
    assert_eq!((&audit["route"], &audit["completion_tokens"]), (&json!("/v1/chat/completions"), &json!(4)));
    // Neither the key nor the prompt is anywhere in the log.
    assert!(!log.contains("sesame") && !log.contains("secret question"), "{log}");
}

#[test]
fn a_config_file_says_what_the_command_line_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("serve.toml");
    std::fs::write(&file, "port = 1\nserved_model_name = [\"tiny\", \"small\"]\nctx-size = 512\n").unwrap();
    let running = start(&["--config", file.to_str().unwrap(), "--port", "0"]);
    let models = running.get("/v1/models");
    assert_eq!((&models["data"][0]["id"], &models["data"][1]["id"]), (&json!("tiny"), &json!("small")));
    assert_eq!(models["data"][0]["max_model_len"], 512);
    drop(running);
    std::fs::write(&file, "prot = 1\n").unwrap();
    let output = command(&["--config", file.to_str().unwrap()]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_ne!(output.status.code(), Some(0));
    assert!(said.contains("config file") && said.contains("prot"), "{said}");
}

#[test]
fn a_public_address_needs_a_key() {
    let output = command(&["--host", "0.0.0.0", "--port", "0"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("no API key is set") && said.contains("--api-key"), "{said}");
    for args in [
        &["--port", "70000"][..],
        &["--dialect", "french"],
        &["--keys", "/no/such/file"],
        &["--log", "a=b=c"],
    ] {
        assert_ne!(command(args).output().unwrap().status.code(), Some(0), "{args:?}");
    }
}
