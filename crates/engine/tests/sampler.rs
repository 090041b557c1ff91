//! The sampler against plain formulas: the exact sets of the filters, the frequencies of the draws, the penalties.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};

use engine::{EngineError, Sampled, Sampler, SamplingParams};
use kernels::{Device, Precision, Tensor};
use proptest::prelude::*;
use testkit::{Random, soft_gpu};

const DRAWS: usize = 20_000;

fn sampler(params: SamplingParams) -> Sampler {
    Sampler::new(SamplingParams { seed: Some(params.seed.unwrap_or(7)), ..params }, &[]).unwrap()
}

/// How often each token comes out of `draws` independent steps over the same logits.
fn frequencies(params: SamplingParams, logits: &[f32], draws: usize) -> BTreeMap<u32, usize> {
    let mut sampler = sampler(params);
    let mut counts = BTreeMap::new();
    for _ in 0..draws {
        *counts.entry(sampler.sample(&mut logits.to_vec()).unwrap().token).or_insert(0) += 1;
    }
    counts
}

fn logits_of(probabilities: &[f64]) -> Vec<f32> {
    probabilities.iter().map(|p| p.ln() as f32).collect()
}

/// The set of tokens that ever come out.
fn support(params: SamplingParams, logits: &[f32]) -> BTreeSet<u32> {
    frequencies(params, logits, 4000).into_keys().collect()
}

/// Pearson's statistic against `expected` probabilities. With `k` cells it exceeds `k + 5 sqrt(2k)` by chance less
/// than once in 10^5 runs; the seed is fixed, so a pass stays a pass.
fn assert_chi_square(counts: &BTreeMap<u32, usize>, expected: &[f64]) {
    let total: usize = counts.values().sum();
    let cells: Vec<(f64, f64)> = expected
        .iter()
        .zip(0u32..)
        .map(|(p, token)| (counts.get(&token).copied().unwrap_or(0) as f64, p * total as f64))
        .collect();
    assert!(
        cells.iter().all(|(seen, mean)| *mean > 0.0 || *seen == 0.0),
        "a token of probability 0 came out"
    );
    let statistic: f64 =
        cells.iter().filter(|c| c.1 > 0.0).map(|(seen, mean)| (seen - mean).powi(2) / mean).sum();
    let k = cells.iter().filter(|c| c.1 > 0.0).count() as f64;
    assert!(statistic < k + 5.0 * (2.0 * k).sqrt(), "chi-square {statistic} over {k} cells: {counts:?}");
}

fn normalised(weights: &[f64]) -> Vec<f64> {
    let total: f64 = weights.iter().sum();
    weights.iter().map(|w| w / total).collect()
}

#[test]
fn greedy_takes_the_largest_and_the_lowest_of_a_tie() {
    let greedy = || sampler(SamplingParams::greedy());
    assert_eq!(greedy().sample(&mut [0.0, 3.0, 1.0, 3.0]).unwrap().token, 1);
    assert_eq!(greedy().sample(&mut [-5.0, -5.0]).unwrap().token, 0);
    assert_eq!(greedy().sample(&mut [f32::NEG_INFINITY, -1e30]).unwrap().token, 1);
}

#[test]
fn frequencies_follow_the_distribution() {
    let p = [0.4, 0.25, 0.2, 0.1, 0.05];
    assert_chi_square(&frequencies(SamplingParams::default(), &logits_of(&p), DRAWS), &p);
}

#[test]
fn temperature_sharpens_and_flattens() {
    let p = [0.5, 0.3, 0.15, 0.05];
    for temperature in [0.5f32, 2.0] {
        let expected: Vec<f64> = p.iter().map(|v: &f64| v.powf(1.0 / f64::from(temperature))).collect();
        let params = SamplingParams { temperature, ..Default::default() };
        assert_chi_square(&frequencies(params, &logits_of(&p), DRAWS), &normalised(&expected));
    }
}

