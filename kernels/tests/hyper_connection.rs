//! Hyper-connections. Catches: rows and columns of the mix exchanged, an iteration too few, an epsilon left out, the norm of
//! one stream in place of all.

use kernels::ops::{self, HyperConfig};
use kernels::{Device, KernelError, Precision, Tensor, reference};
use testkit::soft_gpu;

use crate::common::{close, tensor, values};

const CONFIG: HyperConfig = HyperConfig { streams: 4, sinkhorn_iters: 20, eps: 1e-6, norm_eps: 1e-6 };

/// Streams, the maps' matrix, its product with them, scale and base.
struct Case {
    x: Vec<f32>,
    matrix: Vec<f32>,
    mixed: Tensor,
    scale: Vec<f32>,
    base: Vec<f32>,
}

fn case(tokens: usize, dim: usize, config: &HyperConfig, maps: usize) -> Case {
    let width = config.streams * dim;
    // Magnitudes that differ from token to token, so that the norm matters.
    let x: Vec<f32> =
        values(1, tokens * width).iter().enumerate().map(|(i, v)| v * (1 + i / width) as f32).collect();
    let matrix = values(2, maps * width);
    let mixed = tensor(&[tokens, maps], &reference::linear(&x, &matrix, None, width, maps));
    let scale = if maps == config.streams { vec![0.3] } else { vec![0.3, 0.5, 0.2] };
    Case { x, matrix, mixed, scale, base: values(3, maps) }
}

fn maps_of(case: &Case, dim: usize, config: &HyperConfig) -> (Tensor, Tensor, Vec<f32>) {
    let tokens = case.mixed.dim(0);
    let x = tensor(&[tokens, config.streams, dim], &case.x);
    let scale = tensor(&[case.scale.len()], &case.scale);
    let base = tensor(&[case.base.len()], &case.base);
    let maps = ops::hyper_maps(&x, &case.mixed, &scale, &base, config).unwrap();
    let token = |x| reference::hyper_maps(x, &case.matrix, &case.scale, &case.base, config);
    let want = case.x.chunks_exact(config.streams * dim).flat_map(token).collect();
    (x, maps, want)
}

#[test]
fn maps_match_the_reference() {
    for (streams, iterations) in [(4, 20), (4, 1), (2, 3), (1, 20), (3, 7)] {
        let config = HyperConfig { streams, sinkhorn_iters: iterations, ..CONFIG };
        for (tokens, dim) in [(1, 64), (3, 5), (40, 33)] {
            for maps in [config.maps(), streams] {
                let case = case(tokens, dim, &config, maps);
                let (_, got, want) = maps_of(&case, dim, &config);
                close(&format!("{streams} streams, {maps} maps"), &got.to_vec_f32(), &want, 2e-5);
            }
        }
    }
}

#[test]
fn the_mix_is_doubly_stochastic() {
    let (_, maps, _) = maps_of(&case(5, 16, &CONFIG, CONFIG.maps()), 16, &CONFIG);
    for maps in maps.to_vec_f32().chunks_exact(CONFIG.maps()) {
        for i in 0..4 {
            let row: f32 = maps[8 + 4 * i..][..4].iter().sum();
            let column: f32 = maps[8 + i..].iter().step_by(4).sum();
            assert!((row - 1.0).abs() < 1e-4 && (column - 1.0).abs() < 1e-4, "{row} {column}");
        }
    }
}

#[test]
fn reading_and_writing_the_streams_match_the_reference() {
    for (tokens, dim) in [(1, 64), (3, 5), (40, 33)] {
        let (mut x, maps, _) = maps_of(&case(tokens, dim, &CONFIG, CONFIG.maps()), dim, &CONFIG);
        let (old, weights, y) = (x.to_vec_f32(), maps.to_vec_f32(), values(9, tokens * dim));
        let tokens = old.chunks_exact(4 * dim).zip(weights.chunks_exact(CONFIG.maps()));
        let read: Vec<f32> = tokens.clone().flat_map(|(x, m)| reference::hyper_collapse(x, m, dim)).collect();
        close("collapse", &ops::hyper_collapse(&x, &maps).unwrap().to_vec_f32(), &read, 2e-5 * 40.0);
        let written: Vec<f32> = tokens
            .zip(y.chunks_exact(dim))
            .flat_map(|((x, m), y)| reference::hyper_expand(x, y, m, 4))
            .collect();
        ops::hyper_expand(&mut x, &tensor(&[y.len() / dim, dim], &y), &maps).unwrap();
        close("expand", &x.to_vec_f32(), &written, 2e-5 * 40.0);
    }
}

