//! Reference of block copies.

/// `to` after block `source` of `from` has replaced its block `target`, for every pair; blocks of `size` values.
pub fn copy_blocks(from: &[f32], to: &[f32], pairs: &[(u32, u32)], size: usize) -> Vec<f32> {
    let source_of = |block: usize| pairs.iter().find(|pair| pair.1 as usize == block).map(|pair| pair.0);
    let value = |index: usize| match source_of(index / size) {
        Some(source) => from[source as usize * size + index % size],
        None => to[index],
    };
    (0..to.len()).map(value).collect()
}
