// Checked access to memory: alignment, bounds, use after free. `load` and `store` are plain accesses under nvcc.
#pragma once
#include "simt/soft/shared.h"
#include "simt/soft/warp.h"

namespace simt {

/// Ends the launch unless [p, p + bytes) lies in one live allocation.
SIMT_RUNTIME void check_global(const void* p, size_t bytes, const char* what, Place place) {
    Block& block = *self().block;
    const Memory& memory = block.launch->memory;
    uintptr_t at = reinterpret_cast<uintptr_t>(p);
    if (!memory.find) return;
    for (const Range& range : block.recent)
        if (at >= range.begin && at + bytes <= range.end) return;
    Range found;
    if (memory.find(memory.owner, at, bytes, &found)) {
        block.recent[block.recent_next++ % 4] = found;
        return;
    }
    char where[512];
    memory.describe(memory.owner, at, where, sizeof where);
    fail(place, Error::IllegalAddress, "%s of %zu bytes at %p: %s", what, bytes, p, where);
}

inline void check_aligned(const void* p, size_t align, const char* what, Place place) {
    if (reinterpret_cast<uintptr_t>(p) % align)
        fail(place, Error::Misaligned, "%s: misaligned address %p, %zu bytes wanted", what, p, align);
}

inline bool on_own_stack(const void* p) {
    return reinterpret_cast<uintptr_t>(p) / kStackBytes == reinterpret_cast<uintptr_t>(__builtin_frame_address(0)) / kStackBytes;
}

/// Ends the launch unless [p, p + bytes) is aligned and in shared memory, in an allocation or a local variable.
inline void check_access(const void* p, size_t bytes, size_t align, const char* what, Place place) {
    check_aligned(p, align, what, place);
    const Shared& shared = self().block->shared;
    if (in_shared(shared, p, bytes))
        check_landed(shared, p, bytes, what, place);
    else if (!on_own_stack(p))
        check_global(p, bytes, what, place);
}

/// Reads a value, vector types in one access.
template <class T>
inline T load(const T* p, SIMT_HERE) {
    check_access(p, sizeof(T), alignof(T), "load", place);
    return *p;
}

/// Reads what no thread writes while the kernel runs, past the L1 cache.
template <class T>
inline T load_stream(const T* p, SIMT_HERE) {
    check_access(p, sizeof(T), alignof(T), "load", place);
    return *p;
}

/// Writes a value, vector types in one access.
template <class T>
inline void store(T* p, T value, SIMT_HERE) {
    check_access(p, sizeof(T), alignof(T), "store", place);
    *p = value;
}

}  // namespace simt

template <class T>
inline T __ldg(const T* p, SIMT_HERE) {
    return simt::load(p, place);
}
