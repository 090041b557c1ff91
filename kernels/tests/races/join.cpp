// join.cu under the race detector: two blocks of columns that fill the rows between them.
#include "join.cu"

#include "driver.h"

int main() {
    const uint32_t rows = 2, width = 300, out_width = 320;
    std::vector<uint4> block(rows * width), out(rows * out_width);
    for_each_setting([&](const simt::Settings& settings) {
#define PLACE(bytes, T)                                                                                                     \
    do {                                                                                                                    \
        auto* from = reinterpret_cast<const T*>(block.data());                                                              \
        auto* to = reinterpret_cast<T*>(out.data());                                                                        \
        RUN(place_cols_##bytes, dim3(rows, 2), 256, 0, settings, from, to, width, width, 0u, out_width);                    \
        RUN(place_cols_##bytes, dim3(rows, 1), 256, 0, settings, from, to, out_width - width, out_width - width, width,      \
            out_width);                                                                                                     \
    } while (0)
        PLACE(16, uint4);
        PLACE(4, uint32_t);
        PLACE(2, uint16_t);
        PLACE(1, uint8_t);
    });
    return report();
}
