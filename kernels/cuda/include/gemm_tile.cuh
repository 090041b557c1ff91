// out[slot, n] = x[slot / divisor, :] . w[expert, n, :] for one tile of slots and columns: the one matrix multiplication
// behind `linear`, `swiglu` and `moe_experts`, for prefill and decode.
//
// A ring of stages is filled by cp.async with activations and packed weights; weights are decoded on the way from
// shared memory to registers, so that global memory gives each weight byte once per tile row. Scales and zero points
// (1 to 4 bytes for 32 columns, aligned to nothing) come through a register of the thread that owns them and are put
// into the stage after the multiplication that hides their latency.
//
// A tile's rows are slots: row m of a dense product, or entry of a list sorted by expert whose padding is `kNoSlot`.
// With `gated` the columns of a tile are half gate, half up, side by side in every warp, so that silu(gate) * up needs
// no exchange. A row's sum runs over k in an order that its tile shape fixes: it does not depend on the other rows.
#pragma once
#include "tile_mma.cuh"

namespace gemm {

constexpr uint32_t kNoSlot = 0xffffffffu, kNoExpert = 0xffffffffu, kNoEntries = 0xffffffffu;

/// M x N x K elements a step; the warps divide M, N and, within a step, the groups of 32 columns of K.
template <int M, int N, int K, int WarpsM, int WarpsN, int WarpsK, int Stages>
struct Tile {
    static constexpr int kM = M, kN = N, kK = K, kWarpsM = WarpsM, kWarpsN = WarpsN, kWarpsK = WarpsK, kStages = Stages;
    static constexpr int kThreads = WarpsM * WarpsN * WarpsK * 32, kGroups = K / kGroup;
    static constexpr int kWarpRows = M / WarpsM, kWarpColumns = N / WarpsN, kI = kWarpRows / 16, kJ = kWarpColumns / 8;
    static_assert(N * kGroups == kThreads, "each thread owns the scale of one row and group of a stage");
    static_assert(kGroups % WarpsK == 0 && kJ % 2 == 0 && Stages >= 3, "see the main loop");
};

/// One stack of weight matrices [E, N, K] as stored.
struct Packed {
    const unsigned char* data;
    const void* scales;           // [E, scale_rows, scale_columns]: f32, FP4: e8m0 bytes, INT4: f32 or bf16
    const unsigned char* zeros;   // INT4: like the scales
};

/// What a launch multiplies; the host writes it.
struct Problem {
    uint32_t slots;          // rows of out
    uint32_t n, k;           // of one weight matrix
    uint32_t row_tiles;      // dense: ceil(slots / M); grouped: entries of `tile_experts`
    uint32_t steps_per_split;  // steps of K for each blockIdx.z
    uint32_t divisor;        // slots per row of x
    uint32_t gated;
    uint32_t block_rows, block_columns;  // elements under one scale
    uint32_t scale_rows, scale_columns;  // scales of one expert
    uint32_t scale_bf16;     // INT4: scales are bf16
    float limit;             // of the gated product's factors; infinite for none
};

struct Arguments {
    const void* x;                  // [slots / divisor, k] of the operand type
    Packed weight, up;              // `up` only if gated
    const float* bias;              // [n] or null
    const float* x_scales;          // [slots / divisor], of int8 operands only
    const uint32_t* slots;          // [row_tiles * M], or null: slot = row
    const uint32_t* tile_experts;   // [row_tiles], or null: expert 0
    void* out;                      // [slots, n] f32; gated and not split: activations; split: f32 [splits, slots, n or 2n]
    Problem p;
};

/// A scale for the sum of a block, and the word that decoding needs.
struct Entry {
    float scale;
    uint32_t word;
};

template <class Format, class Operand, class T>
struct Stage {
    using X = SharedTile<T::kM, T::kK, int(sizeof(Operand) * 8)>;
    using W = SharedTile<T::kN, T::kK, Format::kBits>;
    static constexpr int kScales = X::kBytes + W::kBytes, kWords = kScales + (Format::kPromote ? T::kThreads * 4 : 0);
    static constexpr int kBytes = kWords + (Format::kWord ? T::kThreads * 4 : 0);
    static constexpr int kSharedBytes = kBytes * T::kStages + T::kM * 8;  // and the slot and x row of each row
    static_assert((T::kWarpsK - 1) * T::kM * T::kN * 4 <= kBytes * T::kStages, "the stages hold the sums of the other warps at the end");
};

/// One block's view of its tile.
template <class Format, class Operand, class T>
struct Block {
    using S = Stage<Format, Operand, T>;
    using Sum = typename Multiply<Operand>::Sum;
    const Arguments& args;
    unsigned char* shared;
    uint32_t* slots;   // [M] in shared memory
    uint32_t* x_rows;  // [M]
    uint32_t row_tile, column_tile, expert;
    int warp_row, warp_column, warp_k;
    uint32_t entry_at, entry_end;  // the scale that this thread reads next, and the column of K where the one after starts

