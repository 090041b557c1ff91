//! The rules of the house: which crate may import which, how long a file and a function may get, where a backend
//! feature may be named, and what never appears in the sources. ARCHITECTURE.md explains them.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Which of our crates each crate may import. An edge that is not here is a decision, not a detail: change
/// ARCHITECTURE.md first.
const EDGES: &[(&str, &[&str])] = &[
    ("kernels", &[]),
    ("checkpoint", &["kernels"]),
    ("comm", &["kernels"]),
    ("models", &["kernels", "checkpoint", "comm"]),
    ("scheduler", &[]),
    ("engine", &["models", "scheduler", "kernels", "comm", "checkpoint"]),
    ("nvcc", &[]),
    ("budget", &["nvcc"]),
    ("softgpu", &[]),
    ("text", &[]),
    ("server", &["engine", "text"]),
    ("cachalot", &["kernels", "checkpoint", "comm", "models", "scheduler", "engine", "text", "server"]),
    ("benches", &["kernels", "checkpoint", "comm", "models", "scheduler", "engine", "text", "cachalot"]),
    ("testkit", &["kernels", "checkpoint", "comm", "softgpu"]),
    ("fuzz", &["scheduler", "text", "cachalot"]),
    ("libfuzzer", &["fuzz"]),
];

const MAX_FILE_LINES: usize = 500;
const MAX_FUNCTION_LINES: usize = 80;
const SOURCE_EXTENSIONS: &[&str] = &["rs", "cu", "cuh", "h", "cpp", "py", "js", "sh"];

fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).expect("crates/testkit lies two levels below the root").to_path_buf()
}

/// Every file below the root that is ours: no build output, no hidden folder.
fn files() -> Vec<PathBuf> {
    let mut pending = vec![root()];
    let mut found = Vec::new();
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if name.starts_with('.') || name == "target" {
                continue;
            }
            if entry.file_type().unwrap().is_dir() { &mut pending } else { &mut found }.push(entry.path());
        }
    }
    found.sort();
    found
}

/// Relative path and text of every source file.
fn sources() -> Vec<(String, String)> {
    let root = root();
    let is_source =
        |p: &PathBuf| p.extension().and_then(|e| e.to_str()).is_some_and(|e| SOURCE_EXTENSIONS.contains(&e));
    let sources: Vec<_> = files()
        .into_iter()
        .filter(is_source)
        .map(|p| (p.strip_prefix(&root).unwrap().display().to_string(), fs::read_to_string(&p).unwrap()))
        .collect();
    assert!(sources.len() > 50, "the walk over the sources found only {} files", sources.len());
    sources
}

