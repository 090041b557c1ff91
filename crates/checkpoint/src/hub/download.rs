//! Downloads the files of one commit, resumes cut ones, and compares every large file with the hub's SHA-256.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::Cache;
use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use sha2::{Digest, Sha256};

use super::id::HubId;
use super::listing::{Listing, RemoteFile};
use super::offline::marker;
use super::options::HubOptions;
use crate::shard_index::{self, INDEX_FILE};
use crate::{CheckpointError, Result};

/// Tries per file. Each resumes where the last was cut, so a few suffice even for files of many gigabytes.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// How far a download has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownloadProgress {
    /// The file that is being fetched.
    pub file: String,
    /// Bytes of it that are on disk, those of an earlier, cut download included.
    pub bytes_done: u64,
    /// Bytes of it in all.
    pub bytes_total: u64,
}

type Hook<'a> = &'a mut dyn FnMut(&DownloadProgress);

/// The snapshot of `id`, downloaded as far as it is not in the cache.
pub(crate) fn snapshot(id: &HubId, options: &HubOptions, progress: Hook<'_>) -> Result<PathBuf> {
    let api = ApiBuilder::from_cache(Cache::new(options.cache_dir.clone()))
        .with_endpoint(options.endpoint.clone())
        // None also clears the token that the builder finds beside the cache by itself.
        .with_token(options.token.clone())
        .with_user_agent("cachalot", env!("CARGO_PKG_VERSION"))
        .build()
        .map_err(|error| CheckpointError::hub(id, "client", "a working HTTP client", error))?;
    let listing = listing(&api.repo(id.repo()), id, options)?;
    let session = Session::new(&api, id, options, &listing.sha);
    // A repository that cannot be used is refused before anything is fetched.
    if let Some(files) = listing.gguf(id)? {
        return session.gguf(&files, progress);
    }
    let direct = if listing.is_indexed() { None } else { Some(listing.weights(id)?) };
    for file in listing.small_files() {
        session.fetch(file, progress)?;
    }
    let weights = match direct {
        Some(weights) => weights,
        None => listing.shards(&session.indexed_files()?, id)?,
    };
    for file in weights {
        session.fetch(file, progress)?;
    }
    session.create_ref()?;
    Ok(session.dir)
}

fn listing(repo: &ApiRepo, id: &HubId, options: &HubOptions) -> Result<Listing> {
    let refused = |error| refused(id, options, "listing", &error);
    // `blobs` adds sizes and checksums.
    let mut answer = repo.info_request().query("blobs", "true").call().map_err(refused)?;
    let json = answer.body_mut().read_to_string().map_err(refused)?;
    Listing::from_json(&json, id)
}

/// One commit of a model. All requests name the commit, so that a push in between cannot mix two versions.
struct Session<'a> {
    id: &'a HubId,
    options: &'a HubOptions,
    repo: ApiRepo,
    /// The repository's folder in the cache.
    folder: PathBuf,
    commit: &'a str,
    /// The snapshot of the commit.
    dir: PathBuf,
}

impl<'a> Session<'a> {
    fn new(api: &Api, id: &'a HubId, options: &'a HubOptions, commit: &'a str) -> Self {
        let folder = id.folder(options);
        let dir = folder.join("snapshots").join(commit);
        Self { id, options, repo: api.repo(id.at(commit)), folder, commit, dir }
    }

    /// Fetches the parts of a GGUF model, which has everything inside; the path of the first.
    fn gguf(&self, files: &[&RemoteFile], progress: Hook<'_>) -> Result<PathBuf> {
        for file in files {
            self.fetch(file, progress)?;
        }
        self.create_ref()?;
        Ok(files.first().map_or_else(|| self.dir.clone(), |first| self.dir.join(&first.name)))
    }

    /// Notes which commit the revision means now, for offline use.
    fn create_ref(&self) -> Result<()> {
        let cache = Cache::new(self.options.cache_dir.clone()).repo(self.id.repo());
        cache.create_ref(self.commit).map_err(CheckpointError::io("write a ref in", &self.folder))
    }

    /// The shards that the downloaded index names.
    fn indexed_files(&self) -> Result<Vec<String>> {
        let path = self.dir.join(INDEX_FILE);
        let bytes = std::fs::read(&path).map_err(CheckpointError::io("read", &path))?;
        shard_index::file_names_of(&bytes)
    }

    /// Makes sure that `file` is in the snapshot, whole and checked.
    fn fetch(&self, file: &RemoteFile, progress: Hook<'_>) -> Result<()> {
        let marker = marker(&self.folder, &file.name);
        let path = self.dir.join(&file.name);
        if path.exists() && !marker.exists() {
            let size = size(&path)?;
            if file.size.is_none_or(|expected| expected == size) {
                progress(&DownloadProgress { file: file.name.clone(), bytes_done: size, bytes_total: size });
                return Ok(());
            }
            discard(&path)?;
        }
        if let Some(parent) = marker.parent() {
            std::fs::create_dir_all(parent).map_err(CheckpointError::io("create", parent))?;
        }
        File::create(&marker).map_err(CheckpointError::io("create", &marker))?;
        if !path.exists() {
            // A link whose blob is gone would stand in the way of the new one.
            if path.is_symlink() {
                std::fs::remove_file(&path).map_err(CheckpointError::io("remove", &path))?;
            }
            self.download(file, progress)?;
        }
        self.verify(file, &path)?;
        std::fs::remove_file(&marker).map_err(CheckpointError::io("remove", &marker))
    }

