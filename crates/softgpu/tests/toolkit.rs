//! The test kernels under the real compiler, where `scripts/cuda-toolkit.sh` has put it: machine code for sm_80 and
//! sm_90 without spills, and with the instructions that the kernels are for. Skipped loudly without it.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test may panic, and says what it skips"
)]

use std::path::Path;
use std::process::Command;

#[test]
fn test_kernels_compile_for_hardware_without_spills() {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = crate_dir.join("../../scripts/cuda-toolkit.sh");
    let home = Command::new(script).arg("--print-home").output().unwrap();
    if !home.status.success() {
        eprintln!("SKIPPED: no CUDA toolkit; scripts/cuda-toolkit.sh installs one");
        return;
    }
    let nvcc = Path::new(String::from_utf8(home.stdout).unwrap().trim()).join("bin/nvcc");
    for (kernel, instructions) in [
        ("gemm_bf16", ["mma.sync.aligned.m16n8k16", "ldmatrix", "cp.async.cg"].as_slice()),
        ("gemm_s8", &["mma.sync.aligned.m16n8k32", "ldmatrix", "cp.async.cg"]),
        ("softmax", &["shfl.sync.bfly"]),
        ("compact", &["vote.sync.ballot", "atom"]),
        ("gather_pad", &["cp.async.ca", "cp.async.cg"]),
    ] {
        let source = crate_dir.join(format!("tests/kernels/{kernel}.cu"));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(kernel);
        std::fs::create_dir_all(&folder).unwrap();
        for arch in ["80", "90"] {
            let output = Command::new(&nvcc)
                .args([
                    "-std=c++17",
                    "-O3",
                    "-cubin",
                    "-keep",
                    "-Xptxas",
                    "-v",
                    &format!("-arch=sm_{arch}"),
                    "-I",
                ])
                .arg(softgpu::include_dir())
                .arg("-keep-dir")
                .arg(&folder)
                .arg(&source)
                .arg("-o")
                .arg(folder.join("kernel.cubin"))
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{kernel} for sm_{arch}: {said}");
            assert!(
                said.contains("0 bytes spill stores, 0 bytes spill loads"),
                "{kernel} for sm_{arch}: {said}"
            );
            assert!(!said.contains("warning"), "{kernel} for sm_{arch}: {said}");
        }
        let ptx = std::fs::read_to_string(folder.join(format!("{kernel}.ptx"))).unwrap();
        for instruction in instructions {
            assert!(ptx.contains(instruction), "{kernel} has no {instruction}");
        }
    }
}
