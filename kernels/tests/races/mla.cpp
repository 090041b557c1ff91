// MLA's two products with every kind of tile on small shapes, for ThreadSanitizer: three steps of k, a tail in every
// dimension, rows in runs of eight and element by element. Results are not looked at here.
#include <stdio.h>

#include <vector>

#include "mla.cu"
#include "simt/host.h"

using namespace cachalot;

static int failures = 0;

template <auto Kernel, class In, class Stored, class Out>
static void run(const char* name, bool absorb, uint32_t tokens, uint32_t columns, uint32_t step, uint32_t odd) {
    const uint32_t k = step * 2 + 16 + odd, n = columns + 8, latent = absorb ? n : k, other = absorb ? k : n;
    const uint32_t heads = 2, rope = absorb ? 8 : 0, block = odd ? 7 : 32;
    const HeadProduct product = {tokens + 1, heads, k + rope, n + rope, n, k, other + 3, absorb ? 0u : 3u, latent, rope,
                                 block, block, (latent + block - 1) / block};
    std::vector<In> x(size_t(tokens + 1) * heads * (k + rope), In{});
    std::vector<Stored> weight(size_t(heads) * (other + 3) * latent, Stored{});
    std::vector<float> scales(size_t(heads * (other + 3) / block + 1) * product.scale_columns, 1.0f);
    std::vector<Out> out(size_t(tokens + 1) * heads * (n + rope));
    for (int schedule : {0, 2, 3}) {
        simt::Fault launch = simt::launch<Kernel>(name, dim3(2, heads, 2), columns * 2, 0, {simt::Schedule(schedule), simt::Copies::Lazy, 7},
                                                  static_cast<const In*>(x.data()), static_cast<const Stored*>(weight.data()),
                                                  static_cast<const float*>(scales.data()), out.data(), product);
        if (launch.error == simt::Error::None) continue;
        fprintf(stderr, "%s\n", launch.text);
        failures++;
    }
}

int main() {
#define RUN(form, Stored, In, Out, tokens, columns, step, odd)                                         \
    run<mla_absorb_##form, float, Stored, Out>("mla_absorb_" #form, true, tokens, columns, step, odd); \
    run<mla_project_##form, In, Stored, Out>("mla_project_" #form, false, tokens, columns, step, odd)
    RUN(fp8_bf16_bf16_m16, Fp8, __nv_bfloat16, __nv_bfloat16, 16, 32, 128, 0);
    RUN(bf16_bf16_bf16_m64, __nv_bfloat16, __nv_bfloat16, __nv_bfloat16, 64, 64, 64, 0);
    RUN(f16_f32_bf16_m16, __half, __nv_bfloat16, __nv_bfloat16, 16, 32, 64, 0);
    RUN(fp8_f32_f32_m16, Fp8, float, float, 16, 32, 64, 3);
    return failures != 0;
}
