//! Embeds the kernels: with feature `cuda` as machine code that nvcc makes of `cuda/*.cu`, otherwise as words which only
//! the software device takes for an image.

use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=cuda");
    if let Err(error) = embed() {
        for line in error.to_string().lines() {
            println!("cargo::error={line}");
        }
    }
}

fn embed() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let sources = sources(&root.join("cuda"))?;
    let mut table = format!("static IMAGES: [(&str, &[u8]); {}] = [\n", sources.len());
    for (source, image) in sources.iter().zip(images(&root, &out, &sources)?) {
        let stem = stem(source);
        let file = out.join(format!("{stem}.image"));
        replace(&file, &image)?;
        // The driver reads an image in words of eight bytes.
        writeln!(table, "    (\"{stem}\", &Aligned(*include_bytes!({file:?})).0),")?;
    }
    table.push_str("];\n");
    Ok(replace(&out.join("images.rs"), table.as_bytes())?)
}

/// Writes a new file: in a target folder that was copied with hard links, the old one is somebody else's too.
fn replace(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let unfinished = file.with_extension("unfinished");
    fs::write(&unfinished, bytes)?;
    fs::rename(&unfinished, file)
}

/// One image per source.
#[cfg(feature = "cuda")]
fn images(root: &Path, out: &Path, sources: &[PathBuf]) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    use nvcc::{Compiler, Search, Toolkit, in_parallel};

    for variable in ["CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let workspace = root.join("..");
    let simt = workspace.join("crates/softgpu/include");
    println!("cargo::rerun-if-changed={}", simt.display());
    // Objects are kept for other features, profiles and tools of the same target folder.
    let target = out.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists()).unwrap_or(out);
    let toolkit = Toolkit::find(&Search::standard(
        |name| env::var_os(name),
        &[target.to_path_buf(), workspace.join("target")],
    ))?;
    let compiler = Compiler::new(toolkit, &[simt, root.join("cuda/include")], &target.join("cuda-objects"));
    let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok()).unwrap_or(1);
    let images: Result<Vec<_>, _> =
        in_parallel(sources, jobs, |source| compiler.image(source)).into_iter().collect();
    Ok(images?)
}

/// Words in place of each image: a driver of a GPU refuses them.
#[cfg(not(feature = "cuda"))]
fn images(_root: &Path, _out: &Path, sources: &[PathBuf]) -> Result<Vec<Vec<u8>>, Box<dyn Error>> {
    let words =
        |source: &PathBuf| format!("cachalot kernels `{}`: no machine code in this build\0", stem(source));
    Ok(sources.iter().map(|source| words(source).into_bytes()).collect())
}

/// The kernels' files, sorted: the same sources give the same table.
fn sources(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let mut sources = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "cu") {
            sources.push(path);
        }
    }
    sources.sort();
    Ok(sources)
}

fn stem(source: &Path) -> String {
    source.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
