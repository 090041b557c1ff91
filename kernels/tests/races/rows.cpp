// Every kernel that goes row by row, on small shapes, for ThreadSanitizer: embedding, norms, rope, gathers and joins,
// routing, block copies, index queries, shared rows of V4 and its streams. Results are not looked at here.
#include <stdio.h>

#include <vector>

#include "block_copy.cu"
#include "elementwise.cu"
#include "embedding.cu"
#include "gate.cu"
#include "hadamard.cu"
#include "hyper_connection.cu"
#include "norm.cu"
#include "rope.cu"
#include "shared_kv.cu"
#include "simt/host.h"

using namespace cachalot;

static int failures = 0;

/// Three rows, and as many blocks of threads as the widest of them takes.
template <auto Kernel, class... Args>
static void run(const char* name, dim3 grid, uint32_t threads, size_t shared, Args... args) {
    for (int schedule : {0, 2, 3}) {
        simt::Fault launch = simt::launch<Kernel>(name, grid, threads, shared, {simt::Schedule(schedule), simt::Copies::Lazy, 7}, args...);
        if (launch.error == simt::Error::None) continue;
        fprintf(stderr, "%s\n", launch.text);
        failures++;
    }
}

int main() {
    std::vector<int4> input(4096), output(4096), extra(4096);
    const std::vector<uint32_t> ids = {2, 0, 1};
    Fault fault = {};
    const auto* x = reinterpret_cast<const float*>(input.data());
    const auto* weight = reinterpret_cast<const float*>(extra.data());
    auto* y = reinterpret_cast<float*>(output.data());
    auto* half_y = reinterpret_cast<__nv_bfloat16*>(output.data());
    for (uint32_t dim : {600u, 601u}) {
        const size_t shared = dim * 4;
#define NORM(name, In, out) run<name>(#name, 3, 160, shared, reinterpret_cast<const In*>(x), weight, out, dim, 1e-6f)
        NORM(rms_norm_f32_f32, float, y);
        NORM(rms_norm_f32_bf16, float, half_y);
        NORM(rms_norm_bf16_bf16, __nv_bfloat16, half_y);
        auto* sum = reinterpret_cast<float*>(extra.data()) + 2048;
        run<add_rms_norm_f32>("add_rms_norm_f32", 3, 160, shared, sum, x, weight, y, dim, 1e-6f);
        run<add_rms_norm_bf16>("add_rms_norm_bf16", 3, 160, shared, sum, x, weight, half_y, dim, 1e-6f);
#define EMBED(name, T) \
    run<name>(#name, dim3(3, 5), 128, 0, &fault, reinterpret_cast<const T*>(x), ids.data(), y, dim, Shard{1, 2, 3})
        EMBED(embedding_f32, float);
        EMBED(embedding_f16, __half);
        EMBED(embedding_bf16, __nv_bfloat16);
    }

    run<add_assign_f32>("add_assign_f32", 3, 256, 0, y, x, uint64_t(700));
    run<cast_f32_bf16>("cast_f32_bf16", 3, 256, 0, x, half_y, uint64_t(700));
#define MOVE(bytes, Unit)                                                                                              \
    run<gather_rows_##bytes>("gather_rows_" #bytes, dim3(3, 2), 256, 0, &fault, reinterpret_cast<const Unit*>(x), ids.data(), \
                             reinterpret_cast<Unit*>(y), 3u, 300u);                                                    \
    run<concat_cols_##bytes>("concat_cols_" #bytes, dim3(3, 2), 256, 0, reinterpret_cast<const Unit*>(x),              \
                             reinterpret_cast<const Unit*>(weight), reinterpret_cast<Unit*>(y), 170u, 130u);           \
    run<copy_blocks_##bytes>("copy_blocks_" #bytes, dim3(2, 2), 256, 0, &fault, reinterpret_cast<Unit*>(y),            \
                             reinterpret_cast<const uint2*>(pairs), 5u, 300u)
    alignas(8) const uint32_t pairs[] = {0, 3, 0, 4};
    MOVE(2, uint16_t);
    MOVE(4, uint32_t);
    MOVE(16, uint4);

    auto *cosines = reinterpret_cast<float*>(extra.data()), *sines = cosines + 512;
    run<rope_table>("rope_table", 1, 128, 0, ids.data(), cosines, sines, 3u, 20u, 4u, 1.0f, Frequencies{});
    for (uint32_t interleaved : {0u, 1u})
        run<rope_assign>("rope_assign", dim3(3, 1), 256, 0, y, static_cast<const float*>(cosines), static_cast<const float*>(sines), 4u, 50u,
                         7u, 20u, interleaved);

    const auto* zeros = reinterpret_cast<const uint32_t*>(input.data());
    auto* experts = reinterpret_cast<uint32_t*>(extra.data());
    const Gate gate = {60, 6, 4, 2, 1, 1, 1, 1.0f};
#define GATE(name) run<name>(#name, 2, 128, 0, x, x, experts, y, 5u, gate)
    GATE(route_64);
    GATE(route_256);
    GATE(route_512);
    run<::route_by_token>("route_by_token", 2, 128, 0, &fault, x, zeros, zeros, experts, y, 5u, 3u, Gate{60, 6, 1, 1, 2, 0, 1, 1.0f});
    run<head_norm>("head_norm", 3, 128, 0, y, 300u, 1e-6f);
#define SHARED_ROW(name, bytes) run<name>(#name, 3, 256, 0, x, weight, x, x, reinterpret_cast<uint8_t*>(y), 300u, 20u, bytes, 1e-6f)
    SHARED_ROW(shared_kv_f32, 1200u);
    SHARED_ROW(shared_kv_bf16, 600u);
    SHARED_ROW(shared_kv_fp8, 352u);

    for (uint32_t dim : {1u, 16u, 128u}) {
        run<hadamard_fp8>("hadamard_fp8", 2, 128, 4 * 4 * dim, y, y + 2048, 6u, dim);
        run<hadamard_fp4>("hadamard_fp4", 2, 128, 4 * 4 * dim, y, 6u, dim);
    }

    const hyper::MapSizes maps = {4, 400, 24, 20, 1e-6f, 1e-6f};
    run<hyper_maps>("hyper_maps", 3, 256, 0, x, x, weight, weight, y, maps);
    run<hyper_collapse>("hyper_collapse", dim3(3, 2), 256, 0, x, weight, y, 4u, 300u, 24u);
    run<hyper_expand>("hyper_expand", dim3(3, 2), 256, 0, y, x, weight, 4u, 300u);
    run<hyper_spread>("hyper_spread", dim3(3, 2), 256, 0, x, y, 4u, 300u);
    return failures != 0 || fault.code != 0;
}
