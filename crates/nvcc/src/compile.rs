//! Compiles `.cu` files: PTX per virtual architecture, machine code per GPU, and the image that holds them all.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use crate::includes::closure;
use crate::{Error, Toolkit};

const FLAGS: [&str; 3] = ["-std=c++17", "-O3", "-ptx"];

/// A GPU for which machine code is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arch {
    /// A100.
    Sm80,
    /// H100 and H200.
    Sm90,
}

impl Arch {
    /// Every one, the oldest first.
    pub const ALL: [Self; 2] = [Self::Sm80, Self::Sm90];

    /// As in `sm_80`.
    pub fn number(self) -> u32 {
        match self {
            Self::Sm80 => 80,
            Self::Sm90 => 90,
        }
    }
}

/// What a source became for one GPU.
#[derive(Clone, Debug)]
pub struct Object {
    /// The PTX it was made from.
    pub ptx: PathBuf,
    /// Machine code.
    pub cubin: PathBuf,
    /// What the compiler and the assembler said: warnings, and registers, shared memory and spills of each kernel.
    pub log: String,
}

/// Compiles with one toolkit into one cache.
#[derive(Clone, Debug)]
pub struct Compiler {
    toolkit: Toolkit,
    include_dirs: Vec<PathBuf>,
    cache: PathBuf,
}

impl Compiler {
    /// Results are kept below `cache`, one folder per content of a source.
    pub fn new(toolkit: Toolkit, include_dirs: &[PathBuf], cache: &Path) -> Self {
        Self { toolkit, include_dirs: include_dirs.to_vec(), cache: cache.to_path_buf() }
    }

    /// The toolkit it compiles with.
    pub fn toolkit(&self) -> &Toolkit {
        &self.toolkit
    }

    /// PTX and machine code of a source for one GPU.
    pub fn object(&self, source: &Path, arch: Arch) -> Result<Object, Error> {
        let folder = self.folder(source)?;
        let name = |end: &str| folder.join(format!("sm_{}.{end}", arch.number()));
        let object = Object { ptx: name("ptx"), cubin: name("cubin"), log: String::new() };
        let log_file = name("log");
        let log = once(&log_file, || {
            let number = arch.number();
            let mut nvcc = Command::new(self.toolkit.nvcc());
            nvcc.args(FLAGS).arg(format!("-arch=compute_{number}"));
            for include in &self.include_dirs {
                nvcc.arg("-I").arg(include);
            }
            let mut log = run(nvcc.arg(source).arg("-o").arg(&object.ptx))?;
            let mut ptxas = Command::new(self.toolkit.tool("ptxas"));
            ptxas.args(["-m64", "-v", &format!("-arch=sm_{number}")]).arg(&object.ptx);
            log += &run(ptxas.arg("-o").arg(&object.cubin))?;
            Ok(log.into_bytes())
        })?;
        Ok(Object { log: String::from_utf8_lossy(&log).into_owned(), ..object })
    }

    /// The machine code of an object as text.
    pub fn disassembly(&self, object: &Object) -> Result<String, Error> {
        let text = once(&object.cubin.with_extension("sass"), || {
            let mut nvdisasm = Command::new(self.toolkit.tool("nvdisasm"));
            Ok(run(nvdisasm.arg("-c").arg(&object.cubin))?.into_bytes())
        })?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// One image for the driver to choose from: machine code for every [`Arch`], and the oldest one's PTX for GPUs that
    /// are newer than all of them.
    pub fn image(&self, source: &Path) -> Result<Vec<u8>, Error> {
        let folder = self.folder(source)?;
        let objects: Result<Vec<Object>, Error> =
            Arch::ALL.iter().map(|&arch| self.object(source, arch)).collect();
        let objects = objects?;
        let unfinished = folder.join("unfinished.fatbin");
        once(&folder.join("image.fatbin"), || {
            let part = |kind: &str, arch: Arch, file: &Path| {
                format!("--image3=kind={kind},sm={},file={}", arch.number(), file.display())
            };
            let mut fatbinary = Command::new(self.toolkit.tool("fatbinary"));
            fatbinary.arg("-64").arg(format!("--create={}", unfinished.display()));
            for (arch, object) in Arch::ALL.into_iter().zip(&objects) {
                fatbinary.arg(part("elf", arch, &object.cubin));
            }
            run(fatbinary.arg(part("ptx", Arch::ALL[0], &objects[0].ptx)))?;
            fs::read(&unfinished).map_err(Error::io(&unfinished))
        })
    }

    /// Where the results for this very content go.
    fn folder(&self, source: &Path) -> Result<PathBuf, Error> {
        let mut hasher = DefaultHasher::new();
        (FLAGS, self.toolkit.identity()).hash(&mut hasher);
        for file in closure(source, &self.include_dirs)? {
            fs::read(&file).map_err(Error::io(&file))?.hash(&mut hasher);
        }
        let stem = source.file_stem().unwrap_or_default().to_string_lossy();
        let folder = self.cache.join(format!("{stem}-{:016x}", hasher.finish()));
        fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        Ok(folder)
    }
}

/// The file's bytes; made first if it is not there. Processes that need the same file wait for the first of them.
fn once(file: &Path, make: impl FnOnce() -> Result<Vec<u8>, Error>) -> Result<Vec<u8>, Error> {
    let lock_file = file.with_extension("lock");
    let lock = fs::File::create(&lock_file).map_err(Error::io(&lock_file))?;
    lock.lock().map_err(Error::io(&lock_file))?;
    if !file.is_file() {
        let bytes = make()?;
        // Written under another name, so that a build that is cut off leaves nothing that looks finished.
        let unfinished = file.with_extension("unfinished");
        fs::write(&unfinished, bytes).map_err(Error::io(&unfinished))?;
        fs::rename(&unfinished, file).map_err(Error::io(file))?;
    }
    fs::read(file).map_err(Error::io(file))
}

/// Runs a tool and gives what it said.
fn run(command: &mut Command) -> Result<String, Error> {
    let message = match command.output() {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said).into_owned();
            if output.status.success() {
                return Ok(said);
            }
            said
        }
        Err(error) => error.to_string(),
    };
    Err(Error::Tool { command: format!("{command:?}"), message })
}

/// The `.cu` files of a folder, sorted by name.
pub fn sources(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if path.extension().is_some_and(|extension| extension == "cu") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Runs `work` on every item with up to `jobs` at a time; the results are in the order of the items.
pub fn in_parallel<T: Sync, R: Send>(items: &[T], jobs: usize, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = Mutex::new(items.iter().enumerate());
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, items.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let item = next.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).next();
                    let Some((index, item)) = item else { break };
                    let result = work(item);
                    results.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}