/// A mix that moves stream 0 to stream 1 and nothing else.
#[test]
fn the_mix_goes_from_its_row_to_its_column() {
    let mut maps = [0.0; 8];
    maps[5] = 1.0;
    let mut x = tensor(&[1, 2, 1], &[3.0, 5.0]);
    ops::hyper_expand(&mut x, &tensor(&[1, 1], &[7.0]), &tensor(&[1, 8], &maps)).unwrap();
    assert_eq!(x.to_vec_f32(), [0.0, 3.0]);
}

#[test]
fn a_residual_begins_with_equal_streams() {
    let x = ops::hyper_spread(&tensor(&[2, 2], &[1.0, 2.0, 3.0, 4.0]), 3).unwrap();
    assert_eq!(x.shape(), [2, 3, 2]);
    assert_eq!(x.to_vec_f32(), [1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 4.0, 3.0, 4.0]);
}

#[test]
fn refuses_what_does_not_fit() {
    let zeros = |shape: &[usize]| tensor(shape, &vec![0.0; shape.iter().product()]);
    let maps = |x: &[usize], mixed: &[usize], scale, base| {
        let result = ops::hyper_maps(&zeros(x), &zeros(mixed), &zeros(&[scale]), &zeros(&[base]), &CONFIG);
        matches!(result, Err(KernelError::Shape { .. }))
    };
    assert!(!maps(&[2, 4, 3], &[2, 24], 3, 24) && !maps(&[2, 4, 3], &[2, 4], 1, 4));
    assert!(maps(&[2, 3, 3], &[2, 24], 3, 24) && maps(&[2, 4, 3], &[2, 23], 3, 23));
    assert!(maps(&[2, 4, 3], &[2, 24], 1, 24) && maps(&[2, 4, 3], &[1, 24], 3, 24));
    let mut x = zeros(&[2, 4, 3]);
    let shape = |r: kernels::Result<()>| matches!(r, Err(KernelError::Shape { .. }));
    assert!(shape(ops::hyper_expand(&mut x, &zeros(&[2, 4]), &zeros(&[2, 24]))));
    assert!(shape(ops::hyper_expand(&mut x, &zeros(&[2, 3]), &zeros(&[2, 4]))));
    assert!(matches!(ops::hyper_collapse(&x, &zeros(&[2, 3])), Err(KernelError::Shape { .. })));
}

#[test]
fn a_gpu_matches_the_cpu() {
    let gpu = soft_gpu();
    gpu.under_all_schedules(Precision::Bf16, |device| {
        for (streams, tokens, dim) in [(4, 3, 300), (1, 2, 5), (8, 1, 33), (4, 0, 8)] {
            let config = HyperConfig { streams, sinkhorn_iters: 7, ..CONFIG };
            for count in [config.maps(), streams] {
                let case = case(tokens, dim, &config, count);
                let [x, mixed, scale, base] = [
                    tensor(&[tokens, streams, dim], &case.x),
                    case.mixed.clone(),
                    tensor(&[case.scale.len()], &case.scale),
                    tensor(&[count], &case.base),
                ]
                .map(|t| (t.to_device(device).unwrap(), t));
                let got = ops::hyper_maps(&x.0, &mixed.0, &scale.0, &base.0, &config).unwrap();
                let want = ops::hyper_maps(&x.1, &mixed.1, &scale.1, &base.1, &config).unwrap();
                close("maps", &got.to_vec_f32(), &want.to_vec_f32(), 2e-5);
                let read = [ops::hyper_collapse(&x.0, &got), ops::hyper_collapse(&x.1, &want)];
                let [got_read, want_read] = read.map(|rows| rows.unwrap().to_vec_f32());
                close("collapse", &got_read, &want_read, 1e-3);
                if count > streams {
                    let y = tensor(&[tokens, dim], &values(9, tokens * dim));
                    // The first of each pair shares its storage with nobody from here on.
                    let [mut on_gpu, mut on_cpu] = [
                        x.0.to_device(&Device::Cpu).unwrap().to_device(device).unwrap(),
                        tensor(&[tokens, streams, dim], &case.x),
                    ];
                    ops::hyper_expand(&mut on_gpu, &y.to_device(device).unwrap(), &got).unwrap();
                    ops::hyper_expand(&mut on_cpu, &y, &want).unwrap();
                    close("expand", &on_gpu.to_vec_f32(), &on_cpu.to_vec_f32(), 1e-3);
                }
            }
            let row = tensor(&[tokens, dim], &values(4, tokens * dim));
            let spread = ops::hyper_spread(&row.to_device(device).unwrap(), streams).unwrap();
            assert_eq!(spread.to_vec_f32(), ops::hyper_spread(&row, streams).unwrap().to_vec_f32());
        }
    });
}
