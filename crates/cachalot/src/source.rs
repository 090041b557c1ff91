//! [`ModelSource`]: where a model comes from.

use std::path::{Path, PathBuf};

use checkpoint::hub::{self, DownloadProgress, HubOptions};
use checkpoint::{Checkpoint, GenerationConfig, GgufTokenizer, LoadProgress};
use text::{GgufVocabulary, Tokenizer};

use crate::{Error, demo};

/// Where a model comes from.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ModelSource {
    /// The demo model inside the program.
    Embedded,
    /// A directory with `config.json`, safetensors files and `tokenizer.json`; or a GGUF file, or a directory with one.
    Path(PathBuf),
    /// A hub id, `org/name` or `org/name@revision`, with `:PICK` for one of several GGUF models, downloaded into a cache if it is not there yet.
    Hub {
        /// The id.
        id: String,
        /// The hub and its cache.
        options: HubOptions,
    },
}

/// What a load is doing.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Progress {
    /// Fetching a file from the hub.
    Download(DownloadProgress),
    /// Reading weights.
    Weights(LoadProgress),
    /// Something the user should know: that the CPU was taken for want of a GPU, or what is planned for its memory.
    Notice(String),
}

/// A model found but not read: config and headers are checked, no weight is in memory.
pub(crate) struct Opened {
    /// How to call it: `demo`, the path or the hub id.
    pub(crate) name: String,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) generation_config: GenerationConfig,
    /// Where the model's files lie; `None` for the demo model's.
    path: Option<PathBuf>,
}

impl ModelSource {
    /// The model's directory or GGUF file, downloaded if need be; `None` for the embedded model.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the hub cannot deliver it.
    pub fn resolve(&self, progress: &mut dyn FnMut(Progress)) -> Result<Option<PathBuf>, Error> {
        match self {
            Self::Embedded => Ok(None),
            Self::Path(dir) => Ok(Some(dir.clone())),
            Self::Hub { id, options } => {
                let mut hear = |done: &DownloadProgress| progress(Progress::Download(done.clone()));
                Ok(Some(hub::resolve(id, options, &mut hear)?))
            }
        }
    }

    /// A short name for people.
    pub fn name(&self) -> String {
        match self {
            Self::Embedded => "demo".to_owned(),
            Self::Path(dir) => dir.display().to_string(),
            Self::Hub { id, .. } => id.clone(),
        }
    }

    /// Opens the config and the headers; reads no weight.
    pub(crate) fn open(&self, progress: &mut dyn FnMut(Progress)) -> Result<Opened, Error> {
        let path = self.resolve(progress)?;
        let (checkpoint, generation_config) = match &path {
            None => (demo::checkpoint()?, demo::generation_config()?),
            Some(path) => {
                let checkpoint = open_path(path)?;
                let generation_config = checkpoint.generation_config().clone();
                (checkpoint, generation_config)
            }
        };
        Ok(Opened { name: self.name(), checkpoint, generation_config, path })
    }
}

fn open_path(path: &Path) -> Result<Checkpoint, Error> {
    let is_gguf = path.extension().is_some_and(|extension| extension == "gguf") && path.is_file();
    if !path.is_dir() && !is_gguf {
        return Err(Error::file(path, "a model directory or a .gguf file", "nothing there, or another file"));
    }
    Ok(Checkpoint::open(path)?)
}

impl Opened {
    /// The tokenizer, which ends a text where any of the model's files says so.
    pub(crate) fn tokenizer(&self) -> Result<Tokenizer, Error> {
        let tokenizer = match (&self.path, self.checkpoint.gguf_tokenizer()) {
            (None, _) => demo::tokenizer()?,
            (Some(_), Some(inside)) => Tokenizer::from_gguf(&vocabulary(inside))?,
            (Some(file), None) if file.is_file() => {
                return Err(Error::file(file, "a vocabulary in the metadata (tokenizer.ggml.model)", "none"));
            }
            (Some(dir), None) => Tokenizer::from_dir(dir)?,
        };
        Ok(tokenizer
            .with_eos_ids(&self.checkpoint.config().common().eos_token_ids)
            .with_eos_ids(&self.generation_config.eos_token_ids))
    }
}

/// The metadata of a GGUF file as the tokenizer takes it: neither crate knows the other.
fn vocabulary(inside: &GgufTokenizer) -> GgufVocabulary {
    let GgufTokenizer {
        model,
        pre,
        tokens,
        token_types,
        merges,
        bos_token_id,
        eos_token_id,
        eot_token_id,
        padding_token_id,
        add_bos_token,
        chat_template,
    } = inside.clone();
    GgufVocabulary {
        model,
        pre,
        tokens,
        token_types,
        merges,
        bos_token_id,
        eos_token_id,
        eot_token_id,
        padding_token_id,
        add_bos_token,
        chat_template,
    }
}
