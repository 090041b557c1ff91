//! Compiles C++ and kernels with the machine's compiler, once for the same sources and flags.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;

const COMPILER: &str = "g++";

/// Which of the compiler's run-time checks a program is built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sanitizer {
    /// None.
    None,
    /// Data races between the threads of a block.
    Thread,
    /// Wrong addresses and undefined behaviour.
    Address,
}

impl Sanitizer {
    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::None => &[],
            Self::Thread => &["-fsanitize=thread"],
            Self::Address => &["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
        }
    }

    /// Whether the machine's compiler can build and run a program with it.
    pub fn is_supported(self) -> bool {
        let source = target_dir().join("probe.cpp");
        let written =
            fs::create_dir_all(target_dir()).and_then(|()| fs::write(&source, "int main() { return 0; }\n"));
        let program =
            written.ok().and_then(|()| Unit::program("probe").source(&source).sanitizer(self).build().ok());
        program.is_some_and(|path| Command::new(path).status().is_ok_and(|status| status.success()))
    }
}

/// The folder to pass to nvcc or g++ with `-I`: kernels include `simt/device.h` from it.
pub fn include_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("include")
}

/// Where results go: the build's own target folder.
pub(crate) fn target_dir() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let target = program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists());
    target.map_or_else(std::env::temp_dir, Path::to_path_buf).join("softgpu")
}

/// A shared object or a program to be compiled from C++ or `.cu` sources.
#[derive(Clone, Debug)]
pub struct Unit {
    name: String,
    sources: Vec<PathBuf>,
    include_dirs: Vec<PathBuf>,
    flags: Vec<String>,
    sanitizer: Sanitizer,
}

impl Unit {
    /// A shared object of kernels, which the driver loads as a module image: its bytes, or its path after `softgpu:`.
    pub fn kernels(name: &str) -> Self {
        // Hidden and not unique: two objects with the same kernels must not share their static shared memory.
        Self::new(name)
            .flag("-shared")
            .flag("-fPIC")
            .flag("-fvisibility=hidden")
            .flag("-fno-gnu-unique")
            .flag("-O2")
    }

    /// A program of its own, for instance one that launches kernels through `simt/host.h`.
    pub fn program(name: &str) -> Self {
        Self::new(name).flag("-O0").flag("-g1")
    }

    pub(crate) fn library(name: &str) -> Self {
        Self::new(name).flag("-shared").flag("-fPIC").flag("-fvisibility=hidden").flag("-O1").flag("-g1")
    }

    fn new(name: &str) -> Self {
        // Contraction is off so that a result does not depend on whether this machine has fused multiply-add.
        let flags =
            ["-std=c++17", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-ffp-contract=off", "-pthread"];
        Self {
            name: name.to_owned(),
            sources: Vec::new(),
            include_dirs: vec![include_dir()],
            flags: flags.map(str::to_owned).to_vec(),
            sanitizer: Sanitizer::None,
        }
    }

    /// Adds a source file; `.cu` files are compiled as C++.
    pub fn source(mut self, path: impl Into<PathBuf>) -> Self {
        self.sources.push(path.into());
        self
    }

    /// Adds a folder for `#include`.
    pub fn include(mut self, path: impl Into<PathBuf>) -> Self {
        self.include_dirs.push(path.into());
        self
    }

    /// Adds a macro, as `NAME` or `NAME=VALUE`.
    pub fn define(self, macro_definition: &str) -> Self {
        self.flag(&format!("-D{macro_definition}"))
    }

    /// Adds any other flag of the compiler.
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// Builds with run-time checks.
    pub fn sanitizer(mut self, sanitizer: Sanitizer) -> Self {
        self.sanitizer = sanitizer;
        self
    }

    /// Compiles, unless the result for these very sources, headers and flags is there already, and gives its path.
    ///
    /// Headers count if they lie beside a source or anywhere below an include folder.
    pub fn build(&self) -> Result<PathBuf, Error> {
        let folder = target_dir().join(format!("{}-{:016x}", self.name, self.fingerprint()?));
        let result = folder.join(&self.name);
        let io = |source| Error::Io { path: folder.display().to_string(), source };
        fs::create_dir_all(&folder).map_err(io)?;
        // Test threads and processes that need the same unit wait here for the first of them.
        let lock = fs::File::create(folder.join("lock")).map_err(io)?;
        lock.lock().map_err(io)?;
        if !result.exists() {
            let unfinished = folder.join("unfinished");
            self.compile(&unfinished)?;
            fs::rename(&unfinished, &result).map_err(io)?;
        }
        Ok(result)
    }

    fn compile(&self, output: &Path) -> Result<(), Error> {
        let mut command = Command::new(COMPILER);
        command.args(&self.flags).args(self.sanitizer.flags());
        for folder in &self.include_dirs {
            command.arg("-I").arg(folder);
        }
        command.args(["-x", "c++"]).args(&self.sources).arg("-o").arg(output);
        let message = match command.output() {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        Err(Error::Compiler { command: format!("{command:?}"), message })
    }

    /// Everything the result depends on, but the compiler's own version.
    fn fingerprint(&self) -> Result<u64, Error> {
        let mut hasher = DefaultHasher::new();
        (&self.sources, &self.include_dirs, &self.flags, self.sanitizer).hash(&mut hasher);
        let mut files = Vec::new();
        for folder in &self.include_dirs {
            list(folder, true, &mut files)?;
        }
        for source in &self.sources {
            list(source.parent().unwrap_or(Path::new(".")), false, &mut files)?;
        }
        files.sort();
        files.dedup();
        for file in files {
            let text =
                fs::read(&file).map_err(|source| Error::Io { path: file.display().to_string(), source })?;
            (file, text).hash(&mut hasher);
        }
        Ok(hasher.finish())
    }
}

/// Collects the C++ files of a folder.
fn list(folder: &Path, recursive: bool, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    let io = |source| Error::Io { path: folder.display().to_string(), source };
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let is_source = path.extension().is_some_and(|e| e == "h" || e == "cu" || e == "cuh" || e == "cpp");
        if path.is_dir() && recursive {
            list(&path, true, files)?;
        } else if is_source {
            files.push(path);
        }
    }
    Ok(())
}
