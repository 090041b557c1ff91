//! References of the lightning indexer: scores of all visible keys, and the best of them.

/// `sum_h weights[t, h] * relu(q[t, h] . rows[r]) * scale` for every row `r` of `visible[t]`, in its order; `q` is
/// `[T, H, D]`, `weights` `[T, H]`, `rows` `[R, D]`.
pub fn index_scores(
    q: &[f32],
    weights: &[f32],
    rows: &[f32],
    visible: &[Vec<u32>],
    [heads, dim]: [usize; 2],
    scale: f32,
) -> Vec<Vec<f32>> {
    let token = |t: usize, keys: &Vec<u32>| {
        let score = |&r: &u32| {
            let key = &rows[r as usize * dim..][..dim];
            let head = |h: usize| {
                let q = &q[(t * heads + h) * dim..][..dim];
                let dot: f32 = q.iter().zip(key).map(|(a, b)| a * b).sum();
                weights[t * heads + h] * dot.max(0.0)
            };
            (0..heads).map(head).sum::<f32>() * scale
        };
        keys.iter().map(score).collect()
    };
    visible.iter().enumerate().map(|(t, keys)| token(t, keys)).collect()
}

/// The indices of the `topk` largest `scores`, ascending, the lowest of equal scores first; unused entries at the end
/// are `u32::MAX`.
pub fn index_topk(scores: &[f32], topk: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    // A stable sort: equal scores stay in the order of their indices. -0 equals 0.
    order.sort_by(|&a, &b| (scores[b as usize] + 0.0).total_cmp(&(scores[a as usize] + 0.0)));
    order.truncate(topk);
    order.sort_unstable();
    order.resize(topk, u32::MAX);
    order
}
