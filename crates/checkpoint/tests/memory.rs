//! Peak memory of loading: what is kept plus little, not the mapped files on top.
//!
//! Linux counts the peak of a process in `VmHWM`. The test therefore starts itself again as a child that does nothing
//! but load, and reads the child's report.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::io::Write;
use std::path::Path;
use std::process::Command;

use checkpoint::Checkpoint;
use serde_json::json;
use support::v3_config;

/// Tells the child which checkpoint to load.
const CHILD_VAR: &str = "CHECKPOINT_MEMORY_TEST_DIR";
const TENSORS: usize = 12;
const ROWS: usize = 2048;
const COLS: usize = 4096;
const TENSOR_BYTES: usize = ROWS * COLS * 2;

/// 12 BF16 matrices of 16 MiB in two files, written without holding them in memory.
fn write_checkpoint(dir: &Path) {
    std::fs::write(dir.join("config.json"), v3_config().to_string()).unwrap();
    let row: Vec<u8> = support::bf16_bytes(&support::ramp(COLS));
    for file in 0..2 {
        let mut header = serde_json::Map::new();
        for index in 0..TENSORS / 2 {
            let offsets = [index * TENSOR_BYTES, (index + 1) * TENSOR_BYTES];
            let entry = json!({"dtype": "BF16", "shape": [ROWS, COLS], "data_offsets": offsets});
            header.insert(format!("w{file}_{index}.weight"), entry);
        }
        let path = dir.join(format!("part{file}.safetensors"));
        let mut out = std::io::BufWriter::new(std::fs::File::create(path).unwrap());
        out.write_all(&support::with_header(&serde_json::Value::Object(header).to_string(), &[])).unwrap();
        for _ in 0..TENSORS / 2 * ROWS {
            out.write_all(&row).unwrap();
        }
    }
}

fn status_kib(key: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The child's part: loads everything as the first two files' experts would be, and reports.
fn load_and_report(dir: &Path) {
    let before = status_kib("VmHWM");
    let checkpoint = Checkpoint::open(dir).unwrap();
    let opened = status_kib("VmHWM");
    let stack: Vec<_> = (0..TENSORS / 2).map(|index| format!("w0_{index}")).collect();
    let stacked = checkpoint.stacked_weight(&stack, [ROWS, COLS]).unwrap();
    let single: Vec<_> = (0..TENSORS / 2)
        .map(|index| checkpoint.weight(&format!("w1_{index}"), [ROWS, COLS]).unwrap())
        .collect();
    let kept = stacked.size_bytes() + single.iter().map(kernels::Weight::size_bytes).sum::<usize>();
    let opening = opened - before;
    println!("REPORT {} {} {opening} {before}", status_kib("VmHWM"), kept / 1024);
}

#[test]
fn peak_memory_is_what_is_kept_plus_little() {
    if let Some(dir) = std::env::var_os(CHILD_VAR) {
        load_and_report(Path::new(&dir));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(dir.path());
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "peak_memory_is_what_is_kept_plus_little", "--nocapture"])
        .env(CHILD_VAR, dir.path())
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let report = stdout.lines().find_map(|line| line.split_once("REPORT ")).expect(&stdout).1;
    let numbers: Vec<usize> = report.split_whitespace().map(|n| n.parse().unwrap()).collect();
    let [peak, kept, opening, start] = numbers[..] else { panic!("{report}") };
    println!("peak {peak} KiB, kept {kept} KiB, opening {opening} KiB, process at start {start} KiB");
    assert_eq!(kept, TENSORS * TENSOR_BYTES / 1024);
    assert!(opening < 4096, "opening read tensor data: {opening} KiB");
    // 1.15 times what is kept; the released pages leave no room for a tensor on top.
    assert!(peak * 100 < kept * 115, "peak {peak} KiB for {kept} KiB kept");
}