    fn download(&self, file: &RemoteFile, progress: Hook<'_>) -> Result<()> {
        let mut pause = FIRST_PAUSE;
        let mut attempt = 1;
        loop {
            let error = match self.repo.download_with_progress(&file.name, Meter::new(progress)) {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if let ApiError::RequestError(request) = &error
                && let ureq::Error::StatusCode(401 | 403 | 404) = **request
            {
                return Err(refused(self.id, self.options, &file.name, request));
            }
            if attempt == ATTEMPTS {
                let expected = format!("the file within {ATTEMPTS} attempts");
                return Err(CheckpointError::hub(self.id, &file.name, expected, error));
            }
            if is_stale_part(&error) {
                self.remove_part(file)?;
            }
            std::thread::sleep(pause);
            pause *= 2;
            attempt += 1;
        }
    }

    /// Removes what an earlier download left, when it is longer than the file or when nothing is left to ask for.
    fn remove_part(&self, file: &RemoteFile) -> Result<()> {
        let Some(etag) = file.etag() else { return Ok(()) };
        let part = self.folder.join("blobs").join(format!("{etag}.part"));
        match std::fs::remove_file(&part) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(CheckpointError::io("remove", &part)(error))
            }
            _ => Ok(()),
        }
    }

    /// Compares size and checksum with what the hub lists; a file that differs is removed.
    fn verify(&self, file: &RemoteFile, path: &Path) -> Result<()> {
        let found = size(path)?;
        if let Some(expected) = file.size
            && expected != found
        {
            discard(path)?;
            let (expected, found) =
                (format!("{expected} bytes"), format!("{found} bytes; the file was removed"));
            return Err(CheckpointError::hub(self.id, &file.name, expected, found));
        }
        let Some(expected) = file.sha256() else { return Ok(()) };
        let found = sha256(path)?;
        if !found.eq_ignore_ascii_case(expected) {
            discard(path)?;
            let found = format!("{found}; the file was removed, a new attempt fetches it again");
            return Err(CheckpointError::hub(self.id, &file.name, format!("SHA-256 {expected}"), found));
        }
        Ok(())
    }
}

/// Whether a partial file cannot be continued: the hub has nothing beyond its end.
fn is_stale_part(error: &ApiError) -> bool {
    match error {
        ApiError::InvalidResume => true,
        ApiError::RequestError(request) => matches!(**request, ureq::Error::StatusCode(416)),
        _ => false,
    }
}

/// What an HTTP status means to the user of a model.
fn refused(id: &HubId, options: &HubOptions, what: &str, error: &ureq::Error) -> CheckpointError {
    let token = if options.token.is_some() { "with the given token" } else { "without a token" };
    let (expected, found) = match error {
        ureq::Error::StatusCode(401) => (
            "access; a private or gated model needs a token (HF_TOKEN), an unknown name gets the same answer",
            format!("401 Unauthorized {token}"),
        ),
        ureq::Error::StatusCode(403) => (
            "access; a gated model wants its terms accepted on its page by the owner of the token",
            format!("403 Forbidden {token}"),
        ),
        ureq::Error::StatusCode(404) => {
            ("a model, revision and file of this name", format!("404 Not Found at {}", options.endpoint))
        }
        other => ("an answer", format!("{other} from {}", options.endpoint)),
    };
    CheckpointError::hub(id, what, expected, found)
}

fn size(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path).map_err(CheckpointError::io("read", path))?.len())
}

/// Removes a snapshot's link and the blob behind it.
fn discard(path: &Path) -> Result<()> {
    let blob = path.canonicalize().map_err(CheckpointError::io("resolve", path))?;
    std::fs::remove_file(&blob).map_err(CheckpointError::io("remove", &blob))?;
    match std::fs::remove_file(path) {
        // Without symbolic links the path was the blob itself.
        Err(error) if error.kind() != ErrorKind::NotFound => Err(CheckpointError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

fn sha256(path: &Path) -> Result<String> {
    const CHUNK_BYTES: usize = 1 << 20;
    let mut file = File::open(path).map_err(CheckpointError::io("open", path))?;
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut hasher = Sha256::new();
    loop {
        let read = file.read(&mut buffer).map_err(CheckpointError::io("read", path))?;
        if read == 0 {
            return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hasher.update(&buffer[..read]);
    }
}

/// Translates `hf-hub`'s increments.
struct Meter<'a> {
    progress: DownloadProgress,
    hook: Hook<'a>,
}

impl<'a> Meter<'a> {
    fn new(hook: Hook<'a>) -> Self {
        Self { progress: DownloadProgress { file: String::new(), bytes_done: 0, bytes_total: 0 }, hook }
    }
}

impl Progress for Meter<'_> {
    fn init(&mut self, size: usize, filename: &str) {
        self.progress =
            DownloadProgress { file: filename.to_owned(), bytes_done: 0, bytes_total: size as u64 };
    }

    fn update(&mut self, size: usize) {
        self.progress.bytes_done += size as u64;
        (self.hook)(&self.progress);
    }

    fn finish(&mut self) {}
}
