//! The binary where GPUs are concerned: what it says without one, with one it cannot use, and with the software device.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::process::{Command, Output, Stdio};

use testkit::{Fixture, hardware, soft_environment};

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cachalot"));
    command.args(args).stdin(Stdio::null());
    command
}

/// With the software driver, set up by `settings`.
fn soft(args: &[&str], settings: &[(&str, &str)]) -> Output {
    command(args).envs(soft_environment()).envs(settings.iter().copied()).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn assert_error(output: &Output, part: &str) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("error: ") && said.contains(part) && !said.contains("panicked"), "{said}");
}

const QUESTION: &str = "What is 2 + 3?";

#[test]
fn without_a_driver_auto_says_so_and_runs_on_the_cpu() {
    if hardware() {
        return;
    }
    let auto = command(&["run", QUESTION, "--max-tokens", "8", "--temperature", "0"]).output().unwrap();
    assert!(auto.status.success(), "{}", stderr(&auto));
    assert!(stderr(&auto).contains("no NVIDIA driver"), "{}", stderr(&auto));
    assert!(stderr(&auto).contains("running on the CPU"), "{}", stderr(&auto));
    let cpu = command(&["run", QUESTION, "--max-tokens", "8", "--temperature", "0", "--device", "cpu"]);
    let cpu = { cpu }.output().unwrap();
    assert_eq!(stdout(&auto), stdout(&cpu));
    assert!(!stderr(&cpu).contains("driver"), "{}", stderr(&cpu));
    let asked = command(&["run", QUESTION, "--device", "cuda"]).output().unwrap();
    assert_error(&asked, "no NVIDIA driver (libcuda.so.1) on this machine; use --device cpu");
    let unknown = command(&["run", QUESTION, "--device", "gpu"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2), "{}", stderr(&unknown));
    assert!(stderr(&unknown).contains("expected auto, cpu, cuda or cuda:N"), "{}", stderr(&unknown));
}

#[test]
fn a_gpu_that_cannot_be_used_is_refused_with_the_reason() {
    for (name, value, reason) in [
        ("SOFTGPU_CAPABILITY", "75", "compute capability 7.5; 8.0 (A100) or newer is needed"),
        ("SOFTGPU_DRIVER_VERSION", "11040", "its driver supports CUDA 11.4; CUDA 12.4 is needed"),
        ("SOFTGPU_KERNELS", "", "this build has no machine code for GPUs"),
    ] {
        let output = soft(&["run", QUESTION, "--device", "cuda", "--max-tokens", "1"], &[(name, value)]);
        assert_error(&output, reason);
    }
    let output = soft(&["run", QUESTION, "--device", "cuda:3"], &[("SOFTGPU_DEVICES", "2")]);
    assert_error(&output, "cuda:3 is not available: the driver offers 2 GPUs, counted from 0");
    let output = soft(&["run", QUESTION, "--device", "cuda", "--tp", "2"], &[]);
    assert_error(&output, "cuda:1 is not available: the driver offers 1 GPUs");
}

#[test]
fn a_model_that_does_not_fit_is_refused_with_the_plan_and_what_helps() {
    let output = soft(&["run", QUESTION, "--device", "cuda"], &[("SOFTGPU_MEMORY_MIB", "10")]);
    assert_error(&output, "the model does not fit: cuda:0 needs");
    let said = stderr(&output);
    assert!(said.contains("weights") && said.contains("KV") && said.contains("--tp"), "{said}");
}

#[test]
fn the_demo_model_answers_on_a_soft_gpu_and_shows_its_plan() {
    let args =
        ["run", QUESTION, "--device", "cuda", "--max-tokens", "4", "--temperature", "0", "--ctx-size", "128"];
    let gpu = soft(&args, &[]);
    assert!(gpu.status.success(), "{}", stderr(&gpu));
    assert!(
        stderr(&gpu).contains("cuda:0 needs") && stderr(&gpu).contains("KV room for"),
        "{}",
        stderr(&gpu)
    );
    let cpu =
        command(&["run", QUESTION, "--device", "cpu", "--max-tokens", "4", "--temperature", "0"]).output();
    assert_eq!(stdout(&gpu), stdout(&cpu.unwrap()));
}

/// Its MTP layer starts from what replayed steps keep: from anything else it guesses wrong, in a text that is not obvious.
#[test]
fn the_demo_models_guesses_are_as_right_on_a_soft_gpu() {
    let story = "Tell me a story about a fox.";
    let args = ["run", story, "--max-tokens", "32", "--temperature", "0", "--ctx-size", "128", "--speculate"];
    for speculation in ["mtp:1", "mtp:3"] {
        let run = |device| {
            let output = soft(&[&args[..], &[speculation, "--json", "--device", device]].concat(), &[]);
            assert!(output.status.success(), "{}", stderr(&output));
            serde_json::from_str::<serde_json::Value>(&stdout(&output)).unwrap()
        };
        let (cpu, gpu) = (run("cpu"), run("cuda"));
        assert_eq!(gpu["text"], cpu["text"]);
        assert_eq!(gpu["speculation"], cpu["speculation"], "{speculation}");
        assert!(gpu["speculation"]["acceptance_rate"].as_f64().unwrap() > 0.5, "{gpu}");
    }
}

#[test]
fn ranks_on_soft_gpus_hold_the_goldens() {
    for (fixture, ranks, transport) in [
        ("deepseek_v2_lite", "2", "nccl"),
        ("deepseek_v2_lite", "4", "nccl"),
        ("deepseek_v2_lite", "2", "host"),
        ("deepseek_v4_smallhca", "2", "nccl"),
    ] {
        let dir = Fixture::open(fixture).dir().display().to_string();
        let args = ["verify", &dir, "--device", "cuda", "--tp", ranks, "--tp-transport", transport];
        let output = soft(&args, &[("SOFTGPU_DEVICES", "4")]);
        let said = format!("{}{}", stdout(&output), stderr(&output));
        assert!(output.status.success(), "{fixture} {transport} {ranks}: {said}");
    }
}
