// Quantisation of rows under ThreadSanitizer: several warps and several turns of a row, both element types, rows on and
// off 16-byte boundaries. Results are not looked at here.
#include <stdio.h>

#include <vector>

#include "../../cuda/quantize.cu"
#include "simt/host.h"

static int failures = 0;

template <class T, auto Kernel>
static void run(const char* name, uint32_t dim) {
    const uint32_t rows = 3;
    std::vector<uint4> x(size_t(rows) * dim * sizeof(T) / 16 + 1), codes(size_t(rows) * dim / 16 + 1);
    std::vector<float> scales(rows);
    for (int schedule : {0, 2, 3}) {
        const simt::Settings settings{simt::Schedule(schedule), simt::Copies::Lazy, 7};
        simt::Fault fault = simt::launch<Kernel>(name, rows, 128, 0, settings, reinterpret_cast<const T*>(x.data()),
                                                 reinterpret_cast<int8_t*>(codes.data()), scales.data(), dim);
        if (fault.error == simt::Error::None) continue;
        fprintf(stderr, "%s\n", fault.text);
        failures++;
    }
}

int main() {
    for (uint32_t dim : {7, 1032, 130, 2056}) {
        run<float, quantize_rows_f32>("quantize_rows_f32", dim);
        run<__nv_bfloat16, quantize_rows_bf16>("quantize_rows_bf16", dim);
    }
    return failures != 0;
}
