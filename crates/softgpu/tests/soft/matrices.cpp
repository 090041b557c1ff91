// cp.async, ldmatrix and mma against plain loops, under every schedule and mode; conversions against the compiler's own.
#include <vector>

#include "check.h"

template <int Tiles>
__device__ void load_tiles(uint32_t* out, const uint16_t* rows) {
    uint32_t plain[Tiles], transposed[Tiles];
    const uint16_t* row = rows + threadIdx.x % (8 * Tiles) * 8;
    auto load = [&](auto&& straight, auto&& turned) {
        straight(plain, row);
        turned(transposed, row);
    };
    if constexpr (Tiles == 1) load([](auto& r, auto* p) { simt::ldmatrix_x1(r, p); }, [](auto& r, auto* p) { simt::ldmatrix_x1_trans(r, p); });
    if constexpr (Tiles == 2) load([](auto& r, auto* p) { simt::ldmatrix_x2(r, p); }, [](auto& r, auto* p) { simt::ldmatrix_x2_trans(r, p); });
    if constexpr (Tiles == 4) load([](auto& r, auto* p) { simt::ldmatrix_x4(r, p); }, [](auto& r, auto* p) { simt::ldmatrix_x4_trans(r, p); });
    for (int tile = 0; tile < Tiles; tile++) {
        out[(threadIdx.x * 2) * 4 + tile] = plain[tile];
        out[(threadIdx.x * 2 + 1) * 4 + tile] = transposed[tile];
    }
}

/// Brings 32 rows of eight 16-bit elements to shared memory and reads them as 1, 2 or 4 tiles.
__global__ void tiles(const uint16_t* in, uint32_t* out, int count) {
    SIMT_DYNAMIC_SHARED(uint16_t, rows);
    simt::cp_async<16>(rows + threadIdx.x * 8, in + threadIdx.x * 8);
    simt::cp_async_commit();
    simt::cp_async_wait<0>();
    __syncthreads();
    if (count == 1) load_tiles<1>(out, rows);
    if (count == 2) load_tiles<2>(out, rows);
    if (count == 4) load_tiles<4>(out, rows);
}

static void check_ldmatrix(const simt::Settings& settings) {
    alignas(16) uint16_t in[256];
    for (int i = 0; i < 256; i++) in[i] = uint16_t(i * 251 + 7);
    for (int count : {1, 2, 4}) {
        std::vector<uint32_t> out(256);
        simt::Fault fault = simt::launch<tiles>("tiles", 1, 32, 512, settings, in, out.data(), count);
        CHECK(fault.error == simt::Error::None, "%s", fault.text);
        for (int lane = 0; lane < 32; lane++)
            for (int tile = 0; tile < count; tile++) {
                auto at = [&](int row, int column) { return uint32_t(in[tile * 64 + row * 8 + column]); };
                int g = lane / 4, t = lane % 4 * 2;
                CHECK(out[lane * 8 + tile] == (at(g, t) | at(g, t + 1) << 16), "plain tile %d lane %d", tile, lane);
                CHECK(out[lane * 8 + 4 + tile] == (at(t, g) | at(t + 1, g) << 16), "transposed tile %d lane %d", tile, lane);
            }
    }
}

/// One mma on fragments that each lane packs itself, from the instruction's description: `Kind` 0 bf16, 1 f16, 2 s8, 3 tf32.
template <int Kind, class Acc, int K>
__global__ void one_mma(const float* a, const float* b, Acc* c) {
    constexpr int width = Kind == 2 ? 4 : Kind == 3 ? 1 : 2;
    const int g = threadIdx.x / 4, t = threadIdx.x % 4;
    auto bits = [](float value) -> uint32_t {
        if (Kind == 0) return __bfloat16_as_ushort(__float2bfloat16(value));
        if (Kind == 1) return __half_as_ushort(__float2half(value));
        if (Kind == 2) return uint8_t(int8_t(value));
        return __float_as_uint(value);
    };
    uint32_t fa[4] = {}, fb[2] = {};
    for (int i = 0; i < width; i++) {
        for (int r = 0; r < 4; r++) fa[r] |= bits(a[(g + r % 2 * 8) * K + t * width + r / 2 * (K / 2) + i]) << i * (32 / width) % 32;
        for (int r = 0; r < 2; r++) fb[r] |= bits(b[(t * width + r * (K / 2) + i) * 8 + g]) << i * (32 / width) % 32;
    }
    Acc acc[4] = {1, 2, 3, 4};
    if constexpr (Kind == 0) simt::mma_m16n8k16_bf16(acc, fa, fb[0], fb[1]);
    if constexpr (Kind == 1) simt::mma_m16n8k16_f16(acc, fa, fb[0], fb[1]);
    if constexpr (Kind == 2) simt::mma_m16n8k32_s8(acc, fa, fb[0], fb[1]);
    if constexpr (Kind == 3) simt::mma_m16n8k8_tf32(acc, fa, fb[0], fb[1]);
    for (int e = 0; e < 4; e++) c[(g + e / 2 * 8) * 8 + t * 2 + e % 2] = acc[e] - Acc(e + 1);
}

