//! `sample`. Catches: filters in another order, ties to the wrong side, a draw that another device would not make, a
//! candidate lost between two digits of the selection, edits on the wrong row.

use kernels::ops::{self, Choice, LogitEdit, SampleBatch, SampleParams};
use kernels::{Device, KernelError, Precision, reference};
use testkit::{Random, soft_gpu};

use crate::common::tensor;

fn random_params(random: &mut Random, vocab: usize) -> SampleParams {
    let mut pick = |values: &[f32]| values[random.below(values.len())];
    let temperature = pick(&[0.0, 0.3, 1.0, 1.0, 2.5]);
    let (top_p, min_p) = (pick(&[1.0, 1.0, 0.95, 0.5, 0.01]), pick(&[0.0, 0.0, 0.02, 1.0]));
    let repetition_penalty = pick(&[1.0, 1.3, 0.8]);
    let (presence_penalty, frequency_penalty) = (pick(&[0.0, 1.5, -0.5]), pick(&[0.0, 0.7]));
    let top_k = [0, 0, 1, 7, 50, 100_000][random.below(6)].min(vocab as u32 + 1);
    SampleParams {
        random: random.next_u64(),
        temperature,
        top_p,
        min_p,
        repetition_penalty,
        presence_penalty,
        frequency_penalty,
        top_k,
        logprob: 1,
    }
}

/// Edits of up to 40 tokens; at least one token is not banned.
fn random_edits(random: &mut Random, vocab: usize) -> Vec<LogitEdit> {
    let mut tokens: Vec<u32> = (0..random.below(40)).map(|_| random.below(vocab) as u32).collect();
    tokens.sort_unstable();
    tokens.dedup();
    let edit = |token| LogitEdit {
        token,
        bias: [0.0, 2.0, -1.0, f32::NEG_INFINITY][random.below(if vocab > 40 { 4 } else { 3 })],
        seen: random.below(2) as u32,
        generated: random.below(3) as u32,
    };
    tokens.into_iter().map(edit).collect()
}

/// Rows of one vocabulary, each one of three kinds: any logits; few distinct ones, so that ties are common; one token and a long tail that
/// weighs as much, so that sums of small masses count.
fn random_rows(seed: u64, rows: usize, vocab: usize, masked: bool) -> (Vec<f32>, SampleBatch) {
    let mut random = Random::new(seed);
    let (mut logits, mut batch, mut allowed) = (Vec::new(), SampleBatch::default(), Vec::new());
    for _ in 0..rows {
        let (kind, values) = (random.below(3), random.normals(vocab, 3.0));
        logits.extend(values.into_iter().enumerate().map(|(token, value)| match kind {
            0 => value,
            1 => value.round(),
            _ if token == vocab / 2 => 0.0,
            _ => 0.05 * value - (vocab as f32).ln(),
        }));
        let params = random_params(&mut random, vocab);
        batch.push(params, &random_edits(&mut random, vocab));
        // The best token of an edited row is never in the mask's way: one in two words is whole.
        let words = vocab.div_ceil(32);
        allowed.extend((0..words).map(|w| if w % 2 == 0 { u32::MAX } else { random.next_u64() as u32 }));
    }
    if masked {
        batch.allow(allowed);
    }
    (logits, batch)
}

fn run(device: &Device, logits: &[f32], batch: &SampleBatch) -> Vec<Choice> {
    let vocab = logits.len().checked_div(batch.rows()).unwrap_or(5);
    // A row behind those of the batch, which nobody reads.
    let logits = tensor(&[batch.rows() + 1, vocab], &[logits, &vec![f32::NAN; vocab]].concat());
    ops::sample(&logits.to_device(device).unwrap(), batch).unwrap().read().unwrap()
}

#[track_caller]
fn same(got: &[Choice], want: &[Choice]) {
    assert_eq!(got.len(), want.len());
    for (row, pair) in got.iter().zip(want).enumerate() {
        match pair {
            // Both are the same sum; its logarithm may differ in the last place.
            (Choice::Token { id, logprob }, Choice::Token { id: want, logprob: expected }) => {
                assert_eq!(id, want, "row {row}");
                let equal = (logprob - expected).abs() <= 2e-6 || logprob.is_nan() && expected.is_nan();
                assert!(equal, "row {row}: logprob {logprob}, expected {expected}");
            }
            (
                Choice::NoDistribution { token, logit },
                Choice::NoDistribution { token: want, logit: expected },
            ) => {
                assert_eq!((token, logit.to_bits()), (want, expected.to_bits()), "row {row}");
            }
            pair => panic!("row {row}: {pair:?}"),
        }
    }
}

