// Expert routing: one warp per token holds its scores in registers, expert e in lane e % 32, and chooses by integer
// keys that order as floats do, so that NaN has a place too.
#include "fault.cuh"
#include "reduce.cuh"
#include "simt/device.h"

namespace cachalot {

/// The rule of a launch; kernels/src/cuda/gate.rs writes it.
struct Gate {
    uint32_t experts, top_k, groups, topk_group;
    uint32_t scoring, top_two, normalise;
    float factor;
};

/// `scoring` of a gate.
enum Scoring : uint32_t { kSoftmax = 0, kSigmoid = 1, kSqrtSoftplus = 2 };

__device__ __forceinline__ float sigmoid(float logit) { return 1.0f / (1.0f + expf(-logit)); }

/// The root of ln(1 + e^x), without overflow.
__device__ __forceinline__ float sqrt_softplus(float logit) { return sqrtf(fmaxf(logit, 0.0f) + log1pf(expf(-fabsf(logit)))); }

/// The key of an expert that is taken or excluded: below that of every number.
constexpr uint32_t kTaken = 0;

/// Orders as `f32::total_cmp` does.
__device__ __forceinline__ uint32_t key_of(float value) {
    const uint32_t bits = __float_as_uint(value);
    return max(bits >> 31 ? ~bits : bits | 0x80000000u, 1u);
}

__device__ __forceinline__ float value_of(uint32_t key) { return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key); }

struct Best {
    uint32_t key, index;
};

/// The largest key whose index `may_win`, and the lowest index that has it: the same in every lane. Key i of a lane has
/// index lane + 32 i.
template <int N, class MayWin>
__device__ __forceinline__ Best largest(const uint32_t (&keys)[N], MayWin may_win) {
    const uint32_t lane = threadIdx.x % 32;
    Best best = {kTaken, ~0u};
#pragma unroll
    for (int i = 0; i < N; i++)
        if (keys[i] > best.key && may_win(lane + i * 32)) best = {keys[i], lane + i * 32};
    const uint32_t key = __reduce_max_sync(0xffffffffu, best.key);
    return {key, __reduce_min_sync(0xffffffffu, best.key == key ? best.index : ~0u)};
}

template <int N>
__device__ __forceinline__ void set(uint32_t (&keys)[N], uint32_t index, uint32_t key) {
#pragma unroll
    for (int i = 0; i < N; i++)
        if (threadIdx.x % 32 + i * 32 == index) keys[i] = key;
}

/// Logits become scores; those past the last expert count for nothing.
template <int N>
__device__ __forceinline__ void score(const float* logits, float (&scores)[N], const Gate& gate) {
    const uint32_t lane = threadIdx.x % 32;
    float largest = -INFINITY, sum = 0.0f;
#pragma unroll
    for (int i = 0; i < N; i++) {
        scores[i] = lane + i * 32 < gate.experts ? simt::load(logits + lane + i * 32) : -INFINITY;
        largest = fmaxf(largest, scores[i]);
    }
    if (gate.scoring != kSoftmax) {
#pragma unroll
        for (int i = 0; i < N; i++) scores[i] = gate.scoring == kSigmoid ? sigmoid(scores[i]) : sqrt_softplus(scores[i]);
        return;
    }
#pragma unroll
    for (int step = 16; step; step /= 2) largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, step));
#pragma unroll
    for (int i = 0; i < N; i++) {
        scores[i] = lane + i * 32 < gate.experts ? expf(scores[i] - largest) : 0.0f;
        sum += scores[i];
    }
    sum = warp_sum(sum);
#pragma unroll
    for (int i = 0; i < N; i++) scores[i] /= sum;
}

/// Excludes the experts of all groups but the best `topk_group`.
template <int N>
__device__ __forceinline__ void keep_best_groups(uint32_t (&keys)[N], const Gate& gate) {
    const uint32_t size = gate.experts / gate.groups, lane = threadIdx.x % 32;
    uint32_t groups[N] = {}, eligible = 0;
    for (uint32_t g = 0; g < gate.groups; g++) {
        // Below the group's first index the difference wraps round.
        const auto in_group = [=](uint32_t expert) { return expert - g * size < size; };
        const Best first = largest(keys, in_group);
        uint32_t key = first.key;
        if (gate.top_two && size > 1) {
            const Best second = largest(keys, [=](uint32_t expert) { return in_group(expert) && expert != first.index; });
            key = key_of(value_of(first.key) + value_of(second.key));
        }
        set(groups, g, key);
    }
    for (uint32_t i = 0; i < gate.topk_group; i++) {
        const uint32_t g = largest(groups, [](uint32_t) { return true; }).index;
        set(groups, g, kTaken);
#pragma unroll
        for (int e = 0; e < N; e++) eligible |= uint32_t(lane + e * 32 - g * size < size) << e;
    }
#pragma unroll
    for (int i = 0; i < N; i++)
        if (!(eligible >> i & 1)) keys[i] = kTaken;
}

