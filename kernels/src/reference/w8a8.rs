//! References of INT8 activations and their products with INT8 weights.

/// Codes of `x` `[T, k]` and a scale per row: the largest magnitude over 127, and the nearest multiple of it, ties to
/// the even one.
pub fn quantize_rows(x: &[f32], k: usize) -> (Vec<i8>, Vec<f32>) {
    let (mut codes, mut scales) = (Vec::with_capacity(x.len()), Vec::new());
    for row in x.chunks_exact(k) {
        let scale = row.iter().fold(0.0_f32, |max, v| max.max(v.abs())) / 127.0;
        codes.extend(row.iter().map(|v| if scale == 0.0 { 0 } else { (v / scale).round_ties_even() as i8 }));
        scales.push(scale);
    }
    (codes, scales)
}

/// `x W^T` of the codes of `x` `[T, k]` and of `weight` `[n, k]`: integer sums over each block of columns, each times the
/// block's scale, and all of them times the row's. `weight_scales` has one row of `ceil(k / block[1])` scales for
/// `block[0]` rows of the weight.
pub fn linear_w8a8(
    (x, x_scales): (&[i8], &[f32]),
    (weight, weight_scales): (&[i8], &[f32]),
    [block_rows, block_cols]: [usize; 2],
    [k, n]: [usize; 2],
) -> Vec<f32> {
    let per_row = k.div_ceil(block_cols);
    let mut out = Vec::with_capacity(x_scales.len() * n);
    for (x, x_scale) in x.chunks_exact(k).zip(x_scales) {
        for (o, weight) in weight.chunks_exact(k).enumerate() {
            let scales = &weight_scales[o / block_rows * per_row..][..per_row];
            let blocks = x.chunks(block_cols).zip(weight.chunks(block_cols)).zip(scales);
            let sums = blocks.map(|((x, w), scale)| {
                x.iter().zip(w).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum::<i32>() as f32 * scale
            });
            out.push(sums.sum::<f32>() * x_scale);
        }
    }
    out
}
