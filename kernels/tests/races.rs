//! Every kernel under ThreadSanitizer: each program in `races/` launches the kernels of a stem or of a few, with late and
//! with early copies, and must end without a report or a fault.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and says what it skips")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use softgpu::{Sanitizer, Unit};

fn root(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)
}

/// The kernels, or a copy of them with a planted bug.
fn kernel_sources() -> PathBuf {
    std::env::var_os("CACHALOT_KERNEL_SOURCES").map_or_else(|| root("cuda"), PathBuf::from)
}

/// Files of a folder with an extension, by stem.
fn stems(folder: &Path, extension: &str) -> BTreeSet<String> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|found| found == extension));
    files.map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect()
}

/// What a driver said if it did not end clean.
fn complaint(stem: &str) -> Option<String> {
    let (kernels, driver) = (kernel_sources(), root("tests/races").join(format!("{stem}.cpp")));
    let unit = Unit::program(&format!("races-{stem}")).source(driver).sanitizer(Sanitizer::Thread);
    let unit = unit.include(&kernels).include(kernels.join("include")).flag("-O1");
    let program = match unit.build() {
        Ok(program) => program,
        Err(error) => return Some(format!("{stem}: {error}")),
    };
    let output = Command::new(program).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    (!output.status.success() || !text.is_empty()).then(|| format!("{stem}: {}\n{text}", output.status))
}

#[test]
fn no_kernel_races() {
    if !Sanitizer::Thread.is_supported() {
        eprintln!("SKIPPED: this compiler has no ThreadSanitizer");
        return;
    }
    // One driver alone, where a planted bug is looked for.
    let only = std::env::var("CACHALOT_RACES").ok();
    let drivers = stems(&root("tests/races"), "cpp");
    let drivers: Vec<_> =
        drivers.into_iter().filter(|stem| only.as_ref().is_none_or(|o| o == stem)).collect();
    assert!(!drivers.is_empty());
    let (next, complaints) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(stem) = drivers.get(next.fetch_add(1, Ordering::Relaxed)) {
                    complaints.lock().unwrap().extend(complaint(stem));
                }
            });
        }
    });
    let complaints = complaints.into_inner().unwrap();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn every_stem_has_a_driver() {
    let folder = root("tests/races");
    let read = |stem: &String| std::fs::read_to_string(folder.join(format!("{stem}.cpp"))).unwrap();
    let drivers: String = stems(&folder, "cpp").iter().map(read).collect();
    for stem in stems(&root("cuda"), "cu") {
        assert!(drivers.contains(&format!("{stem}.cu\"\n")), "no driver includes cuda/{stem}.cu");
    }
}
