//! One file of tensors: mapped from disk, or part of the program.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use memmap2::{Mmap, UncheckedAdvice};

use crate::{CheckpointError, Result};

/// The bytes of one file of tensors.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) file: String,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Mapped(Mmap),
    Static(&'static [u8]),
}

impl Shard {
    /// Maps the file at `path`.
    pub(crate) fn map(path: &Path, file: &str) -> Result<Self> {
        let handle = File::open(path).map_err(CheckpointError::io("open", path))?;
        // SAFETY: the map is only read. Like every reader of mapped weights this trusts that nobody truncates the
        // file meanwhile: the kernel would answer an access with SIGBUS, never with foreign memory.
        let map = unsafe { Mmap::map(&handle) }.map_err(CheckpointError::io("map", path))?;
        Ok(Self { file: file.to_owned(), source: Source::Mapped(map) })
    }

    /// Bytes that are in memory for the whole run.
    pub(crate) fn embedded(bytes: &'static [u8], file: &str) -> Self {
        Self { file: file.to_owned(), source: Source::Static(bytes) }
    }

    /// The whole file.
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.source {
            Source::Mapped(map) => map,
            Source::Static(bytes) => bytes,
        }
    }

    /// Gives the pages of `range` back to the page cache: they have been copied, and would count as ours.
    pub(crate) fn release(&self, range: Range<usize>) {
        if let Source::Mapped(map) = &self.source
            && !range.is_empty()
        {
            // SAFETY: the map is a shared, read-only file mapping, so a later access to a dropped page reads the same
            // bytes from the file again.
            let released =
                unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
            // A refusal costs memory, not correctness.
            drop(released);
        }
    }
}
