//! The absorbed form of MLA: its two products, and both with the attention between them against the naive form.
//! Catches: key rows taken for value rows of `kv_b`, a wrong head.

use kernels::cpu::{self, Level};
use kernels::ops::{self, MlaDims};
use kernels::{DType, Device, KernelError, Precision, Tensor, Weight, reference};
use testkit::soft_gpu;

use crate::common::{
    BF16, F32, FORMS, FP8, Form, activation_tolerance, close, close_by, rounded, tensor, values, weight,
};
use crate::paged::{Paged, STEPS};

pub(crate) const DIMS: [MlaDims; 4] = [
    MlaDims { num_heads: 1, qk_nope_head_dim: 16, qk_rope_head_dim: 8, v_head_dim: 16, kv_lora_rank: 32 },
    MlaDims { num_heads: 3, qk_nope_head_dim: 20, qk_rope_head_dim: 6, v_head_dim: 9, kv_lora_rank: 35 },
    MlaDims { num_heads: 16, qk_nope_head_dim: 32, qk_rope_head_dim: 16, v_head_dim: 24, kv_lora_rank: 80 },
    MlaDims {
        num_heads: 40,
        qk_nope_head_dim: 128,
        qk_rope_head_dim: 64,
        v_head_dim: 136,
        kv_lora_rank: 192,
    },
];

fn kv_b(form: Form, dims: &MlaDims) -> Weight {
    weight(form, [1, dims.num_heads * (dims.qk_nope_head_dim + dims.v_head_dim), dims.kv_lora_rank], 77)
}

#[test]
fn products_match_the_reference() {
    for form in FORMS {
        for dims in DIMS.iter().filter(|d| form.fits(d.kv_lora_rank)) {
            let kv_b = kv_b(form, dims);
            let dense = kv_b.to_vec_f32();
            for tokens in [1, 2, 13, 30] {
                let q = values(1, tokens * dims.num_heads * dims.qk_head_dim());
                let o = values(2, tokens * dims.num_heads * dims.kv_lora_rank);
                let absorbed = reference::mla_absorb_query(&q, &dense, dims);
                let projected = reference::mla_project_value(&o, &dense, dims);
                for level in Level::available() {
                    let what = format!("{form:?} {dims:?} T={tokens} {level:?}");
                    // Sums of up to 192 products below 2.5.
                    let mut got = vec![0.0; absorbed.len()];
                    cpu::absorb_query(level, &q, &kv_b, dims, &mut got);
                    close(&what, &got, &absorbed, 5e-5);
                    let mut got = vec![0.0; projected.len()];
                    cpu::project_value(level, &o, &kv_b, dims, &mut got);
                    close(&what, &got, &projected, 5e-5);
                }
            }
        }
    }
}

#[test]
fn absorbed_equals_naive() {
    for dims in &DIMS[..3] {
        for step in [STEPS[1], STEPS[3]] {
            let paged = Paged::new(DType::F32, 16, dims.row_width(), step);
            let kv_b = kv_b(BF16, dims);
            let tokens = paged.tokens();
            let shape = [tokens, dims.num_heads, dims.qk_head_dim()];
            let q = values(3, shape.iter().product());
            let clean: Vec<f32> = paged.rows().iter().map(|v| if v.is_nan() { 0.0 } else { *v }).collect();
            let want = reference::mla_naive(&q, &clean, &kv_b.to_vec_f32(), &paged.visible, dims, 0.1);
            let absorbed = ops::mla_absorb_query(&tensor(&shape, &q), &kv_b, dims).unwrap();
            let latent =
                ops::paged_mla(&absorbed, &paged.cache, &paged.batch, None, 0.1, dims.kv_lora_rank).unwrap();
            let got = ops::mla_project_value(&latent, &kv_b, dims).unwrap();
            assert_eq!(got.shape(), [tokens, dims.num_heads * dims.v_head_dim]);
            // The same maths in another order: two nested sums of up to 80 products.
            close_by("absorbed", &got.to_vec_f32(), &want, |i| 5e-5 * (1.0 + want[i].abs()));
        }
    }
}

#[test]
fn a_token_is_the_same_bits_alone_and_in_a_batch() {
    let dims = &DIMS[2];
    let kv_b = kv_b(FP8, dims);
    let shape = [19, dims.num_heads, dims.qk_head_dim()];
    let q = values(1, shape.iter().product());
    let row = shape[1] * shape[2];
    let all = ops::mla_absorb_query(&tensor(&shape, &q), &kv_b, dims).unwrap().to_vec_f32();
    for (t, q) in q.chunks_exact(row).enumerate() {
        let one = ops::mla_absorb_query(&tensor(&[1, shape[1], shape[2]], q), &kv_b, dims).unwrap();
        assert_eq!(one.to_vec_f32(), all[t * one.len()..][..one.len()], "token {t}");
    }
}

#[test]
fn refuses_what_does_not_fit() {
    let dims = &DIMS[0];
    let kv_b = kv_b(F32, dims);
    let shape = |r: kernels::Result<Tensor>| matches!(r, Err(KernelError::Shape { .. }));
    assert!(shape(ops::mla_absorb_query(&tensor(&[1, 1, 23], &[0.0; 23]), &kv_b, dims)));
    assert!(shape(ops::mla_absorb_query(&tensor(&[1, 1, 24], &[0.0; 24]), &kv_b, &DIMS[1])));
    assert!(shape(ops::mla_project_value(&tensor(&[1, 2, 32], &[0.0; 64]), &kv_b, dims)));
}

