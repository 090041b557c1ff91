//! The SIMT runtime alone: C++ programs that hold every primitive against plain loops and provoke every fault, with
//! and without the sanitizers. Each program says which of its checks failed.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may panic, and says what it skips"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use softgpu::{Sanitizer, Unit};

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/soft").join(name)
}

fn program(name: &str) -> Unit {
    Unit::program(name).source(source(&format!("{name}.cpp")))
}

/// Exit status 0, and everything the program printed.
fn run(unit: &Unit, arguments: &[&str]) -> (bool, String) {
    let path = unit.build().unwrap_or_else(|error| panic!("{error}"));
    let output = Command::new(path).args(arguments).output().expect("the program starts");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn passes(unit: &Unit) {
    let (passed, text) = run(unit, &[]);
    assert!(passed, "{text}");
    assert!(text.is_empty(), "a clean run prints nothing: {text}");
}

#[test]
fn warp_collectives_barriers_and_atomics() {
    passes(&program("warps"));
}

#[test]
fn copies_matrices_and_conversions() {
    passes(&program("matrices"));
}

#[test]
fn every_fault_is_named() {
    passes(&program("faults"));
}

/// Machines other than x86-64 switch stacks through ucontext.
#[test]
fn the_portable_stack_switch_works_too() {
    passes(&program("warps").define("SIMT_UCONTEXT"));
}

#[test]
fn addresses_are_clean_under_the_address_sanitizer() {
    if !Sanitizer::Address.is_supported() {
        eprintln!("SKIPPED: this compiler has no AddressSanitizer");
        return;
    }
    passes(&program("matrices").sanitizer(Sanitizer::Address));
}

/// Sound kernels have no race; each planted race is reported, and the report names the line.
#[test]
fn races_are_found_by_the_thread_sanitizer() {
    if !Sanitizer::Thread.is_supported() {
        eprintln!("SKIPPED: this compiler has no ThreadSanitizer");
        return;
    }
    let unit = program("races").include(source("..")).sanitizer(Sanitizer::Thread);
    let (passed, text) = run(&unit, &["sound"]);
    assert!(passed && text.is_empty(), "{text}");
    for (bug, file) in [
        ("gemm_bf16_no_barrier_after_wait", "gemm_bf16.cu"),
        ("gemm_bf16_early_refill", "gemm_bf16.cu"),
        ("gemm_s8_no_barrier_before_refill", "gemm_s8.cu"),
        ("softmax_shared_reuse", "softmax.cu"),
        ("compact_racing_count", "compact.cu"),
    ] {
        let (_, text) = run(&unit, &[bug]);
        assert!(text.contains("WARNING: ThreadSanitizer: data race"), "{bug} was not reported: {text}");
        assert!(text.contains(file), "{bug}: the report does not name {file}: {text}");
    }
}
