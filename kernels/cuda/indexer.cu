// The lightning indexer: scores of a token's keys, then the places of the best of them.
//
// index_scores multiplies the heads of one token by spans of its keys on tensor cores (plain multiply-adds in float):
// heads are the rows of a product and keys its columns, so that the sum over heads is a sum over the rows. The queries of
// all depths stay in shared memory while the keys pass by in panels. index_select finds the smallest chosen score digit
// by digit with histograms, as sampling does, and writes the places in order. Lists and lengths are the device's alone: a
// token with no more keys than its list has room for is not scored at all.
#include <type_traits>

#include "element.cuh"
#include "index_vector.cuh"
#include "operand_tile.cuh"
#include "paged_attention.cuh"

namespace cachalot::indexer {

constexpr int kHeads = 64, kKeys = 64, kDepth = 64;  // rows of the two tiles of a product, columns of a panel
constexpr int kThreads = kKeys / 16 * 32;            // a warp has 16 keys
constexpr int kTiles = 4, kSpan = kTiles * kKeys;    // keys of a block
constexpr uint32_t kNoRow = 0xffffffffu;

constexpr int kSelectThreads = 1024, kSelectWarps = kSelectThreads / 32;
constexpr int kDigitBits = 11, kBins = 1 << kDigitBits;
static_assert(kBins == 2 * kSelectThreads, "two bins per thread");

/// kernels/src/cuda/indexer.rs has the same struct.
struct Sizes {
    uint32_t tokens, sequences;                // T, B
    uint32_t blocks, block_size, table_width;  // tokens of a block
    uint32_t rows_per_block, row_bytes;        // keys of a block, bytes of a key
    uint32_t heads, dim, topk;
    uint32_t first_token, score_stride;        // scores [.., score_stride] begin with this token of the step
    float scale;
};

/// The step's lists, as attention reads them, one token to a tile.
__device__ __forceinline__ attention::Args paging(const uint32_t* query_start, const uint32_t* context_lens, const uint32_t* block_tables,
                                                  Fault* fault, const Sizes& s) {
    attention::Args a = {};
    a.query_start = query_start, a.context_lens = context_lens, a.block_tables = block_tables, a.fault = fault;
    a.sizes.tokens = s.tokens, a.sizes.sequences = s.sequences, a.sizes.tile_tokens = 1;
    a.sizes.blocks = s.blocks, a.sizes.block_size = s.block_size, a.sizes.table_width = s.table_width;
    return a;
}

/// A token's sequence and how many keys it sees; whole warps ask.
struct Token {
    uint32_t sequence, visible;
};

__device__ __forceinline__ Token find_token(const attention::Args& a, const Sizes& s, uint32_t token) {
    attention::Sequence sequence;
    uint32_t of_sequence;
    if (!attention::find_tile(a, token, &sequence, &of_sequence)) return {0, 0};
    const uint32_t seen = sequence.context - (sequence.tokens - of_sequence) + 1;
    return {sequence.index, seen / (s.block_size / s.rows_per_block)};
}

/// The row of key `key` of a sequence.
__device__ __forceinline__ uint32_t find_row(const attention::Args& a, const Sizes& s, uint32_t sequence, uint32_t key) {
    const uint32_t block = simt::load(a.block_tables + size_t(sequence) * s.table_width + key / s.rows_per_block);
    if (!index_in_range(a.fault, kBlock, block, s.blocks)) return kNoRow;
    return block * s.rows_per_block + key % s.rows_per_block;
}

/// A key in FP4, whose columns do not start at bytes.
struct Fp4Key {
    uint8_t pair;
};

/// The factor of eight neighbours.
__device__ __forceinline__ float fp4_factor(const Fp4Key* row, uint32_t column, uint32_t columns) {
    const auto* scales = reinterpret_cast<const uint8_t*>(row) + index_vector::fp4_scales_at(columns);
    return index_vector::e8m0_to_float(simt::load(scales + column / index_vector::kFp4Group));
}

/// One column of a row.
template <class T>
__device__ __forceinline__ float load_one(const T* row, uint32_t column, uint32_t columns) {
    if constexpr (std::is_same_v<T, Fp4Key>) {
        const uint8_t pair = simt::load(reinterpret_cast<const uint8_t*>(row) + column / 2);
        return simt::fp4_e2m1_to_float(pair >> column % 2 * 4) * fp4_factor(row, column, columns);
    } else {
        return to_float(simt::load(row + column));
    }
}

/// Eight neighbours; packed keys start at multiples of four bytes only.
template <class T>
__device__ __forceinline__ Run<float, 8> load_eight(const T* row, uint32_t column, uint32_t columns) {
    const T* from = row + column;
    if constexpr (std::is_same_v<T, Fp4Key>) {
        const uint32_t codes = simt::load(reinterpret_cast<const uint32_t*>(row) + column / 8);
        const float scale = fp4_factor(row, column, columns);
        Run<float, 8> run;
#pragma unroll
        for (int i = 0; i < 8; i++) run.value[i] = simt::fp4_e2m1_to_float(codes >> i * 4) * scale;
        return run;
    } else if constexpr (std::is_same_v<T, Fp8>) {
        const Run<float, 4> low = load_run<4>(from), high = load_run<4>(from + 4);
        return {{low.value[0], low.value[1], low.value[2], low.value[3], high.value[0], high.value[1], high.value[2], high.value[3]}};
    } else {
        return load_run<8>(from);
    }
}

/// What the scores of a key, whose elements are multiplied as they are stored, have to be multiplied by.
template <class Key>
__device__ __forceinline__ float key_scale(const uint8_t* row, uint32_t dim) {
    if constexpr (std::is_same_v<Key, Fp8>)
        return simt::load(reinterpret_cast<const float*>(row + index_vector::scale_at(dim)));
    else
        return 1.0f;
}

/// A panel of `Rows` rows, from column `first` on; `row_of(r)` is the row's start, or null for a row of zeros.
template <int Rows, class Operand, class RowOf>
__device__ __forceinline__ void stage(Operand* tile, uint32_t first, uint32_t columns, RowOf row_of) {
    for (int i = threadIdx.x; i < Rows * (kDepth / 8); i += kThreads) {
        const int row = i / (kDepth / 8), run = i % (kDepth / 8);
        const uint32_t column = first + run * 8;
        const auto* from = row_of(row);
        Run<float, 8> values = {};
        if (from && columns % 8 == 0) {
            if (column < columns) values = load_eight(from, column, columns);
        } else if (from) {
#pragma unroll
            for (int e = 0; e < 8; e++)
                if (column + e < columns) values.value[e] = load_one(from, column + e, columns);
        }
        store_run(tile + OperandTile<kDepth>::offset(row, run), values);
    }
}

/// sums += weight * relu(product) over the rows of a thread; NaN stays NaN.
__device__ __forceinline__ void weigh(float (&sums)[2][2], const float (&acc)[kHeads / 16][2][4], const float* weights) {
#pragma unroll
    for (int i = 0; i < kHeads / 16; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const float weight = weights[i * 16 + simt::lane_id() / 4 + h * 8];
#pragma unroll
            for (int j = 0; j < 2; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    const float product = acc[i][j][h * 2 + e];
                    sums[j][e] += weight * (product < 0.0f ? 0.0f : product);
                }
        }
}

/// Scores of token first_token + blockIdx.x for the keys of span blockIdx.y.
template <class Key, class Operand>
__device__ __forceinline__ void score(const attention::Args& a, const float* q, const float* weights, const uint8_t* keys, float* scores,
                                      const Sizes& s) {
    SIMT_DYNAMIC_SHARED(unsigned char, memory);
    __shared__ float head_weights[kHeads];
    __shared__ uint32_t rows[kSpan];
    const uint32_t token = s.first_token + blockIdx.x, first_key = blockIdx.y * kSpan;
    const Token found = find_token(a, s, token);
    if (found.visible <= s.topk || first_key >= found.visible) return;
    const uint32_t count = min(found.visible - first_key, uint32_t(kSpan)), panels = (s.dim + kDepth - 1) / kDepth;
    const int warp = threadIdx.x / 32, lane = simt::lane_id();
    Operand *q_tile = reinterpret_cast<Operand*>(memory), *key_tile = q_tile + panels * (kHeads * kDepth);
    for (uint32_t i = threadIdx.x; i < kSpan; i += kThreads)
        rows[i] = i < count ? find_row(a, s, found.sequence, first_key + i) : kNoRow;

    float sums[kTiles][2][2] = {};
    for (uint32_t head = 0; head < s.heads; head += kHeads) {
        __syncthreads();  // rows are there; the heads before have been used
        const auto head_row = [&](int r) { return head + r < s.heads ? q + (size_t(token) * s.heads + head + r) * s.dim : nullptr; };
        for (uint32_t panel = 0; panel < panels; panel++) stage<kHeads>(q_tile + panel * (kHeads * kDepth), panel * kDepth, s.dim, head_row);
        for (uint32_t i = threadIdx.x; i < kHeads; i += kThreads)
            head_weights[i] = head + i < s.heads ? simt::load(weights + size_t(token) * s.heads + head + i) : 0.0f;
#pragma unroll
        for (int tile = 0; tile < kTiles; tile++) {
            if (uint32_t(tile * kKeys) >= count) break;
            const auto key_row = [&](int r) {
                const uint32_t row = rows[tile * kKeys + r];
                return row == kNoRow ? nullptr : reinterpret_cast<const Key*>(keys + size_t(row) * s.row_bytes);
            };
            float acc[kHeads / 16][2][4] = {};
            for (uint32_t panel = 0; panel < panels; panel++) {
                __syncthreads();  // the keys before have been used, and at first the queries are there
                stage<kKeys>(key_tile, panel * kDepth, s.dim, key_row);
                __syncthreads();
                multiply<kDepth, kKeys, false>(acc, q_tile + panel * (kHeads * kDepth), key_tile, warp * 16);
            }
            weigh(sums[tile], acc, head_weights);
        }
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; tile++)
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                float sum = sums[tile][j][e];
#pragma unroll
                for (int step = 4; step < 32; step *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
                const uint32_t key = tile * kKeys + warp * 16 + j * 8 + lane % 4 * 2 + e;
                if (lane >= 4 || key >= count) continue;
                if (rows[key] != kNoRow) sum *= key_scale<Key>(keys + size_t(rows[key]) * s.row_bytes, s.dim);
                simt::store(scores + size_t(blockIdx.x) * s.score_stride + first_key + key, sum * s.scale);
            }
}

/// Integers that order as the scores do; -0 counts as 0.
__device__ __forceinline__ uint32_t ordered(float score) {
    const uint32_t bits = __float_as_uint(__fadd_rn(score, 0.0f));
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

struct SelectShared {
    uint32_t bins[kBins], parts[kSelectWarps];
    uint32_t bin, above;
};

__device__ __forceinline__ uint32_t warp_inclusive(uint32_t value) {
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        const uint32_t before = __shfl_up_sync(0xffffffffu, value, step);
        if (int(simt::lane_id()) >= step) value += before;
    }
    return value;
}

/// The sum of the values of all threads before the caller.
__device__ __forceinline__ uint32_t sum_before(SelectShared& shared, uint32_t value) {
    const uint32_t inclusive = warp_inclusive(value);
    __syncthreads();  // the parts of the last sum have been read
    if (simt::lane_id() == 31) shared.parts[threadIdx.x / 32] = inclusive;
    __syncthreads();
    const uint32_t part = shared.parts[simt::lane_id()], through = warp_inclusive(part);
    return __shfl_sync(0xffffffffu, through - part, threadIdx.x / 32) + inclusive - value;
}

/// The smallest chosen key, and how many that are equal to it are chosen.
struct Threshold {
    uint32_t key, equal;
};

/// Three digits of the keys, the highest first, a histogram for each.
__device__ __forceinline__ Threshold find_threshold(SelectShared& shared, const float* scores, uint32_t count, uint32_t topk) {
    Threshold threshold = {0, topk};
    for (int low = 2 * kDigitBits - 1; low > -kDigitBits; low -= kDigitBits) {
        // Bits of 31..21, 20..10 and 9..0.
        const int shift = max(low, 0), bits = low < 0 ? kDigitBits + low : kDigitBits;
        __syncthreads();  // the bins have been read
        shared.bins[threadIdx.x] = shared.bins[threadIdx.x + kSelectThreads] = 0;
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < count; i += kSelectThreads) {
            const uint32_t key = ordered(simt::load(scores + i));
            if (key >> shift >> bits == threshold.key >> shift >> bits) atomicAdd(&shared.bins[key >> shift & ((1u << bits) - 1)], 1u);
        }
        __syncthreads();
        // Thread 0 has the two highest bins: sums run from large keys to small ones.
        const uint32_t bin = kBins - 1 - 2 * threadIdx.x, high = shared.bins[bin], both = high + shared.bins[bin - 1];
        const uint32_t above = sum_before(shared, both);
        if (above < threshold.equal && threshold.equal <= above + both) {  // one thread
            const bool in_high = threshold.equal <= above + high;
            shared.bin = in_high ? bin : bin - 1;
            shared.above = in_high ? above : above + high;
        }
        __syncthreads();
        threshold.key |= shared.bin << shift;
        threshold.equal -= shared.above;
    }
    return threshold;
}

