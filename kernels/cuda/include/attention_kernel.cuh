// The kernel of softmax attention over rows of keys and values: a tile of (token, head) pairs that read the same key head
// against tiles of 32 keys, flash-attention style. Which rows these are is up to `Keys`: those of the paged cache
// (paged_attention.cu), or a window and compressed entries (window_attention.cu).
//
// The 32 keys are copied once into swizzled shared memory and serve both products; with MLA the values are columns of
// the key rows themselves. Eight warps share the scores (by rows, keys and halves of the depth) and the output (by
// columns: at 512 value columns one warp's registers cannot hold 16 rows). Scores meet in shared memory, where each row's
// softmax belongs to neighbouring lanes. Tiles of 16 pairs are for decoding few heads, tiles of 64 for prefill and many
// heads; both sum in the same order. Rounding points with bf16 operands: q, decoded cache values, and the exponentials
// before P V; all sums are f32.
//
// Keys is an Args with
//   Layout                    that of packed rows, of cache_row.cuh;
//   Place                     where a row lies, looked up a tile ahead and not inspected before it is needed;
//   find_key(work, key)       the place of the work's key number `key`;
//   address(place)            its row, or null where there is nothing to read;
//   sees(token, visible, key) whether a token that sees `visible` positions sees a key of the work;
//   most_keys(sequence)       keys of the sequence's tokens, at most, which decides how they are split;
//   last_key(work, token)     keys of one token;
//   sink(head, max)           what a head adds to the sum of exponentials under `max`.
#pragma once
#include "attention_stage.cuh"
#include "attention_tile.cuh"
#include "paged_attention.cuh"

namespace cachalot::attention {

constexpr int kScoreStride = 36;  // floats of a row of scores: 9 chunks, an odd number

__device__ __forceinline__ int padded_depth(const Sizes& s) { return (int(s.key_dim) + 15) / 16 * 16; }

/// The block's shared memory; kernels/src/cuda/attention_plan.rs counts the same bytes.
template <class T, int kPairs>
struct Shared {
    Tile<T> q;               // [kPairs]
    T* keys;                 // [stages, kKeys] rows of keys and, unless they are a part of those, values
    int key_stride, value_at;
    float* scores;           // [2, kPairs, kScoreStride]: a half of the depth each; P takes the place of the first
    float* factors;          // [kPairs]: by which a row's sums shrink when its maximum rises
    uint8_t* packed;         // [kKeys] packed rows