#[test]
fn filters_renormalise_what_they_keep() {
    let p = [0.4, 0.3, 0.2, 0.1];
    for params in [
        SamplingParams { top_k: 2, ..Default::default() },
        SamplingParams { top_p: 0.6, ..Default::default() },
        SamplingParams { min_p: 0.6, ..Default::default() },
    ] {
        let expected = [0.4 / 0.7, 0.3 / 0.7, 0.0, 0.0];
        assert_chi_square(&frequencies(params, &logits_of(&p), DRAWS), &expected);
    }
}

#[test]
fn top_k_keeps_exactly_k_and_prefers_low_ids() {
    let logits = [1.0, 2.0, 2.0, 2.0, 0.0];
    let keep = |top_k| support(SamplingParams { top_k, ..Default::default() }, &logits);
    assert_eq!(keep(1), BTreeSet::from([1]));
    assert_eq!(keep(2), BTreeSet::from([1, 2]));
    assert_eq!(keep(3), BTreeSet::from([1, 2, 3]));
    assert_eq!(keep(0), BTreeSet::from([0, 1, 2, 3, 4]));
    assert_eq!(keep(99), BTreeSet::from([0, 1, 2, 3, 4]));
}

#[test]
fn top_p_keeps_the_token_that_crosses_the_line() {
    let logits = logits_of(&[0.5, 0.25, 0.125, 0.125]);
    let keep = |top_p| support(SamplingParams { top_p, ..Default::default() }, &logits);
    assert_eq!(keep(0.01), BTreeSet::from([0]));
    assert_eq!(keep(0.49), BTreeSet::from([0]));
    assert_eq!(keep(0.51), BTreeSet::from([0, 1]));
    assert_eq!(keep(0.76), BTreeSet::from([0, 1, 2]));
    assert_eq!(keep(1.0), BTreeSet::from([0, 1, 2, 3]));
}

#[test]
fn min_p_is_relative_to_the_best() {
    let logits = logits_of(&[0.5, 0.26, 0.24]);
    let keep = |min_p| support(SamplingParams { min_p, ..Default::default() }, &logits);
    assert_eq!(keep(0.5), BTreeSet::from([0, 1]));
    assert_eq!(keep(0.47), BTreeSet::from([0, 1, 2]));
    assert_eq!(keep(1.0), BTreeSet::from([0]));
}

#[test]
fn top_p_counts_only_what_top_k_left() {
    // After top_k = 2 the rest is 4/7 and 3/7, so 0.5 is reached by the first alone; over all four it would need two.
    let logits = logits_of(&[0.4, 0.3, 0.2, 0.1]);
    let both = SamplingParams { top_k: 2, top_p: 0.5, ..Default::default() };
    assert_eq!(support(both, &logits), BTreeSet::from([0]));
    let alone = SamplingParams { top_p: 0.5, ..Default::default() };
    assert_eq!(support(alone, &logits), BTreeSet::from([0, 1]));
}

