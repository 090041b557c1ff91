// Every KV write on small shapes, for ThreadSanitizer. Results are not looked at here.
#include <vector>

#include "kv_write.cu"
#include "simt/host.h"

using namespace cachalot;

static int failures = 0;

template <auto Kernel, class... Args>
static void run(const char* name, Args... args) {
    for (int schedule : {0, 2, 3}) {
        simt::Fault launch = simt::launch<Kernel>(name, 3, 256, 0, {simt::Schedule(schedule), simt::Copies::Lazy, 7}, args...);
        if (launch.error == simt::Error::None) continue;
        fprintf(stderr, "%s\n", launch.text);
        failures++;
    }
}

int main() {
    const uint32_t latent = 300, half = 8;
    const uint32_t slots[] = {4, 0, 2};
    std::vector<float> x(3 * 400, 0.5f), cosines(3 * 32, 1.0f), sines(3 * 32, 0.0f);
    std::vector<int4> cache(5 * 400);
    const float *in = x.data(), *cosine = cosines.data(), *sine = sines.data();
    const uint32_t* at = slots;
    Fault fault = {};
    auto* bytes = reinterpret_cast<uint8_t*>(cache.data());
    auto mla = [&](uint32_t row_bytes) { return kv_write::MlaSizes{latent, half, 5, row_bytes, 1e-6f}; };
    run<mla_kv_write_f32>("mla_kv_write_f32", bytes, in, in, cosine, sine, at, &fault, mla(4 * 316));
    run<mla_kv_write_bf16>("mla_kv_write_bf16", bytes, in, in, cosine, sine, at, &fault, mla(2 * 316));
    run<mla_kv_write_fp8>("mla_kv_write_fp8", bytes, in, in, cosine, sine, at, &fault, mla(352));
    for (uint32_t half_split : {0u, 1u}) {
        const kv_write::GqaSizes gqa = {3, 64, 32, half_split, 5};
        run<gqa_kv_write_f32>("gqa_kv_write_f32", reinterpret_cast<float*>(bytes), in, in, cosine, sine, at, &fault, gqa);
        run<gqa_kv_write_bf16>("gqa_kv_write_bf16", reinterpret_cast<__nv_bfloat16*>(bytes), in, in, cosine, sine, at, &fault, gqa);
    }
    auto index = [&](uint32_t dim, uint32_t row_bytes) { return kv_write::IndexSizes{dim, 20, 5, row_bytes, 1e-6f}; };
    run<index_key_write_f32>("index_key_write_f32", bytes, in, in, in, cosine, sine, at, &fault, index(70, 280));
    run<index_key_write_bf16>("index_key_write_bf16", bytes, in, in, in, cosine, sine, at, &fault, index(70, 140));
    run<index_key_write_fp8>("index_key_write_fp8", bytes, in, in, in, cosine, sine, at, &fault, index(128, 132));
    return failures != 0 || fault.code != 0;
}