#[test]
fn matches_the_reference() {
    let mut drawn = std::collections::BTreeSet::new();
    for (rows, vocab) in [(200, 1), (400, 7), (400, 1000), (4, 129_280)] {
        for masked in [false, true] {
            let mut random = Random::new(5 + vocab as u64);
            for _ in 0..rows {
                let (logits, batch) = random_rows(random.next_u64(), 2, vocab, masked);
                let rows = logits.chunks_exact(vocab);
                for (row, (choice, logits)) in
                    run(&Device::Cpu, &logits, &batch).into_iter().zip(rows).enumerate()
                {
                    let words = batch.allowed(row, vocab);
                    let allowed = |i: usize| words.is_none_or(|words| words[i / 32] >> (i % 32) & 1 == 1);
                    let (params, edits) = batch.row(row);
                    let (id, logprob) = reference::sample(logits, params, edits, allowed);
                    // Weights agree to 2e-7 and so do their sums.
                    same(&[choice], &[Choice::Token { id, logprob }]);
                    drawn.insert(id);
                }
            }
        }
    }
    assert!(drawn.len() > 100, "the draws vary");
}

#[test]
fn a_gpu_chooses_the_same_token() {
    let gpu = soft_gpu();
    for precision in [Precision::F32, Precision::Bf16] {
        let device = gpu.device(precision);
        for (seed, rows, vocab) in
            [(1, 0, 5), (2, 5, 1), (3, 8, 7), (4, 24, 1000), (5, 3, 4097), (6, 1, 129_280)]
        {
            let (logits, batch) = random_rows(seed, rows, vocab, seed % 2 == 0);
            same(&run(&device, &logits, &batch), &run(&Device::Cpu, &logits, &batch));
        }
    }
}

/// Every filter at once over a whole vocabulary, with and without ties.
#[test]
fn a_gpu_chooses_the_same_token_from_a_real_vocabulary() {
    let gpu = soft_gpu();
    let mut random = Random::new(9);
    let mut logits = random.normals(129_280, 2.0);
    let all =
        SampleParams { random: random.next_u64(), temperature: 1.2, top_p: 0.9, top_k: 5000, ..filters() };
    let draw = SampleParams { random: u64::MAX, temperature: 0.8, ..filters() };
    for ties in [false, true] {
        if ties {
            logits.iter_mut().for_each(|v| *v = v.round());
        }
        for params in [all, draw] {
            let mut batch = SampleBatch::default();
            batch.push(params, &[LogitEdit { token: 129_279, bias: 3.0, ..Default::default() }]);
            same(&run(&gpu.device(Precision::Bf16), &logits, &batch), &run(&Device::Cpu, &logits, &batch));
        }
    }
}

/// One token and a long tail that weighs as much: thousands of small masses add up, with every carry.
#[test]
fn a_gpu_adds_up_a_long_tail() {
    let gpu = soft_gpu();
    let (mut random, vocab) = (Random::new(4), 4000);
    let (mut row, mut batch) = (random.normals(vocab, 0.1), SampleBatch::default());
    row.iter_mut().for_each(|logit| *logit -= (vocab as f32).ln());
    row[7] = 0.0;
    for i in 0..4 {
        batch.push(SampleParams { random: (i << 62) + (1 << 61), top_p: 0.9, ..filters() }, &[]);
    }
    let logits = row.repeat(4);
    same(&run(&gpu.device(Precision::F32), &logits, &batch), &run(&Device::Cpu, &logits, &batch));
}

fn filters() -> SampleParams {
    SampleParams { temperature: 1.0, logprob: 1, ..Default::default() }
}

#[test]
fn a_gpu_chooses_the_same_token_under_every_schedule() {
    let gpu = soft_gpu();
    let (logits, batch) = random_rows(77, 12, 300, true);
    let want = run(&Device::Cpu, &logits, &batch);
    gpu.under_all_schedules(Precision::F32, |device| same(&run(device, &logits, &batch), &want));
}

/// The first and the last random number reach the first and the last token that is in play.
#[test]
fn the_ends_of_the_draw_are_tokens_in_play() {
    let gpu = soft_gpu();
    for device in [Device::Cpu, gpu.device(Precision::F32)] {
        for (top_p, top_k, ends) in [(1.0, 0, [1, 5]), (1.0, 2, [2, 3]), (0.75, 0, [2, 1]), (0.5, 3, [2, 3])]
        {
            let mut batch = SampleBatch::default();
            for random in [0, u64::MAX] {
                let params = SampleParams { random, top_p, top_k, ..filters() };
                batch.push(params, &[LogitEdit { token: 0, bias: f32::NEG_INFINITY, ..Default::default() }]);
            }
            let row = [9.0, 1.0, 2.0, 2.0, 1.0, 1.0];
            let got = run(&device, &[row, row].concat(), &batch);
            let ids = got.iter().map(|choice| match choice {
                Choice::Token { id, .. } => *id,
                choice => panic!("{choice:?}"),
            });
            assert_eq!(ids.collect::<Vec<_>>(), ends, "top_p {top_p}, top_k {top_k}");
        }
    }
}