/// The forms that a GPU has kernels for.
const GPU_FORMS: [Form; 6] =
    [F32, Form::Float(DType::F16), BF16, FP8, Form::Fp8([32, 32]), Form::Fp8([5, 7])];

/// Both products on `device` against the reference with the same operands: where they are bf16, so are the query and
/// the scaled weights.
fn check_products_on(device: &Device, form: Form, dims: &MlaDims, tokens: usize) {
    let weights = kv_b(form, dims);
    let dense = weights.to_vec_f32();
    let bf16_device = device.activation_dtype() == DType::BF16;
    let bf16_operands = bf16_device && !matches!(form, Form::Float(DType::F32 | DType::F16));
    let operand = |values: &[f32]| if bf16_operands { rounded(values) } else { values.to_vec() };
    let q = values(1, tokens * dims.num_heads * dims.qk_head_dim());
    let o = values(2, tokens * dims.num_heads * dims.kv_lora_rank);
    // The latent arrives as an activation.
    let o = if bf16_device { rounded(&o) } else { o };
    let kv_b = weights.to_device(device).unwrap();
    let on_gpu = |width: usize, values: &[f32]| {
        Tensor::from_f32(device, &[tokens, dims.num_heads, width], values).unwrap()
    };
    let check = |what: &str, got: Tensor, want: &[f32]| {
        assert_eq!(got.dtype(), device.activation_dtype());
        let what = format!("{what} {form:?} {dims:?} T={tokens}");
        // Sums of up to 512 products below 2.5.
        close_by(&what, &got.to_vec_f32(), want, |i| activation_tolerance(device, want[i], 1e-4));
    };
    let mut absorbed = reference::mla_absorb_query(&operand(&q), &operand(&dense), dims);
    // What is only copied is not an operand.
    for (want, q) in absorbed.chunks_exact_mut(dims.row_width()).zip(q.chunks_exact(dims.qk_head_dim())) {
        want[dims.kv_lora_rank..].copy_from_slice(&q[dims.qk_nope_head_dim..]);
    }
    check("absorb", ops::mla_absorb_query(&on_gpu(dims.qk_head_dim(), &q), &kv_b, dims).unwrap(), &absorbed);
    let projected = reference::mla_project_value(&operand(&o), &operand(&dense), dims);
    check(
        "project",
        ops::mla_project_value(&on_gpu(dims.kv_lora_rank, &o), &kv_b, dims).unwrap(),
        &projected,
    );
}

#[test]
fn products_on_a_gpu_match_the_reference() {
    let gpu = soft_gpu();
    // The head of V2-Lite and V3.
    let real = MlaDims {
        num_heads: 2,
        qk_nope_head_dim: 128,
        qk_rope_head_dim: 64,
        v_head_dim: 128,
        kv_lora_rank: 512,
    };
    for precision in [Precision::F32, Precision::Bf16] {
        gpu.under_all_schedules(precision, |device| {
            for form in [BF16, Form::Fp8([5, 7])] {
                check_products_on(device, form, &DIMS[1], 19);
            }
        });
        let device = gpu.device(precision);
        for form in GPU_FORMS {
            for (dims, tokens) in
                [(&DIMS[0], 1), (&DIMS[1], 70), (&DIMS[2], 33), (&real, 1), (&real, 17), (&DIMS[0], 0)]
            {
                check_products_on(&device, form, dims, tokens);
            }
        }
    }
}

#[test]
fn a_token_on_a_gpu_is_the_same_bits_alone_and_in_a_batch() {
    let gpu = soft_gpu();
    let device = gpu.device(Precision::Bf16);
    let dims = &DIMS[2];
    let weights = kv_b(FP8, dims).to_device(&device).unwrap();
    let shape = [19, dims.num_heads, dims.qk_head_dim()];
    let q = values(1, shape.iter().product());
    let absorb = |shape: &[usize], q: &[f32]| {
        ops::mla_absorb_query(&Tensor::from_f32(&device, shape, q).unwrap(), &weights, dims)
            .unwrap()
            .to_vec_f32()
    };
    let all = absorb(&shape, &q);
    for (t, q) in q.chunks_exact(shape[1] * shape[2]).enumerate() {
        let one = absorb(&[1, shape[1], shape[2]], q);
        assert_eq!(one, all[t * one.len()..][..one.len()], "token {t}");
    }
}

#[test]
fn a_gpu_says_which_weights_it_has_no_product_for() {
    let gpu = soft_gpu();
    let device = gpu.device(Precision::Bf16);
    let dims = &DIMS[0];
    let q = Tensor::zeros(&device, DType::F32, &[1, 1, 24]).unwrap();
    let int8 = kv_b(Form::Int8(None), dims).to_device(&device).unwrap();
    let error = ops::mla_absorb_query(&q, &int8, dims).unwrap_err();
    assert!(error.to_string().contains("kv_b is I8"), "{error}");
    let error = ops::mla_absorb_query(&q, &kv_b(F32, dims), dims).unwrap_err();
    assert!(matches!(error, KernelError::Placement { arg: "kv_b", .. }));
}
