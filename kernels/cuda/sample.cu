// Sampling: bias and penalties, temperature, min_p, top_k, top_p and one draw, one block per row of logits.
//
// Nothing is sorted. Weights are exp((logit - max) / T) in f32, whose bits order as integers, and masses are the weights
// in units of 2^-44 as integers, so that every sum is exact and in no particular order. Each filter and each draw is then
// "the first candidate at which the running mass reaches a goal": by a radix histogram over the weight's bits where
// candidates go by weight, by a walk where they go by id. The CPU forward (src/cpu/sample.rs) does the same arithmetic
// bit for bit and makes the same choice.
//
// One block per row: a pass reads half a megabyte out of the L2 cache at V = 129280, and splitting a row would need a
// barrier across the grid after each of the passes.
#include "fault.cuh"
#include "simt/device.h"

namespace cachalot {

using u64 = unsigned long long;

constexpr int kThreads = 1024, kWarps = kThreads / 32;
/// Elements a warp reads at once: 16 bytes per lane.
constexpr uint32_t kTile = 128;
/// A row of the scratch is padded so that every warp owns the same number of whole tiles.
constexpr uint32_t kRowUnit = kTile * kWarps;
/// A weight is at most 1, so its bits fit three digits of ten; a bin per thread.
constexpr uint32_t kDigitBits = 10, kBins = 1u << kDigitBits, kFirstShift = 20;
static_assert(kBins == kThreads, "a thread per bin");
/// Marks an id as "the logit of this token defines no distribution"; the other output then holds that logit.
constexpr uint32_t kNoChoice = 0x80000000u;

/// ops::SampleParams.
struct SampleParams {
    u64 random;
    float temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
    uint32_t top_k, logprob;
};

/// ops::LogitEdit.
struct LogitEdit {
    uint32_t token;
    float bias;
    uint32_t seen, generated;
};

struct SampleShared {
    uint32_t low[kBins], high[kBins];
    u64 parts[kWarps];
    u64 before;
    uint32_t found, bad;
};

/// The candidates in play: those whose weight has larger bits than `key`, and those of equal bits up to `last_id`.
struct Kept {
    uint32_t key, last_id;
    __device__ __forceinline__ bool has(uint32_t weight, uint32_t id) const {
        return weight > key || (weight == key && id <= last_id);
    }
};

/// exp(x) for x <= 0 by the steps of src/cpu/sample.rs, each rounded on its own; 0 below -40.
__device__ __forceinline__ float weight_of(float x) {
    if (!(x >= -40.0f)) return 0.0f;
    const float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    float n = __fadd_rn(__fadd_rn(__fmul_rn(x, 1.44269504f), shift), -shift);
    float r = __fadd_rn(x, -__fmul_rn(n, 0.693359375f));
    r = __fadd_rn(r, __fmul_rn(n, 2.12194440e-4f));
    float p = 1.98756915e-4f;
    p = __fadd_rn(__fmul_rn(p, r), 1.39819995e-3f);
    p = __fadd_rn(__fmul_rn(p, r), 8.33345191e-3f);
    p = __fadd_rn(__fmul_rn(p, r), 4.16657959e-2f);
    p = __fadd_rn(__fmul_rn(p, r), 1.66666655e-1f);
    p = __fadd_rn(__fmul_rn(p, r), 5.00000012e-1f);
    p = __fadd_rn(__fadd_rn(__fmul_rn(__fmul_rn(p, r), r), r), 1.0f);
    return __fmul_rn(p, __int_as_float((int(n) + 127) << 23));
}

/// A weight in units of 2^-44: the sum over 2^19 tokens stays below 2^63.
__device__ __forceinline__ u64 mass_of(float weight) { return u64(__fmul_rn(weight, 17592186044416.0f)); }

/// Integers that order as the floats do; -0 counts as 0.
__device__ __forceinline__ uint32_t ordered(float x) {
    uint32_t bits = __float_as_uint(__fadd_rn(x, 0.0f));
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float from_ordered(uint32_t key) {
    return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

/// The tiles of a padded row that the calling warp owns: a contiguous range of ids, the same in every pass.
template <class Visit>
__device__ __forceinline__ void for_own_tiles(uint32_t padded, Visit visit) {
    const uint32_t span = padded / kWarps, begin = threadIdx.x / 32 * span;
    for (uint32_t tile = begin; tile < begin + span; tile += kTile) visit(tile + threadIdx.x % 32 * 4);
}

/// As for_own_tiles, with the four weights of the lane.
template <class Visit>
__device__ __forceinline__ void for_own_weights(const float* weights, uint32_t padded, Visit visit) {
    for_own_tiles(padded, [&](uint32_t id) {
        const float4 w = simt::load(reinterpret_cast<const float4*>(weights + id));
        visit(id, w.x), visit(id + 1, w.y), visit(id + 2, w.z), visit(id + 3, w.w);
    });
}

__device__ __forceinline__ u64 warp_sum(u64 value) {
    for (int step = 16; step; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
    return value;
}

__device__ __forceinline__ u64 warp_inclusive(u64 value) {
    for (int step = 1; step < 32; step *= 2) {
        u64 below = __shfl_up_sync(0xffffffffu, value, step);
        if (int(threadIdx.x % 32) >= step) value += below;
    }
    return value;
}

/// Sums of the warps before the caller's, and of all, once every warp has left its own in `parts`.
__device__ __forceinline__ u64 sums_before(const SampleShared& shared, u64* total) {
    const unsigned lane = threadIdx.x % 32;
    const u64 part = shared.parts[lane], inclusive = warp_inclusive(part);
    *total = __shfl_sync(0xffffffffu, inclusive, 31);
    return __shfl_sync(0xffffffffu, inclusive - part, threadIdx.x / 32);
}

/// The sum of one value per thread, in every thread.
__device__ __forceinline__ u64 block_sum(SampleShared& shared, u64 value) {
    u64 total;
    value = warp_sum(value);
    __syncthreads();  // the parts of the last sum have been read
    if (threadIdx.x % 32 == 0) shared.parts[threadIdx.x / 32] = value;
    __syncthreads();
    sums_before(shared, &total);
    return total;
}

__device__ __forceinline__ u64 warp_max(u64 value) {
    for (int step = 16; step; step /= 2) {
        const u64 other = __shfl_xor_sync(0xffffffffu, value, step);
        value = other > value ? other : value;
    }
    return value;
}

/// The largest value of the block, in every thread.
__device__ __forceinline__ u64 block_max(SampleShared& shared, u64 value) {
    value = warp_max(value);
    __syncthreads();  // the parts of the last use have been read
    if (threadIdx.x % 32 == 0) shared.parts[threadIdx.x / 32] = value;
    __syncthreads();
    return warp_max(shared.parts[threadIdx.x % 32]);
}

/// Adds to a bin. Shared memory has no 64-bit addition; two of 32 bits, the second with the carry of the first, end in
/// the same sum in any order.
__device__ __forceinline__ void add_to_bin(SampleShared& shared, uint32_t bin, u64 value) {
    const uint32_t low = uint32_t(value), carry = atomicAdd(&shared.low[bin], low) > ~low;
    const uint32_t high = uint32_t(value >> 32) + carry;
    if (high) atomicAdd(&shared.high[bin], high);
}

/// The first id at which the running sum of `measure(id, weight)`, by id, reaches `goal`; the sum of all must reach it.
template <class Measure>
__device__ uint32_t find_by_id(SampleShared& shared, const float* weights, uint32_t padded, u64 goal, Measure measure) {
    u64 own = 0, total;
    for_own_weights(weights, padded, [&](uint32_t id, float w) { own += measure(id, w); });
    const u64 part = warp_sum(own);
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared.parts[threadIdx.x / 32] = part;
    __syncthreads();
    u64 before = sums_before(shared, &total);
    if (before < goal && goal <= before + part) {  // one warp
        for_own_tiles(padded, [&](uint32_t id) {
            const float4 w = simt::load(reinterpret_cast<const float4*>(weights + id));
            const float each[4] = {w.x, w.y, w.z, w.w};
            u64 sum = 0;
            for (int i = 0; i < 4; i++) sum += measure(id + i, each[i]);
            const u64 inclusive = warp_inclusive(sum);
            u64 running = before + inclusive - sum;
            for (int i = 0; i < 4; i++) {
                const u64 next = running + measure(id + i, each[i]);
                if (running < goal && goal <= next) shared.found = id + i;
                running = next;
            }
            before += __shfl_sync(0xffffffffu, inclusive, 31);
        });
    }
    __syncthreads();
    return shared.found;
}

/// Where the sum over the largest weights first reaches a goal: their smallest weight, and the sum above it.
struct Threshold {
    uint32_t key;
    u64 above;
};

/// Candidates go by descending weight. Three digits of the weight's bits, the highest first, a histogram for each.
template <class Measure>
__device__ Threshold find_by_weight(SampleShared& shared, const float* weights, uint32_t padded, Kept kept, u64 goal,
                                    Measure measure) {
    Threshold threshold = {0, 0};
    for (int shift = kFirstShift; shift >= 0; shift -= kDigitBits) {
        __syncthreads();
        shared.low[threadIdx.x] = shared.high[threadIdx.x] = 0;
        __syncthreads();
        const uint32_t known = threshold.key >> shift >> kDigitBits;
        for_own_weights(weights, padded, [&](uint32_t id, float w) {
            const uint32_t key = __float_as_uint(w);
            if (kept.has(key, id) && key >> shift >> kDigitBits == known)
                add_to_bin(shared, key >> shift & (kBins - 1), measure(w));
        });
        __syncthreads();
        // Thread 0 has the highest bin: inclusive sums run from large weights to small ones.
        const uint32_t bin = kBins - 1 - threadIdx.x;
        const u64 sum = u64(shared.high[bin]) << 32 | shared.low[bin];
        u64 inclusive = warp_inclusive(sum), total;
        if (threadIdx.x % 32 == 31) shared.parts[threadIdx.x / 32] = inclusive;
        __syncthreads();
        inclusive += threshold.above + sums_before(shared, &total);
        if (inclusive - sum < goal && goal <= inclusive) {  // one thread
            shared.found = bin;
            shared.before = inclusive - sum;
        }
        __syncthreads();
        threshold.key |= shared.found << shift;
        threshold.above = shared.before;
    }
    return threshold;
}

/// Keeps the `count` best candidates, ties by id.
__device__ Kept keep_count(SampleShared& shared, const float* weights, uint32_t padded, Kept kept, u64 count) {
    const Threshold t = find_by_weight(shared, weights, padded, kept, count, [](float) { return 1; });
    const uint32_t last = find_by_id(shared, weights, padded, count - t.above, [&](uint32_t id, float w) {
        return u64(__float_as_uint(w) == t.key && kept.has(t.key, id));
    });
    return {t.key, last};
}

/// Keeps the best candidates, ties by id, until their mass reaches `goal`; `*total` becomes their mass.
__device__ Kept keep_mass(SampleShared& shared, const float* weights, uint32_t padded, Kept kept, u64 goal, u64* total) {
    const Threshold t = find_by_weight(shared, weights, padded, kept, goal, [](float w) { return mass_of(w); });
    const u64 each = mass_of(__uint_as_float(t.key)), ties = (goal - t.above + each - 1) / each;
    const uint32_t last = find_by_id(shared, weights, padded, ties, [&](uint32_t id, float w) {
        return u64(__float_as_uint(w) == t.key && kept.has(t.key, id));
    });
    *total = t.above + ties * each;
    return {t.key, last};
}

/// floor(a * b / 2^64).
__device__ __forceinline__ u64 multiply_high(u64 a, u64 b) {
    const u64 low = 0xffffffffu, mid = (a >> 32) * (b & low) + ((a & low) * (b & low) >> 32);
    return (a >> 32) * (b >> 32) + (mid >> 32) + (((a & low) * (b >> 32) + (mid & low)) >> 32);
}

/// Copies a row into the scratch, padded with -inf, and finds the raw maximum and the first logit that is none.
__device__ u64 read_row(SampleShared& shared, const float* logits, uint32_t vocab, float* scratch, uint32_t padded) {
    u64 best = 0;
    if (threadIdx.x == 0) shared.bad = UINT32_MAX;
    __syncthreads();
    for_own_tiles(padded, [&](uint32_t id) {
        float x[4];
        for (int i = 0; i < 4; i++) x[i] = id + i < vocab ? simt::load(logits + id + i) : -INFINITY;
        for (int i = 0; i < 4; i++) {
            if (!(x[i] < INFINITY)) atomicMin(&shared.bad, id + i);
            const u64 key = u64(ordered(x[i])) << 32;
            best = key > best ? key : best;
        }
        simt::store(reinterpret_cast<float4*>(scratch + id), make_float4(x[0], x[1], x[2], x[3]));
    });
    return block_max(shared, best);
}

/// Adds biases and takes penalties; every token has at most one edit.
__device__ void edit_row(const SampleParams& p, const LogitEdit* edits, uint32_t begin, uint32_t end, float* scratch, Fault* fault,
                         uint32_t vocab) {
    for (uint32_t i = begin + threadIdx.x; i < end; i += kThreads) {
        const uint32_t token = simt::load(&edits[i].token), generated = simt::load(&edits[i].generated);
        if (!index_in_range(fault, kSample, token, vocab)) continue;
        float x = __fadd_rn(simt::load(scratch + token), simt::load(&edits[i].bias));
        if (simt::load(&edits[i].seen)) x = x > 0.0f ? __fdiv_rn(x, p.repetition_penalty) : __fmul_rn(x, p.repetition_penalty);
        if (generated) x = __fadd_rn(x, -__fadd_rn(__fmul_rn(p.frequency_penalty, float(generated)), p.presence_penalty));
        simt::store(scratch + token, x);
    }
    __syncthreads();
}

/// Bans what the mask leaves out and finds the best token: its logit in the upper half, its inverted id in the lower.
__device__ u64 best_of(SampleShared& shared, float* scratch, uint32_t vocab, uint32_t padded, const uint32_t* allowed) {
    u64 best = 0;
    for_own_tiles(padded, [&](uint32_t first) {
        for (uint32_t id = first; id < first + 4; id++) {
            if (id < vocab && allowed && !(simt::load(allowed + id / 32) >> id % 32 & 1)) simt::store(scratch + id, -INFINITY);
            const u64 key = u64(ordered(simt::load(scratch + id))) << 32 | uint32_t(~id);
            best = key > best ? key : best;
        }
    });
    return block_max(shared, best);
}

/// Turns processed logits into weights, 0 for what is out of play, and returns their mass.
__device__ u64 weigh(SampleShared& shared, float* scratch, uint32_t padded, float max, const SampleParams& p) {
    u64 mass = 0;
    for_own_tiles(padded, [&](uint32_t id) {
        const float4 x = simt::load(reinterpret_cast<const float4*>(scratch + id));
        float w[4] = {x.x, x.y, x.z, x.w};
        for (int i = 0; i < 4; i++) {
            const float weight = weight_of(__fdiv_rn(__fadd_rn(w[i], -max), p.temperature));
            const u64 own = weight >= p.min_p ? mass_of(weight) : 0;
            w[i] = own ? weight : 0.0f;
            mass += own;
        }
        simt::store(reinterpret_cast<float4*>(scratch + id), make_float4(w[0], w[1], w[2], w[3]));
    });
    return block_sum(shared, mass);
}

/// top_k, top_p and one draw over weights of total mass `total` > 0.
__device__ uint32_t draw(SampleShared& shared, const float* weights, uint32_t padded, const SampleParams& p, u64 total) {
    Kept kept = {1, UINT32_MAX};  // every weight above zero
    const auto mass = [&](uint32_t id, float w) { return kept.has(__float_as_uint(w), id) ? mass_of(w) : 0; };
    if (p.top_k) {
        u64 own = 0;
        for_own_weights(weights, padded, [&](uint32_t, float w) { own += w > 0.0f; });
        if (p.top_k < block_sum(shared, own)) {
            kept = keep_count(shared, weights, padded, kept, p.top_k);
            own = 0;
            for_own_weights(weights, padded, [&](uint32_t id, float w) { own += mass(id, w); });
            total = block_sum(shared, own);
        }
    }
    if (p.top_p < 1.0f) {
        const u64 goal = u64(ceil(double(p.top_p) * double(total)));
        kept = keep_mass(shared, weights, padded, kept, goal < total ? goal : total, &total);
        return keep_mass(shared, weights, padded, kept, multiply_high(p.random, total) + 1, &total).last_id;
    }
    return find_by_id(shared, weights, padded, multiply_high(p.random, total) + 1, mass);
}

/// log of the sum of exp(logit) over a row whose largest logit is `max`.
__device__ float log_sum_exp(SampleShared& shared, const float* logits, uint32_t vocab, uint32_t padded, float max) {
    u64 mass = 0;
    for_own_tiles(padded, [&](uint32_t first) {
        for (uint32_t id = first; id < first + 4; id++)
            if (id < vocab) mass += mass_of(weight_of(__fadd_rn(simt::load(logits + id), -max)));
    });
    return max + float(log(double(block_sum(shared, mass)) * 0x1p-44));
}

}  // namespace cachalot

/// logits [R, V] F32, rows [R], edit_offsets [R + 1], edits [E], allowed [R, ceil(V / 32)] or null, scratch
/// [R, V rounded up to 4096]; out ids [R], logprobs [R] from the unprocessed logits. Grid: R blocks.
extern "C" __global__ void __launch_bounds__(1024)
    sample_f32(const float* __restrict__ logits, const cachalot::SampleParams* __restrict__ rows,
               const uint32_t* __restrict__ edit_offsets, const cachalot::LogitEdit* __restrict__ edits,
               const uint32_t* __restrict__ allowed, float* scratch, uint32_t* __restrict__ ids, float* __restrict__ logprobs,
               cachalot::Fault* fault, uint32_t vocab) {
    using namespace cachalot;
    __shared__ SampleShared shared;
    const uint32_t row = blockIdx.x, padded = (vocab + kRowUnit - 1) / kRowUnit * kRowUnit;
    const SampleParams p = simt::load(rows + row);
    logits += size_t(row) * vocab;
    scratch += size_t(row) * padded;

    const float raw_max = from_ordered(read_row(shared, logits, vocab, scratch, padded) >> 32);
    uint32_t id = shared.bad;
    if (id != UINT32_MAX) {
        if (threadIdx.x == 0) simt::store(ids + row, kNoChoice | id), simt::store(logprobs + row, simt::load(logits + id));
        return;
    }
    edit_row(p, edits, simt::load(edit_offsets + row), simt::load(edit_offsets + row + 1), scratch, fault, vocab);
    const u64 best = best_of(shared, scratch, vocab, padded, allowed ? allowed + size_t(row) * ((vocab + 31) / 32) : nullptr);
    const float max = from_ordered(best >> 32);
    id = ~uint32_t(best);
    // Greedy takes an overflowed logit as it is; a draw has nothing to set the others in relation to.
    if (max == -INFINITY || (max == INFINITY && p.temperature != 0.0f)) {
        if (threadIdx.x == 0) simt::store(ids + row, kNoChoice | id), simt::store(logprobs + row, max);
        return;
    }
    const float normaliser = p.logprob ? log_sum_exp(shared, logits, vocab, padded, raw_max) : NAN;
    if (p.temperature != 0.0f) id = draw(shared, scratch, padded, p, weigh(shared, scratch, padded, max, p));
    if (threadIdx.x == 0) simt::store(ids + row, id), simt::store(logprobs + row, simt::load(logits + id) - normaliser);
}
SIMT_EXPORT(sample_f32)
