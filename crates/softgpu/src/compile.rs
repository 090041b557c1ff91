//! Compiles C++ and kernels with the machine's compiler, once for the same sources and flags.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

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
    /// Headers count if a source or another header names them in quotes.
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
        let mut pending = self.sources.clone();
        let mut seen = BTreeSet::new();
        while let Some(file) = pending.pop() {
            let text =
                fs::read(&file).map_err(|source| Error::Io { path: file.display().to_string(), source })?;
            pending.extend(self.included(&file, &text).into_iter().filter(|file| seen.insert(file.clone())));
            (file, text).hash(&mut hasher);
        }
        Ok(hasher.finish())
    }

    /// The files that a source names in `#include "..."` and that can be found; what only one compiler sees counts too.
    fn included(&self, file: &Path, text: &[u8]) -> Vec<PathBuf> {
        let text = String::from_utf8_lossy(text);
        let names =
            text.lines().filter_map(|line| line.trim_start().strip_prefix("#include \"")?.split('"').next());
        let beside = file.parent().unwrap_or(Path::new(".")).to_path_buf();
        let folders = || std::iter::once(&beside).chain(&self.include_dirs);
        names
            .filter_map(|name| folders().map(|folder| folder.join(name)).find(|path| path.exists()))
            .collect()
    }
}

/// Compiles every `.cu` file of `folder`, each to a shared object of its own, on all cores; headers may lie in
/// `folder/include`. What is there already is not compiled again.
pub fn kernel_objects(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let io = |source| Error::Io { path: folder.display().to_string(), source };
    let mut sources = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|e| e == "cu") {
            sources.push(path);
        }
    }
    sources.sort();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(vec![None; sources.len()]);
    let work = || {
        while let Some((i, source)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|i| Some((i, sources.get(i)?)))
        {
            let stem = source.file_stem().unwrap_or_default().to_string_lossy();
            let unit = Unit::kernels(&format!("{stem}.so")).include(folder.join("include")).source(source);
            let built = unit.build().map_err(|error| error.to_string());
            results.lock().unwrap_or_else(PoisonError::into_inner)[i] = Some(built);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.into_iter().flatten().map(|built| built.map_err(Error::Load)).collect()
}
