//! Finds nvcc and the tools beside it, and tells its version.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;

/// Older compilers lack what the kernels use, and nobody has tried them.
pub const OLDEST: Version = Version { major: 12, minor: 4 };

const FIX: &str = "install the pinned compiler with scripts/cuda-toolkit.sh (no GPU, driver or root needed), or point \
                   CUDA_HOME at a CUDA toolkit of 12.4 or newer";

/// A release of the CUDA toolkit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 13 in "13.0".
    pub major: u32,
    /// 0 in "13.0".
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Version {
    /// Reads it from what `nvcc --version` prints: "Cuda compilation tools, release 13.0, V13.0.88".
    fn of_output(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once("release ")?;
        let (major, rest) = rest.split_once('.')?;
        let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Some(Self { major: major.trim().parse().ok()?, minor: minor.parse().ok()? })
    }
}

/// Where to look for a toolkit; the first one that is new enough is taken.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// Wished for by name, as variable and folder: anything wrong there is an error, not a reason to look further.
    pub wished: Option<(String, PathBuf)>,
    /// Folders that may hold nvcc.
    pub folders: Vec<PathBuf>,
}

impl Search {
    /// `CUDA_HOME`, `CUDA_PATH`, what `scripts/cuda-toolkit.sh` installed below one of the target folders, `PATH`, and
    /// `/usr/local/cuda`. `variable` reads the environment.
    pub fn standard(variable: impl Fn(&str) -> Option<OsString>, target_dirs: &[PathBuf]) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let wished = ["CUDA_HOME", "CUDA_PATH"]
            .iter()
            .find_map(|name| Some(((*name).to_owned(), PathBuf::from(set(name)?))));
        let mut folders: Vec<PathBuf> =
            target_dirs.iter().map(|folder| folder.join("cuda-toolkit/nvidia/cu13/bin")).collect();
        folders.extend(set("PATH").iter().flat_map(std::env::split_paths));
        folders.push(PathBuf::from("/usr/local/cuda/bin"));
        Self { wished, folders }
    }
}

/// A CUDA compiler that is new enough.
#[derive(Clone, Debug)]
pub struct Toolkit {
    nvcc: PathBuf,
    version: Version,
    /// All of what `nvcc --version` said: the build number too decides what comes out.
    identity: String,
}

impl Toolkit {
    /// Finds one, or says where it looked, what it found and how to get one.
    pub fn find(search: &Search) -> Result<Self, Error> {
        if let Some((variable, home)) = &search.wished {
            let nvcc = home.join("bin/nvcc");
            if !nvcc.is_file() {
                return Err(Error::NoToolkit(format!(
                    "{variable}={} has no bin/nvcc: unset it, or {FIX}",
                    home.display()
                )));
            }
            return Self::open(&nvcc)
                .map_err(|found| Error::NoToolkit(format!("{variable}: {found}: unset it, or {FIX}")));
        }
        let mut unusable = Vec::new();
        for nvcc in search.folders.iter().map(|folder| folder.join("nvcc")).filter(|nvcc| nvcc.is_file()) {
            match Self::open(&nvcc) {
                Ok(toolkit) => return Ok(toolkit),
                Err(found) => unusable.push(found),
            }
        }
        let found =
            if unusable.is_empty() { String::new() } else { format!("; found {}", unusable.join("; ")) };
        Err(Error::NoToolkit(format!(
            "no CUDA compiler in CUDA_HOME, CUDA_PATH, target/cuda-toolkit, PATH or /usr/local/cuda{found}: {FIX}"
        )))
    }

    /// The compiler at this path, or what is wrong with it.
    fn open(nvcc: &Path) -> Result<Self, String> {
        let output = Command::new(nvcc).arg("--version").output();
        let output = output.map_err(|error| format!("{} does not start: {error}", nvcc.display()))?;
        let identity = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = Version::of_output(&identity)
            .ok_or_else(|| format!("{} does not tell its version: {}", nvcc.display(), identity.trim()))?;
        if version < OLDEST {
            return Err(format!("{} is CUDA {version}, {OLDEST} or newer is needed", nvcc.display()));
        }
        // A link in PATH leads to the toolkit, where the other tools are.
        let nvcc = nvcc.canonicalize().unwrap_or_else(|_| nvcc.to_path_buf());
        Ok(Self { nvcc, version, identity })
    }

    /// The compiler itself.
    pub fn nvcc(&self) -> &Path {
        &self.nvcc
    }

    /// Its release. Machine code of CUDA 13 needs a driver of branch 580 or newer, that of CUDA 12 one of 525 or newer.
    pub fn version(&self) -> Version {
        self.version
    }

    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    /// Another tool of the toolkit: beside nvcc, else by its bare name from `PATH`.
    pub fn tool(&self, name: &str) -> PathBuf {
        let beside = self.nvcc.with_file_name(name);
        if beside.is_file() { beside } else { PathBuf::from(name) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// A folder with a `bin/nvcc` that says it is of this release.
    fn home(release: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        let nvcc = folder.path().join("bin/nvcc");
        let text = format!("#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.99'\n");
        fs::write(&nvcc, text).unwrap();
        fs::set_permissions(&nvcc, fs::Permissions::from_mode(0o755)).unwrap();
        folder
    }

    #[test]
    fn versions_are_read_and_compared_as_numbers() {
        let nvcc = "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 13.0, V13.0.88\n";
        assert_eq!(Version::of_output(nvcc), Some(Version { major: 13, minor: 0 }));
        assert_eq!(Version::of_output("release 12.10, V12.10.1"), Some(Version { major: 12, minor: 10 }));
        assert!(Version { major: 12, minor: 10 } > OLDEST);
        assert!(Version { major: 11, minor: 8 } < OLDEST);
        assert_eq!(Version::of_output("no such thing"), None);
    }

    #[test]
    fn a_wished_toolkit_that_cannot_be_used_is_an_error_with_the_fix() {
        let (old, new) = (home("11.8"), home("13.0"));
        let search = |wish: &Path| Search {
            wished: Some(("CUDA_HOME".into(), wish.to_path_buf())),
            folders: vec![new.path().join("bin")],
        };
        let error = Toolkit::find(&search(old.path())).unwrap_err().to_string();
        assert!(error.contains("CUDA 11.8") && error.contains("12.4 or newer"), "{error}");
        assert!(error.contains("CUDA_HOME") && error.contains("scripts/cuda-toolkit.sh"), "{error}");
        let error = Toolkit::find(&search(Path::new("/nowhere"))).unwrap_err().to_string();
        assert!(error.contains("CUDA_HOME=/nowhere has no bin/nvcc"), "{error}");
        assert_eq!(Toolkit::find(&search(new.path())).unwrap().version(), Version { major: 13, minor: 0 });
    }

    #[test]
    fn an_old_toolkit_in_the_path_is_passed_over_and_named_if_there_is_no_other() {
        let (old, new) = (home("12.3"), home("12.4"));
        let mut search = Search {
            wished: None,
            folders: vec!["/nowhere".into(), old.path().join("bin"), new.path().join("bin")],
        };
        assert_eq!(Toolkit::find(&search).unwrap().version(), OLDEST);
        search.folders.pop();
        let error = Toolkit::find(&search).unwrap_err().to_string();
        assert!(error.contains("CUDA 12.3, 12.4 or newer is needed"), "{error}");
        search.folders.clear();
        let error = Toolkit::find(&search).unwrap_err().to_string();
        assert!(error.contains("no CUDA compiler") && error.contains("scripts/cuda-toolkit.sh"), "{error}");
    }
}
