// Atomic read-modify-write on global or shared memory, checked like every other access.
#pragma once
#include <type_traits>

#include "simt/soft/access.h"

namespace simt {

/// Replaces *p by `change(*p)` in one step and returns the old value; works for floats, which have no fetch-and-add.
template <class T, class Change>
inline T atomic_update(T* p, Place place, Change change) {
    using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>>;
    check_access(p, sizeof(T), sizeof(T), "atomic", place);
    auto* word = reinterpret_cast<Bits*>(p);
    Bits seen = __atomic_load_n(word, __ATOMIC_SEQ_CST), wanted;
    T old;
    do {
        memcpy(&old, &seen, sizeof old);
        T changed = change(old);
        memcpy(&wanted, &changed, sizeof wanted);
    } while (!__atomic_compare_exchange_n(word, &seen, wanted, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    return old;
}

}  // namespace simt

// The value takes its type from the pointer alone, so that literals convert as they do in CUDA.
#define SIMT_ATOMIC(name, expression)                                                       \
    template <class T>                                                                      \
    inline T name(T* p, std::common_type_t<T> value, SIMT_HERE) {                           \
        return simt::atomic_update(p, place, [value](T old) -> T { return expression; });   \
    }
SIMT_ATOMIC(atomicAdd, old + value)
SIMT_ATOMIC(atomicSub, old - value)
SIMT_ATOMIC(atomicMax, old < value ? value : old)
SIMT_ATOMIC(atomicMin, value < old ? value : old)
SIMT_ATOMIC(atomicExch, (void(old), value))
SIMT_ATOMIC(atomicAnd, old& value)
SIMT_ATOMIC(atomicOr, old | value)
SIMT_ATOMIC(atomicXor, old ^ value)
SIMT_ATOMIC(atomicInc, old >= value ? T(0) : old + 1)
SIMT_ATOMIC(atomicDec, old == 0 || old > value ? value : old - 1)
#undef SIMT_ATOMIC

template <class T>
inline T atomicCAS(T* p, std::common_type_t<T> compare, std::common_type_t<T> value, SIMT_HERE) {
    return simt::atomic_update(p, place, [=](T old) -> T { return old == compare ? value : old; });
}
