// Parts of matrices on their way from global memory to an operand tile, eight neighbouring elements at a time: they wait
// in registers as the words they are stored in, and are decoded and scaled when the tile is free.
#pragma once
#include <type_traits>

#include "element.cuh"
#include "operand_tile.cuh"

namespace cachalot {

/// The element in the lowest bits of a word.
template <class T>
__device__ __forceinline__ float lowest(uint32_t word) {
    if constexpr (std::is_same_v<T, float>)
        return __uint_as_float(word);
    else if constexpr (std::is_same_v<T, __nv_bfloat16>)
        return __uint_as_float(word << 16);
    else if constexpr (std::is_same_v<T, __half>)
        return __half2float(__ushort_as_half(uint16_t(word)));
    else
        return simt::fp8_e4m3_to_float(uint8_t(word));
}

/// The scales of an FP8 matrix of which `first` is the first row of a window; null where elements are values.
struct Scales {
    const float* data;
    uint32_t first, block_rows, block_columns, stride;

    __device__ __forceinline__ float at(uint32_t row, uint32_t column) const {
        return simt::load(data + size_t((first + row) / block_rows) * stride + column / block_columns);
    }
};

/// Part of a matrix; what lies outside reads as zero. With `in_runs` every row starts, the part ends, and every block
/// of scales starts on a boundary of eight elements.
template <class T>
struct Window {
    const T* data;
    size_t stride;
    uint32_t rows, columns;
    bool in_runs;
    Scales scales;

    __device__ __forceinline__ bool holds(uint32_t row, uint32_t column) const { return row < rows && column < columns; }
    __device__ __forceinline__ const T* at(uint32_t row, uint32_t column) const { return data + row * stride + column; }
};

/// A thread's share of a tile: `fetch` starts its loads, `put` writes it to shared memory.
template <class T, int Rows, int Columns, int Threads>
class Passage {
    static constexpr int kCount = Rows * Columns / 8 / Threads, kWords = sizeof(T) * 2, kPerWord = 4 / sizeof(T);
    static constexpr bool kScaled = std::is_same_v<T, Fp8>;
    static_assert(Rows * Columns % (8 * Threads) == 0, "each thread moves the same number of runs");
    using Words = Run<uint32_t, kWords>;
    Words words[kCount];
    float scale[kScaled ? kCount : 1];

    __device__ static __forceinline__ int row(int i) { return (threadIdx.x + i * Threads) / (Columns / 8); }
    __device__ static __forceinline__ int column(int i) { return (threadIdx.x + i * Threads) % (Columns / 8) * 8; }

    /// Rows of odd sizes go element by element, without registers in between.
    template <class Operand>
    __device__ __forceinline__ void copy_elements(Operand* tile, const Window<T>& from, uint32_t first_row, uint32_t first_column) const {
#pragma unroll 1
        for (int i = threadIdx.x; i < Rows * Columns; i += Threads) {
            const uint32_t r = first_row + i / Columns, c = first_column + i % Columns;
            float value = 0.0f;
            if (from.holds(r, c)) {
                value = to_float(simt::load(from.at(r, c)));
                if constexpr (kScaled) value *= from.scales.at(r, c);
            }
            simt::store(tile + OperandTile<Columns>::element(i / Columns, i % Columns), from_float<Operand>(value));
        }
    }

   public:
    __device__ __forceinline__ void fetch(const Window<T>& from, uint32_t first_row, uint32_t first_column) {
        if (!from.in_runs) return;
#pragma unroll
        for (int i = 0; i < kCount; i++) {
            const uint32_t r = first_row + row(i), c = first_column + column(i);
            const bool holds = from.holds(r, c);
            words[i] = {};
            if (holds) words[i] = simt::load(reinterpret_cast<const Words*>(from.at(r, c)));
            if constexpr (kScaled) scale[i] = holds ? from.scales.at(r, c) : 1.0f;
        }
    }

    /// Of the same part as the last `fetch`.
    template <class Operand>
    __device__ __forceinline__ void put(Operand* tile, const Window<T>& from, uint32_t first_row, uint32_t first_column) const {
        if (!from.in_runs) return copy_elements(tile, from, first_row, first_column);
#pragma unroll
        for (int i = 0; i < kCount; i++) {
            Operand* to = tile + OperandTile<Columns>::offset(row(i), column(i) / 8);
            if constexpr (std::is_same_v<T, Operand>) {
                simt::store(reinterpret_cast<Words*>(to), words[i]);
            } else {
                Run<float, 8> values;
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    values.value[j] = lowest<T>(words[i].value[j / kPerWord] >> j % kPerWord * int(sizeof(T)) * 8);
                    if constexpr (kScaled) values.value[j] *= scale[i];
                }
                store_run(to, values);
            }
        }
    }
};

}  // namespace cachalot