/// Writes the places of the chosen scores of token first_token + blockIdx.x, ascending; equal ones by place.
__device__ __forceinline__ void select(const attention::Args& a, const float* scores, uint32_t* lists, const Sizes& s) {
    __shared__ SelectShared shared;
    const uint32_t token = s.first_token + blockIdx.x, visible = find_token(a, s, token).visible;
    uint32_t* list = lists + size_t(token) * s.topk;
    if (visible <= s.topk) {
        for (uint32_t i = threadIdx.x; i < s.topk; i += kSelectThreads) simt::store(list + i, i < visible ? i : attention::kUnused);
        return;
    }
    scores += size_t(blockIdx.x) * s.score_stride;
    const Threshold threshold = find_threshold(shared, scores, visible, s.topk);
    // A warp has a run of neighbours, so that places come in order.
    const uint32_t lane = simt::lane_id(), warp = threadIdx.x / 32, span = (visible + kSelectWarps - 1) / kSelectWarps;
    const uint32_t begin = min(warp * span, visible), end = min(begin + span, visible), all = 0xffffffffu;
    const auto key_at = [&](uint32_t i) { return i < end ? ordered(simt::load(scores + i)) : 0u; };
    uint32_t larger = 0, equal = 0;
    for (uint32_t first = begin; first < end; first += 32) {
        const uint32_t key = key_at(first + lane);
        larger += __popc(__ballot_sync(all, first + lane < end && key > threshold.key));
        equal += __popc(__ballot_sync(all, first + lane < end && key == threshold.key));
    }
    const uint32_t larger_before = __shfl_sync(all, sum_before(shared, lane == 0 ? larger : 0), 0);
    uint32_t equal_before = __shfl_sync(all, sum_before(shared, lane == 0 ? equal : 0), 0);
    uint32_t place = larger_before + min(equal_before, threshold.equal);
    const uint32_t below = (1u << lane) - 1;
    for (uint32_t first = begin; first < end; first += 32) {
        const uint32_t key = key_at(first + lane);
        const bool is_equal = first + lane < end && key == threshold.key;
        const uint32_t equals = __ballot_sync(all, is_equal);
        const bool wins = is_equal && equal_before + __popc(equals & below) < threshold.equal;
        const bool chosen = wins || (first + lane < end && key > threshold.key);
        const uint32_t chosen_lanes = __ballot_sync(all, chosen);
        if (chosen) simt::store(list + place + __popc(chosen_lanes & below), first + lane);
        place += __popc(chosen_lanes);
        equal_before += __popc(equals);
    }
}

}  // namespace cachalot::indexer

