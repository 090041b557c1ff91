// MLA's two products per head with the packed kv_b [H * (nope + v), C]: the query into the latent space (W_UK, summed
// over the rows of kv_b) and the value out of it (W_UV, summed over its columns). One kernel, whose weight tile lies in
// shared memory either way round.
//
// Both operands pass through registers on the way to shared memory: activations may change their type there, and a
// weight is decoded once per block and not once per warp. The next step's loads are in flight while a step is multiplied.
// A block takes few columns, so that a decode step, which has one tile of tokens, still gives every head several blocks.
#include "stored_run.cuh"

namespace cachalot {

/// What a launch multiplies: out[t, h, n] = sum over k of x[t, h, k] * w[h, k, n]. kernels/src/cuda/mla.rs writes it.
struct HeadProduct {
    uint32_t tokens, heads;
    uint32_t x_width, out_width;    // values per head
    uint32_t n, k;
    uint32_t head_rows, first_row;  // rows of kv_b per head, and the first of them that is ours
    uint32_t columns;               // of kv_b
    uint32_t tail;                  // values behind the k of x that are copied behind the n of out
    uint32_t block_rows, block_columns, scale_columns;  // of FP8
};

/// Columns blockIdx.x, head blockIdx.y, tokens blockIdx.z of the result. `Absorb`: k runs over rows of kv_b.
template <bool Absorb, class Stored, class In, class Operand, class Out, int M, int K, int Warps>
__device__ __forceinline__ void head_product(const In* x, const Stored* weight, const float* scales, Out* out, const HeadProduct& p) {
    constexpr int kN = Warps * 16, kThreads = Warps * 32, kI = M / 16, kRows = Absorb ? K : kN, kColumns = Absorb ? kN : K;
    __shared__ __align__(128) Operand x_tile[M * K];
    __shared__ __align__(128) Operand w_tile[kRows * kColumns];
    const uint32_t head = blockIdx.y, n0 = blockIdx.x * kN, t0 = blockIdx.z * M, row0 = head * p.head_rows + p.first_row;
    const Window<In> xs = {x + size_t(head) * p.x_width, size_t(p.heads) * p.x_width, p.tokens, p.k,
                           p.x_width % 8 == 0 && p.k % 8 == 0, {}};
    const Window<Stored> ws = {weight + size_t(row0) * p.columns, p.columns, Absorb ? p.k : p.n, p.columns,
                               p.columns % 8 == 0 && p.block_columns % 8 == 0,
                               {scales, row0, p.block_rows, p.block_columns, p.scale_columns}};
    Passage<In, M, K, kThreads> next_x;
    Passage<Stored, kRows, kColumns, kThreads> next_w;
    const auto w_row = [=](uint32_t k) { return Absorb ? k : n0; };
    const auto w_column = [=](uint32_t k) { return Absorb ? n0 : k; };

    float acc[kI][2][4] = {};
    next_x.fetch(xs, t0, 0);
    next_w.fetch(ws, w_row(0), w_column(0));
    for (uint32_t k = 0; k < p.k; k += K) {
        next_x.put(x_tile, xs, t0, k);
        next_w.put(w_tile, ws, w_row(k), w_column(k));
        __syncthreads();
        if (k + K < p.k) {
            next_x.fetch(xs, t0, k + K);
            next_w.fetch(ws, w_row(k + K), w_column(k + K));
        }
        multiply<K, kN, Absorb>(acc, x_tile, w_tile, threadIdx.x / 32 * 16);
        __syncthreads();  // everyone has read the tiles before the next ones take their place
    }

    const uint32_t lane = simt::lane_id(), n = n0 + threadIdx.x / 32 * 16 + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < kI; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const uint32_t t = t0 + i * 16 + lane / 4 + h * 8;
            Out* row = out + (size_t(t) * p.heads + head) * p.out_width;
#pragma unroll
            for (int j = 0; j < 2; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const uint32_t column = n + j * 8 + e;
                    if (t < p.tokens && column < p.n) simt::store(row + column, from_float<Out>(acc[i][j][h * 2 + e]));
                }
        }
    if (blockIdx.x > 0) return;
    for (uint32_t i = threadIdx.x; i < M * p.tail; i += kThreads) {
        const uint32_t t = t0 + i / p.tail, c = i % p.tail;
        if (t >= p.tokens) break;
        const size_t row = size_t(t) * p.heads + head;
        simt::store(out + row * p.out_width + p.n + c, from_float<Out>(to_float(simt::load(x + row * p.x_width + p.k + c))));
    }
}

}  // namespace cachalot

// x [tokens, heads, x_width], out [tokens, heads, out_width]; scales only for FP8.
#define HEAD_PRODUCT(name, absorb, Stored, In, Operand, Out, m, k, warps, blocks)                                         \
    extern "C" __global__ void __launch_bounds__(warps * 32, blocks)                                                      \
        name(const In* __restrict__ x, const Stored* __restrict__ weight, const float* __restrict__ scales,               \
             Out* __restrict__ out, cachalot::HeadProduct product) {                                                      \
        cachalot::head_product<absorb, Stored, In, Operand, Out, m, k, warps>(x, weight, scales, out, product);           \
    }                                                                                                                     \
    SIMT_EXPORT(name)

// mla_{absorb,project}_<stored>_<operand>_<activations>_m<tokens of a tile>. The query comes from a projection and is
// float on every device; the latent comes from attention in the device's activation type.
#define MLA(stored, Stored, operand, Operand, activations, Activations, m, k, warps, blocks)                              \
    HEAD_PRODUCT(mla_absorb_##stored##_##operand##_##activations##_m##m, true, Stored, float, Operand, Activations, m, k, warps, blocks) \
    HEAD_PRODUCT(mla_project_##stored##_##operand##_##activations##_m##m, false, Stored, Activations, Operand, Activations, m, k, warps, blocks)

// 16 x 32 for decode: bytes of weights in flight and many blocks. 64 x 64 for prefill: each weight decoded for more rows.
// Blocks per SM are bounds for the compiler, which otherwise trades spills for occupancy.
#define MLA_BF16(stored, Stored)                                                      \
    MLA(stored, Stored, bf16, __nv_bfloat16, bf16, __nv_bfloat16, 16, 128, 2, 8)      \
    MLA(stored, Stored, bf16, __nv_bfloat16, bf16, __nv_bfloat16, 64, 64, 4, 3)

MLA_BF16(bf16, __nv_bfloat16)
MLA_BF16(fp8, cachalot::Fp8)
// Weights that bf16 cannot hold keep float operands, whatever the device.
MLA(f32, float, f32, float, bf16, __nv_bfloat16, 16, 64, 2, 8)
MLA(f16, __half, f32, float, bf16, __nv_bfloat16, 16, 64, 2, 8)
MLA(f32, float, f32, float, f32, float, 16, 64, 2, 8)
MLA(f16, __half, f32, float, f32, float, 16, 64, 2, 8)
MLA(bf16, __nv_bfloat16, f32, float, f32, float, 16, 64, 2, 8)
MLA(fp8, cachalot::Fp8, f32, float, f32, float, 16, 64, 2, 8)
