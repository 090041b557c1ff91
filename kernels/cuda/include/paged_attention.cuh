// The arguments of paged attention, and which queries, heads and keys a block of the grid works on.
#pragma once
#include "cache_row.cuh"
#include "fault.cuh"
#include "simt/device.h"

namespace cachalot::attention {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kKeys = 32;         // keys of a tile: fixed, so that a query's sums have one order in every kernel
constexpr int kSplitTokens = 4;   // sequences with no more new tokens than this have their keys split over blocks
constexpr int kSplitKeys = 256;   // the least keys of a split: its partial result is then about a tenth of what it read
constexpr int kMaxSplits = 64;
constexpr uint32_t kUnused = 0xffffffffu;

/// How keys come into shared memory.
enum Staging : uint32_t {
    kGathered = 0,  // element by element, for rows that are not whole 16-byte chunks and for other dtypes
    kDirect = 1,    // cp.async into the tile
    kPacked = 2,    // cp.async of the packed rows, decoded from there into the tile
};

/// Sizes, by value; kernels/src/cuda/attention_plan.rs has the same struct.
struct Sizes {
    uint32_t tokens, sequences;       // T, B
    uint32_t heads, kv_heads;         // query head h reads key head h / (heads / kv_heads)
    uint32_t key_dim, value_dim;      // of a head
    uint32_t value_at;                // first value column of a cache row, when values are not a part of the keys
    uint32_t latent;                  // MLA: the values are the first `latent` columns of the keys; 0 otherwise
    uint32_t blocks, block_size, table_width;
    uint32_t row_bytes;
    uint32_t cache_format, q_format;  // cache_row::Format
    uint32_t staging, stages;         // Staging; tiles of keys in shared memory
    uint32_t topk;                    // entries of an index list, 0 without lists
    uint32_t tile_tokens, tile_heads, head_tiles;  // pairs (token, head) of a tile; tiles of a key head's group
    uint32_t max_splits;              // of any sequence, at most kMaxSplits
    float scale;
    uint32_t packed;  // columns of a packed row in FP8
};

struct Args {
    const uint8_t* q;               // [T, heads, key_dim]
    const uint8_t* cache;           // [blocks, block_size] rows
    const uint32_t* query_start;    // [B + 1]
    const uint32_t* context_lens;   // [B]
    const uint32_t* block_tables;   // [B, table_width]
    const uint32_t* indices;        // [T, topk] or null
    Fault* fault;
    Sizes sizes;
};

/// One sequence as the device lists give it; `tokens` is 0 when they contradict each other.
struct Sequence {
    uint32_t index, start, tokens, context;
};

__device__ __forceinline__ Sequence read_sequence(const Args& a, uint32_t b) {
    uint32_t start = simt::load(a.query_start + b), end = simt::load(a.query_start + b + 1);
    uint32_t context = simt::load(a.context_lens + b), room = a.sizes.table_width * a.sizes.block_size;
    bool sound = start <= end && end <= a.sizes.tokens && end - start <= context && context <= room;
    if (!sound) report_fault(a.fault, kSequence, context, room + 1);
    return {b, start, sound ? end - start : 0, context};
}

/// Sequences of few new tokens are split over the grid, at a width that only their own length decides: a query's
/// result never depends on the rest of the batch.
__device__ __forceinline__ bool is_split(const Sequence& s) { return s.tokens <= kSplitTokens; }
__device__ __forceinline__ uint32_t split_keys(const Args& a, uint32_t keys) {
    uint32_t even = (keys + a.sizes.max_splits - 1) / a.sizes.max_splits;
    return max(uint32_t(kSplitKeys), (even + kKeys - 1) / kKeys * kKeys);
}
template <class Keys>
__device__ __forceinline__ uint32_t num_splits(const Keys& a, const Sequence& s) {
    uint32_t keys = a.most_keys(s), width = split_keys(a, keys);
    return is_split(s) ? (keys + width - 1) / width : 1;
}

/// Where a token and head's first split is among the partial results: of a step, at most kSplitTokens * B tokens are split.
__device__ __forceinline__ size_t first_partial(const Sizes& s, const Sequence& sequence, uint32_t token, uint32_t head) {
    uint32_t row = s.tokens <= kSplitTokens * s.sequences ? token : sequence.index * kSplitTokens + token - sequence.start;
    return (size_t(row) * s.heads + head) * s.max_splits;
}

/// What one block computes: `pairs` (token, head) pairs of a sequence, over the keys [begin, end) of its context (or of
/// its index list).
struct Work {
    Sequence sequence;
    uint32_t first_token;  // of the step
    uint32_t first_head, kv_head, tile_heads, pairs;
    uint32_t begin, end, split, splits;