// q [T, heads, dim], weights [T, heads], keys [blocks, rows_per_block] of row_bytes; scores [rows, score_stride]. Four blocks are
// asked for because nvcc aims at six on its own, and spills.
#define INDEX_SCORES(name, Key, Operand)                                                                                      \
    extern "C" __global__ void __launch_bounds__(128, 4)                                                                     \
        name(const float* __restrict__ q, const float* __restrict__ weights, const uint8_t* __restrict__ keys,                \
             const uint32_t* query_start, const uint32_t* context_lens, const uint32_t* block_tables, float* scores,          \
             cachalot::Fault* fault, cachalot::indexer::Sizes sizes) {                                                        \
        const auto a = cachalot::indexer::paging(query_start, context_lens, block_tables, fault, sizes);                      \
        cachalot::indexer::score<Key, Operand>(a, q, weights, keys, scores, sizes);                                           \
    }                                                                                                                         \
    SIMT_EXPORT(name)

// index_scores_<keys>_<operands>
INDEX_SCORES(index_scores_f32_f32, float, float)
INDEX_SCORES(index_scores_bf16_f32, __nv_bfloat16, float)
INDEX_SCORES(index_scores_f32_bf16, float, __nv_bfloat16)
INDEX_SCORES(index_scores_bf16_bf16, __nv_bfloat16, __nv_bfloat16)
INDEX_SCORES(index_scores_fp8_f32, cachalot::Fp8, float)
INDEX_SCORES(index_scores_fp8_bf16, cachalot::Fp8, __nv_bfloat16)
INDEX_SCORES(index_scores_fp4_f32, cachalot::indexer::Fp4Key, float)
INDEX_SCORES(index_scores_fp4_bf16, cachalot::indexer::Fp4Key, __nv_bfloat16)

// scores as above, lists [T, topk].
extern "C" __global__ void __launch_bounds__(1024)
    index_select(const uint32_t* query_start, const uint32_t* context_lens, const uint32_t* block_tables, const float* scores,
                 uint32_t* lists, cachalot::Fault* fault, cachalot::indexer::Sizes sizes) {
    const auto a = cachalot::indexer::paging(query_start, context_lens, block_tables, fault, sizes);
    cachalot::indexer::select(a, scores, lists, sizes);
}
SIMT_EXPORT(index_select)