#[test]
fn ties_go_to_the_lowest_id_and_zeros_have_no_sign() {
    let gpu = soft_gpu();
    for device in [Device::Cpu, gpu.device(Precision::F32)] {
        let mut batch = SampleBatch::default();
        batch.push(SampleParams::default(), &[]);
        batch.push(SampleParams { temperature: 1.0, top_k: 1, random: u64::MAX, ..Default::default() }, &[]);
        let got = run(&device, &[-1.0, -0.0, 0.0, -2.0, -1.0, -0.0, 0.0, -2.0], &batch);
        assert!(
            got.iter().all(|choice| matches!(choice, Choice::Token { id: 1, logprob } if logprob.is_nan()))
        );
    }
}

#[test]
fn rows_without_a_distribution_say_so() {
    let gpu = soft_gpu();
    let ban = |token| LogitEdit { token, bias: f32::NEG_INFINITY, ..Default::default() };
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let mut batch = SampleBatch::default();
    for temperature in [0.0, 1.0] {
        let params = SampleParams { temperature, ..filters() };
        let overflow = SampleParams { repetition_penalty: 1e-30, ..params };
        batch.push(params, &[]);
        batch.push(params, &[]);
        batch.push(params, &[]);
        batch.push(params, &[ban(0), ban(1), ban(2)]);
        batch.push(overflow, &[LogitEdit { token: 2, seen: 1, ..Default::default() }]);
        // A banned NaN is still one: the step that made it is not to be trusted.
        batch.push(params, &[ban(1)]);
    }
    let rows = [[0.0, nan, inf], [inf, 1.0, nan], [-inf; 3], [1.0; 3], [1.0, 1e10, 1e20], [0.0, nan, 0.0]];
    let logits = [rows, rows].concat().concat();
    for device in [Device::Cpu, gpu.device(Precision::F32)] {
        let got = run(&device, &logits, &batch);
        let none = |token, logit| Choice::NoDistribution { token, logit };
        for half in [&got[..6], &got[6..]] {
            assert!(
                matches!(half[0], Choice::NoDistribution { token: 1, logit } if logit.is_nan()),
                "{half:?}"
            );
            assert_eq!(half[1..4], [none(0, inf), none(0, -inf), none(0, -inf)]);
            assert!(
                matches!(half[5], Choice::NoDistribution { token: 1, logit } if logit.is_nan()),
                "{half:?}"
            );
        }
        assert!(matches!(got[4], Choice::Token { id: 2, .. }), "greedy takes the overflowed logit");
        assert_eq!(got[10], none(2, inf));
    }
}

#[test]
fn nothing_is_allowed_or_one_token_is() {
    let gpu = soft_gpu();
    for device in [Device::Cpu, gpu.device(Precision::F32)] {
        let mut batch = SampleBatch::default();
        batch.push(filters(), &[]);
        batch.push(filters(), &[]);
        batch.allow(vec![0, 0, 0, 1 << 3]);
        let got = run(&device, &[1.0; 80], &batch);
        assert_eq!(got[0], Choice::NoDistribution { token: 0, logit: f32::NEG_INFINITY });
        assert!(matches!(got[1], Choice::Token { id: 35, .. }), "{got:?}");
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let logits = tensor(&[1, 4], &[0.0; 4]);
    let with = |params, edits: &[LogitEdit]| {
        let mut batch = SampleBatch::default();
        batch.push(params, edits);
        ops::sample(&logits, &batch)
    };
    let edit = |token| LogitEdit { token, ..Default::default() };
    let params = SampleParams::default();
    assert!(with(params, &[edit(0), edit(3)]).is_ok());
    let error = with(params, &[edit(0), edit(4)]).unwrap_err();
    assert_eq!(error.to_string(), "sample: edits holds 4, expected token ids below 4");
    for (params, edits) in [
        (params, vec![edit(2), edit(1)]),
        (params, vec![edit(2), edit(2)]),
        (SampleParams { temperature: f32::NAN, ..params }, vec![]),
        (SampleParams { temperature: -1.0, ..params }, vec![]),
        (SampleParams { top_p: 0.0, ..params }, vec![]),
        (SampleParams { min_p: 1.1, ..params }, vec![]),
    ] {
        assert!(matches!(with(params, &edits), Err(KernelError::Value { .. })), "{params:?} {edits:?}");
    }
    assert_eq!(ops::sample(&logits, &SampleBatch::default()).unwrap().read().unwrap(), []);
    let mut batch = SampleBatch::default();
    batch.push(params, &[]);
    assert!(matches!(ops::sample(&tensor(&[0, 4], &[]), &batch), Err(KernelError::Shape { .. })));
    batch.allow(vec![0, 0]);
    assert!(matches!(ops::sample(&logits, &batch), Err(KernelError::Shape { .. })));
    assert!(matches!(ops::sample(&tensor(&[1, 0], &[]), &batch), Err(KernelError::Shape { .. })));
}
