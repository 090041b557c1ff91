// Window attention on small shapes, for ThreadSanitizer: both tiles, rows copied, gathered and unpacked, entries listed, all or none,
// keys split and in one go. Results are not looked at here.
#include <vector>

#include "window_attention.cu"

#include "driver.h"

using namespace cachalot;
using namespace cachalot::attention;

/// Two new tokens after 270, behind a window that is longer than a split, and five of a sequence that begins; slots 2 and 0 of
/// three.
constexpr uint32_t kTokens = 7, kBlockTokens = 8, kWidth = 34, kSlots = 3, kWindow = 260, kSplits = 2, kDim = 40;

template <class T, auto Kernel>
void run(const char* name, uint32_t heads, uint32_t dim, int pairs, Staging staging, uint32_t topk, uint32_t ratio,
         const simt::Settings& settings) {
    const std::vector<uint32_t> start = {0, 2, 7}, lens = {272, 5}, slots = {2, 0};
    std::vector<uint32_t> table(2 * kWidth), lists(kTokens * 8, kUnused);
    for (uint32_t i = 0; i < table.size(); i++) table[i] = i;
    for (uint32_t i = 0; i < 2 * topk; i++) lists[i] = i / 2;
    const uint32_t channels = dim - 8, packed = staging == kPacked ? cache_row::SharedKvLayout::rope_at(channels) + 16 : 0;
    const uint32_t bytes = packed ? packed : dim * sizeof(T), tile_heads = heads < uint32_t(pairs) ? heads : pairs;
    std::vector<int4> fresh(kTokens * bytes / 16 + 1), ring(kSlots * kWindow * bytes / 16 + 1), cache(2 * kWidth * 2 * bytes / 16 + 1);
    std::vector<float> q(kTokens * heads * dim), sinks(heads), out(kTokens * heads * dim);
    std::vector<float> values(8 * heads * kSplits * dim), states(8 * heads * kSplits * 2);
    Fault fault = {};
    const uint32_t stages = staging == kDirect && sizeof(T) == 2 ? 2 : 1;
    const Sizes sizes = {kTokens, 2, heads, 1, dim, dim, 0, dim, 2 * kWidth, kBlockTokens, kWidth, bytes,
                         packed ? cache_row::kPacked : sizeof(T) == 4 ? cache_row::kF32 : cache_row::kBf16, cache_row::kF32, staging, stages, topk,
                         1, tile_heads, (heads + tile_heads - 1) / tile_heads, kSplits, 0.2f, channels};
    const Window window = {kWindow, kWindow, kSlots, ratio, 2};
    const int stride = tile_stride<T>((dim + 15) / 16 * 16);
    const size_t shared = (pairs + stages * kKeys) * stride * sizeof(T) + (2 * kScoreStride + 1) * 4 * pairs + kKeys * packed;
    const auto bytes_of = [](const std::vector<int4>& rows) { return reinterpret_cast<const uint8_t*>(rows.data()); };
    const uint32_t *starts = start.data(), *lengths = lens.data(), *tables = table.data(), *states_of = slots.data();
    const auto checked = [&](const simt::Fault& launch) { CHECK(launch.error == simt::Error::None, "%s", launch.text); };
    checked(simt::launch<Kernel>(name, dim3(kTokens, sizes.head_tiles, kSplits), 256, shared, settings,
                                 reinterpret_cast<const uint8_t*>(q.data()), bytes_of(fresh), bytes_of(ring), bytes_of(cache),
                                 static_cast<const uint32_t*>(topk ? lists.data() : nullptr), static_cast<const float*>(sinks.data()),
                                 starts, lengths, tables, states_of, out.data(), values.data(), states.data(), &fault, sizes, window));
    checked(simt::launch<window_combine>("window_combine", dim3(2, heads), 128, 0, settings, static_cast<const float*>(sinks.data()),
                                         starts, lengths, out.data(), values.data(), states.data(), &fault, sizes, window));
    CHECK(fault.code == 0, "device fault %u in %s", fault.code, name);
}

#define ATTEND(kernel, T, ...) run<T, kernel>(#kernel, __VA_ARGS__, settings)

int main() {
    for_each_setting([](const simt::Settings& settings) {
        for (Staging staging : {kDirect, kGathered, kPacked}) {
            ATTEND(window_attention_bf16_16x128, __nv_bfloat16, 3, 40, 16, staging, 8, 4);
            ATTEND(window_attention_bf16_64x128, __nv_bfloat16, 20, 40, 64, staging, 0, 4);
            ATTEND(window_attention_f32_16x128, float, 3, 40, 16, staging, 0, 0);
        }
    });
    const simt::Settings ahead = {simt::Schedule::Ahead, simt::Copies::Eager, 2};
    const simt::Settings& settings = ahead;
    ATTEND(window_attention_bf16_16x512, __nv_bfloat16, 3, 136, 16, kDirect, 8, 4);
    ATTEND(window_attention_bf16_64x512, __nv_bfloat16, 17, 136, 64, kDirect, 8, 4);
    ATTEND(window_attention_f32_16x512, float, 3, 136, 16, kDirect, 8, 4);
    return report();
}
