// Sorting slots by expert and summing a token's experts under ThreadSanitizer. Every slot must come out once, in a tile of
// its own expert.
#include <stdio.h>

#include <vector>

#include "moe.cu"
#include "simt/host.h"

static int failures = 0;

static void expect(bool condition, const char* what) {
    if (condition) return;
    fprintf(stderr, "%s\n", what);
    failures++;
}

static void align(uint32_t slots, uint32_t experts, uint32_t tile_rows, uint32_t threads) {
    const uint32_t tiles = (slots + (experts < slots ? experts : slots) * (tile_rows - 1)) / tile_rows;
    std::vector<uint32_t> ids(slots), sorted(tiles * tile_rows), tile_experts(tiles), seen(slots);
    for (uint32_t slot = 0; slot < slots; slot++) ids[slot] = slot * slot % experts;
    cachalot::Fault record{};
    for (int schedule : {0, 2, 3}) {
        simt::Fault fault = simt::launch<moe_align>("moe_align", 1, threads, experts * 8, {simt::Schedule(schedule), simt::Copies::Lazy, 7},
                                                    &record, static_cast<const uint32_t*>(ids.data()), sorted.data(), tile_experts.data(),
                                                    slots, experts, tiles, tile_rows);
        expect(fault.error == simt::Error::None, fault.text);
        seen.assign(slots, 0);
        for (uint32_t i = 0; i < sorted.size(); i++) {
            if (sorted[i] == moe::kNone) continue;
            expect(sorted[i] < slots && tile_experts[i / tile_rows] == ids[sorted[i]], "a slot in another expert's tile");
            if (sorted[i] < slots) seen[sorted[i]]++;
        }
        for (uint32_t count : seen) expect(count == 1, "a slot is not there once");
    }
}

int main() {
    align(40, 5, 16, 160);
    align(300, 70, 16, 1024);
    align(3, 4, 64, 64);
    const uint32_t tokens = 3, top_k = 4, dim = 150;
    std::vector<float> y(2 * tokens * top_k * dim, 1.0f), weights(tokens * top_k, 0.25f), out(tokens * dim);
    std::vector<uint32_t> ids(tokens * top_k, 1);
    simt::Fault fault = simt::launch<moe_combine>("moe_combine", dim3(tokens, 2), 128, 0, {simt::Schedule::Random, simt::Copies::Lazy, 7},
                                                  static_cast<const float*>(y.data()), static_cast<const uint32_t*>(ids.data()),
                                                  static_cast<const float*>(weights.data()), out.data(), 2u, tokens * top_k, dim, top_k, 2u);
    expect(fault.error == simt::Error::None, fault.text);
    for (float value : out) expect(value == 2.0f, "a wrong sum");
    return failures != 0;
}
