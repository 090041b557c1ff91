// Kernels with state per sequence on small shapes, for ThreadSanitizer: rings, and compressed entries with and without
// overlap. A sequence goes on in its ring, another begins. Results are not looked at here.
#include <vector>

#include "compressor.cu"
#include "state_ring.cu"

#include "driver.h"

using namespace cachalot;

/// Two new tokens after 22, and five of a sequence that begins; slots 2 and 0 of three.
constexpr uint32_t kTokens = 7, kBlockTokens = 8, kWidth = 3, kSlots = 3;
constexpr state::StepSizes kStep = {kTokens, 2, 2 * kWidth, kBlockTokens, kWidth, kSlots};

int main() {
    const std::vector<uint32_t> start = {0, 2, 7}, lens = {24, 5}, slot = {2, 0}, table = {0, 1, 2, 3, 4, 5};
    const uint32_t *starts = start.data(), *lengths = lens.data(), *tables = table.data(), *slots = slot.data();
    std::vector<int4> rows(1 << 12), ring(1 << 14), cache(1 << 12);
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
            const auto sizes = [=](uint32_t row_bytes) {
                return compressor::Sizes{4, channels / 10, 2, 40, channels, 4, row_bytes, 1e-6f};
            };
#define COMPRESSED(name, row_bytes) \
    RUN(name, dim3(kTokens), 256, 160, settings, reinterpret_cast<uint8_t*>(cache.data()), x, state, x, x, x, x, STEP, sizes(row_bytes))
            COMPRESSED(compress_f32, 160);
            COMPRESSED(compress_bf16, 80);
            COMPRESSED(compress_fp8, 56);
        }
        for (uint32_t channels : {32u, 64u}) {
            const auto sizes = [=](uint32_t row_bytes) {
                return compressor::Sizes{4, channels / 8, 2, 32, channels, 4, row_bytes, 1e-6f};
            };
            COMPRESSED(compress_fp8_key, 36);
            COMPRESSED(compress_fp4_key, 20);
        }
    });
    CHECK(fault.code == 0, "device fault %u", fault.code);
    return report();
}
