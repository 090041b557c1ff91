//! Reference of compressed entries: a whole sequence at once, so without any state.

use super::rms_norm;

/// All entries of a sequence: `values` and `gates` `[N, C]` of its tokens, `ape` `[m, C]`, `weight` `[D]`, to
/// `[N / m, D]`, before rope. With `C = 2 D` windows overlap (see [`crate::ops::compress`]).
pub fn compress(
    values: &[f32],
    gates: &[f32],
    ape: &[f32],
    weight: &[f32],
    eps: f32,
    ratio: usize,
) -> Vec<f32> {
    let (dim, channels) = (weight.len(), ape.len() / ratio);
    let mut entries = Vec::new();
    for window in 0..values.len() / channels / ratio {
        let mut entry = vec![0.0; dim];
        for (c, out) in entry.iter_mut().enumerate() {
            // (token, channel) of everything that the window takes.
            let mut taken = Vec::new();
            if channels == 2 * dim && window > 0 {
                taken.extend((0..ratio).map(|i| ((window - 1) * ratio + i, c)));
            }
            let own = channels - dim + c;
            taken.extend((0..ratio).map(|i| (window * ratio + i, own)));
            let gate =
                |&(t, c): &(usize, usize)| (gates[t * channels + c] + ape[t % ratio * channels + c]).exp();
            let total: f32 = taken.iter().map(gate).sum();
            *out = taken.iter().map(|at| gate(at) / total * values[at.0 * channels + at.1]).sum();
        }
        entries.extend(rms_norm(&entry, weight, dim, eps));
    }
    entries
}