#[test]
fn a_seed_repeats_and_another_differs() {
    let run = |seed| -> Vec<u32> {
        let mut sampler = sampler(SamplingParams { seed: Some(seed), ..Default::default() });
        (0..64).map(|_| sampler.sample(&mut [0.0; 50]).unwrap().token).collect()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    let fresh = || Sampler::new(SamplingParams::default(), &[]).unwrap().seed();
    assert_ne!(fresh(), fresh(), "without a seed each request draws its own");
}

#[test]
fn the_stream_of_a_seed_is_fixed() {
    let mut sampler = sampler(SamplingParams { seed: Some(42), ..Default::default() });
    let drawn: Vec<u32> = (0..8).map(|_| sampler.sample(&mut [0.0; 100]).unwrap().token).collect();
    assert_eq!(drawn, PINNED_DRAWS, "a new stream would change every user's seeded output");
}

/// What seed 42 draws from 100 equal logits.
const PINNED_DRAWS: [u32; 8] = [68, 95, 42, 62, 28, 14, 30, 80];

#[test]
fn penalties_weigh_on_output_and_repetition_on_the_prompt_too() {
    let params = SamplingParams { temperature: 0.0, repetition_penalty: 2.0, ..Default::default() };
    let mut sampler = Sampler::new(params, &[0]).unwrap();
    assert_eq!(sampler.sample(&mut [3.0, 2.0]).unwrap().token, 1, "the prompt's token was halved");
    let params = SamplingParams { temperature: 0.0, presence_penalty: 2.0, ..Default::default() };
    let mut sampler = Sampler::new(params, &[0]).unwrap();
    assert_eq!(sampler.sample(&mut [3.0, 2.0]).unwrap().token, 0, "presence ignores the prompt");
    assert_eq!(sampler.sample(&mut [3.0, 2.0]).unwrap().token, 1);
}

/// One seed gives one text, wherever the logits are and whatever else is reported.
#[test]
fn every_device_chooses_the_same_tokens() {
    let gpu = soft_gpu();
    let gpu = gpu.device(Precision::Bf16);
    let plain = SamplingParams { seed: Some(3), ..Default::default() };
    let filtered = SamplingParams { temperature: 0.7, top_k: 20, top_p: 0.9, min_p: 0.01, ..plain.clone() };
    let penalised = SamplingParams {
        repetition_penalty: 1.2,
        presence_penalty: 0.5,
        frequency_penalty: 0.3,
        logit_bias: vec![(9, 2.0), (4, f32::NEG_INFINITY), (9, -1.0)],
        logprobs: Some(0),
        ..filtered
    };
    for params in [plain, filtered, penalised, SamplingParams::greedy()] {
        let ways = [(Device::Cpu, None), (gpu.clone(), None), (gpu.clone(), Some(3)), (Device::Cpu, Some(3))];
        let runs = ways.map(|(device, logprobs)| {
            let params = SamplingParams { logprobs: logprobs.or(params.logprobs), ..params.clone() };
            let (mut sampler, mut random) = (Sampler::new(params, &[1, 2, 2]).unwrap(), Random::new(8));
            let mut step = || {
                let logits = Tensor::from_f32(&device, &[1, 100], &random.normals(100, 2.0)).unwrap();
                sampler.choose(&logits).unwrap()
            };
            (0..10).map(|_| step()).collect::<Vec<Sampled>>()
        });
        for run in &runs[1..] {
            for (got, want) in run.iter().zip(&runs[0]) {
                assert_eq!(got.token, want.token);
                if let (Some(got), Some(want)) = (got.logprob, want.logprob) {
                    assert!((got - want).abs() <= 2e-6, "{got} is not {want}");
                }
            }
        }
        assert!(runs[2].iter().all(|step| step.top_logprobs.len() == 3));
    }
}

#[test]
fn a_bias_bans_and_forces() {
    let with = |bias| SamplingParams { logit_bias: bias, ..SamplingParams::greedy() };
    assert_eq!(sampler(with(vec![(0, f32::NEG_INFINITY)])).sample(&mut [9.0, 1.0]).unwrap().token, 1);
    assert_eq!(sampler(with(vec![(2, 100.0)])).sample(&mut [9.0, 1.0, -5.0]).unwrap().token, 2);
}

#[test]
fn logits_without_a_distribution_are_errors() {
    for temperature in [0.0, 1.0] {
        let params = || SamplingParams { temperature, ..Default::default() };
        for bad in [f32::NAN, f32::INFINITY] {
            let error = sampler(params()).sample(&mut [0.0, bad, 1.0]).unwrap_err();
            assert!(matches!(error, EngineError::Logits { token: 1, .. }), "{error}");
        }
        assert!(sampler(params()).sample(&mut [f32::NEG_INFINITY; 3]).is_err());
        assert!(sampler(params()).sample(&mut []).is_err());
    }
}

/// A step that fails may be run again, and then draws what it would have drawn.
#[test]
fn a_failed_step_draws_nothing() {
    let run = |failures: usize| -> Vec<u32> {
        let mut sampler = sampler(SamplingParams::default());
        let mut step = |_| {
            (0..failures).for_each(|_| assert!(sampler.sample(&mut [0.0, f32::NAN]).is_err()));
            sampler.sample(&mut [0.0; 50]).unwrap().token
        };
        (0..10).map(&mut step).collect()
    };
    assert_eq!(run(2), run(0));
}

#[test]
fn logprobs_are_those_of_the_model_itself() {
    let p = [0.1, 0.6, 0.3];
    let biased = vec![(2, f32::NEG_INFINITY)];
    let params = SamplingParams { logprobs: Some(2), logit_bias: biased, ..SamplingParams::greedy() };
    let Sampled { token, logprob, top_logprobs } = sampler(params).sample(&mut logits_of(&p)).unwrap();
    assert_eq!(token, 1);
    assert!((logprob.unwrap() - 0.6f32.ln()).abs() < 1e-5);
    assert_eq!(top_logprobs.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 2]);
    assert!((top_logprobs[1].1 - 0.3f32.ln()).abs() < 1e-5);
}

