//! Writes the table of kernel images that the crate embeds.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=cuda");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let mut table = String::from("static IMAGES: &[(&str, &[u8])] = &[\n");
    for stem in stems(&root.join("cuda"))? {
        let words = format!("cachalot kernels `{stem}`: no machine code in this build\\0");
        writeln!(table, "    (\"{stem}\", b\"{words}\"),").map_err(io::Error::other)?;
    }
    table.push_str("];\n");
    fs::write(out.join("images.rs"), table)
}

fn stems(folder: &Path) -> io::Result<Vec<String>> {
    let mut stems = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "cu") {
            stems.extend(path.file_stem().map(|s| s.to_string_lossy().into_owned()));
        }
    }
    stems.sort();
    Ok(stems)
}
