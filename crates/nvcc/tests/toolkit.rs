//! The installed toolkit, where there is one: the same source gives the same image wherever it lies, a change of a header
//! gives another, and an error names the place. Skipped loudly without it.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and says what it skips")]

use std::fs;
use std::path::Path;

use nvcc::{Arch, Compiler, Search, Toolkit};

const KERNEL: &str = r#"#include "twice.cuh"
extern "C" __global__ void __launch_bounds__(128) scale(float* x) { x[threadIdx.x] = twice(x[threadIdx.x]); }
"#;

fn toolkit() -> Option<Toolkit> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    match Toolkit::find(&Search::standard(|name| std::env::var_os(name), &[target])) {
        Ok(toolkit) => Some(toolkit),
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            None
        }
    }
}

fn write_sources(folder: &Path, header: &str) {
    fs::write(folder.join("scale.cu"), KERNEL).unwrap();
    fs::write(folder.join("twice.cuh"), header).unwrap();
}

#[test]
fn images_depend_on_content_alone() {
    let Some(toolkit) = toolkit() else { return };
    let folders = [0; 3].map(|_| tempfile::tempdir().unwrap());
    let header = "static __device__ float twice(float x) { return 2 * x; }\n";
    write_sources(folders[0].path(), header);
    write_sources(folders[1].path(), header);
    write_sources(folders[2].path(), "static __device__ float twice(float x) { return x + x + 1; }\n");
    let images = folders.each_ref().map(|folder| {
        let compiler = Compiler::new(toolkit.clone(), &[], &folder.path().join("cache"));
        compiler.image(&folder.path().join("scale.cu")).unwrap()
    });
    assert!(images[0] == images[1], "the same sources in two folders give two images");
    assert!(images[0] != images[2], "a changed header gives the old image");
    assert_eq!(images[0][..4], 0xba55_ed50_u32.to_le_bytes(), "an image starts with the mark of a fatbin");

    let compiler = Compiler::new(toolkit, &[], &folders[0].path().join("cache"));
    let object = compiler.object(&folders[0].path().join("scale.cu"), Arch::Sm90).unwrap();
    assert!(object.log.contains("Compiling entry function 'scale' for 'sm_90'"), "{}", object.log);
    assert!(fs::read_to_string(object.ptx).unwrap().contains(".maxntid 128"), "no launch bound in the PTX");
}

#[test]
fn an_error_names_the_file_and_leaves_nothing_behind() {
    let Some(toolkit) = toolkit() else { return };
    let folder = tempfile::tempdir().unwrap();
    write_sources(folder.path(), "static __device__ float twice(float x) { return 2 * y; }\n");
    let compiler = Compiler::new(toolkit, &[], &folder.path().join("cache"));
    for _ in 0..2 {
        let error = compiler.image(&folder.path().join("scale.cu")).unwrap_err().to_string();
        assert!(error.contains("twice.cuh") && error.contains("\"y\" is undefined"), "{error}");
    }
}