#[test]
fn each_field_is_checked_and_named() {
    let cases: Vec<(&str, SamplingParams)> = vec![
        ("temperature", SamplingParams { temperature: -0.1, ..Default::default() }),
        ("temperature", SamplingParams { temperature: f32::NAN, ..Default::default() }),
        ("temperature", SamplingParams { temperature: f32::INFINITY, ..Default::default() }),
        ("top_p", SamplingParams { top_p: 0.0, ..Default::default() }),
        ("top_p", SamplingParams { top_p: 1.1, ..Default::default() }),
        ("top_p", SamplingParams { top_p: f32::NAN, ..Default::default() }),
        ("min_p", SamplingParams { min_p: -0.1, ..Default::default() }),
        ("min_p", SamplingParams { min_p: 1.5, ..Default::default() }),
        ("presence_penalty", SamplingParams { presence_penalty: 2.1, ..Default::default() }),
        ("frequency_penalty", SamplingParams { frequency_penalty: -2.1, ..Default::default() }),
        ("repetition_penalty", SamplingParams { repetition_penalty: 0.0, ..Default::default() }),
        ("logit_bias", SamplingParams { logit_bias: vec![(10, 1.0)], ..Default::default() }),
        ("logit_bias", SamplingParams { logit_bias: vec![(1, 101.0)], ..Default::default() }),
        ("logit_bias", SamplingParams { logit_bias: vec![(1, f32::NAN)], ..Default::default() }),
        ("logprobs", SamplingParams { logprobs: Some(21), ..Default::default() }),
    ];
    for (expected, params) in cases {
        let error = params.validate(10).unwrap_err();
        assert!(matches!(error, EngineError::Request { field, .. } if field == expected), "{error}");
    }
    SamplingParams::default().validate(10).unwrap();
    SamplingParams::greedy().validate(10).unwrap();
}

/// The kept set by the definition: sort everything, apply one filter after the other.
fn naive_kept(logits: &[f32], params: &SamplingParams) -> BTreeSet<u32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut kept: Vec<(f32, u32)> =
        logits.iter().zip(0u32..).map(|(&l, t)| (((l - max) / params.temperature).exp(), t)).collect();
    kept.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    kept.retain(|c| c.0 >= params.min_p);
    if params.top_k > 0 {
        kept.truncate(params.top_k);
    }
    let total: f64 = kept.iter().map(|c| f64::from(c.0)).sum();
    let mut before = 0.0;
    kept.retain(|c| {
        let keep = before < f64::from(params.top_p) * total;
        before += f64::from(c.0);
        keep || params.top_p == 1.0
    });
    kept.into_iter().map(|c| c.1).collect()
}