    /// Neighbouring blocks share activations and weights in L2: they walk bands of eight rows of tiles.
    __device__ void place() {
        const uint32_t columns = args.p.gated ? T::kN / 2 : T::kN, column_tiles = (args.p.n + columns - 1) / columns;
        const uint32_t band = blockIdx.x / (8 * column_tiles), within = blockIdx.x % (8 * column_tiles);
        const uint32_t height = min(8u, args.p.row_tiles - band * 8);
        row_tile = band * 8 + within % height;
        column_tile = within / height;
        expert = args.tile_experts ? simt::load(args.tile_experts + row_tile) : 0;
        const int warp = threadIdx.x / 32;
        warp_column = warp % T::kWarpsN * T::kWarpColumns;
        warp_row = warp / T::kWarpsN % T::kWarpsM * T::kWarpRows;
        warp_k = warp / (T::kWarpsN * T::kWarpsM);
    }

    __device__ void read_slots() {
        if (threadIdx.x < T::kM) {
            const uint32_t row = row_tile * T::kM + threadIdx.x;
            const uint32_t slot = args.slots ? simt::load(args.slots + row) : row < args.p.slots ? row : kNoSlot;
            slots[threadIdx.x] = slot;
            x_rows[threadIdx.x] = slot == kNoSlot ? kNoSlot : slot / args.p.divisor;
        }
        __syncthreads();
    }

    /// Which matrix a column of the tile comes from, and which row of it.
    __device__ bool is_up(int column) const { return args.p.gated && column % T::kWarpColumns >= T::kWarpColumns / 2; }
    __device__ uint32_t weight_row(int column) const {
        if (!args.p.gated) return column_tile * T::kN + column;
        constexpr int half = T::kWarpColumns / 2;
        return column_tile * (T::kN / 2) + column / T::kWarpColumns * half + column % half;
    }
    // Field by field: a reference to either struct would put both into local memory.
    __device__ const unsigned char* data(int column) const { return is_up(column) ? args.up.data : args.weight.data; }
    __device__ const void* scales(int column) const { return is_up(column) ? args.up.scales : args.weight.scales; }
    __device__ const unsigned char* zeros(int column) const { return is_up(column) ? args.up.zeros : args.weight.zeros; }

    __device__ unsigned char* stage(uint32_t step) const { return shared + step % T::kStages * S::kBytes; }

    __device__ void copy(uint32_t step) const {
        unsigned char* to = stage(step);
        const auto* x = static_cast<const unsigned char*>(args.x);
        const uint32_t x_bytes = args.p.k * sizeof(Operand), w_bytes = args.p.k * Format::kBits / 8;
        S::X::template copy<T::kThreads>(to, step * S::X::kRowBytes, x_bytes, x, [&](int row) {
            const uint32_t x_row = x_rows[row];
            return x_row == kNoSlot ? nullptr : x + size_t(x_row) * x_bytes;
        });
        S::W::template copy<T::kThreads>(to + S::X::kBytes, step * S::W::kRowBytes, w_bytes, args.weight.data, [&](int column) {
            const uint32_t row = weight_row(column);
            return row < args.p.n ? data(column) + (size_t(expert) * args.p.n + row) * w_bytes : nullptr;
        });
    }