fn report(rule: &str, mut broken: Vec<String>) {
    broken.sort();
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

fn manifests() -> BTreeMap<String, toml::Table> {
    let is_manifest = |p: &PathBuf| p.file_name().is_some_and(|n| n == "Cargo.toml");
    files()
        .iter()
        .filter(|p| is_manifest(p))
        .map(|p| fs::read_to_string(p).unwrap().parse::<toml::Table>().unwrap())
        .filter_map(|t| Some((t.get("package")?.get("name")?.as_str()?.to_owned(), t)))
        .collect()
}

#[test]
fn crates_import_only_what_the_architecture_allows() {
    let manifests = manifests();
    let mut broken = Vec::new();
    for (name, manifest) in &manifests {
        let Some((_, allowed)) = EDGES.iter().find(|(n, _)| n == name) else {
            broken.push(format!("{name} is not in the table of crates"));
            continue;
        };
        let dependencies = manifest.get("dependencies").and_then(toml::Value::as_table);
        for dependency in dependencies.into_iter().flat_map(toml::Table::keys) {
            if manifests.contains_key(dependency) && !allowed.contains(&dependency.as_str()) {
                broken.push(format!("{name} imports {dependency}"));
            }
        }
    }
    report("crate edges outside the table", broken);
    assert!(manifests.contains_key("kernels"), "no manifest was read");
}

#[test]
fn test_tools_are_never_shipped() {
    let mut broken = Vec::new();
    for (name, manifest) in manifests() {
        for tool in ["testkit", "softgpu"] {
            if name != "testkit" && manifest.get("dependencies").is_some_and(|d| d.get(tool).is_some()) {
                broken.push(format!("{name} depends on {tool} outside dev-dependencies"));
            }
        }
    }
    report("test tools in shipped crates", broken);
}

#[test]
fn every_dependency_line_has_its_reason() {
    let mut broken = Vec::new();
    for path in files().iter().filter(|p| p.file_name().is_some_and(|n| n == "Cargo.toml")) {
        let text = fs::read_to_string(path).unwrap();
        let (mut in_dependencies, mut explained) = (false, false);
        for line in text.lines() {
            if line.starts_with('[') {
                in_dependencies = line.ends_with("dependencies]") && !line.contains("workspace");
                explained = false;
            } else if line.starts_with('#') {
                explained = true;
            } else if line.is_empty() {
                explained = false;
            } else if in_dependencies && line.contains('=') && !line.starts_with(' ') && !explained {
                broken.push(format!("{}: {line}", path.display()));
            }
        }
    }
    report("dependency lines without a reason above them", broken);
}

#[test]
fn files_stay_short() {
    let broken = sources()
        .iter()
        .filter(|(_, text)| text.lines().count() > MAX_FILE_LINES)
        .map(|(path, text)| format!("{path}: {} lines", text.lines().count()))
        .collect();
    report("files over the limit", broken);
}

/// Relies on rustfmt: a function ends at the first `}` with the indentation of its `fn` line.
#[test]
fn functions_stay_short() {
    let mut broken = Vec::new();
    for (path, text) in sources().iter().filter(|(path, _)| path.ends_with(".rs")) {
        let lines: Vec<&str> = text.lines().collect();
        for (start, line) in lines.iter().enumerate() {
            let code = line.trim_start();
            let indent = &line[..line.len() - code.len()];
            let is_function =
                ["fn ", "pub fn ", "pub(crate) fn ", "pub(super) fn ", "unsafe fn ", "pub unsafe fn "]
                    .iter()
                    .any(|prefix| code.starts_with(prefix));
            if !is_function || code.ends_with('}') || code.ends_with(';') {
                continue;
            }
            let end = lines[start..].iter().position(|l| l.strip_prefix(indent) == Some("}"));
            if let Some(length) = end.map(|e| e + 1).filter(|&l| l > MAX_FUNCTION_LINES) {
                broken.push(format!("{path}:{}: {length} lines", start + 1));
            }
        }
    }
    report("functions over the limit", broken);
}

#[test]
fn every_rust_file_opens_with_its_one_job() {
    let opens = |text: &str| text.starts_with("//!") || text.starts_with("#![");
    let broken = sources()
        .into_iter()
        .filter(|(path, text)| path.ends_with(".rs") && !opens(text))
        .map(|(path, _)| path)
        .collect();
    report("files without a purpose paragraph", broken);
}

#[test]
fn a_kernel_has_all_its_parts() {
    let kernels = root().join("kernels");
    let plumbing = ["mod.rs", "paged.rs"];
    let stems = fs::read_dir(kernels.join("src/ops")).unwrap().map(|e| e.unwrap().file_name());
    let broken: Vec<String> = stems
        .map(|name| name.into_string().unwrap())
        .filter(|name| name.ends_with(".rs") && !plumbing.contains(&name.as_str()))
        .filter(|name| !kernels.join("tests").join(name).exists())
        .collect();
    report("ops without a test of their stem in kernels/tests", broken);
}

#[test]
fn backends_meet_only_inside_kernels() {
    let allowed = |path: &str| path.starts_with("kernels/") || path == "crates/comm/src/nccl.rs";
    let broken = sources()
        .into_iter()
        .filter(|(path, text)| !allowed(path) && text.contains("feature = \"cuda\""))
        .map(|(path, _)| path)
        .collect();
    report("the cuda feature named outside kernels", broken);
}

#[test]
fn no_global_state_and_no_unfinished_marks() {
    let banned = [
        "static mut ",
        "thread_local!",
        "lazy_static",
        "todo!(",
        "unimplemented!(",
        "TODO",
        "FIXME",
        "#[ignore",
    ];
    let mut broken = Vec::new();
    for (path, text) in sources().iter().filter(|(path, _)| !path.ends_with("tests/tidy.rs")) {
        for (number, line) in text.lines().enumerate() {
            if let Some(word) = banned.iter().find(|w| line.contains(**w)) {
                broken.push(format!("{path}:{}: {word}", number + 1));
            }
        }
    }
    report("global state or unfinished marks", broken);
}
