// A tile of a matrix in shared memory as packed bytes, filled by cp.async and read eight elements at a time.
//
// Lane c of each quad (c = lane % 4) owns elements 8c to 8c+7 of every 32 columns, of activations and weights alike, so
// that a fragment is one vector load whatever the element's size. Which k an mma calls its first does not matter as long
// as both operands agree. The 16-byte chunks of a row are permuted so that the lanes of one memory transaction (8 lanes
// of 16 bytes, 16 of 8 or 32 of 4: whole rows of quads) meet no bank twice.
#pragma once
#include "weight_format.cuh"

namespace gemm {

/// Columns that one quad of lanes covers with a load.
constexpr int kGroup = 32;

/// Copies 16 bytes of a row one by one, those past its end as zeros: for rows that do not start on 16-byte boundaries.
__device__ __forceinline__ void copy_bytes(unsigned char* to, const unsigned char* row, uint32_t at, uint32_t row_bytes) {
#pragma unroll 1
    for (uint32_t i = 0; i < 16; i++) simt::store(to + i, row && at + i < row_bytes ? simt::load(row + at + i) : (unsigned char)0);
}

template <int Rows, int Columns, int Bits>
struct SharedTile {
    static constexpr int kRowBytes = Columns * Bits / 8, kChunks = kRowBytes / 16, kBytes = Rows * kRowBytes;
    static constexpr int kQuadChunks = Bits == 32 ? 1 : kGroup * Bits / 128;
    static constexpr int kLineRows = kRowBytes < 128 ? 128 / kRowBytes : 1;
    static constexpr int kTurns = (kChunks < 8 ? kChunks : 8) / kQuadChunks;

    __device__ static int offset(int row, int chunk) {
        return row * kRowBytes + (chunk ^ (row / kLineRows % kTurns * kQuadChunks)) * 16;
    }

    /// Starts the copy of bytes `first` on of each row. `row_of(r)` is the row's start, or null for a row of zeros;
    /// bytes past `row_bytes` become zeros too. `anywhere` is a valid address for copies that read nothing.
    template <int Threads, class RowOf>
    __device__ static void copy(unsigned char* tile, uint32_t first, uint32_t row_bytes, const void* anywhere, RowOf row_of) {
        constexpr int kTotal = Rows * kChunks, kCopies = (kTotal + Threads - 1) / Threads;
        static_assert(kTotal % Threads == 0 || kTotal < Threads, "threads copy the same number of chunks, or the first of them one");
        if (kTotal < Threads && threadIdx.x >= kTotal) return;
        if (row_bytes % 16) {
#pragma unroll 1
            for (int i = 0; i < kCopies; i++) {
                const int index = threadIdx.x + i * Threads, row = index / kChunks, chunk = index % kChunks;
                copy_bytes(tile + offset(row, chunk), row_of(row), first + chunk * 16, row_bytes);
            }
            return;
        }
#pragma unroll
        for (int i = 0; i < kCopies; i++) {
            const int index = threadIdx.x + i * Threads, row = index / kChunks, chunk = index % kChunks;
            const unsigned char* source = row_of(row);
            const uint32_t at = first + chunk * 16;
            const bool inside = source && at < row_bytes;
            simt::cp_async_zfill<16>(tile + offset(row, chunk), inside ? source + at : anywhere, inside ? 16 : 0);
        }
    }

    /// Elements 8 * run to 8 * run + 7 of a row.
    __device__ static Raw<Bits> load(const unsigned char* tile, int row, int run) {
        Raw<Bits> raw;
        if constexpr (Bits == 4) {
            raw.word[0] = simt::load(reinterpret_cast<const uint32_t*>(tile + offset(row, run / 4) + run % 4 * 4));
        } else if constexpr (Bits == 8) {
            uint2 v = simt::load(reinterpret_cast<const uint2*>(tile + offset(row, run / 2) + run % 2 * 8));
            raw.word[0] = v.x, raw.word[1] = v.y;
        } else {
#pragma unroll
            for (int i = 0; i < Bits / 16; i++) {
                uint4 v = simt::load(reinterpret_cast<const uint4*>(tile + offset(row, run * (Bits / 16) + i)));
                raw.word[i * 4] = v.x, raw.word[i * 4 + 1] = v.y, raw.word[i * 4 + 2] = v.z, raw.word[i * 4 + 3] = v.w;
            }
        }
        return raw;
    }
};

}  // namespace gemm
