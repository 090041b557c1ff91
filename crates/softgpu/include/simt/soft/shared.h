// Shared memory of a block: where it lies, its poison, its guard, and which of its bytes have a copy in flight.
#pragma once
#include <link.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "simt/soft/fiber.h"

// Unchanged CUDA declares dynamic shared memory as an unsized extern array, which C++ cannot place.
#define SIMT_DYNAMIC_SHARED(T, name) T* name = reinterpret_cast<T*>(::simt::self().block->shared.dynamic)

namespace simt {

constexpr size_t kMaxDynamicShared = 227 << 10;
constexpr size_t kSharedAlign = 1024;
constexpr unsigned char kPoison = 0xFF;  // NaN in every float format, -1 in every integer
constexpr unsigned char kGuard = 0xA5;
constexpr size_t kGranule = 4;

/// The calling OS thread's static shared memory: all thread-local data of the object this code is compiled into.
inline Range static_shared() {
    static char anchor;
    // A thread's copy of the data exists only once the thread has touched it.
    static thread_local volatile char touched;
    touched = 1;
    struct Search {
        uintptr_t inside;
        Range found;
    } search{reinterpret_cast<uintptr_t>(&anchor), {0, 0}};
    dl_iterate_phdr(
        [](dl_phdr_info* object, size_t, void* data) {
            Search& search = *static_cast<Search*>(data);
            bool here = false;
            size_t bytes = 0;
            for (int i = 0; i < object->dlpi_phnum; i++) {
                const ElfW(Phdr)& part = object->dlpi_phdr[i];
                uintptr_t begin = object->dlpi_addr + part.p_vaddr;
                if (part.p_type == PT_LOAD) here |= search.inside - begin < part.p_memsz;
                if (part.p_type == PT_TLS) bytes = part.p_memsz;
            }
            uintptr_t data_begin = reinterpret_cast<uintptr_t>(object->dlpi_tls_data);
            if (here && data_begin) search.found = {data_begin, data_begin + bytes};
            return int(here);
        },
        &search);
    return search.found;
}

/// Room for the dynamic shared memory of any block, and a page behind it that nobody may touch.
struct SharedRoom {
    unsigned char* end;
    uint16_t* owner;
    size_t owners;

    SharedRoom() {
        constexpr size_t room = (kMaxDynamicShared + kSharedAlign - 1) / kSharedAlign * kSharedAlign;
        auto* begin = static_cast<unsigned char*>(
            mmap(nullptr, room + kGuardBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        if (begin == MAP_FAILED) abort();
        end = begin + room;
        mprotect(end, kGuardBytes, PROT_NONE);
        Range fixed = static_shared();
        owners = (room + fixed.end - fixed.begin) / kGranule + 1;
        owner = static_cast<uint16_t*>(calloc(owners, sizeof *owner));
        if (!owner) abort();
    }
};

/// Everything a block finds in shared memory is NaN, and its dynamic part ends at a guard.
SIMT_RUNTIME void prepare_shared(Block& block, SharedRoom& room, Range fixed, size_t dynamic_bytes) {
    Shared& shared = block.shared;
    size_t padded = (dynamic_bytes + kSharedAlign - 1) / kSharedAlign * kSharedAlign;
    shared.dynamic = room.end - padded;
    shared.dynamic_bytes = dynamic_bytes;
    shared.fixed = reinterpret_cast<unsigned char*>(fixed.begin);
    shared.fixed_bytes = fixed.end - fixed.begin;
    if (shared.in_flight) memset(room.owner, 0, room.owners * sizeof *room.owner);
    shared.in_flight = 0;
    shared.owner = room.owner;
    shared.owners = room.owners;
    memset(shared.dynamic, kPoison, dynamic_bytes);
    memset(shared.dynamic + dynamic_bytes, kGuard, padded - dynamic_bytes);
    if (shared.fixed_bytes) memset(shared.fixed, kPoison, shared.fixed_bytes);
}

/// After the block: nobody may have written between the end of dynamic shared memory and the guard page.
SIMT_RUNTIME void check_shared_guard(Block& block, const SharedRoom& room) {
    const unsigned char* end = block.shared.dynamic + block.shared.dynamic_bytes;
    for (const unsigned char* at = end; at < room.end; at++) {
        if (*at == kGuard) continue;
        char text[128];
        snprintf(text, sizeof text, "shared memory overflow: a write %zu bytes past the %zu bytes of dynamic shared memory",
                 size_t(at - end), block.shared.dynamic_bytes);
        return report(block, nullptr, nullptr, Error::IllegalAddress, text);
    }
}

/// Whether [p, p + bytes) lies wholly in the block's shared memory.
SIMT_RUNTIME bool in_shared(const Shared& shared, const void* p, size_t bytes) {
    auto at = static_cast<const unsigned char*>(p);
    return (at >= shared.dynamic && at + bytes <= shared.dynamic + shared.dynamic_bytes) ||
           (at >= shared.fixed && at + bytes <= shared.fixed + shared.fixed_bytes);
}

/// The bookkeeping of a byte of shared memory.
SIMT_RUNTIME uint16_t* owner_of(const Shared& shared, const void* p) {
    auto at = static_cast<const unsigned char*>(p);
    bool dynamic = at >= shared.dynamic && at < shared.dynamic + shared.dynamic_bytes;
    size_t dynamic_granules = (shared.dynamic_bytes + kGranule - 1) / kGranule;
    size_t index = dynamic ? size_t(at - shared.dynamic) / kGranule : dynamic_granules + size_t(at - shared.fixed) / kGranule;
    return shared.owner + index;
}

SIMT_RUNTIME void mark_in_flight(Shared& shared, const void* p, size_t bytes, unsigned thread) {
    shared.in_flight++;
    for (size_t byte = 0; byte < bytes; byte += kGranule)
        *owner_of(shared, static_cast<const unsigned char*>(p) + byte) = uint16_t(thread + 1);
}

SIMT_RUNTIME void mark_landed(Shared& shared, const void* p, size_t bytes) {
    shared.in_flight--;
    for (size_t byte = 0; byte < bytes; byte += kGranule) *owner_of(shared, static_cast<const unsigned char*>(p) + byte) = 0;
}

/// Ends the launch if a read would meet a cp.async that nobody has waited for yet.
SIMT_RUNTIME void check_landed(const Shared& shared, const void* p, size_t bytes, const char* what, Place place) {
    if (!shared.in_flight) return;
    for (size_t byte = 0; byte < bytes; byte += kGranule) {
        unsigned thread = *owner_of(shared, static_cast<const unsigned char*>(p) + byte);
        if (thread)
            fail(place, Error::LaunchFailed, "%s reads shared memory that a cp.async of thread %u is still writing: a missing wait or barrier",
                 what, thread - 1);
    }
}

}  // namespace simt
