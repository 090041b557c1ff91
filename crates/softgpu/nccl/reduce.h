// Reductions over the ranks' buffers, for every element type: 16-bit floats are summed in f32, in order of rank.
#pragma once
#include <string.h>

#include <algorithm>
#include <vector>

#include "simt/soft/bfloat16.h"
#include "simt/soft/half.h"

enum class Reduction { Sum, Prod, Max, Min, Avg };
constexpr int kTypes = 10;
constexpr size_t kTypeBytes[kTypes] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};

template <class T, class Wide>
void reduce_as(Reduction op, const std::vector<const void*>& inputs, size_t first, size_t count, char* out) {
    for (size_t i = 0; i < count; i++) {
        Wide total{};
        for (size_t rank = 0; rank < inputs.size(); rank++) {
            T element;
            memcpy(&element, static_cast<const char*>(inputs[rank]) + (first + i) * sizeof element, sizeof element);
            Wide value = Wide(element);
            if (rank == 0) {
                total = value;
                continue;
            }
            switch (op) {
                case Reduction::Prod: total = Wide(total * value); break;
                case Reduction::Max: total = std::max(total, value); break;
                case Reduction::Min: total = std::min(total, value); break;
                default: total = Wide(total + value);
            }
        }
        if (op == Reduction::Avg) total = Wide(total / Wide(inputs.size()));
        T result = T(total);
        memcpy(out + i * sizeof result, &result, sizeof result);
    }
}

/// Reduces elements [first, first + count) of all inputs; `type` is an ncclDataType_t.
inline std::vector<char> reduce(int type, Reduction op, const std::vector<const void*>& inputs, size_t first, size_t count) {
    std::vector<char> out(count * kTypeBytes[type]);
    switch (type) {
        case 0: reduce_as<int8_t, int8_t>(op, inputs, first, count, out.data()); break;
        case 1: reduce_as<uint8_t, uint8_t>(op, inputs, first, count, out.data()); break;
        case 2: reduce_as<int32_t, int32_t>(op, inputs, first, count, out.data()); break;
        case 3: reduce_as<uint32_t, uint32_t>(op, inputs, first, count, out.data()); break;
        case 4: reduce_as<int64_t, int64_t>(op, inputs, first, count, out.data()); break;
        case 5: reduce_as<uint64_t, uint64_t>(op, inputs, first, count, out.data()); break;
        case 6: reduce_as<__half, float>(op, inputs, first, count, out.data()); break;
        case 7: reduce_as<float, float>(op, inputs, first, count, out.data()); break;
        case 8: reduce_as<double, double>(op, inputs, first, count, out.data()); break;
        default: reduce_as<__nv_bfloat16, float>(op, inputs, first, count, out.data());
    }
    return out;
}