template <int Kind, class Acc, int K>
static void check_mma(const simt::Settings& settings) {
    std::vector<float> a(16 * K), b(K * 8);
    std::vector<Acc> c(128);
    // Small integers: exact in every element type and every order of summation.
    for (int i = 0; i < 16 * K; i++) a[i] = float(i * 7 % 15 - 7);
    for (int i = 0; i < K * 8; i++) b[i] = float(i * 5 % 13 - 6);
    simt::Fault fault = simt::launch<one_mma<Kind, Acc, K>>("one_mma", 1, 32, 0, settings, a.data(), b.data(), c.data());
    CHECK(fault.error == simt::Error::None, "%s", fault.text);
    for (int row = 0; row < 16; row++)
        for (int n = 0; n < 8; n++) {
            float want = 0;
            for (int k = 0; k < K; k++) want += a[row * K + k] * b[k * 8 + n];
            CHECK(float(c[row * 8 + n]) == want, "kind %d row %d column %d: %f, want %f", Kind, row, n, float(c[row * 8 + n]), want);
        }
}

/// Groups land in order, and only as many as the wait asks for; zero fill writes every byte.
__global__ void groups(const char* in, char* out) {
    SIMT_DYNAMIC_SHARED(char, rows);
    for (int group = 0; group < 4; group++) {
        char* row = rows + (group * 32 + threadIdx.x) * 16;
        const char* source = in + threadIdx.x * 16;
        if (group == 0) simt::cp_async_zfill<16>(row, source, int(threadIdx.x % 17));
        if (group == 1)
            for (int i = 0; i < 4; i++) simt::cp_async_zfill<4>(row + i * 4, source + i * 4, i);
        if (group == 2)
            for (int i = 0; i < 2; i++) simt::cp_async<8>(row + i * 8, source + i * 8);
        if (group == 3) simt::cp_async<16>(row, source);
        simt::cp_async_commit();
    }
    simt::cp_async_wait<2>();
    for (int i = 0; i < 32; i++) out[threadIdx.x * 64 + i] = rows[(i / 16 * 32 + threadIdx.x) * 16 + i % 16];
    simt::cp_async_wait<0>();
    for (int i = 32; i < 64; i++) out[threadIdx.x * 64 + i] = rows[(i / 16 * 32 + threadIdx.x) * 16 + i % 16];
}

static void check_groups(const simt::Settings& settings) {
    alignas(16) char in[512];
    std::vector<char> out(2048, 55);
    for (int i = 0; i < 512; i++) in[i] = char(i % 100 + 1);
    simt::Fault fault = simt::launch<groups>("groups", 1, 32, 2048, settings, in, out.data());
    CHECK(fault.error == simt::Error::None, "%s", fault.text);
    for (int t = 0; t < 32; t++)
        for (int i = 0; i < 64; i++) {
            int byte = i % 16, source = in[t * 16 + byte];
            int want = i < 16 ? (byte < t % 17 ? source : 0) : i < 32 ? (byte % 4 < byte / 4 ? source : 0) : source;
            CHECK(out[t * 64 + i] == want, "thread %d byte %d: %d, want %d", t, i, out[t * 64 + i], want);
        }
}

/// Every block finds NaN in all shared memory, whatever the block before it wrote.
__global__ void poison(int* clean) {
    __shared__ float fixed[40];
    SIMT_DYNAMIC_SHARED(float, dynamic);
    if (isnan(fixed[threadIdx.x]) && isnan(dynamic[threadIdx.x])) atomicAdd(clean, 1);
    __syncthreads();
    fixed[threadIdx.x] = dynamic[threadIdx.x] = 1.0f;
}