    __device__ size_t scale_index(uint32_t row, uint32_t k) const {
        return (size_t(expert) * args.p.scale_rows + row / args.p.block_rows) * args.p.scale_columns + k / args.p.block_columns;
    }

    /// Blocks that 32 columns do not divide into: only float operands multiply them, each element by its own scale.
    __device__ bool scales_elements() const { return args.p.block_columns % kGroup != 0 && args.p.block_columns < args.p.k; }

    /// A group past the end may be the one that completes the last block: it has that block's scale.
    __device__ uint32_t entry_k(uint32_t step) const {
        return min((step * T::kGroups + threadIdx.x % T::kGroups) * kGroup, args.p.k - 1);
    }

    /// Finds the scales of the row whose entries this thread reads, from step `first` on.
    __device__ void find_entries(uint32_t first) {
        if constexpr (Format::kPromote || Format::kWord) {
            const uint32_t row = weight_row(threadIdx.x / T::kGroups);
            entry_at = row < args.p.n ? uint32_t(scale_index(row, entry_k(first))) : kNoEntries;
            entry_end = (entry_k(first) / args.p.block_columns + 1) * args.p.block_columns;
        }
    }

    /// Reads this thread's entry of a step; steps come in order.
    __device__ Entry read_entry(uint32_t step) {
        Entry entry = {0.0f, 0};
        if constexpr (Format::kPromote || Format::kWord) {
            if (entry_at == kNoEntries) return entry;
            for (const uint32_t k = entry_k(step); k >= entry_end; entry_end += args.p.block_columns) entry_at++;
            const int column = threadIdx.x / T::kGroups;
            const uint32_t at = entry_at;
            if constexpr (!Format::kPromote) {
                entry.word = e8m0_to_bf16_bits(simt::load(static_cast<const unsigned char*>(scales(column)) + at)) * 0x10001u;
            } else if (sizeof(Operand) == 4 && scales_elements()) {
                entry.scale = 1.0f;
            } else if (Format::kWord && args.p.scale_bf16) {
                entry.scale = __bfloat162float(simt::load(static_cast<const __nv_bfloat16*>(scales(column)) + at));
            } else {
                entry.scale = simt::load(static_cast<const float*>(scales(column)) + at);
            }
            if constexpr (Format::kPromote && Format::kWord)
                entry.word = __bfloat16_as_ushort(__float2bfloat16(float(simt::load(zeros(column) + at)))) * 0x10001u;
        }
        return entry;
    }

    __device__ void write_entry(uint32_t step, const Entry& entry) const {
        if constexpr (Format::kPromote) reinterpret_cast<float*>(stage(step) + S::kScales)[threadIdx.x] = entry.scale;
        if constexpr (Format::kWord) reinterpret_cast<uint32_t*>(stage(step) + S::kWords)[threadIdx.x] = entry.word;
    }

    __device__ uint32_t groups_per_scale() const { return (args.p.block_columns + kGroup - 1) / kGroup; }