    __device__ __forceinline__ Shared(const Sizes& s, unsigned char* memory) {
        int q_stride = tile_stride<T>(padded_depth(s));
        value_at = s.latent ? 0 : q_stride;
        key_stride = s.latent ? q_stride : q_stride + tile_stride<T>(s.value_dim);
        q = {reinterpret_cast<T*>(memory), q_stride};
        keys = q.data + kPairs * q_stride;
        scores = reinterpret_cast<float*>(keys + s.stages * kKeys * key_stride);
        factors = scores + 2 * kPairs * kScoreStride;
        packed = reinterpret_cast<uint8_t*>(factors + kPairs);
    }
    __device__ __forceinline__ Tile<T> key_tile(int stage) const { return {keys + stage * kKeys * key_stride, key_stride}; }
    __device__ __forceinline__ Tile<T> value_tile(int stage) const {
        return {keys + stage * kKeys * key_stride + value_at, key_stride};
    }
    __device__ __forceinline__ Matrix<T> weights() const {
        return {reinterpret_cast<T*>(scores), kScoreStride * 4 / int(sizeof(T))};
    }
};

template <class T>
constexpr cache_row::Format kOperandFormat = sizeof(T) == 4 ? cache_row::kF32 : cache_row::kBf16;

/// The tile's queries; rows without a pair are zero.
template <class T, int kPairs, class Keys>
__device__ __forceinline__ void stage_queries(const Keys& a, const Work& work, const Tile<T>& q) {
    const int dim = a.sizes.key_dim, bytes = a.sizes.q_format == cache_row::kF32 ? 4 : 2;
    for (int row = threadIdx.x / 32; row < kPairs; row += kWarps) {
        const uint8_t* source = nullptr;
        if (row < int(work.pairs)) source = a.q + (size_t(work.token(row)) * a.sizes.heads + work.head(row)) * dim * bytes;
        if (a.sizes.q_format == kOperandFormat<T> && dim % Tile<T>::kChunk == 0)
            copy_row(q, row, reinterpret_cast<const T*>(source), a.q, dim, padded_depth(a.sizes));
        else
            decode_row<typename Keys::Layout>(q, row, cache_row::Format(a.sizes.q_format), source, 0, dim, padded_depth(a.sizes), 0);
    }
}

/// This warp's rows of a tile of keys. Every lane looks one row up, so that the table is read once and not once per row.
constexpr int kWarpKeys = kKeys / kWarps;
template <class Keys>
__device__ __forceinline__ typename Keys::Place find_keys(const Keys& a, const Work& work, uint32_t first) {
    return a.find_key(work, first + threadIdx.x / 32 * kWarpKeys + simt::lane_id() % kWarpKeys);
}

/// Calls `move(row of the tile, cache row or null)` for each of them.
template <class Keys, class Move>
__device__ __forceinline__ void for_each_row(const Keys& a, const typename Keys::Place& place, Move move) {
    auto mine = reinterpret_cast<unsigned long long>(a.address(place));
    for (int i = 0; i < kWarpKeys; i++)
        move(int(threadIdx.x) / 32 * kWarpKeys + i, reinterpret_cast<const uint8_t*>(__shfl_sync(0xffffffffu, mine, i)));
}

/// Starts the copies of a tile of keys.
template <class T, int kPairs, class Keys>
__device__ __forceinline__ void start_keys(const Keys& a, const Work& work, const Shared<T, kPairs>& shared, int stage,
                                           const typename Keys::Place& place) {
    const Sizes& s = a.sizes;
    for_each_row(a, place, [&](int row, const uint8_t* source) {
        if (s.staging == kDirect) {
            auto values = reinterpret_cast<const T*>(source);
            copy_row(shared.key_tile(stage), row, source ? values + work.kv_head * s.key_dim : values, a.cache, s.key_dim, padded_depth(s));
            if (s.latent) return;
            copy_row(shared.value_tile(stage), row, source ? values + s.value_at + work.kv_head * s.value_dim : values, a.cache,
                     s.value_dim, s.value_dim);
        } else {
            constexpr int kBytes = Keys::Layout::kCopyBytes;
            for (int at = simt::lane_id() * kBytes; source && at < int(s.row_bytes); at += 32 * kBytes)
                simt::cp_async<kBytes>(shared.packed + row * s.row_bytes + at, source + at);
        }
    });
}

/// Decodes a tile of keys, out of the packed copies or straight from the cache.
template <class T, int kPairs, class Keys>
__device__ __forceinline__ void decode_keys(const Keys& a, const Work& work, const Shared<T, kPairs>& shared,
                                            const typename Keys::Place& place) {
    const Sizes& s = a.sizes;
    const auto format = cache_row::Format(s.cache_format);
    for_each_row(a, place, [&](int row, const uint8_t* source) {
        if (source && s.staging == kPacked) source = shared.packed + row * s.row_bytes;
        decode_row<typename Keys::Layout>(shared.key_tile(0), row, format, source, work.kv_head * s.key_dim, s.key_dim, padded_depth(s), s.packed);
        if (s.latent) return;
        int padded = (int(s.value_dim) + Tile<T>::kChunk - 1) / Tile<T>::kChunk * Tile<T>::kChunk;
        decode_row<typename Keys::Layout>(shared.value_tile(0), row, format, source, s.value_at + work.kv_head * s.value_dim, s.value_dim, padded, 0);
    });
}

/// Scores of the tile: a warp has some rows, some keys, and half of the depth.
template <class T, int kPairs>
__device__ __forceinline__ void score(const Sizes& s, const Shared<T, kPairs>& shared, int stage) {
    constexpr int kRowWarps = kPairs > 16 ? 2 : 1, kKeyWarps = kWarps / 2 / kRowWarps;
    constexpr int kRows = kPairs / kRowWarps / 16, kColumns = kKeys / kKeyWarps / 8;
    const int warp = threadIdx.x / 32, lane = simt::lane_id(), half = warp / (kWarps / 2);
    const int row = warp % kRowWarps * kRows * 16, key = warp / kRowWarps % kKeyWarps * kColumns * 8;
    const int depth = padded_depth(s), middle = (depth / 16 + 1) / 2 * 16;
    float acc[kRows][kColumns][4] = {};
    for (int k = half ? middle : 0; k < (half ? depth : middle); k += 16)
        multiply_scores(acc, shared.q, row, shared.key_tile(stage), key, k);
    float* scores = shared.scores + half * kPairs * kScoreStride;
#pragma unroll
    for (int i = 0; i < kRows; i++)
#pragma unroll
        for (int j = 0; j < kColumns; j++)
#pragma unroll
            for (int e = 0; e < 4; e += 2) {
                int at = (row + i * 16 + lane / 4 + e * 4) * kScoreStride + key + j * 8 + lane % 4 * 2;
                *reinterpret_cast<float2*>(scores + at) = {acc[i][j][e], acc[i][j][e + 1]};
            }
}

__device__ __forceinline__ void store_pair(float* p, float x, float y) { *reinterpret_cast<float2*>(p) = {x, y}; }
__device__ __forceinline__ void store_pair(__nv_bfloat16* p, float x, float y) {
    *reinterpret_cast<uint32_t*>(p) = simt::pack_bf16x2(x, y);
}

/// The running softmax of a row, the same in all of the row's lanes.
struct Row {
    uint32_t token, visible;  // visible is 0 for a row without a pair
    float max, sum;

