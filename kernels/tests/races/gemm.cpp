// Every path of the matrix multiplication under ThreadSanitizer: each kind of weight form with each tile, dense and
// grouped, gated and split, with late and with early copies. Results are not looked at here.
#include <stdio.h>

#include <vector>

#include "gemm.cu"
#include "simt/host.h"

static int failures = 0;

template <class Format, class Operand, class T, auto Kernel>
static void run(const char* name) {
    // Five steps of K, so that every stage is filled again; a tail in every dimension.
    const uint32_t slots = T::kM + 3, n = 72, k = T::kK * 4 + 48, divisor = 2;
    std::vector<uint4> x(size_t(slots) * k * sizeof(Operand) / 16 + 1), w(size_t(2) * n * k * Format::kBits / 128 + 1);
    std::vector<float> scales(2 * n * (k / 32 + 1)), bias(n), out(size_t(2) * slots * n * 2);
    const uint32_t row_tiles = 3;
    std::vector<uint32_t> sorted(row_tiles * T::kM, gemm::kNoSlot), experts = {0, 1, gemm::kNoExpert};
    for (uint32_t i = 0; i < T::kM - 1; i++) sorted[i] = i;
    for (uint32_t i = T::kM - 1; i < slots; i++) sorted[i + 1] = i;
    const auto* bytes = reinterpret_cast<const unsigned char*>(w.data());
    const auto* zeros = reinterpret_cast<const unsigned char*>(scales.data());
    for (int copies : {0, 1})
        for (uint32_t gated : {0u, 1u}) {
            const bool grouped = gated == uint32_t(copies), split = gated;
            const uint32_t columns = gated ? T::kN / 2 : T::kN, tiles = row_tiles * ((n + columns - 1) / columns);
            const uint32_t rows = grouped ? row_tiles : 2, block = Format::kWord ? 32 : 64;
            gemm::Problem problem{slots, n, k, rows, split ? 3u : 5u, divisor, gated, 1, block, n, (k + block - 1) / block, 0, 1.0f};
            const simt::Settings settings{simt::Schedule::Ahead, simt::Copies(copies), 7};
            const dim3 grid(tiles / row_tiles * rows, 1, split ? 2 : 1);
            simt::Fault fault = simt::launch<Kernel>(
                name, grid, T::kThreads, gemm::Stage<Format, Operand, T>::kSharedBytes, settings, static_cast<const void*>(x.data()), bytes,
                static_cast<const void*>(scales.data()), zeros, bytes, static_cast<const void*>(scales.data()), zeros,
                static_cast<const float*>(gated ? nullptr : bias.data()), static_cast<const float*>(scales.data()),
                static_cast<const uint32_t*>(grouped ? sorted.data() : nullptr),
                static_cast<const uint32_t*>(grouped ? experts.data() : nullptr), static_cast<void*>(out.data()), problem);
            if (fault.error == simt::Error::None) continue;
            fprintf(stderr, "%s\n", fault.text);
            failures++;
        }
}

int main() {
    using Bf16Operand = __nv_bfloat16;
#define RUN(name, form, operand, tile) run<gemm::form, operand, gemm::tile, name>(#name)
    RUN(gemm_bf16_bf16_m16, Bf16, Bf16Operand, Tile16);
    RUN(gemm_fp8_bf16_m16, Fp8, Bf16Operand, Tile16);
    RUN(gemm_fp4_bf16_m16, Fp4, Bf16Operand, Tile16);
    RUN(gemm_int4_bf16_m16, Int4, Bf16Operand, Tile16);
    RUN(gemm_bf16_bf16_m64, Bf16, Bf16Operand, Tile64);
    RUN(gemm_int4_bf16_m64, Int4, Bf16Operand, Tile64);
    RUN(gemm_fp8_bf16_m128, Fp8, Bf16Operand, Tile128);
    RUN(gemm_int8_s8_m16, Int8, int8_t, Tile16);
    RUN(gemm_int8_s8_m128, Int8, int8_t, Tile128);
    RUN(gemm_f32_f32_m16, F32, float, Tile16Float);
    RUN(gemm_int4_f32_m64, Int4, float, Tile64);
    return failures != 0;
}
