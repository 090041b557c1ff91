//! The binary from the outside: output, exit codes, pipes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use testkit::Fixture;

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cachalot"));
    command.args(args).stdin(Stdio::null()).env("HF_HUB_OFFLINE", "1").env_remove("HF_TOKEN");
    // What is said about GPUs is in gpu_cli.rs.
    command.env("CACHALOT_DEVICE", "cpu");
    command
}

fn run(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn run_with_stdin(args: &[&str], text: &str) -> Output {
    let mut child =
        command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// A failure tells its reason in one line.
fn assert_error(output: &Output, part: &str) {
    let said = stderr(output);
    assert_eq!(code(output), 1, "{said}");
    assert!(said.starts_with("error: ") && said.lines().count() == 1 && said.contains(part), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

fn fixture(name: &str) -> String {
    Fixture::open(name).dir().display().to_string()
}

#[test]
fn help_names_every_command_and_explains_the_arguments() {
    let help = stdout(&run(&["--help"]));
    for name in ["run", "pull", "inspect", "verify", "eval", "completions"] {
        assert!(help.contains(&format!("  {name}")), "{help}");
        assert_eq!(code(&run(&[name, "--help"])), 0);
    }
    let help = stdout(&run(&["run", "--help"]));
    assert!(help.contains("A single argument is the MODEL if"), "{help}");
    assert!(stdout(&run(&["--version"])).starts_with("cachalot "));
}

#[test]
fn wrong_usage_is_code_two() {
    for args in [
        &["run", "--no-such-flag"][..],
        &["run", "--temperature", "hot", "hi"],
        &["run", "--raw", "--suffix", "x", "hi"],
        &["run", "--model", "a", "b", "c"],
        &["verify"],
        &["verify", ".", "--tolerance-key", "nothing"],
        &["completions", "tcsh-like"],
        &["no-such-command"],
        &[],
    ] {
        assert_eq!(code(&run(args)), 2, "{args:?}");
    }
}

#[test]
fn the_demo_model_answers_and_repeats_itself() {
    let args = ["run", "--temperature", "0", "--max-tokens", "24", "What is 12 + 30?"];
    let first = run(&args);
    assert_eq!(code(&first), 0, "{}", stderr(&first));
    assert!(!stdout(&first).trim().is_empty());
    assert_eq!(stdout(&first), stdout(&run(&args)));
    let said = stderr(&first);
    let last = said.lines().last().unwrap();
    assert!(last.contains("prefill") && last.contains("decode") && last.contains("tokens/s"), "{last}");
}

#[test]
fn stdin_is_the_prompt_when_none_is_given() {
    let args = ["run", "--temperature", "0", "--max-tokens", "24"];
    let piped = run_with_stdin(&args, "What is 12 + 30?\n");
    let given = run(&[&args[..], &["What is 12 + 30?"]].concat());
    assert_eq!((code(&piped), stdout(&piped)), (0, stdout(&given)));
    assert_error(&run_with_stdin(&args, " \n"), "the prompt is empty");
}

#[test]
fn a_seed_repeats_a_sampled_text() {
    let text = |seed: &str| {
        stdout(&run(&["run", "--seed", seed, "--temperature", "2", "--max-tokens", "40", "Tell me a story."]))
    };
    assert_eq!(text("7"), text("7"));
    assert_ne!(text("7"), text("8"));
}

#[test]
fn json_is_one_object_with_a_fixed_shape() {
    let output = run(&["run", "--json", "--seed", "3", "--max-tokens", "5", "--think", "What is 1 + 1?"]);
    let json: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    let expected =
        ["model", "text", "reasoning", "finish_reason", "stop", "seed", "usage", "speculation", "timing"];
    assert_eq!(keys, expected);
    assert_eq!((&json["model"], &json["seed"]), (&"demo".into(), &3.into()));
    assert_eq!(json["usage"]["completion_tokens"], 5);
    assert_eq!(json["finish_reason"], "length");
    assert!(json["usage"]["prompt_tokens"].as_u64().unwrap() > 0);
    assert!(json["timing"]["decode_tokens_per_s"].as_f64().unwrap() > 0.0);
    assert!(json["speculation"].is_null());
}

#[test]
fn guesses_are_counted_and_change_no_text() {
    let ask = |more: &[&str]| run(&[&["run", "--temperature", "0"], more, &["What is 128 + 256?"]].concat());
    let guessed = ask(&["--speculate", "mtp:2"]);
    assert_eq!(stdout(&guessed), stdout(&ask(&[])));
    assert!(stderr(&guessed).contains("guesses right"), "{}", stderr(&guessed));
    let json: Value = serde_json::from_str(&stdout(&ask(&["--speculate", "mtp:2", "--json"]))).unwrap();
    assert!(json["speculation"]["acceptance_rate"].as_f64().unwrap() > 0.2, "{json}");
    let unknown = ask(&["--speculate", "eagle"]);
    assert_eq!(code(&unknown), 2);
    assert!(stderr(&unknown).contains("expected mtp or ngram"), "{}", stderr(&unknown));
}

#[test]
fn reasoning_stays_out_of_a_pipe() {
    let args = ["run", "--json", "--think", "--temperature", "0", "--max-tokens", "200", "What is 12 + 30?"];
    let json: Value = serde_json::from_str(&stdout(&run(&args))).unwrap();
    let answer = json["text"].as_str().unwrap().trim();
    let plain: Vec<&str> = args.iter().copied().filter(|arg| *arg != "--json").collect();
    let text = stdout(&run(&plain));
    assert_eq!(text.trim(), answer);
    assert!(!text.contains('\x1b'));
}

#[test]
fn stop_strings_raw_text_and_holes_work() {
    let json = |args: &[&str]| -> Value {
        let output =
            run(&[&["run", "--json", "--temperature", "0", "--max-tokens", "16"][..], args].concat());
        serde_json::from_str(&stdout(&output)).unwrap_or_else(|_| panic!("{}", stderr(&output)))
    };
    let whole = json(&["Tell me a story about a fox."]);
    let text = whole["text"].as_str().unwrap();
    let stop = &text[text.len() / 2..][..3];
    let stopped = json(&["--stop", stop, "Tell me a story about a fox."]);
    assert_eq!((&stopped["stop"], &stopped["finish_reason"]), (&stop.into(), &"stop".into()));
    assert_eq!(stopped["text"].as_str().unwrap(), &text[..text.find(stop).unwrap()]);
    assert_eq!(json(&["--raw", "Once upon a time"])["reasoning"], "");
    assert!(json(&["def half(x):\n    ", "--suffix", "\n"])["text"].is_string());
    assert!(json(&["--system", "Answer briefly.", "Hello"])["text"].is_string());
}

#[test]
fn values_out_of_range_are_named() {
    for (args, part) in [
        (&["--top-p", "1.5"][..], "top_p"),
        (&["--temperature", "-1"], "temperature"),
        (&["--min-p", "2"], "min_p"),
        (&["--presence-penalty", "-3"], "presence_penalty"),
        (&["--max-tokens", "0"], "max_tokens"),
        (&["--ctx-size", "1"], "context_len"),
        (&["--ctx-size", "4"], "prompt"),
        (&["--stop", ""], "stop[0]"),
    ] {
        assert_error(&run(&[&["run", "What is 12 + 30? Please tell me."][..], args].concat()), part);
    }
}

#[test]
fn models_that_are_not_there_are_errors() {
    assert_error(&run(&["run", "/no/such/model"]), "/no/such/model");
    assert_error(&run(&["run", "/no/such/model", "hi"]), "/no/such/model");
    assert_error(&run(&["run", "no-such-org/no-such-model", "hi"]), "no-such-org/no-such-model");
    assert_error(&run(&["pull", "no-such-org/no-such-model"]), "no-such-org/no-such-model");
    assert_error(&run(&["inspect", "/no/such/model"]), "/no/such/model");
    // A checkpoint without a tokenizer cannot talk, and says so before its weights are read.
    assert_error(&run(&["run", &fixture("deepseek_v3"), "hi"]), "tokenizer.json");
}

#[test]
fn inspect_tells_sizes_without_loading() {
    let json = |model: &str| -> Value {
        let output = run(&["inspect", "--json", model]);
        serde_json::from_str(&stdout(&output)).unwrap_or_else(|_| panic!("{}", stderr(&output)))
    };
    let v3 = json(&fixture("deepseek_v3"));
    assert_eq!((&v3["model_type"], &v3["shapes"]["n_routed_experts"]), (&"deepseek_v3".into(), &16.into()));
    // 4 layers of a latent of 32 and a rope key of 16, in single precision.
    assert_eq!(v3["kv_cache"]["bytes_per_token"], 4 * (32 + 16) * 4);
    assert_eq!(v3["kv_cache"]["bytes_at"]["131072"], 4 * (32 + 16) * 4 * 131_072);
    assert!(v3["active_parameters"].as_u64() < v3["total_parameters"].as_u64());
    assert!(json(&fixture("deepseek_v3_fp8"))["weight_bytes_by_dtype"].to_string().contains("F8_E4M3"));
    let demo = stdout(&run(&["inspect"]));
    assert!(demo.contains("deepseek_v3") && demo.contains("KV cache"), "{demo}");
    let bf16 = run(&["inspect", "--json", "--kv-dtype", "bf16", &fixture("deepseek_v3")]);
    assert!(stdout(&bf16).contains("\"BF16\""));
    let fp8 = stdout(&run(&["inspect", "--json", "--kv-dtype", "fp8", &fixture("deepseek_v3")]));
    let fp8: Value = serde_json::from_str(&fp8).unwrap();
    // 32 bytes, one scale, 16 bf16, filled up to a multiple of 16.
    assert_eq!(fp8["kv_cache"]["bytes_per_token"], 4 * 80);
    let v4 = stdout(&run(&["inspect", "--json", "--kv-dtype", "fp8", &fixture("deepseek_v4")]));
    let v4: Value = serde_json::from_str(&v4).unwrap();
    // 24 bytes, one scale, 8 bf16, filled up to multiples of 8, and 16 bf16 of an index key: for 4 tokens in two layers,
    // without the key for 128 in one.
    assert_eq!(v4["kv_cache"]["bytes_per_token"], (2 * 32 * (48 + 32) + 48u64).div_ceil(128));
    let llama = run(&["inspect", "--kv-dtype", "fp8", &fixture("llama3_distill")]);
    assert!(stderr(&llama).contains("F8_E4M3 for rows that all heads share"), "{}", stderr(&llama));
}

#[test]
fn an_indexer_in_fp8_by_option() {
    let option = ["--indexer-kv-dtype", "fp8"];
    let [v3, v32, v4] = ["deepseek_v3", "deepseek_v32", "deepseek_v4"].map(fixture);
    let bytes = |options: &[&str]| {
        let args = [&["inspect", "--json"], options, &[&v32]].concat();
        let page: Value = serde_json::from_str(&stdout(&run(&args))).unwrap();
        page["kv_cache"]["bytes_per_token"].as_u64().unwrap()
    };
    // 3 layers of a latent of 32 and a rope key of 16, and of an index key of 32.
    assert_eq!(bytes(&[]), 3 * (48 * 4 + 32 * 4));
    assert_eq!(bytes(&option), 3 * (48 * 4 + 32 + 4));
    assert_eq!(bytes(&[&option[..], &["--kv-dtype", "fp8"]].concat()), 3 * (80 + 32 + 4));
    let refused =
        "an indexer in FP8 is what deepseek_v32 and deepseek_v4 can have; deepseek_v3 has no such indexer";
    assert_error(&run(&[&["inspect"], &option[..], &[&v3]].concat()), refused);
    // The demo model is a deepseek_v3.
    assert_error(&run(&[&["run"], &option[..], &["hi"]].concat()), refused);
    let fp4 = ["--indexer-kv-dtype", "fp4"];
    let refused = "an indexer in FP4 is what deepseek_v4 can have; deepseek_v32 has no such indexer";
    assert_error(&run(&[&["inspect"], &fp4[..], &[&v32]].concat()), refused);
    // V4: two layers of a row of 32 and an index key of 16 for 4 tokens, one of a row for 128.
    for (option, key) in [(option, 16 + 4), (fp4, 8 + 1 + 3)] {
        let args = [&["inspect", "--json"], &option[..], &[&v4]].concat();
        let page: Value = serde_json::from_str(&stdout(&run(&args))).unwrap();
        let block = 2 * 32 * (32 * 4 + key) + 32 * 4u64;
        assert_eq!(page["kv_cache"]["bytes_per_token"], block.div_ceil(128));
    }
    // Goldens are exact maths.
    assert_eq!(code(&run(&[&["verify"], &option[..], &[&v32]].concat())), 2);
    assert!(stdout(&run(&["verify", "--help"])).contains("--indexer-kv-dtype of run and serve"));
}

#[test]
fn experts_in_int8_by_option() {
    let model = fixture("deepseek_v3_fp8");
    let report = run(&["inspect", "--int8-report", "--json", &model]);
    let report: Value = serde_json::from_str(&stdout(&report)).unwrap();
    let stacks = report["stacks"].as_array().unwrap();
    let names: Vec<_> = stacks.iter().map(|s| s["name"].as_str().unwrap()).collect();
    let layer = "model.layers.1.mlp.experts.*";
    assert_eq!(names, ["down", "gate", "up"].map(|p| format!("{layer}.{p}_proj")));
    assert!(stacks.iter().all(|s| s["per_row"]["worst_relative_rms"].as_f64().unwrap() < 0.0125), "{report}");
    let page = stdout(&run(&["inspect", "--int8-report", &model]));
    assert!(page.contains("gate_proj") && page.contains("0 of 3 stacks are over the 1.25 %"), "{page}");
    let dense = stdout(&run(&["inspect", "--int8-report", &fixture("qwen2_distill")]));
    assert!(dense.contains("no routed experts"), "{dense}");
    // What verify holds against the reference are then other weights.
    assert_eq!(code(&run(&["verify", &model])), 0);
    for form in ["int8", "auto"] {
        assert_eq!(code(&run(&["verify", "--experts", form, &model])), 1, "{form}");
    }
    let prompt = ["--temperature", "0", "--max-tokens", "24", "What is 12 + 30?"];
    let int8 = run(&[&["run", "--experts", "int8"], &prompt[..]].concat());
    assert!(stdout(&int8).contains("42"), "{}", stdout(&int8));
}

/// A fixture with an edited golden file.
fn with_golden(name: &str, edit: impl FnOnce(Vec<u8>) -> Vec<u8>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let golden = dir.path().join("golden.safetensors");
    let bytes = edit(fs::read(&golden).unwrap());
    fs::write(golden, bytes).unwrap();
    dir
}

fn verify(dir: &Path, more: &[&str]) -> Output {
    run(&[&["verify", &dir.display().to_string()][..], more].concat())
}

#[test]
fn verify_exits_by_its_verdict() {
    let good = verify(fixture("deepseek_v2").as_ref(), &["--chunk", "7"]);
    assert_eq!(code(&good), 0, "{}", stdout(&good));
    assert!(stdout(&good).contains("all hold"));
    let json: Value =
        serde_json::from_str(&stdout(&verify(fixture("deepseek_v2").as_ref(), &["--json"]))).unwrap();
    assert_eq!((&json["outcome"], &json["failed"]), (&"pass".into(), &0.into()));

    // The last bytes belong to some tensor of floats: a flipped exponent bit is no small difference.
    let wrong = with_golden("llama3_distill", |mut bytes| {
        let at = bytes.len() - 1;
        bytes[at] ^= 0x02;
        bytes
    });
    assert_eq!(code(&verify(wrong.path(), &[])), 1);

    let renamed = with_golden("llama3_distill", |bytes| {
        let at = bytes.windows(12).position(|w| w == b"hidden.embed").unwrap();
        [&bytes[..at], b"hiddem.embed", &bytes[at + 12..]].concat()
    });
    let unknown = verify(renamed.path(), &[]);
    assert_eq!(code(&unknown), 3, "{}", stdout(&unknown));
    assert!(stdout(&unknown).contains("NOT CHECKED"));

    let broken = with_golden("llama3_distill", |bytes| bytes[..100].to_vec());
    assert_error(&verify(broken.path(), &[]), "golden.safetensors");
    assert_error(&verify(fixture("deepseek_v2").as_ref(), &["--chunk", "0"]), "chunk");
    assert_error(&verify(fixture("deepseek_v2").as_ref(), &["--tolerance-key", "q=1"]), "tolerance-key");
    assert_eq!(code(&verify(wrong.path(), &["--tolerance", "1e30"])), 0);
}

#[test]
fn eval_counts_by_skill() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cases.jsonl");
    let case = |expect: &str| {
        format!(
            r#"{{"skill": "sums", "thinking": false, "messages": [{{"role": "user", "content": "1 + 1"}}], "expect": {expect}}}"#
        )
    };
    fs::write(
        &file,
        format!("{}\n{}\n", case(r#"{"contains": []}"#), case(r#"{"content": "no such answer"}"#)),
    )
    .unwrap();
    let file = file.display().to_string();
    let json: Value = serde_json::from_str(&stdout(&run(&["eval", "--json", "--file", &file]))).unwrap();
    assert_eq!((&json["exact"], &json["total"]), (&1.into(), &2.into()));
    assert_eq!(json["skills"][0]["skill"], "sums");
    assert!(stdout(&run(&["eval", "--file", &file, "--show", "1"])).contains("1 of    2"));
    assert_error(&run(&["eval", "--file", "/no/such/file"]), "/no/such/file");
    assert_eq!(code(&run(&["eval", "--limit", "1", "--json"])), 0);
}

#[test]
fn completions_are_scripts() {
    for (shell, part) in
        [("bash", "_cachalot"), ("zsh", "#compdef cachalot"), ("fish", "complete -c cachalot")]
    {
        let output = run(&["completions", shell]);
        assert!(code(&output) == 0 && stdout(&output).contains(part), "{shell}");
    }
}

#[test]
fn a_closed_pipe_is_quiet() {
    for args in [&["completions", "bash"][..], &["run", "--max-tokens", "40", "Tell me a story."]] {
        let mut child = command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let said = stderr(&output);
        assert!(code(&output) == 0 && !said.contains("error") && !said.contains("panic"), "{args:?}: {said}");
    }
}