    /// This warp's share of one step. Sums of a scale's block move to `total` when the block or the split ends.
    /// `boundary` is the first group of K under the next scale.
    __device__ void multiply(float (&total)[T::kI][T::kJ][4], Sum (&acc)[T::kI][T::kJ][4], uint32_t step, uint32_t end,
                             uint32_t& boundary) const {
        const unsigned char* at = stage(step);
        const auto* block_scales = reinterpret_cast<const float*>(at + S::kScales);
        const auto* words = reinterpret_cast<const uint32_t*>(at + S::kWords);
        constexpr int kParts = T::kGroups / T::kWarpsK;
        // Two sets of sums leave no registers for two groups at a time.
#pragma unroll(Format::kPromote ? 1 : kParts)
        for (int part = 0; part < kParts; part++) {
            const int group = part * T::kWarpsK + warp_k;
            const auto word_of = [&](int column) { return Format::kWord ? words[column * T::kGroups + group] : 0; };
            const auto scale_elements = [&](int column, int k, float(&values)[8]) {
                if (!Format::kPromote || !scales_elements()) return;
                const uint32_t row = weight_row(column), first = step * T::kK + k;
                for (int i = 0; i < 8 && row < args.p.n && first + i < args.p.k; i++)
                    values[i] *= simt::load(static_cast<const float*>(scales(column)) + scale_index(row, first + i));
            };
            if constexpr (!Format::kPromote) {
                Multiply<Operand>::template group<Format, typename S::X, typename S::W>(total, at, at + S::X::kBytes, warp_row, warp_column, group,
                                                                                       word_of, scale_elements);
            } else {
                Multiply<Operand>::template group<Format, typename S::X, typename S::W>(acc, at, at + S::X::kBytes, warp_row, warp_column, group,
                                                                                       word_of, scale_elements);
                const bool in_step = part + 1 < kParts;
                const uint32_t next = step * T::kGroups + (in_step ? group + T::kWarpsK : T::kGroups + warp_k);
                if (next >= boundary || (!in_step && step + 1 == end))
                    promote(total, acc, warp_column, [&](int column) { return block_scales[column * T::kGroups + group]; });
                while (next >= boundary) boundary += groups_per_scale();
            }
        }
    }

    /// Adds the sums of the warps that took other groups of K, in their order, to those of the first; true for the first.
    __device__ bool reduce_warps(float (&total)[T::kI][T::kJ][4]) const {
        if constexpr (T::kWarpsK == 1) return true;
        constexpr int kWarps = T::kWarpsM * T::kWarpsN, kValues = T::kI * T::kJ * 4;
        float* sums = reinterpret_cast<float*>(shared) + (threadIdx.x % (kWarps * 32));
        __syncthreads();  // the stages are read to the end
        if (warp_k > 0)
#pragma unroll
            for (int v = 0; v < kValues; v++) sums[((warp_k - 1) * kValues + v) * kWarps * 32] = (&total[0][0][0])[v];
        __syncthreads();
        if (warp_k > 0) return false;
#pragma unroll
        for (int w = 0; w < T::kWarpsK - 1; w++)
#pragma unroll
            for (int v = 0; v < kValues; v++) (&total[0][0][0])[v] += sums[(w * kValues + v) * kWarps * 32];
        return true;
    }

