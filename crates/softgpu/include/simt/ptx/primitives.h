// The nvcc half of device.h: each primitive is the one PTX instruction that it is named after. sm_80 and newer.
#pragma once
#include <assert.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define SIMT_DYNAMIC_SHARED(T, name)                                  \
    extern __shared__ __align__(1024) unsigned char simt_dynamic_shared[]; \
    T* name = reinterpret_cast<T*>(simt_dynamic_shared)

// Only the software driver needs a list of kernels.
#define SIMT_EXPORT(name)

namespace simt {

__device__ __forceinline__ unsigned lane_id() {
    unsigned lane;
    asm("mov.u32 %0, %%laneid;" : "=r"(lane));
    return lane;
}

__device__ __forceinline__ uint32_t shared_address(const void* p) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

template <class T>
__device__ __forceinline__ T load(const T* p) {
    return *p;
}

template <class T>
__device__ __forceinline__ void store(T* p, T value) {
    *p = value;
}

/// Reads what no thread writes while the kernel runs, past the L1 cache: weights, which are read once.
template <class T>
__device__ __forceinline__ T load_stream(const T* p) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16, "a load moves 4, 8 or 16 bytes");
    union {
        T value;
        uint32_t word[sizeof(T) / 4];
    } u;
    if constexpr (sizeof(T) == 16)
        asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                     : "=r"(u.word[0]), "=r"(u.word[1]), "=r"(u.word[2]), "=r"(u.word[3])
                     : "l"(p));
    else if constexpr (sizeof(T) == 8)
        asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(u.word[0]), "=r"(u.word[1]) : "l"(p));
    else
        asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(u.word[0]) : "l"(p));
    return u.value;
}

/// Copies 4, 8 or 16 bytes to shared memory without passing through registers; 16 bytes also pass L1 by.
template <int Bytes>
__device__ __forceinline__ void cp_async_zfill(void* shared, const void* global, int read) {
    static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16, "cp.async moves 4, 8 or 16 bytes");
    if constexpr (Bytes == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(read) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)), "l"(global), "n"(Bytes), "r"(read)
                     : "memory");
}

template <int Bytes>
__device__ __forceinline__ void cp_async(void* shared, const void* global) {
    static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16, "cp.async moves 4, 8 or 16 bytes");
    if constexpr (Bytes == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared_address(shared)), "l"(global), "n"(Bytes) : "memory");
}

__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

template <int Pending>
__device__ __forceinline__ void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

#define SIMT_LDMATRIX(suffix, modifier)                                                                          \
    __device__ __forceinline__ void ldmatrix_x1##suffix(uint32_t (&r)[1], const void* row) {                     \
        asm volatile("ldmatrix.sync.aligned.m8n8.x1" modifier ".shared.b16 {%0}, [%1];"                          \
                     : "=r"(r[0]) : "r"(shared_address(row)) : "memory");                                        \
    }                                                                                                            \
    __device__ __forceinline__ void ldmatrix_x2##suffix(uint32_t (&r)[2], const void* row) {                     \
        asm volatile("ldmatrix.sync.aligned.m8n8.x2" modifier ".shared.b16 {%0,%1}, [%2];"                       \
                     : "=r"(r[0]), "=r"(r[1]) : "r"(shared_address(row)) : "memory");                            \
    }                                                                                                            \
    __device__ __forceinline__ void ldmatrix_x4##suffix(uint32_t (&r)[4], const void* row) {                     \
        asm volatile("ldmatrix.sync.aligned.m8n8.x4" modifier ".shared.b16 {%0,%1,%2,%3}, [%4];"                 \
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");    \
    }
SIMT_LDMATRIX(, "")
SIMT_LDMATRIX(_trans, ".trans")
#undef SIMT_LDMATRIX

#define SIMT_MMA(name, Acc, constraint, types)                                                                           \
    __device__ __forceinline__ void name(Acc (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {                \
        asm volatile("mma.sync.aligned." types " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                  \
                     : "+" constraint(d[0]), "+" constraint(d[1]), "+" constraint(d[2]), "+" constraint(d[3])            \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                                    \
    }
SIMT_MMA(mma_m16n8k16_bf16, float, "f", "m16n8k16.row.col.f32.bf16.bf16.f32")
SIMT_MMA(mma_m16n8k16_f16, float, "f", "m16n8k16.row.col.f32.f16.f16.f32")
SIMT_MMA(mma_m16n8k32_s8, int32_t, "r", "m16n8k32.row.col.s32.s8.s8.s32")
SIMT_MMA(mma_m16n8k8_tf32, float, "f", "m16n8k8.row.col.f32.tf32.tf32.f32")
#undef SIMT_MMA

/// Meets the other threads that name the same barrier (1 to 15; 0 is __syncthreads).
__device__ __forceinline__ void barrier_sync(unsigned id, unsigned threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/// Counts itself in and goes on.
__device__ __forceinline__ void barrier_arrive(unsigned id, unsigned threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/// Any bitwise function of three words; the table is f(0xF0, 0xCC, 0xAA).
template <int Table>
__device__ __forceinline__ uint32_t lop3(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t d;
    asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(d) : "r"(a), "r"(b), "r"(c), "n"(Table));
    return d;
}

}  // namespace simt
