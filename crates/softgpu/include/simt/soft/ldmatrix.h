// ldmatrix: 8x8 tiles of 16-bit elements from shared memory into mma fragments.
#pragma once
#include "simt/soft/access.h"

namespace simt {

struct RowAddresses {
    const void* own;
    const void* rows[kWarpLanes];
};

SIMT_RUNTIME void share_rows(RowAddresses* const* lanes, uint32_t) {
    for (unsigned lane = 0; lane < kWarpLanes; lane++)
        for (unsigned row = 0; row < kWarpLanes; row++) lanes[lane]->rows[row] = lanes[row]->own;
}

/// Lanes 8i to 8i+7 give the rows of tile i; lanes past 8 * Tiles are ignored.
template <int Tiles, bool Transposed>
inline void load_matrix(uint32_t (&fragment)[Tiles], const void* row, Place place) {
    static const Op op{Transposed ? "ldmatrix.trans" : "ldmatrix", false};
    Fiber& me = self();
    Shared& shared = me.block->shared;
    if (me.lane < 8 * Tiles) {
        check_aligned(row, 16, op.name, place);
        if (!in_shared(shared, row, 16)) fail(place, Error::IllegalAddress, "%s of 16 bytes at %p: outside the block's shared memory", op.name, row);
    }
    RowAddresses addresses;
    addresses.own = row;
    collective(op, 0xffffffffu, addresses, share_rows, place);
    // Every lane reads its own elements, so that ThreadSanitizer sees who reads what.
    unsigned major = me.lane / 4, minor = me.lane % 4 * 2;
    for (int tile = 0; tile < Tiles; tile++) {
        auto element = [&](unsigned r, unsigned c) -> uint32_t {
            auto* at = static_cast<const uint16_t*>(addresses.rows[tile * 8 + r]) + c;
            check_landed(shared, at, sizeof *at, op.name, place);
            return *at;
        };
        uint32_t low = Transposed ? element(minor, major) : element(major, minor);
        uint32_t high = Transposed ? element(minor + 1, major) : element(major, minor + 1);
        fragment[tile] = low | high << 16;
    }
}

#define SIMT_LDMATRIX(tiles)                                                                       \
    inline void ldmatrix_x##tiles(uint32_t (&fragment)[tiles], const void* row, SIMT_HERE) {       \
        load_matrix<tiles, false>(fragment, row, place);                                           \
    }                                                                                              \
    inline void ldmatrix_x##tiles##_trans(uint32_t (&fragment)[tiles], const void* row, SIMT_HERE) { \
        load_matrix<tiles, true>(fragment, row, place);                                            \
    }
SIMT_LDMATRIX(1)
SIMT_LDMATRIX(2)
SIMT_LDMATRIX(4)
#undef SIMT_LDMATRIX

}  // namespace simt
