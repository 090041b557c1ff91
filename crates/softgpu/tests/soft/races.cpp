// Runs the test kernels under ThreadSanitizer: `sound` runs each sound one under several schedules, any other name runs
// that planted bug. Results are not looked at here.
#include <string.h>

#include <vector>

#include "../kernels/planted.h"
#include "check.h"

static bool run_all;
static const char* wanted;

template <auto Kernel, class... Args>
static void run(const char* name, const char* sound, dim3 grid, dim3 block, size_t shared, Args... args) {
    if (strcmp(wanted, name) && !(run_all && !strcmp(name, sound))) return;
    for (int schedule : {0, 2, 3})
        for (int copies : {0, 1}) {
            simt::Fault fault = simt::launch<Kernel>(name, grid, block, shared, {simt::Schedule(schedule), simt::Copies(copies), 7}, args...);
            // A planted race may also be caught by the runtime; what counts here is the sanitizer's report.
            CHECK(!run_all || fault.error == simt::Error::None, "%s", fault.text);
        }
}

int main(int, char** arguments) {
    wanted = arguments[1];
    run_all = !strcmp(wanted, "sound");
    const int m = 70, n = 64, k = 160;
    std::vector<float> c(m * n), y(2 * 200);
    std::vector<int4> a16(m * k / 8 + 1), b16(n * k / 8 + 1);
    auto* a = reinterpret_cast<const __nv_bfloat16*>(a16.data());
    auto* b = reinterpret_cast<const __nv_bfloat16*>(b16.data());
    const size_t shared = 3 * 128 * 64;
#define GEMM(name) run<name>(#name, "gemm_bf16", dim3(1, 2), 128, shared, a, b, c.data(), m, n, k)
    GEMM(gemm_bf16);
    GEMM(gemm_bf16_no_barrier_after_wait);
    GEMM(gemm_bf16_early_refill);

    std::vector<int32_t> c32(32 * 32);
    auto* a8 = reinterpret_cast<const int8_t*>(a16.data());
#define GEMM8(name) run<name>(#name, "gemm_s8", 1, 64, 0, a8, a8, c32.data(), 32, 192)
    GEMM8(gemm_s8);
    GEMM8(gemm_s8_no_barrier_before_refill);

    const float* x = reinterpret_cast<const float*>(a16.data());
#define SOFTMAX(name) run<name>(#name, "softmax", 2, 128, 0, x, y.data(), 200)
    SOFTMAX(softmax);
    SOFTMAX(softmax_shared_reuse);

    std::vector<int> values(200, 1), indices(4000);
    int count = 0;
#define COMPACT(name) run<name>(#name, "compact", 3, 96, 0, values.data(), 200, indices.data(), &count)
    COMPACT(compact);
    COMPACT(compact_racing_count);

    std::vector<int> rows = {1, 0};
    run<gather_pad>("gather_pad", "gather_pad", 2, 32, 256, reinterpret_cast<const char*>(a16.data()), rows.data(), reinterpret_cast<char*>(y.data()), 201, 256, 8);
    return report();
}