/// Token blockIdx.x * 4 + warp: up to 32 N experts of which at most 32 are chosen, one per lane.
template <int N>
__device__ __forceinline__ void route(const float* logits, const float* bias, uint32_t* experts, float* weights, uint32_t tokens,
                                      const Gate& gate) {
    const uint32_t lane = threadIdx.x % 32, token = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (token >= tokens) return;
    float scores[N];
    uint32_t keys[N];
    score(logits + size_t(token) * gate.experts, scores, gate);
#pragma unroll
    for (int i = 0; i < N; i++) {
        const uint32_t expert = lane + i * 32;
        const bool exists = expert < gate.experts;
        keys[i] = exists ? key_of(scores[i] + (bias ? simt::load(bias + expert) : 0.0f)) : kTaken;
    }
    if (gate.groups > 1) keep_best_groups(keys, gate);
    uint32_t chosen = 0;
    float weight = 0.0f, sum = 0.0f;
    for (uint32_t k = 0; k < gate.top_k; k++) {
        const uint32_t expert = largest(keys, [](uint32_t) { return true; }).index;
        set(keys, expert, kTaken);
        float own = 0.0f;
#pragma unroll
        for (int i = 0; i < N; i++)
            if (lane + i * 32 == expert) own = scores[i];
        const float score = __shfl_sync(0xffffffffu, own, expert % 32);
        sum += score;
        if (lane == k) chosen = expert, weight = score;
    }
    if (lane >= gate.top_k) return;
    if (gate.normalise) weight /= sum + 1e-20f;
    simt::store(experts + size_t(token) * gate.top_k + lane, chosen);
    simt::store(weights + size_t(token) * gate.top_k + lane, weight * gate.factor);
}

/// Token blockIdx.x * 4 + warp, whose experts are row token_ids[token] of table [vocab, top_k]; one per lane. Scores of one
/// expert alone, so no softmax.
__device__ __forceinline__ void route_by_token(Fault* fault, const float* logits, const uint32_t* table, const uint32_t* token_ids,
                                               uint32_t* experts, float* weights, uint32_t tokens, uint32_t vocab, const Gate& gate) {
    const uint32_t lane = threadIdx.x % 32, token = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    if (token >= tokens) return;
    const uint32_t id = simt::load(token_ids + token);
    uint32_t expert = 0;
    float weight = 0.0f;
    if (index_in_range(fault, kTokenId, id, vocab) && lane < gate.top_k) {
        expert = simt::load(table + size_t(id) * gate.top_k + lane);
        if (!index_in_range(fault, kExpert, expert, gate.experts)) expert = 0;
        const float logit = simt::load(logits + size_t(token) * gate.experts + expert);
        weight = gate.scoring == kSigmoid ? sigmoid(logit) : sqrt_softplus(logit);
    }
    // In the order of the experts, as the host sums.
    float sum = 0.0f;
    for (uint32_t k = 0; k < gate.top_k; k++) sum += __shfl_sync(0xffffffffu, weight, k);
    if (lane >= gate.top_k) return;
    if (gate.normalise) weight /= sum + 1e-20f;
    simt::store(experts + size_t(token) * gate.top_k + lane, expert);
    simt::store(weights + size_t(token) * gate.top_k + lane, weight * gate.factor);
}

}  // namespace cachalot

// logits [tokens, E], bias [E] or null; experts and weights [tokens, top_k], best first.
#define ROUTE(name, N)                                                                                              \
    extern "C" __global__ void __launch_bounds__(128)                                                               \
        name(const float* __restrict__ logits, const float* __restrict__ bias, uint32_t* __restrict__ experts,      \
             float* __restrict__ weights, uint32_t tokens, cachalot::Gate gate) {                                   \
        cachalot::route<N>(logits, bias, experts, weights, tokens, gate);                                           \
    }                                                                                                               \
    SIMT_EXPORT(name)

ROUTE(route_64, 2)
ROUTE(route_256, 8)
ROUTE(route_512, 16)

// logits [tokens, E], table [vocab, top_k], token_ids [tokens]; experts and weights [tokens, top_k] in the table's order.
extern "C" __global__ void __launch_bounds__(128)
    route_by_token(cachalot::Fault* fault, const float* __restrict__ logits, const uint32_t* __restrict__ table,
                   const uint32_t* __restrict__ token_ids, uint32_t* __restrict__ experts, float* __restrict__ weights, uint32_t tokens,
                   uint32_t vocab, cachalot::Gate gate) {
    cachalot::route_by_token(fault, logits, table, token_ids, experts, weights, tokens, vocab, gate);
}
SIMT_EXPORT(route_by_token)