    /// Whether the row sees key number `key` of the work.
    template <class Keys>
    __device__ __forceinline__ bool sees(const Keys& a, const Work& work, uint32_t key) const {
        return key < work.end && visible > 0 && a.sees(token, visible, key);
    }
};

/// Scores of the keys from `first` to exponentials under the running maximum, rounded for the second product.
template <class T, int kPairs, class Keys>
__device__ __forceinline__ void soften(const Keys& a, const Work& work, const Shared<T, kPairs>& shared, uint32_t first, Row* row) {
    constexpr int kLanes = kThreads / kPairs, kEach = kKeys / kLanes;
    const int at = threadIdx.x % kLanes * kEach, index = threadIdx.x / kLanes;
    const float2* low = reinterpret_cast<const float2*>(shared.scores + index * kScoreStride + at);
    const float2* high = low + kPairs * kScoreStride / 2;
    float x[kEach], most = -INFINITY;
#pragma unroll
    for (int i = 0; i < kEach; i++) {
        float2 l = low[i / 2], h = high[i / 2];
        float sum = i % 2 ? l.y + h.y : l.x + h.x;
        x[i] = row->sees(a, work, first + at + i) ? sum * a.sizes.scale : -INFINITY;
        most = fmaxf(most, x[i]);
    }
#pragma unroll
    for (int step = 1; step < kLanes; step *= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, step));
    most = fmaxf(most, row->max);
    float base = most == -INFINITY ? 0.0f : most, factor = __expf(row->max - base);
    __syncwarp();  // the row's lanes have read the scores that P now replaces
#pragma unroll
    for (int i = 0; i < kEach; i += 2) {
        x[i] = __expf(x[i] - base), x[i + 1] = __expf(x[i + 1] - base);
        store_pair(shared.weights().data + index * shared.weights().stride + at + i, x[i], x[i + 1]);
    }
    // A balanced tree over the tile's keys, whatever part of them a lane has: tiles of 16 and of 64 pairs agree.
#pragma unroll
    for (int step = 1; step < kEach; step *= 2)
#pragma unroll
        for (int i = 0; i < kEach; i += 2 * step) x[i] += x[i + step];
#pragma unroll
    for (int step = 1; step < kLanes; step *= 2) x[0] += __shfl_xor_sync(0xffffffffu, x[0], step);
    row->sum = row->sum * factor + x[0];
    row->max = most;
    if (at == 0) shared.factors[index] = factor;
}

/// One split's unnormalised result.
struct Partials {
    float* values;  // [rows, max_splits, value_dim]
    float* states;  // [rows, max_splits, 2]: maximum and sum
};

/// Writes the tile's output: finished if the keys are in one split, else this split's part.
template <class Out, int kPairs, int kColumns>
__device__ __forceinline__ void write(const Args& a, const Work& work, const float* sums, const float (&acc)[kPairs / 16][kColumns][4],
                                      int column, Out* out, const Partials& partials) {
    const Sizes& s = a.sizes;
    const int lane = simt::lane_id();
    for (int half = 0; half < 2; half++)
#pragma unroll
        for (int i = 0; i < kPairs / 16; i++) {
            uint32_t pair = i * 16 + lane / 4 + half * 8;
            if (pair >= work.pairs) continue;
            float sum = sums[pair], scale = sum == 0.0f ? 0.0f : 1.0f / sum;  // a query without keys gets zeros
            Out* finished = out + (size_t(work.token(pair)) * s.heads + work.head(pair)) * s.value_dim;
            float* part = partials.values + (first_partial(s, work.sequence, work.token(pair), work.head(pair)) + work.split) * s.value_dim;
#pragma unroll
            for (int j = 0; j < kColumns; j++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    uint32_t at = column + j * 8 + lane % 4 * 2 + e;
                    if (at >= s.value_dim) continue;
                    float value = half ? acc[i][j][2 + e] : acc[i][j][e];
                    if (work.splits > 1)
                        simt::store(part + at, value);
                    else
                        cache_row::put(finished, at, value * scale);
                }
        }
}

