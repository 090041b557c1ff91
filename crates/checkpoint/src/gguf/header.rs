//! The header of a GGUF file (versions 2 and 3), checked against the file before any data is read: counts that the
//! file has room for, shapes that fit the address space, offsets in the file that are aligned, in order, and leave no
//! byte to two tensors. Upstream: `docs/gguf.md` of ggml.

use std::collections::HashSet;
use std::ops::Range;

use kernels::GgmlType;
use safetensors::Dtype;

use super::metadata::{Metadata, SHORTEST_PAIR};
use super::reader::{Reader, Subject};
use crate::{CheckpointError, Result};

const MAGIC: &[u8; 4] = b"GGUF";
/// Bytes of the shortest tensor entry: an empty name, no dimensions.
const SHORTEST_TENSOR: u64 = 24;
const MAX_DIMENSIONS: u32 = 4;
const MAX_NAME_BYTES: usize = 1 << 12;
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_ALIGNMENT: u64 = 1 << 16;

/// A checked header.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) metadata: Metadata,
    /// In the order of their data.
    pub(super) tensors: Vec<Entry>,
}

/// One tensor of a file.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    /// `U8` for blocks.
    pub(super) dtype: Dtype,
    pub(super) blocks: Option<GgmlType>,
    /// Outermost dimension first, other than in the file.
    pub(super) shape: Vec<usize>,
    /// Its bytes in the file.
    pub(super) range: Range<usize>,
}

/// Parses and checks the header at the start of `bytes`, the whole of `file`.
pub(super) fn parse(bytes: &[u8], file: &str) -> Result<Header> {
    let mut reader = Reader::new(bytes, file);
    let magic = reader.array::<4>("magic")?;
    if &magic != MAGIC {
        return Err(reader.error("magic", "GGUF", format!("`{}`", magic.escape_ascii())));
    }
    let version = reader.u32("version")?;
    if !(2..=3).contains(&version) {
        let found = match version.swap_bytes() {
            2 | 3 => format!("{version}: the file is big-endian"),
            _ => version.to_string(),
        };
        return Err(reader.error("version", "2 or 3", found));
    }
    let num_tensors = reader.count(SHORTEST_TENSOR, "tensor count")?;
    let num_pairs = reader.count(SHORTEST_PAIR, "metadata count")?;
    let metadata = Metadata::read(&mut reader, num_pairs)?;
    let alignment = alignment(&metadata)?;
    let mut seen = HashSet::new();
    let mut drafts = Vec::with_capacity(num_tensors);
    for _ in 0..num_tensors {
        let draft = Draft::read(&mut reader, alignment)?;
        if !seen.insert(draft.name.clone()) {
            return Err(reader.error("header entry", "one per name", "a second one"));
        }
        drafts.push(draft);
    }
    let data_start = (reader.position() as u64).next_multiple_of(alignment);
    drafts.sort_by_key(|draft| draft.offset);
    let tensors = place(file, drafts, bytes.len() as u64, data_start, alignment)?;
    Ok(Header { metadata, tensors })
}

fn alignment(metadata: &Metadata) -> Result<u64> {
    const KEY: &str = "general.alignment";
    let alignment = metadata.unsigned(KEY)?.unwrap_or(DEFAULT_ALIGNMENT);
    if alignment.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(&alignment) {
        return Ok(alignment);
    }
    Err(metadata.error(KEY, format!("a power of two from 8 to {MAX_ALIGNMENT}")))
}

/// An entry as it stands in the header.
struct Draft {
    name: String,
    dtype: Dtype,
    blocks: Option<GgmlType>,
    shape: Vec<usize>,
    bytes: u64,
    /// From the start of the data.
    offset: u64,
}

impl Draft {
    fn read(reader: &mut Reader<'_>, alignment: u64) -> Result<Self> {
        reader.subject = Subject::Header;
        let name = reader.string("tensor name")?;
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            let expected = format!("1 to {MAX_NAME_BYTES} bytes");
            return Err(reader.error("tensor name", expected, name.len()));
        }
        reader.subject = Subject::Tensor(name.to_owned());
        let dimensions = reader.u32("dimensions")?;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return Err(reader.error("dimensions", format!("1 to {MAX_DIMENSIONS}"), dimensions));
        }
        let ne: Vec<u64> = (0..dimensions).map(|_| reader.u64("shape")).collect::<Result<_>>()?;
        let id = reader.u32("type")?;
        let offset = reader.u64("offset")?;
        let Some((dtype, blocks)) = tensor_type(id) else {
            return Err(reader.error("type", supported_types(), type_name(id)));
        };
        let bytes = size(dtype, blocks, &ne).map_err(|(what, expected)| {
            reader.error(what, expected, format!("{ne:?} of {}", type_name(id)))
        })?;
        if !offset.is_multiple_of(alignment) {
            let expected = format!("a multiple of {alignment}");
            return Err(reader.error("offset", expected, offset));
        }
        // Sizes that fit the product fit each dimension.
        let shape = ne.iter().rev().map(|&dim| dim as usize).collect();
        Ok(Self { name: name.to_owned(), dtype, blocks, shape, bytes, offset })
    }
}