static void check_poison(const simt::Settings& settings) {
    int clean = 0;
    simt::Fault fault = simt::launch<poison>("poison", 3, 40, 160, settings, &clean);
    CHECK(fault.error == simt::Error::None && clean == 120, "%d %s", clean, fault.text);
}

/// All 65536 halves and bf16s there and back, and the floats around them against the compiler's own _Float16.
static void check_conversions() {
    for (uint32_t bits = 0; bits < 65536; bits++) {
        float value = __half2float(__ushort_as_half(uint16_t(bits)));
        _Float16 oracle;
        memcpy(&oracle, &bits, 2);
        CHECK(value == float(oracle) || isnan(value), "half %04x", bits);
        for (float near : {value, value * 1.0004883f, value * 0.99951f, value + 2.9e-8f}) {
            _Float16 rounded = _Float16(near);
            uint16_t want;
            memcpy(&want, &rounded, 2);
            CHECK(__half_as_ushort(__float2half(near)) == want || isnan(near), "%g to half", double(near));
        }
        float wide = __bfloat162float(__ushort_as_bfloat16(uint16_t(bits)));
        CHECK(isnan(wide) || __bfloat16_as_ushort(__float2bfloat16(wide)) == bits, "bf16 %04x", bits);
        // Halfway to the next bf16 goes to the even one, a bit more goes up.
        if ((bits & 0x7f80) == 0x7f80) continue;
        CHECK(__bfloat16_as_ushort(__float2bfloat16(__uint_as_float(bits << 16 | 0x8000))) == bits + (bits & 1), "tie at %04x", bits);
        CHECK(__bfloat16_as_ushort(__float2bfloat16(__uint_as_float(bits << 16 | 0x8001))) == bits + 1, "above the tie at %04x", bits);
    }
}

static void check_packed() {
    const float fp4[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    for (int x = 0; x < 16; x++) {
        CHECK(simt::fp4_e2m1_to_float(x) == (x & 8 ? -fp4[x & 7] : fp4[x & 7]), "e2m1 %x", x);
        CHECK(simt::int4_to_int(x) == (x < 8 ? x : x - 16), "int4 %x", x);
    }
    for (int x = 0; x < 256; x++) {
        int exponent = x >> 3 & 15, fraction = x & 7;
        float want = exponent ? ldexpf(float(8 + fraction), exponent - 10) : ldexpf(float(fraction), -9);
        float got = simt::fp8_e4m3_to_float(uint8_t(x));
        bool nan = (x & 127) == 127;
        CHECK(nan ? isnan(got) : got == (x & 128 ? -want : want), "e4m3 %02x: %g", x, double(got));
        CHECK(nan || float(simt::fp8_e4m3_to_bf16(uint8_t(x))) == got, "e4m3 %02x is exact in bf16", x);
    }
    __nv_bfloat162 pair = simt::fp4x2_e2m1_to_bf162(0xA7);
    CHECK(float(pair.x) == 6 && float(pair.y) == -1, "low nibble first");
    CHECK(simt::pack_bf16x2(1.0f, -2.0f) == 0xc0003f80u, "low half first");
    CHECK(__byte_perm(0x33221100, 0x77665544, 0x7502) == 0x77550022u && __byte_perm(0x80, 0, 0x1118) == 0x000000ffu, "byte permute");
    CHECK((simt::lop3<0xE8>(12, 10, 6) == ((12 & 10) | (12 & 6) | (10 & 6))), "majority of three");
    CHECK(__dp4a(0x7f80ff01, 0x02010304, 5) == 5 + 4 - 3 - 128 + 254, "dot product of bytes");
    CHECK(__brev(1) == 0x80000000u && __funnelshift_r(0x1, 0x2, 1) == 0 && __clz(1) == 31, "bits");
}

int main() {
    under_all_settings([](const simt::Settings& settings) {
        check_ldmatrix(settings);
        check_mma<0, float, 16>(settings);
        check_mma<1, float, 16>(settings);
        check_mma<2, int32_t, 32>(settings);
        check_mma<3, float, 8>(settings);
        check_groups(settings);
        check_poison(settings);
    });
    check_conversions();
    check_packed();
    return report();
}
