//! `route`. Catches: the bias used as a weight, losing groups masked with zero, ties to the wrong side, the group score
//! of the other family.

use kernels::cpu::{self, Level};
use kernels::ops::{self, GateConfig, GroupScore, Scoring};
use kernels::{Device, KernelError, Precision, Tensor, reference};
use testkit::soft_gpu;

use crate::common::{close, ids, tensor, values};

fn config(scoring: Scoring, group_score: GroupScore, sizes: [usize; 3]) -> GateConfig {
    let [top_k, n_group, topk_group] = sizes;
    GateConfig {
        scoring,
        top_k,
        n_group,
        topk_group,
        group_score,
        norm_topk_prob: scoring != Scoring::Softmax,
        routed_scaling_factor: 2.5,
    }
}

fn run(level: Level, logits: &[f32], bias: Option<&[f32]>, e: usize, c: &GateConfig) -> (Vec<u32>, Vec<f32>) {
    let slots = logits.len() / e * c.top_k;
    let (mut ids, mut weights) = (vec![0; slots], vec![0.0; slots]);
    cpu::route(level, logits, bias, e, c, (&mut ids, &mut weights));
    (ids, weights)
}

#[test]
fn matches_the_reference() {
    for (experts, sizes) in
        [(256, [8, 8, 4]), (64, [6, 1, 1]), (7, [7, 1, 1]), (1, [1, 1, 1]), (160, [6, 8, 3])]
    {
        for tokens in [1, 5, 100] {
            let logits: Vec<f32> = values(11, tokens * experts).iter().map(|v| 4.0 * v).collect();
            // Centred below zero, so that many biased scores are negative.
            let bias: Vec<f32> = values(12, experts).iter().map(|v| v - 0.7).collect();
            for scoring in [Scoring::Softmax, Scoring::Sigmoid, Scoring::SqrtSoftplus] {
                for group_score in [GroupScore::Max, GroupScore::TopTwoSum] {
                    let config = config(scoring, group_score, sizes);
                    for bias in [None, Some(&bias[..])] {
                        let (ids, weights) = reference::route(&logits, bias, experts, &config);
                        for level in Level::available() {
                            let got = run(level, &logits, bias, experts, &config);
                            let what = format!("{experts} {scoring:?} {group_score:?} {level:?}");
                            assert_eq!(got.0, ids, "{what}");
                            // Scores agree to 3e-7, times the factor 2.5.
                            close(&what, &got.1, &weights, 2e-6);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn ties_go_to_the_lowest_index() {
    for level in Level::available() {
        for scoring in [Scoring::Softmax, Scoring::Sigmoid] {
            let config = config(scoring, GroupScore::TopTwoSum, [3, 4, 2]);
            let (ids, _) = run(level, &[0.5; 16], None, 16, &config);
            assert_eq!(ids, [0, 1, 2], "{scoring:?}");
            let mut logits = [0.0; 16];
            logits[15] = 1.0;
            assert_eq!(run(level, &logits, None, 16, &config).0, [15, 0, 1], "{scoring:?}");
        }
    }
}

#[test]
fn a_losing_group_stays_out_when_all_biased_scores_are_negative() {
    // Group 1 wins with -1.5 each; a mask of zero would hand the choice to group 0.
    let config = config(Scoring::Sigmoid, GroupScore::TopTwoSum, [2, 2, 1]);
    let bias = [-9.0, -9.0, -2.0, -2.0];
    for level in Level::available() {
        let (ids, weights) = run(level, &[0.0; 4], Some(&bias), 4, &config);
        assert_eq!(ids, [2, 3]);
        // Weights are of the scores (a half each), not of the biased choice.
        close("weights", &weights, &[1.25, 1.25], 1e-6);
    }
}

#[test]
fn sqrt_softplus_of_known_logits() {
    // softplus(0) = ln 2; far out it is the logit itself, or nothing at all.
    let config =
        GateConfig { norm_topk_prob: false, ..config(Scoring::SqrtSoftplus, GroupScore::Max, [4, 1, 1]) };
    for level in Level::available() {
        let (ids, weights) = run(level, &[0.0, 100.0, -200.0, 25.0], None, 4, &config);
        assert_eq!(ids, [1, 3, 0, 2]);
        close("weights", &weights, &[25.0, 12.5, 2.5 * 0.832_554_6, 0.0], 1e-5);
    }
}

#[test]
fn a_token_may_bring_its_experts() {
    let config = config(Scoring::SqrtSoftplus, GroupScore::Max, [2, 1, 1]);
    let logits = values(3, 3 * 5);
    let table = ids(&[4, 2], &[4, 0, 1, 2, 3, 1, 0, 2]);
    let routing =
        ops::route_by_token(&tensor(&[3, 5], &logits), &table, &ids(&[3], &[2, 0, 2]), &config).unwrap();
    assert_eq!(routing.experts.to_vec_u32().unwrap(), [3, 1, 4, 0, 3, 1]);
    let score = |t: usize, e: usize| f64::from(logits[t * 5 + e]).exp().ln_1p().sqrt();
    let want = [(0, 3, 1), (0, 1, 3), (1, 4, 0), (1, 0, 4), (2, 3, 1), (2, 1, 3)]
        .map(|(t, e, other)| (2.5 * score(t, e) / (score(t, e) + score(t, other))) as f32);
    close("weights", &routing.weights.to_vec_f32(), &want, 2e-6);
    let fails = |table: &Tensor, tokens: &[u32]| {
        let tokens = ids(&[3], tokens);
        ops::route_by_token(&tensor(&[3, 5], &logits), table, &tokens, &config).unwrap_err()
    };
    assert!(matches!(fails(&table, &[0, 4, 0]), KernelError::Value { arg: "token_ids", .. }));
    assert!(matches!(fails(&ids(&[1, 2], &[0, 5]), &[0; 3]), KernelError::Value { arg: "table", .. }));
    assert!(matches!(fails(&ids(&[1, 3], &[0; 3]), &[0; 3]), KernelError::Shape { arg: "table", .. }));
}

#[test]
fn odd_logits_do_not_panic() {
    let config = config(Scoring::Softmax, GroupScore::TopTwoSum, [2, 2, 1]);
    for level in Level::available() {
        for logits in [[f32::NAN; 4], [f32::INFINITY; 4], [f32::NEG_INFINITY; 4], [f32::NAN, 1.0, 2.0, 3.0]] {
            let (ids, _) = run(level, &logits, None, 4, &config);
            assert!(ids.iter().all(|&id| id < 4) && ids[0] != ids[1], "{logits:?}: {ids:?}");
        }
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let logits = tensor(&[1, 8], &[0.0; 8]);
    let value = |sizes| {
        let config = config(Scoring::Softmax, GroupScore::Max, sizes);
        matches!(ops::route(&logits, None, &config), Err(KernelError::Value { .. }))
    };
    assert!(value([0, 1, 1]) && value([9, 1, 1]) && value([2, 3, 1]) && value([5, 4, 2]) && value([1, 2, 3]));
    assert!(value([1, 0, 0]));
    let config = config(Scoring::Softmax, GroupScore::Max, [2, 2, 1]);
    let bias = tensor(&[7], &[0.0; 7]);
    assert!(matches!(ops::route(&logits, Some(&bias), &config), Err(KernelError::Shape { .. })));
}

/// Choices and weights of a GPU.
fn run_on(
    device: &Device,
    logits: &[f32],
    bias: Option<&[f32]>,
    e: usize,
    c: &GateConfig,
) -> (Vec<u32>, Vec<f32>) {
    let on_gpu = |shape: &[usize], values: &[f32]| Tensor::from_f32(device, shape, values).unwrap();
    let bias = bias.map(|b| on_gpu(&[e], b));
    let routing = ops::route(&on_gpu(&[logits.len() / e, e], logits), bias.as_ref(), c).unwrap();
    (routing.experts.to_vec_u32().unwrap(), routing.weights.to_vec_f32())
}

#[test]
fn a_gpu_matches_the_reference() {
    let gpu = soft_gpu();
    gpu.under_all_schedules(Precision::Bf16, |device| {
        // V3, V2-Lite, V2, V4 and odd ones; groups of one expert, and one more group than a warp has lanes.
        for (experts, sizes) in [
            (256, [8, 8, 4]),
            (64, [6, 1, 1]),
            (160, [6, 8, 3]),
            (384, [6, 1, 1]),
            (512, [32, 4, 1]),
            (7, [7, 1, 1]),
            (5, [2, 5, 3]),
            (99, [3, 33, 2]),
            (1, [1, 1, 1]),
        ] {
            let tokens = 5;
            let logits: Vec<f32> = values(11, tokens * experts).iter().map(|v| 4.0 * v).collect();
            let bias: Vec<f32> = values(12, experts).iter().map(|v| v - 0.7).collect();
            for scoring in [Scoring::Softmax, Scoring::Sigmoid, Scoring::SqrtSoftplus] {
                for group_score in [GroupScore::Max, GroupScore::TopTwoSum] {
                    let config = config(scoring, group_score, sizes);
                    for bias in [None, Some(&bias[..])] {
                        let want = reference::route(&logits, bias, experts, &config);
                        let got = run_on(device, &logits, bias, experts, &config);
                        let what = format!("{experts} {scoring:?} {group_score:?} {}", bias.is_some());
                        assert_eq!(got.0, want.0, "{what}");
                        // Scores agree to 3e-7, times the factor 2.5.
                        close(&what, &got.1, &want.1, 2e-6);
                    }
                }
            }
        }
    });
}

#[test]
fn a_gpu_breaks_ties_and_masks_as_the_reference_does() {
    let gpu = soft_gpu();
    gpu.under_all_schedules(Precision::F32, |device| {
        for scoring in [Scoring::Softmax, Scoring::Sigmoid] {
            let config = config(scoring, GroupScore::TopTwoSum, [3, 4, 2]);
            assert_eq!(run_on(device, &[0.5; 256], None, 256, &config).0, [0, 1, 2], "{scoring:?}");
            // Few distinct scores, so that most choices are ties, in other lanes and in the same.
            let logits: Vec<f32> = values(5, 3 * 256).iter().map(|v| (v * 2.0).round()).collect();
            let want = reference::route(&logits, None, 256, &config).0;
            assert_eq!(run_on(device, &logits, None, 256, &config).0, want, "{scoring:?}");
        }
        let config = config(Scoring::Sigmoid, GroupScore::TopTwoSum, [2, 2, 1]);
        let bias = [-9.0, -9.0, -2.0, -2.0];
        let (ids, weights) = run_on(device, &[0.0; 4], Some(&bias), 4, &config);
        assert_eq!(ids, [2, 3]);
        close("weights", &weights, &[1.25, 1.25], 1e-6);
        for logits in [[f32::NAN; 4], [f32::INFINITY; 4], [f32::NEG_INFINITY; 4], [-f32::NAN, 1.0, 2.0, 3.0]]
        {
            let (ids, _) = run_on(device, &logits, None, 4, &config);
            assert!(ids.iter().all(|&id| id < 4) && ids[0] != ids[1], "{logits:?}: {ids:?}");
        }
    });
}

#[test]
fn a_gpu_refuses_more_than_it_holds() {
    let gpu = soft_gpu();
    let device = gpu.device(Precision::F32);
    let logits = |e: usize| Tensor::zeros(&device, kernels::DType::F32, &[1, e]).unwrap();
    let config = |top_k| config(Scoring::Softmax, GroupScore::Max, [top_k, 1, 1]);
    assert!(matches!(ops::route(&logits(513), None, &config(1)), Err(KernelError::Shape { .. })));
    assert!(matches!(ops::route(&logits(64), None, &config(33)), Err(KernelError::Value { .. })));
    let bias = tensor(&[64], &[0.0; 64]);
    assert!(matches!(ops::route(&logits(64), Some(&bias), &config(2)), Err(KernelError::Placement { .. })));
    assert_eq!(
        ops::route(&Tensor::zeros(&device, kernels::DType::F32, &[0, 8]).unwrap(), None, &config(2))
            .unwrap()
            .experts
            .shape(),
        [0, 2]
    );
}

#[test]
fn a_gpu_takes_the_experts_that_a_token_brings() {
    let gpu = soft_gpu();
    gpu.under_all_schedules(Precision::F32, |device| {
        let (tokens, experts, top_k) = (5, 99, 6);
        let logits: Vec<f32> = values(11, tokens * experts).iter().map(|v| 4.0 * v).collect();
        let table: Vec<u32> = (0..7 * top_k as u32).map(|i| i * 31 % experts as u32).collect();
        let (table, token_ids) = (ids(&[7, top_k], &table), ids(&[tokens], &[6, 0, 3, 3, 1]));
        for scoring in [Scoring::Sigmoid, Scoring::SqrtSoftplus] {
            let config = config(scoring, GroupScore::Max, [top_k, 1, 1]);
            let on_cpu = tensor(&[tokens, experts], &logits);
            let want = ops::route_by_token(&on_cpu, &table, &token_ids, &config).unwrap();
            let [on_gpu, table, token_ids] =
                [&on_cpu, &table, &token_ids].map(|t| t.to_device(device).unwrap());
            let got = ops::route_by_token(&on_gpu, &table, &token_ids, &config).unwrap();
            assert_eq!(got.experts.to_vec_u32().unwrap(), want.experts.to_vec_u32().unwrap());
            close("weights", &got.weights.to_vec_f32(), &want.weights.to_vec_f32(), 2e-6);
        }
    });
}