    __device__ __forceinline__ uint32_t token(uint32_t pair) const { return first_token + pair / tile_heads; }
    __device__ __forceinline__ uint32_t head(uint32_t pair) const { return first_head + pair % tile_heads; }
    /// Keys that a token of the step sees.
    __device__ __forceinline__ uint32_t visible(uint32_t token) const {
        return sequence.context - (sequence.start + sequence.tokens - token) + 1;
    }
};

/// The sequence that holds tile `tile` of the step's tiles of tokens, and which of its tiles that is; whole warps call it.
__device__ __forceinline__ bool find_tile(const Args& a, uint32_t tile, Sequence* sequence, uint32_t* of_sequence) {
    const uint32_t lane = simt::lane_id(), all = 0xffffffffu;
    for (uint32_t first = 0; first < a.sizes.sequences; first += 32) {
        Sequence mine = {0, 0, 0, 0};
        if (first + lane < a.sizes.sequences) mine = read_sequence(a, first + lane);
        uint32_t tiles = (mine.tokens + a.sizes.tile_tokens - 1) / a.sizes.tile_tokens, through = tiles;
        for (int step = 1; step < 32; step *= 2) {
            uint32_t before = __shfl_up_sync(all, through, step);
            if (lane >= uint32_t(step)) through += before;
        }
        uint32_t holders = __ballot_sync(all, tile < through);
        if (holders) {
            int holder = __ffs(int(holders)) - 1;
            *of_sequence = tile - __shfl_sync(all, through - tiles, holder);
            *sequence = {__shfl_sync(all, mine.index, holder), __shfl_sync(all, mine.start, holder),
                         __shfl_sync(all, mine.tokens, holder), __shfl_sync(all, mine.context, holder)};
            return true;
        }
        tile -= __shfl_sync(all, through, 31);
    }
    return false;
}

/// The block's part of the grid [tiles of tokens, head tiles of all key heads, splits]; false if there is none.
template <class Keys>
__device__ __forceinline__ bool find_work(const Keys& a, Work* work) {
    const Sizes& s = a.sizes;
    uint32_t of_sequence;
    // Late tiles see the most keys: they start first.
    if (!find_tile(a, gridDim.x - 1 - blockIdx.x, &work->sequence, &of_sequence)) return false;
    const Sequence& sequence = work->sequence;
    uint32_t group = s.heads / s.kv_heads, first = blockIdx.y % s.head_tiles * s.tile_heads;
    uint32_t tokens = min(s.tile_tokens, sequence.tokens - of_sequence * s.tile_tokens);
    work->first_token = sequence.start + of_sequence * s.tile_tokens;
    work->kv_head = blockIdx.y / s.head_tiles;
    work->first_head = work->kv_head * group + first;
    work->tile_heads = min(s.tile_heads, group - first);
    work->pairs = tokens * work->tile_heads;
    work->split = blockIdx.z;
    work->splits = num_splits(a, sequence);
    if (work->split >= max(work->splits, 1u)) return false;
    uint32_t keys = a.most_keys(sequence), width = is_split(sequence) ? split_keys(a, keys) : keys;
    uint32_t last = a.last_key(*work, work->first_token + tokens - 1);
    work->begin = work->split * width;
    work->end = min(work->begin + width, last);
    return true;
}

}  // namespace cachalot::attention
