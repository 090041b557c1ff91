// Compressed cache entries: a softmax per channel over a window's tokens, norm and rope. One block per token of the step;
// only the last token of a window has anything to do.
#include "reduce.cuh"
#include "row_writer.cuh"
#include "sequence_state.cuh"

namespace cachalot::compressor {

/// kernels/src/cuda/compressor.rs has the same struct.
struct Sizes {
    uint32_t ratio, ring_rows, rows_per_block;
    uint32_t dim, channels, half_rope;  // D; C, which is D or 2 D; R / 2
    uint32_t row_bytes;                 // of the cache
    float eps;
};

struct Inputs {
    const float *projected, *ring;  // [T, 2 C], [slots, ring_rows, 2 C]: values, then gates
    const float *ape, *norm;        // [ratio, C], [D]
    const float *cosines, *sines;   // [T, R / 2]
};

template <class Row>
__device__ __forceinline__ void compress(uint8_t* cache, const Inputs& in, const state::Lists& lists, const state::StepSizes& step, const Sizes& s) {
    SIMT_DYNAMIC_SHARED(float, entry);
    __shared__ float part[32];
    const state::Token token = state::find_token(lists, step, blockIdx.x);
    if (token.slot == state::kNone || (token.position + 1) % s.ratio) return;
    const uint32_t window = token.position / s.ratio, own = window * s.ratio;
    const uint32_t place = state::entry_row(lists, step, token, window, s.rows_per_block);
    if (place == state::kNone) return;
    // The window before comes first, and of its tokens the first half of the channels; the first window has none.
    const bool overlaps = s.channels > s.dim;
    const uint32_t before = overlaps && window ? own - s.ratio : own;
    float squares = 0.0f;
    for (uint32_t c = threadIdx.x; c < s.dim; c += blockDim.x) {
        float most = -INFINITY, total = 0.0f, sum = 0.0f;
        for (uint32_t p = before; p < own + s.ratio; p++) {
            const uint32_t channel = overlaps && p >= own ? s.dim + c : c;
            const float* at = state::recent_row(in.projected, in.ring, token, p, s.ring_rows, 2 * s.channels) + channel;
            const float gate = simt::load(at + s.channels) + simt::load(in.ape + p % s.ratio * s.channels + channel);
            const float now = fmaxf(most, gate), keep = expf(most - now), weight = expf(gate - now);
            total = total * keep + weight;
            sum = sum * keep + weight * simt::load(at);
            most = now;
        }
        entry[c] = sum / total;
        squares += entry[c] * entry[c];
    }
    const float scale = 1.0f / sqrtf(block_sum(squares, part) / float(s.dim) + s.eps);
    const int nope = s.dim - 2 * s.half_rope;
    const size_t angles = size_t(blockIdx.x) * s.half_rope;
    const Row row(cache + size_t(place) * s.row_bytes, nope, entry);
    const auto normed = [&](int i) { return entry[i] * scale * simt::load(in.norm + i); };
    row_writer::put_channels(row, nope, normed);
    row_writer::put_rotated(row, s.half_rope, in.cosines + angles, in.sines + angles, [&](int c) { return normed(nope + c); });
    row.finish(s.dim);
}

}  // namespace cachalot::compressor

#define COMPRESS(name, Row)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                                        \
        name(uint8_t* cache, const float* projected, const float* ring, const float* ape, const float* norm,                  \
             const float* cosines, const float* sines, const uint32_t* query_start, const uint32_t* context_lens,             \
             const uint32_t* block_tables, const uint32_t* state_slots, cachalot::Fault* fault,                               \
             cachalot::state::StepSizes step, cachalot::compressor::Sizes sizes) {                                            \
        cachalot::compressor::compress<cachalot::row_writer::Row>(                                                            \
            cache, {projected, ring, ape, norm, cosines, sines},                                                              \
            {query_start, context_lens, block_tables, state_slots, fault}, step, sizes);                                      \
    }                                                                                                                         \
    SIMT_EXPORT(name)

COMPRESS(compress_f32, PlainRow<float>)
COMPRESS(compress_bf16, PlainRow<__nv_bfloat16>)
COMPRESS(compress_fp8, SharedKvRow)
COMPRESS(compress_fp8_key, KeyRow<cachalot::index_vector::put_fp8_key>)
COMPRESS(compress_fp4_key, KeyRow<cachalot::index_vector::put_fp4_key>)
