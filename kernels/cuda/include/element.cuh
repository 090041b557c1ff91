// Elements of tensors: conversions to and from float, and runs of them that move in one access.
#pragma once
#include "simt/device.h"

namespace cachalot {

/// e4m3 as stored, before its scale.
struct Fp8 {
    uint8_t bits;
};

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ __forceinline__ float to_float(Fp8 value) { return simt::fp8_e4m3_to_float(value.bits); }

template <class T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
    return value;
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
    return __float2bfloat16(value);
}

/// N elements side by side, aligned to their size up to 16 bytes: one load or store of up to 16 bytes.
template <class T, int N>
struct alignas(N * sizeof(T) < 16 ? N * sizeof(T) : 16) Run {
    T value[N];
};

/// The run of floats at `from`, whatever it is stored as.
template <int N, class T>
__device__ __forceinline__ Run<float, N> load_run(const T* from) {
    const Run<T, N> stored = simt::load(reinterpret_cast<const Run<T, N>*>(from));
    Run<float, N> run;
#pragma unroll
    for (int i = 0; i < N; i++) run.value[i] = to_float(stored.value[i]);
    return run;
}

template <int N, class T>
__device__ __forceinline__ void store_run(T* to, const Run<float, N>& run) {
    Run<T, N> stored;
#pragma unroll
    for (int i = 0; i < N; i++) stored.value[i] = from_float<T>(run.value[i]);
    simt::store(reinterpret_cast<Run<T, N>*>(to), stored);
}

}  // namespace cachalot
