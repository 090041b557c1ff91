//! The header of a safetensors file, checked against the file before any data is read.
//!
//! The `safetensors` crate defines the entry of one tensor and its dtypes. Around it stand stricter checks with
//! errors that name the tensor: every byte of the data belongs to exactly one tensor, sizes are dtype times shape, and
//! no name comes twice.

use std::collections::HashSet;
use std::fmt;

use safetensors::tensor::TensorInfo as Entry;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;

use crate::{CheckpointError, Result};

/// Bytes of the little-endian header length.
const LENGTH_BYTES: usize = 8;
/// The limit of the reference implementation; the largest release needs under 1 MB per shard.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// One tensor of a file; `data_offsets` are relative to the start of the data.
#[derive(Debug)]
pub(crate) struct HeaderEntry {
    pub(crate) name: String,
    pub(crate) entry: Entry,
}

/// A checked header.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) entries: Vec<HeaderEntry>,
    /// Where the data starts in the file.
    pub(crate) data_start: usize,
}

/// Parses and checks the header at the start of `bytes`, the whole of `file`.
pub(crate) fn parse(bytes: &[u8], file: &str) -> Result<Header> {
    let (text, data_start) = header_text(bytes, file)?;
    let RawHeader(raw) = serde_json::from_str(text)
        .map_err(|error| CheckpointError::file(file, "header", "a JSON object of tensors", error))?;
    let mut seen = HashSet::new();
    let mut entries = Vec::with_capacity(raw.len());
    for (name, value) in raw {
        if !seen.insert(name.clone()) {
            return Err(CheckpointError::tensor(file, &name, "header entry", "one per name", "a second one"));
        }
        if name == "__metadata__" {
            continue;
        }
        let entry = parse_entry(file, &name, value)?;
        check_entry(file, &name, &entry)?;
        entries.push(HeaderEntry { name, entry });
    }
    check_layout(file, &mut entries, bytes.len() - data_start)?;
    Ok(Header { entries, data_start })
}

fn header_text<'a>(bytes: &'a [u8], file: &str) -> Result<(&'a str, usize)> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        let expected = format!("at least {LENGTH_BYTES} bytes of header length");
        return Err(CheckpointError::file(file, "file size", expected, format!("{} bytes", bytes.len())));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        let expected = format!("at most {MAX_HEADER_BYTES} bytes");
        return Err(CheckpointError::file(file, "header length", expected, format!("{length} bytes")));
    }
    // Below the limit, so it fits.
    let length = length as usize;
    let Some(header) = rest.get(..length) else {
        let expected = format!("at most the {} bytes that follow", rest.len());
        return Err(CheckpointError::file(file, "header length", expected, format!("{length} bytes")));
    };
    let text = std::str::from_utf8(header)
        .map_err(|error| CheckpointError::file(file, "header", "UTF-8 text", error))?;
    Ok((text, LENGTH_BYTES + length))
}

fn parse_entry(file: &str, name: &str, value: Value) -> Result<Entry> {
    // The crate's own message for an unknown dtype lists every variant but not the file or tensor.
    if let Some(dtype) = value.get("dtype") {
        serde_json::from_value::<safetensors::Dtype>(dtype.clone()).map_err(|_| {
            CheckpointError::tensor(file, name, "dtype", "a safetensors dtype such as BF16 or F8_E4M3", dtype)
        })?;
    }
    serde_json::from_value(value).map_err(|error| {
        CheckpointError::tensor(
            file,
            name,
            "header entry",
            "{dtype, shape, data_offsets: [begin, end]}",
            error,
        )
    })
}

/// What one entry says about itself must agree.
fn check_entry(file: &str, name: &str, entry: &Entry) -> Result<()> {
    let (begin, end) = entry.data_offsets;
    if begin > end {
        return Err(CheckpointError::tensor(
            file,
            name,
            "data_offsets",
            "begin <= end",
            format!("[{begin}, {end}]"),
        ));
    }
    let bits =
        entry.shape.iter().try_fold(entry.dtype.bitsize(), |bits, &dim| bits.checked_mul(dim)).ok_or_else(
            || {
                let found = format!("{:?} of {:?}", entry.shape, entry.dtype);
                CheckpointError::tensor(file, name, "shape", "a size that fits the address space", found)
            },
        )?;
    if !bits.is_multiple_of(8) || bits / 8 != end - begin {
        let expected = format!("{} bytes for {:?} of {:?}", bits.div_ceil(8), entry.shape, entry.dtype);
        return Err(CheckpointError::tensor(
            file,
            name,
            "size",
            expected,
            format!("{} bytes in data_offsets [{begin}, {end}]", end - begin),
        ));
    }
    Ok(())
}

/// Every byte of the data belongs to exactly one tensor. Leaves the entries in file order.
fn check_layout(file: &str, entries: &mut [HeaderEntry], data_bytes: usize) -> Result<()> {
    entries.sort_by_key(|tensor| tensor.entry.data_offsets);
    let mut end_of_last = 0;
    let mut last = "the start of the data".to_owned();
    for HeaderEntry { name, entry } in entries.iter() {
        let (begin, end) = entry.data_offsets;
        if end > data_bytes {
            let expected = format!("an end within the {data_bytes} data bytes of the file");
            return Err(CheckpointError::tensor(
                file,
                name,
                "data_offsets",
                expected,
                format!("[{begin}, {end}]; the file is cut off or damaged"),
            ));
        }
        if begin != end_of_last {
            let what = if begin < end_of_last { "an overlap" } else { "a hole" };
            let expected = format!("a begin of {end_of_last}, where {last} ends");
            return Err(CheckpointError::tensor(
                file,
                name,
                "data_offsets",
                expected,
                format!("[{begin}, {end}], {what}"),
            ));
        }
        end_of_last = end;
        last = format!("`{name}`");
    }
    if end_of_last != data_bytes {
        let expected = format!("{end_of_last} bytes, where {last} ends");
        return Err(CheckpointError::file(file, "data", expected, format!("{data_bytes} bytes")));
    }
    Ok(())
}

/// The header's pairs in order, duplicates included: a map type would keep only the last of them.
struct RawHeader(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<RawHeader, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(RawHeader(pairs))
            }
        }

        deserializer.deserialize_map(Pairs)
    }
}