template <class T, int kPairs, int kColumns, class Keys, class Out>
__device__ __forceinline__ void attend(const Keys& a, Out* out, const Partials& partials) {
    SIMT_DYNAMIC_SHARED(unsigned char, memory);
    constexpr int kLanes = kThreads / kPairs;
    Work work;
    if (!find_work(a, &work)) return;
    const Sizes& s = a.sizes;
    const Shared<T, kPairs> shared(s, memory);
    const uint32_t own = threadIdx.x / kLanes;
    Row row = {work.token(own), own < work.pairs ? work.visible(work.token(own)) : 0, -INFINITY, 0.0f};
    const int column = threadIdx.x / 32 * kColumns * 8;
    float acc[kPairs / 16][kColumns][4] = {};

    auto start = [&](const typename Keys::Place& place, int stage) {
        if (s.staging != kGathered) start_keys<T, kPairs>(a, work, shared, stage, place);
        simt::cp_async_commit();
    };
    typename Keys::Place place = find_keys(a, work, work.begin), next_place = find_keys(a, work, work.begin + kKeys);
    stage_queries<T, kPairs>(a, work, shared.q);
    start(place, 0);
    int stage = 0;
    for (uint32_t first = work.begin; first < work.end; first += kKeys) {
        simt::cp_async_wait<0>();
        __syncthreads();  // the tile is there, and everyone is through with the one before
        if (s.staging != kDirect) {
            decode_keys<T, kPairs>(a, work, shared, place);
            __syncthreads();
        }
        // The next keys are under way while these are worked on.
        const int next = s.stages > 1 ? stage ^ 1 : 0;
        const bool ahead = s.stages > 1 || s.staging == kPacked;
        place = next_place;
        if (ahead) start(place, next);
        next_place = find_keys(a, work, first + 2 * kKeys);
        score<T, kPairs>(s, shared, stage);
        __syncthreads();
        soften<T, kPairs>(a, work, shared, first, &row);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < kPairs / 16; i++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float factor = shared.factors[i * 16 + simt::lane_id() / 4 + half * 8];
#pragma unroll
                for (int j = 0; j < kColumns; j++) acc[i][j][half * 2] *= factor, acc[i][j][half * 2 + 1] *= factor;
            }
#pragma unroll
        for (int key = 0; key < kKeys; key += 16)
            multiply_values(acc, shared.weights(), shared.value_tile(stage), key, column, int(s.value_dim));
        if (!ahead) {
            __syncthreads();
            start(place, 0);
        }
        stage = next;
    }
    simt::cp_async_wait<0>();
    __syncthreads();  // factors have been read
    if (threadIdx.x % kLanes == 0) {
        if (work.splits <= 1 && own < work.pairs) row.sum += a.sink(work.head(own), row.max);
        shared.factors[own] = row.sum;
        if (own < work.pairs && work.splits > 1) {
            size_t part = first_partial(s, work.sequence, row.token, work.head(own)) + work.split;
            simt::store(partials.states + part * 2, row.max);
            simt::store(partials.states + part * 2 + 1, row.sum);
        }
    }
    __syncthreads();
    write<Out, kPairs, kColumns>(a, work, shared.factors, acc, column, out, partials);
}

/// Adds up the splits of one sequence and head, in order.
template <class Keys, class Out>
__device__ __forceinline__ void combine(const Keys& a, Out* out, const Partials& partials) {
    __shared__ float weights[kMaxSplits];
    const Sizes& s = a.sizes;
    const Sequence sequence = read_sequence(a, blockIdx.x);
    const uint32_t head = blockIdx.y, splits = num_splits(a, sequence);
    if (!is_split(sequence) || splits <= 1) return;  // the only split has written the result itself
    for (uint32_t token = sequence.start; token < sequence.start + sequence.tokens; token++) {
        const size_t part = first_partial(s, sequence, token, head);
        const float* states = partials.states + part * 2;
        float most = -INFINITY, sum = 0.0f;
        for (uint32_t i = 0; i < splits; i++) most = fmaxf(most, simt::load(states + i * 2));
        __syncthreads();  // the weights of the token before have been read
        for (uint32_t i = threadIdx.x; i < splits; i += blockDim.x)
            weights[i] = most == -INFINITY ? 0.0f : __expf(simt::load(states + i * 2) - most);
        __syncthreads();
        for (uint32_t i = 0; i < splits; i++) sum += weights[i] * simt::load(states + i * 2 + 1);
        sum += a.sink(head, most);
        const float scale = sum == 0.0f ? 0.0f : 1.0f / sum;
        for (uint32_t column = threadIdx.x; column < s.value_dim; column += blockDim.x) {
            float value = 0.0f;
            for (uint32_t i = 0; i < splits; i++) value += weights[i] * simt::load(partials.values + (part + i) * s.value_dim + column);
            cache_row::put(out + (size_t(token) * s.heads + head) * s.value_dim, column, value * scale);
        }
    }
}

}  // namespace cachalot::attention