    __device__ void run(float (&total)[T::kI][T::kJ][4], uint32_t first, uint32_t end) {
        Sum acc[T::kI][T::kJ][4] = {};
        find_entries(first);
        const uint32_t first_group = first * T::kGroups + warp_k;
        uint32_t boundary = Format::kPromote ? (first_group / groups_per_scale() + 1) * groups_per_scale() : 0;
        const auto load = [&](uint32_t step) {
            if (step < end) copy(step);
            simt::cp_async_commit();  // empty groups keep the count of the wait right at the end
        };
#pragma unroll
        for (int s = 0; s < T::kStages - 1; s++) {
            load(first + s);
            if (first + s < end) write_entry(first + s, read_entry(first + s));
        }
#pragma unroll 1
        for (uint32_t step = first; step < end; step++) {
            simt::cp_async_wait<T::kStages - 2>();
            __syncthreads();  // everyone's copies of this step are there, and the stage of the one before is free
            const uint32_t ahead = step + T::kStages - 1;
            load(ahead);
            Entry entry = {0.0f, 0};
            if (ahead < end) entry = read_entry(ahead);
            multiply(total, acc, step, end, boundary);
            if (ahead < end) write_entry(ahead, entry);
        }
    }
};

/// The two neighbouring columns `n` and `n + 1` of a row of `width`, as far as they are below `limit`.
template <class Value>
__device__ __forceinline__ void store_pair(Value* row, uint32_t n, uint32_t limit, uint32_t width, float a, float b) {
    struct alignas(2 * sizeof(Value)) Pair {
        Value a, b;
    };
    if (n + 1 < limit && width % 2 == 0 && n % 2 == 0) {
        simt::store(reinterpret_cast<Pair*>(row + n), Pair{Value(a), Value(b)});
        return;
    }
    if (n < limit) simt::store(row + n, Value(a));
    if (n + 1 < limit) simt::store(row + n + 1, Value(b));
}

/// silu(gate) * up, after `gate` is cut off above `limit` and `up` on both sides; an infinite limit cuts nothing. A NaN
/// stays one.
__device__ __forceinline__ float silu_times(float gate, float up, float limit) {
    gate = gate > limit ? limit : gate;
    up = up > limit ? limit : up < -limit ? -limit : up;
    return gate / (1.0f + expf(-gate)) * up;
}

/// Writes the sums: f32 with the bias, or the gated product as activations. Parts of a split product stay sums.
template <class Operand, class T, class B>
__device__ __forceinline__ void write_tile(const B& block, float (&total)[T::kI][T::kJ][4]) {
    const Arguments& args = block.args;
    const int lane = simt::lane_id();
    const uint32_t n = args.p.n, width = args.p.gated ? n * 2 : n;
    const bool fused = args.p.gated && gridDim.z == 1;
#pragma unroll
    for (int i = 0; i < T::kI; i++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const int tile_row = block.warp_row + i * 16 + lane / 4 + h * 8;
            const uint32_t slot = block.slots[tile_row];
            if (slot == kNoSlot) continue;
            if constexpr (sizeof(Operand) == 1) {
                const float scale = simt::load(args.x_scales + block.x_rows[tile_row]);
#pragma unroll
                for (int j = 0; j < T::kJ; j++) total[i][j][h * 2] *= scale, total[i][j][h * 2 + 1] *= scale;
            }
#pragma unroll
            for (int j = 0; j < T::kJ; j++) {
                const int column = block.warp_column + j * 8 + lane % 4 * 2;
                const uint32_t row = block.weight_row(column);
                float a = total[i][j][h * 2], b = total[i][j][h * 2 + 1];
                if (fused) {
                    if (j >= T::kJ / 2) continue;
                    a = silu_times(a, total[i][j + T::kJ / 2][h * 2], args.p.limit);
                    b = silu_times(b, total[i][j + T::kJ / 2][h * 2 + 1], args.p.limit);
                    store_pair(static_cast<typename Multiply<Operand>::Out*>(args.out) + size_t(slot) * n, row, n, n, a, b);
                } else {
                    const uint32_t first = block.is_up(column) ? n : 0;
                    if (args.bias && row < n) a += simt::load(args.bias + row);
                    if (args.bias && row + 1 < n) b += simt::load(args.bias + row + 1);
                    float* out = static_cast<float*>(args.out) + (size_t(blockIdx.z) * args.p.slots + slot) * width + first;
                    store_pair(out, row, n, first % 2 ? 1 : width, a, b);
                }
            }
        }
}

/// The whole kernel: blockIdx.x is a tile, blockIdx.z a part of K.
template <class Format, class Operand, class T>
__device__ __forceinline__ void multiply(const Arguments& args) {
    using S = Stage<Format, Operand, T>;
    SIMT_DYNAMIC_SHARED(unsigned char, shared);
    auto* slots = reinterpret_cast<uint32_t*>(shared + S::kBytes * T::kStages);
    Block<Format, Operand, T> block{args, shared, slots, slots + T::kM, 0, 0, 0, 0, 0, 0, 0, 0};
    block.place();
    if (block.expert == kNoExpert) return;
    block.read_slots();
    const uint32_t steps = (args.p.k + T::kK - 1) / T::kK, first = blockIdx.z * args.p.steps_per_split;
    float total[T::kI][T::kJ][4] = {};
    block.run(total, first, min(steps, first + args.p.steps_per_split));
    if (block.reduce_warps(total)) write_tile<Operand, T>(block, total);
}

}  // namespace gemm