proptest! {
    #[test]
    fn draws_stay_inside_the_naive_set(
        // Few distinct values, so that ties are common.
        levels in prop::collection::vec(0u8..12, 1..300),
        temperature in 0.2f32..3.0,
        top_k in 0usize..40,
        top_p in 0.05f32..=1.0,
        min_p in 0.0f32..0.5,
        seed: u64,
    ) {
        let logits: Vec<f32> = levels.iter().map(|&l| f32::from(l) * 0.5).collect();
        let params = SamplingParams { temperature, top_k, top_p, min_p, seed: Some(seed), ..Default::default() };
        let kept = naive_kept(&logits, &params);
        let mut sampler = sampler(params);
        for _ in 0..20 {
            let token = sampler.sample(&mut logits.clone()).unwrap().token;
            prop_assert!(kept.contains(&token), "{} is not among {:?}", token, kept);
        }
    }

    #[test]
    fn penalties_equal_the_formula(
        prompt in prop::collection::vec(0u32..8, 0..6),
        frequency in -2.0f32..2.0,
        presence in -2.0f32..2.0,
        repetition in 0.5f32..2.0,
        logits in prop::collection::vec(-4.0f32..4.0, 8),
    ) {
        let params = SamplingParams {
            frequency_penalty: frequency,
            presence_penalty: presence,
            repetition_penalty: repetition,
            ..SamplingParams::greedy()
        };
        let mut sampler = Sampler::new(params, &prompt).unwrap();
        let mut output: Vec<u32> = Vec::new();
        for _ in 0..12 {
            let naive: Vec<f32> = (0..8u32)
                .map(|token| {
                    let count = output.iter().filter(|&&t| t == token).count() as f32;
                    let mut logit = logits[token as usize];
                    if prompt.contains(&token) || count > 0.0 {
                        logit = if logit > 0.0 { logit / repetition } else { logit * repetition };
                    }
                    logit -= frequency * count;
                    logit - if count > 0.0 { presence } else { 0.0 }
                })
                .collect();
            let mut seen = logits.clone();
            let token = sampler.sample(&mut seen).unwrap().token;
            for (ours, expected) in seen.iter().zip(&naive) {
                prop_assert!((ours - expected).abs() <= 1e-5, "{:?} is not {:?}", seen, naive);
            }
            output.push(token);
        }
    }
}

/// Guesses decide how many tokens a step gives; the tokens are those of single steps and have the logits' distribution.
#[test]
fn guessed_tokens_have_the_distribution_of_the_logits() {
    let expected = normalised(&[8.0, 4.0, 2.0, 1.0, 1.0]);
    let row = logits_of(&expected);
    let logits = Tensor::from_f32(&Device::Cpu, &[3, 5], &row.repeat(3)).unwrap();
    let (mut guessing, mut plain) = (sampler(SamplingParams::default()), sampler(SamplingParams::default()));
    let (mut counts, mut total, mut steps) = (BTreeMap::new(), 0, 0);
    while total < DRAWS {
        let sampled = guessing.choose_after(&logits, &[0, 0]).unwrap();
        for Sampled { token, .. } in &sampled {
            assert_eq!(plain.sample(&mut row.clone()).unwrap().token, *token, "token {total}");
            *counts.entry(*token).or_insert(0) += 1;
            total += 1;
        }
        steps += 1;
    }
    assert_chi_square(&counts, &expected);
    // Every other guess is right, and a second one is looked at only then.
    let tokens_per_step = f64::from(total as u32) / f64::from(steps);
    assert!((tokens_per_step - 1.75).abs() < 0.03, "{tokens_per_step}");
}

#[test]
fn penalties_count_what_was_guessed() {
    let params = SamplingParams { frequency_penalty: 0.5, ..SamplingParams::greedy() };
    let row = [1.0, 0.8, 0.0];
    let logits = |rows: usize| Tensor::from_f32(&Device::Cpu, &[rows, 3], &row.repeat(rows)).unwrap();
    let mut plain = sampler(params.clone());
    let expected: Vec<u32> = (0..4).map(|_| plain.choose(&logits(1)).unwrap().token).collect();
    assert_eq!(expected, [0, 1, 0, 1]);
    let sampled = sampler(params).choose_after(&logits(4), &expected[..3]).unwrap();
    let found: Vec<u32> = sampled.iter().map(|sampled| sampled.token).collect();
    assert_eq!(found, expected);
}
