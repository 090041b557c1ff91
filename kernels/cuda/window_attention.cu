// Attention over the last tokens and over compressed entries, one softmax with a sink; a row is key and value of all heads.
//
// A warp has one head of one token, channels over its lanes; the warps of a block share a token, so that a row comes from
// memory once. Rows are taken one after the other with a running softmax: a query's sums have one order, whatever else is
// in the step.
#include "element.cuh"
#include "reduce.cuh"
#include "sequence_state.cuh"

namespace cachalot::window {

constexpr int kWarps = 8;

/// kernels/src/cuda/window_attention.rs has the same struct.
struct Sizes {
    uint32_t heads, dim, window;
    uint32_t ratio, rows_per_block;  // of the entries; a ratio of 0 means that there are none
    uint32_t topk;                   // places of an index list, 0 for all entries
    float scale;
};

template <class T>
struct Inputs {
    const float* q;             // [T, H, D]
    const T *fresh, *ring;      // [T, D], [slots, window, D]
    const T* entries;           // [blocks, rows_per_block, D] or null
    const uint32_t* indices;    // [T, topk] or null
    const float* sinks;         // [H]
};

/// One head's sums; lane l has channels l, l + 32, ...
template <int N>
struct Sums {
    float q[N], values[N], most, total;

    template <class T>
    __device__ __forceinline__ void add(const T* row, uint32_t dim, float scale) {
        const uint32_t lane = simt::lane_id();
        float key[N], dot = 0.0f;
#pragma unroll
        for (int i = 0; i < N; i++) {
            key[i] = lane + i * 32 < dim ? to_float(simt::load(row + lane + i * 32)) : 0.0f;
            dot += q[i] * key[i];
        }
        const float score = warp_sum(dot) * scale, now = fmaxf(most, score);
        const float keep = expf(most - now), weight = expf(score - now);
        total = total * keep + weight;
#pragma unroll
        for (int i = 0; i < N; i++) values[i] = values[i] * keep + weight * key[i];
        most = now;
    }
};

/// Token blockIdx.x, head blockIdx.y * kWarps + warp; heads of up to 32 N channels.
template <int N, class T>
__device__ __forceinline__ void attend(const Inputs<T>& in, float* out, const state::Lists& lists, const state::StepSizes& step,
                                       const Sizes& s) {
    const uint32_t head = blockIdx.y * kWarps + threadIdx.x / 32, lane = simt::lane_id();
    const state::Token token = state::find_token(lists, step, blockIdx.x);
    if (head >= s.heads || token.slot == state::kNone) return;
    const size_t at = (size_t(blockIdx.x) * s.heads + head) * s.dim;
    Sums<N> sums;
    sums.most = -INFINITY, sums.total = 0.0f;
#pragma unroll
    for (int i = 0; i < N; i++) {
        sums.q[i] = lane + i * 32 < s.dim ? simt::load(in.q + at + lane + i * 32) : 0.0f;
        sums.values[i] = 0.0f;
    }
    const uint32_t seen = token.position + 1;
    for (uint32_t p = seen > s.window ? seen - s.window : 0; p < seen; p++)
        sums.add(state::recent_row(in.fresh, in.ring, token, p, s.window, s.dim), s.dim, s.scale);
    const uint32_t visible = s.ratio ? seen / s.ratio : 0, places = s.ratio && s.topk ? s.topk : visible;
    for (uint32_t i = 0; i < places; i++) {
        uint32_t entry = i;
        if (s.topk) {
            entry = simt::load(in.indices + size_t(blockIdx.x) * s.topk + i);
            if (entry == state::kNone || !index_in_range(lists.fault, kIndex, entry, visible)) continue;
        }
        const uint32_t row = state::entry_row(lists, step, token, entry, s.rows_per_block);
        if (row != state::kNone) sums.add(in.entries + size_t(row) * s.dim, s.dim, s.scale);
    }
    // A sink takes its share and has no value.
    const float total = sums.total + expf(simt::load(in.sinks + head) - sums.most);
#pragma unroll
    for (int i = 0; i < N; i++)
        if (lane + i * 32 < s.dim) simt::store(out + at + lane + i * 32, sums.values[i] / total);
}

}  // namespace cachalot::window

#define WINDOW_ATTENTION(name, T, N)                                                                                         \
    extern "C" __global__ void __launch_bounds__(256, 3)                                                                     \
        name(const float* q, const T* fresh, const T* ring, const T* entries, const uint32_t* indices, const float* sinks,    \
             float* out, const uint32_t* query_start, const uint32_t* context_lens, const uint32_t* block_tables,             \
             const uint32_t* state_slots, cachalot::Fault* fault, cachalot::state::StepSizes step,                            \
             cachalot::window::Sizes sizes) {                                                                                 \
        cachalot::window::attend<N>(cachalot::window::Inputs<T>{q, fresh, ring, entries, indices, sinks}, out,                \
                                    {query_start, context_lens, block_tables, state_slots, fault}, step, sizes);              \
    }                                                                                                                         \
    SIMT_EXPORT(name)

WINDOW_ATTENTION(window_attention_f32_128, float, 4)
WINDOW_ATTENTION(window_attention_f32_512, float, 16)
WINDOW_ATTENTION(window_attention_bf16_128, __nv_bfloat16, 4)
WINDOW_ATTENTION(window_attention_bf16_512, __nv_bfloat16, 16)
