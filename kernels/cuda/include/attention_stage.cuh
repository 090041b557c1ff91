// Rows on their way into swizzled tiles of shared memory: copied as they are, or decoded. A warp moves whole rows; what
// no row fills becomes zero, since a weight of zero does not undo a NaN.
#pragma once
#include "attention_tile.cuh"
#include "cache_row.cuh"

namespace cachalot::attention {

/// Starts the copy of `columns` values (whole chunks) to a row of the tile; zeros up to `padded`, or all if `source` is
/// null. `valid` is any readable address.
template <class T>
__device__ __forceinline__ void copy_row(const Tile<T>& tile, int row, const T* source, const void* valid, int columns, int padded) {
    for (int c = simt::lane_id(); c * Tile<T>::kChunk < padded; c += 32) {
        bool filled = source && c * Tile<T>::kChunk < columns;
        const void* from = filled ? static_cast<const void*>(source + c * Tile<T>::kChunk) : valid;
        simt::cp_async_zfill<16>(tile.chunk(row, c), from, filled ? 16 : 0);
    }
}

/// Eight (four) neighbouring e4m3 of one scale.
template <class Layout, class T>
__device__ __forceinline__ void decode_packed(T (&values)[Tile<T>::kChunk], const uint8_t* row, int column, int packed) {
    const float scale = Layout::scale(row, column, packed);
#pragma unroll
    for (int word = 0; word < Tile<T>::kChunk / 4; word++) {
        uint32_t four = *reinterpret_cast<const uint32_t*>(row + column + word * 4);
#pragma unroll
        for (int i = 0; i < 4; i++) values[word * 4 + i] = T(simt::fp8_e4m3_to_float(uint8_t(four >> 8 * i)) * scale);
    }
}

/// Decodes columns first .. first + columns of a cache row to a row of the tile, with zeros as `copy_row`.
template <class Layout, class T>
__device__ __forceinline__ void decode_row(const Tile<T>& tile, int row, cache_row::Format format, const uint8_t* source, int first,
                                           int columns, int padded, int packed) {
    constexpr int kChunk = Tile<T>::kChunk;
    for (int c = simt::lane_id() * kChunk; c < padded; c += 32 * kChunk) {
        union alignas(16) {
            T values[kChunk];
            int4 chunk;
        } u;
        if (source && format == cache_row::kPacked && c + kChunk <= packed)
            decode_packed<Layout, T>(u.values, source, c, packed);
        else
#pragma unroll
            for (int i = 0; i < kChunk; i++)
                u.values[i] = T(source && c + i < columns ? cache_row::element<Layout>(format, source, first + c + i, packed) : 0.0f);
        *reinterpret_cast<int4*>(tile.chunk(row, c / kChunk)) = u.chunk;
    }
}

}  // namespace cachalot::attention
