// Rows of the token table, decoded to float.
#include "element.cuh"
#include "fault.cuh"

namespace cachalot {

/// The part of a table that is here: its `rows` are those of the tokens from `first` on, out of `vocab_size`.
struct Shard {
    uint32_t first, rows, vocab_size;
};

/// N columns of one row of `out`: token blockIdx.x, columns by thread and blockIdx.y.
template <int N, class T>
__device__ __forceinline__ void embed(const T* table, uint32_t row, bool is_here, float* out, uint32_t dim) {
    const uint32_t at = (blockIdx.y * blockDim.x + threadIdx.x) * N;
    if (at >= dim) return;
    Run<float, N> values = {};
    if (is_here) values = load_run<N>(table + size_t(row) * dim + at);
    store_run(out + size_t(blockIdx.x) * dim + at, values);
}

/// A token that lies in another part gives zeros, so that the sum over the parts is its row.
template <class T>
__device__ __forceinline__ void embedding(Fault* fault, const T* table, const uint32_t* ids, float* out, uint32_t dim, Shard shard) {
    const uint32_t id = simt::load(ids + blockIdx.x), row = id - shard.first;
    const bool is_token = id < shard.vocab_size;
    if (!is_token && threadIdx.x == 0) report_fault(fault, kTokenId, id, shard.vocab_size);
    const bool is_here = is_token && id >= shard.first && row < shard.rows;
    if (dim % 4 == 0)
        embed<4>(table, row, is_here, out, dim);
    else
        embed<1>(table, row, is_here, out, dim);
}

}  // namespace cachalot

// table [shard.rows, dim], ids [T], out [T, dim].
#define EMBEDDING(name, T)                                                                                              \
    extern "C" __global__ void __launch_bounds__(128)                                                                   \
        name(cachalot::Fault* fault, const T* __restrict__ table, const uint32_t* __restrict__ ids, float* __restrict__ out, \
             uint32_t dim, cachalot::Shard shard) {                                                                     \
        cachalot::embedding(fault, table, ids, out, dim, shard);                                                        \
    }                                                                                                                   \
    SIMT_EXPORT(name)

EMBEDDING(embedding_f32, float)
EMBEDDING(embedding_f16, __half)
EMBEDDING(embedding_bf16, __nv_bfloat16)
