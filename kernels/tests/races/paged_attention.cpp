// Every attention kernel on small shapes, for ThreadSanitizer: both tiles, rows copied, packed and gathered, keys split
// and in one go. Results are not looked at here.
#include <vector>

#include "paged_attention.cu"
#include "simt/host.h"

using namespace cachalot;
using namespace cachalot::attention;

static int failures = 0;

/// Two sequences: one new token after 289 keys (two splits), and a prefill of 9 behind 30.
struct Step {
    std::vector<uint32_t> query_start = {0, 1, 10}, context_lens = {290, 39}, tables, indices;
    std::vector<int4> q, cache;
    std::vector<float> out, values, states;
    std::vector<int> schedules = {0, 2, 3};  // round robin, one warp ahead, random
    Fault fault = {};
    Sizes sizes = {};

    Step(uint32_t heads, uint32_t key_dim, uint32_t value_dim, bool latent, cache_row::Format format, Staging staging, int pairs, int element) {
        const uint32_t width = 19, row = latent ? key_dim : key_dim + value_dim;
        uint32_t bytes = row * (format == cache_row::kF32 ? 4 : 2);
        if (format == cache_row::kPacked) bytes = (cache_row::LatentLayout::rope_at(value_dim) + 2 * (key_dim - value_dim) + 15) / 16 * 16;
        for (uint32_t i = 0; i < 2 * width; i++) tables.push_back(i);
        indices.assign(10 * 64, 3);
        q.resize(10 * heads * key_dim * element / 16 + 1);
        cache.resize(2 * width * 16 * size_t(bytes) / 16 + 1);
        uint32_t tile_heads = heads < uint32_t(pairs) ? heads : pairs;
        sizes = {10, 2, heads, 1, key_dim, value_dim, latent ? 0 : key_dim, latent ? value_dim : 0, 2 * width, 16, width, bytes,
                 format, element == 4 ? cache_row::kF32 : cache_row::kBf16, staging, staging == kDirect && element == 2 ? 2u : 1u, 0,
                 pairs / tile_heads, tile_heads, (heads + tile_heads - 1) / tile_heads, 2, 0.1f, latent ? uint32_t(value_dim) : 0};
        out.resize(10 * heads * value_dim);
        values.resize(8 * heads * 2 * value_dim);
        states.resize(8 * heads * 2 * 2);
    }

    template <class T>
    size_t shared_bytes(int pairs) const {
        int q_stride = tile_stride<T>((sizes.key_dim + 15) / 16 * 16);
        int key_stride = sizes.latent ? q_stride : q_stride + tile_stride<T>(sizes.value_dim);
        size_t packed = sizes.staging == kPacked ? kKeys * sizes.row_bytes : 0;
        return (pairs * q_stride + sizes.stages * kKeys * key_stride) * sizeof(T) + (2 * kScoreStride + 1) * 4 * pairs + packed;
    }

    template <class T, auto Kernel, auto Combine>
    void run(int pairs) {
        for (int schedule : schedules)
            for (int copies : {0, 1}) {
                const simt::Settings settings{simt::Schedule(schedule), simt::Copies(copies), 7};
                T* result = reinterpret_cast<T*>(out.data());
                uint32_t tiles = 10 / sizes.tile_tokens + 2;
                const uint32_t* lists = sizes.topk ? indices.data() : nullptr;
                check(simt::launch<Kernel>("paged_attention", dim3(tiles, sizes.head_tiles, 2), 256, shared_bytes<T>(pairs), settings,
                                           reinterpret_cast<const uint8_t*>(q.data()), reinterpret_cast<const uint8_t*>(cache.data()),
                                           static_cast<const uint32_t*>(query_start.data()), static_cast<const uint32_t*>(context_lens.data()),
                                           static_cast<const uint32_t*>(tables.data()), lists, result, values.data(), states.data(),
                                           &fault, sizes));
                check(simt::launch<Combine>("attention_combine", dim3(2, sizes.heads), 128, 0, settings,
                                            static_cast<const uint32_t*>(query_start.data()), static_cast<const uint32_t*>(context_lens.data()),
                                            result, values.data(), states.data(), &fault, sizes));
            }
    }

    void check(const simt::Fault& launch) {
        if (launch.error == simt::Error::None && fault.code == 0) return;
        fprintf(stderr, "%s (device fault %u)\n", launch.text, fault.code);
        failures++;
    }
};

#define RUN_F32(step, columns) (step).run<float, paged_attention_f32_16x##columns, attention_combine_f32>(16)
#define RUN_BF16(step, pairs, columns) \
    (step).run<__nv_bfloat16, paged_attention_bf16_##pairs##x##columns, attention_combine_bf16>(pairs)

int main() {
    for (Staging staging : {kDirect, kGathered}) {
        Step small(3, 48, 32, true, cache_row::kBf16, staging, 16, 2);
        RUN_BF16(small, 16, 128);
        Step large(24, 48, 32, true, cache_row::kBf16, staging, 64, 2);
        RUN_BF16(large, 64, 128);
        Step single(3, 48, 32, true, cache_row::kF32, staging, 16, 4);
        RUN_F32(single, 128);
    }
    Step packed(24, 48, 32, true, cache_row::kPacked, kPacked, 64, 2);
    RUN_BF16(packed, 64, 128);
    Step packed_single(3, 48, 32, true, cache_row::kPacked, kPacked, 16, 4);
    RUN_F32(packed_single, 128);
    Step grouped(4, 64, 64, false, cache_row::kBf16, kDirect, 16, 2);
    RUN_BF16(grouped, 16, 128);
    Step listed(5, 48, 32, true, cache_row::kBf16, kDirect, 16, 2);
    listed.sizes.topk = 64;
    listed.sizes.tile_tokens = 1;
    RUN_BF16(listed, 16, 128);
    Step wide(3, 576, 512, true, cache_row::kBf16, kDirect, 16, 2);
    wide.context_lens = {40, 39};
    wide.schedules = {2};
    RUN_BF16(wide, 16, 512);
    Step widest(17, 576, 512, true, cache_row::kPacked, kPacked, 64, 2);
    widest.context_lens = {33, 39};
    widest.schedules = {2};
    RUN_BF16(widest, 64, 512);
    return failures != 0;
}
