//! The absorbed form of latent attention against the form the papers first write, on sizes that divide nothing.

#![allow(clippy::unwrap_used)]

#[path = "support/latent.rs"]
mod latent;

use latent::{DIM, DIMS, causal, layer, naive, poisoned, scattered, step};
use models::LayerKv;
use testkit::{Random, assert_close};

#[test]
fn absorbed_equals_naive() {
    const TOKENS: usize = 37;
    for low_rank in [false, true] {
        let mut random = Random::new(23);
        let layer = layer(&mut random, low_rank);
        let x = random.normals(TOKENS * DIM, 1.0);
        let expected = naive(&layer, &x, &causal(TOKENS));
        let kv = LayerKv::Mla { kv_lora_rank: DIMS.kv_lora_rank, qk_rope_head_dim: DIMS.qk_rope_head_dim };
        for chunk in [1, 6, TOKENS] {
            let (mut cache, blocks) = (poisoned(kv), scattered());
            let starts = (0..TOKENS).step_by(chunk).map(|start| [start, (start + chunk).min(TOKENS)]);
            let found: Vec<f32> = starts
                .flat_map(|range| {
                    step(&x, range, &blocks, |ctx, batch, x| layer.forward(ctx, batch, x, &mut cache))
                })
                .collect();
            let what = format!("low rank {low_rank}, chunks of {chunk}");
            let diff = assert_close(&what, &found, &expected, DIM, 2e-5);
            println!("{what}: {diff:.1e}");
        }
    }
}
