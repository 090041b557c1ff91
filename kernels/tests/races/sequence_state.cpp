// Kernels with state per sequence on small shapes, for ThreadSanitizer: rings, compressed entries with and without overlap,
// window attention with lists and without. A sequence goes on in its ring, another begins. Results are not looked at here.
#include <vector>

#include "compressor.cu"
#include "state_ring.cu"
#include "window_attention.cu"

#include "driver.h"

using namespace cachalot;

/// Two new tokens after 22, and five of a sequence that begins; slots 2 and 0 of three.
constexpr uint32_t kTokens = 7, kBlockTokens = 8, kWidth = 3, kSlots = 3;
constexpr state::StepSizes kStep = {kTokens, 2, 2 * kWidth, kBlockTokens, kWidth, kSlots};

int main() {
    const std::vector<uint32_t> start = {0, 2, 7}, lens = {24, 5}, slot = {2, 0}, table = {0, 1, 2, 3, 4, 5};
    const uint32_t *starts = start.data(), *lengths = lens.data(), *tables = table.data(), *slots = slot.data();
    std::vector<int4> rows(1 << 12), ring(1 << 14), cache(1 << 12), out(1 << 12);
    const std::vector<uint32_t> lists(kTokens * 2, 0xffffffffu);
    const std::vector<float> q(kTokens * 3 * 40, 1.0f), sinks(3);
    Fault fault = {};
    const auto* x = reinterpret_cast<const float*>(rows.data());
    for_each_setting([&](const simt::Settings& settings) {
#define STEP starts, lengths, tables, slots, &fault, kStep
#define RING(bytes, Unit)                                                                                         \
    RUN(ring_write_##bytes, dim3(kTokens, 2), 256, 0, settings, reinterpret_cast<const Unit*>(x),                 \
        reinterpret_cast<Unit*>(ring.data()), STEP, 4u, 300u)
        RING(2, uint16_t);
        RING(4, uint32_t);
        RING(16, uint4);
        const auto* state = reinterpret_cast<const float*>(ring.data());
        for (uint32_t channels : {40u, 80u}) {
            const compressor::Sizes sizes = {4, channels / 10, 2, 40, channels, 4, 1e-6f};
#define COMPRESSED(name, T) \
    RUN(name, dim3(kTokens), 256, 160, settings, reinterpret_cast<T*>(cache.data()), x, state, x, x, x, x, STEP, sizes)
            COMPRESSED(compress_f32, float);
            COMPRESSED(compress_bf16, __nv_bfloat16);
        }
        for (const uint32_t* indices : {static_cast<const uint32_t*>(nullptr), lists.data()}) {
            const window::Sizes sizes = {3, 40, 16, 4, 2, indices ? 2u : 0u, 0.2f};
#define ATTENTION(name, T)                                                                                                   \
    RUN(name, dim3(kTokens, 1), 256, 0, settings, q.data(), reinterpret_cast<const T*>(x),                                   \
        reinterpret_cast<const T*>(ring.data()), reinterpret_cast<const T*>(cache.data()), indices, sinks.data(),            \
        reinterpret_cast<float*>(out.data()), STEP, sizes)
            ATTENTION(window_attention_f32_128, float);
            ATTENTION(window_attention_f32_512, float);
            ATTENTION(window_attention_bf16_128, __nv_bfloat16);
            ATTENTION(window_attention_bf16_512, __nv_bfloat16);
        }
    });
    CHECK(fault.code == 0, "device fault %u", fault.code);
    return report();
}