/// Bytes of a tensor with the dimensions `ne`, fastest first; or what is wrong with them, and what would be right.
fn size(
    dtype: Dtype,
    blocks: Option<GgmlType>,
    ne: &[u64],
) -> std::result::Result<u64, (&'static str, String)> {
    let product = ne.iter().try_fold(1_u64, |product, &dim| product.checked_mul(dim).filter(|p| *p > 0));
    let elements =
        product.filter(|elements| usize::try_from(*elements).is_ok_and(|n| n <= isize::MAX as usize));
    let too_large = || ("shape", "dimensions of at least 1 whose product fits the address space".to_owned());
    let elements = elements.ok_or_else(too_large)?;
    let Some(kind) = blocks else {
        return elements.checked_mul(dtype.bitsize() as u64 / 8).ok_or_else(too_large);
    };
    let len = kind.block_len() as u64;
    if !ne[0].is_multiple_of(len) {
        return Err(("shape", format!("rows of whole blocks of {len}")));
    }
    (elements / len).checked_mul(kind.block_bytes() as u64).ok_or_else(too_large)
}

/// Gives every tensor its place in the file: within it, and each where the last one ends, padded.
fn place(file: &str, drafts: Vec<Draft>, file_bytes: u64, start: u64, alignment: u64) -> Result<Vec<Entry>> {
    let mut tensors = Vec::with_capacity(drafts.len());
    for Draft { name, dtype, blocks, shape, bytes, offset } in drafts {
        let begin = start.saturating_add(offset);
        let end = begin.saturating_add(bytes);
        if end > file_bytes {
            let expected = format!("{bytes} bytes from byte {begin} of the file");
            let found = format!(
                "{} of them until its end at byte {file_bytes}: it is cut off or damaged",
                file_bytes.saturating_sub(begin)
            );
            return Err(CheckpointError::tensor(file, &name, "data", expected, found));
        }
        // Within the file, so they fit.
        tensors.push(Entry { name, dtype, blocks, shape, range: begin as usize..end as usize });
    }
    // A tensor that was moved onto another leaves a hole behind: the overlap is what is wrong.
    check_neighbours(file, start as usize, alignment as usize, &tensors, "an overlap", |begin, due| {
        begin < due
    })?;
    check_neighbours(file, start as usize, alignment as usize, &tensors, "a hole", |begin, due| begin > due)?;
    Ok(tensors)
}

/// Fails at the first tensor whose place is `wrong` beside the one where it is due.
fn check_neighbours(
    file: &str,
    start: usize,
    alignment: usize,
    tensors: &[Entry],
    what: &str,
    wrong: impl Fn(usize, usize) -> bool,
) -> Result<()> {
    let (mut end_of_last, mut last) = (start, "header");
    for Entry { name, range, .. } in tensors {
        let due = end_of_last.next_multiple_of(alignment);
        if wrong(range.start, due) {
            let expected = format!("byte {due} of the file, behind `{last}`");
            let found = format!("byte {}, {what}", range.start);
            return Err(CheckpointError::tensor(file, name, "offset", expected, found));
        }
        (end_of_last, last) = (range.end, name.as_str());
    }
    Ok(())
}

/// What a type id of ggml is here.
fn tensor_type(id: u32) -> Option<(Dtype, Option<GgmlType>)> {
    if let Some(kind) = GgmlType::from_id(id) {
        return Some((Dtype::U8, Some(kind)));
    }
    let dtype = match id {
        0 => Dtype::F32,
        1 => Dtype::F16,
        24 => Dtype::I8,
        25 => Dtype::I16,
        26 => Dtype::I32,
        27 => Dtype::I64,
        28 => Dtype::F64,
        30 => Dtype::BF16,
        _ => return None,
    };
    Some((dtype, None))
}

fn supported_types() -> String {
    let blocks: Vec<_> = GgmlType::ALL.iter().map(GgmlType::to_string).collect();
    format!("F32, F16, BF16, {}", blocks.join(", "))
}

/// The name of a type id, known or not.
fn type_name(id: u32) -> String {
    const OTHERS: [(u32, &str); 12] = [
        (9, "Q8_1"),
        (15, "Q8_K"),
        (16, "IQ2_XXS"),
        (17, "IQ2_XS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (21, "IQ3_S"),
        (22, "IQ2_S"),
        (29, "IQ1_M"),
        (34, "TQ1_0"),
        (35, "TQ2_0"),
        (40, "NVFP4"),
    ];
    match (tensor_type(id), OTHERS.iter().find(|other| other.0 == id)) {
        (Some((_, Some(kind))), _) => kind.to_string(),
        (Some((dtype, None)), _) => format!("{dtype:?}"),
        (None, Some((_, name))) => format!("{name} (type {id}), which nothing here decodes"),
        (None, None) => format!("type {id}, which does not exist"),
    }
}
