// The lightning indexer on small shapes, for ThreadSanitizer: several tiles of heads and of keys, panels in runs of eight
// and element by element, a token that has nothing to choose. Results are not looked at here.
#include <vector>

#include "indexer.cu"
#include "simt/host.h"

using namespace cachalot;

static int failures = 0;

static void check(const char* name, const simt::Fault& launch, const Fault& fault) {
    if (launch.error == simt::Error::None && fault.code == 0) return;
    fprintf(stderr, "%s: %s (device fault %u)\n", name, launch.text, fault.code);
    failures++;
}

/// One new token after 299 keys, and three behind 2.
template <class Operand, auto Scores>
static void run(const char* name, uint32_t heads, uint32_t dim, uint32_t row_bytes) {
    constexpr uint32_t kWidth = 19, kBlock = 16, kTokens = 4, kTopk = 20;
    const std::vector<uint32_t> start = {0, 1, 4}, lens = {300, 5};
    std::vector<uint32_t> tables, lists(kTokens * kTopk);
    for (uint32_t i = 0; i < 2 * kWidth; i++) tables.push_back(i);
    std::vector<float> q(kTokens * heads * dim + 8, 1.0f), weights(kTokens * heads, 1.0f), scores(kTokens * kWidth * kBlock);
    std::vector<int4> keys(2 * kWidth * kBlock * row_bytes / 16 + 1);
    Fault fault = {};
    const indexer::Sizes sizes = {kTokens, 2, 2 * kWidth, kBlock, kWidth, kBlock, row_bytes, heads, dim, kTopk, 0, kWidth * kBlock, 0.5f};
    const size_t shared = ((dim + 63) / 64 + 1) * 64 * 64 * sizeof(Operand);
    const uint32_t *starts = start.data(), *lengths = lens.data(), *table = tables.data();
    for (int schedule : {0, 2, 3}) {
        const simt::Settings settings{simt::Schedule(schedule), simt::Copies::Lazy, 7};
        check(name,
              simt::launch<Scores>(name, dim3(kTokens, 2), 128, shared, settings, static_cast<const float*>(q.data()),
                                   static_cast<const float*>(weights.data()), reinterpret_cast<const uint8_t*>(keys.data()), starts, lengths,
                                   table, scores.data(), &fault, sizes),
              fault);
        check("index_select",
              simt::launch<index_select>("index_select", dim3(kTokens), 1024, 0, settings, starts, lengths, table,
                                         static_cast<const float*>(scores.data()), lists.data(), &fault, sizes),
              fault);
    }
}

int main() {
    run<float, index_scores_f32_f32>("index_scores_f32_f32", 65, 70, 280);
    run<float, index_scores_bf16_f32>("index_scores_bf16_f32", 3, 64, 128);
    run<__nv_bfloat16, index_scores_f32_bf16>("index_scores_f32_bf16", 3, 72, 288);
    run<__nv_bfloat16, index_scores_bf16_bf16>("index_scores_bf16_bf16", 65, 128, 256);
    run<float, index_scores_fp8_f32>("index_scores_fp8_f32", 3, 64, 68);
    run<__nv_bfloat16, index_scores_fp8_bf16>("index_scores_fp8_bf16", 65, 128, 132);
    run<float, index_scores_fp4_f32>("index_scores_fp4_f32", 3, 64, 36);
    run<__nv_bfloat16, index_scores_fp4_bf16>("index_scores_fp4_bf16", 65, 128, 68);
    return failures != 0;
}
