// The threads of a block: one fiber each, its warp's and block's state, and how a thread reports a fault.
#pragma once
#include <stdarg.h>
#include <stdio.h>

#include <vector>

#include "simt/abi.h"
#include "simt/soft/language.h"
#include "simt/soft/sanitizer.h"
#include "simt/soft/stack.h"

namespace simt {

constexpr unsigned kWarpLanes = 32;
constexpr unsigned kMaxThreads = 1024;
constexpr unsigned kMaxWarps = kMaxThreads / kWarpLanes;
constexpr unsigned kBarriers = 16;

/// A line of a kernel. As a default argument it names the caller's line.
struct Place {
    const char* file;
    int line;
    static constexpr Place here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
        return {file, line};
    }
    bool operator==(const Place& other) const { return line == other.line && file == other.file; }
};

/// One cp.async on its way to shared memory.
struct Copy {
    unsigned char* to;
    const unsigned char* from;
    uint8_t bytes, read;  // the rest of `bytes` is filled with zeros
    bool landed;
};

struct Block;
struct Warp;

struct Fiber {
    Context context;
    Block* block;
    Warp* warp;
    uint3 thread;
    unsigned linear, lane;
    /// What the thread waits for, for the report of a deadlock.
    const char* waits_at;
    Place waits_place;
    /// cp.async: all copies in flight, and where each committed group of them ends.
    std::vector<Copy> copies;
    std::vector<size_t> groups;
};

/// What a warp collective is, apart from its arguments.
struct Op {
    const char* name;
    /// Lanes may meet in it from different lines (only __syncwarp).
    bool any_place;
};

/// A collective for which some lanes of `mask` have not come yet.
struct Meeting {
    const Op* op;
    uint32_t mask, arrived;
    Place place;
    void* args[kWarpLanes];
};

struct Warp {
    unsigned index;
    uint32_t ready, exited;
    /// A lane waits in one of them at most.
    Meeting meetings[kWarpLanes];
    char order;  // ThreadSanitizer's tag for __syncwarp
};

/// A barrier of the block; number 0 is __syncthreads.
struct Barrier {
    unsigned expected, arrived;  // expected 0: nobody waits
    uint32_t waiting[kMaxWarps];
    int votes, result;  // of __syncthreads_count and its kin
    char order;         // ThreadSanitizer's tag
};

/// Shared memory of the running block and which of its bytes have a copy in flight.
struct Shared {
    unsigned char *dynamic, *fixed;
    size_t dynamic_bytes, fixed_bytes;
    unsigned in_flight;    // copies in flight, all threads
    uint16_t* owner;       // per 4 bytes: 1 + the thread with a copy in flight there
    size_t owners;
};

struct Block {
    const Launch* launch;
    uint3 index;
    dim3 dim, grid;
    Context host;
    Fiber* fibers;
    unsigned threads, warp_count, live;
    Warp warps[kMaxWarps];
    Barrier barriers[kBarriers];
    Shared shared;
    // Schedule: the warp on turn, its lanes and the warps that have not had their turn.
    unsigned turn_warp;
    uint32_t turn_lanes, turn_warps;
    uint64_t random;
    // Allocations that were looked up lately.
    Range recent[4];
    unsigned recent_next;
    Fiber* running;
    Fault* fault;
    char started, ended;  // ThreadSanitizer's tags
};

/// The calling CUDA thread.
inline Fiber& self() { return stack_owner<Fiber>(); }

inline unsigned lane_id() { return self().lane; }

SIMT_RUNTIME uint64_t next_random(Block& block) {
    block.random ^= block.random << 13;
    block.random ^= block.random >> 7;
    block.random ^= block.random << 17;
    return block.random * 0x2545F4914F6CDD1Dull >> 16;
}

inline const char* base_name(const char* path) {
    const char* slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/// Writes the fault of the launch. `fiber` and `place` are null where no thread or line is known.
inline void report(Block& block, const Fiber* fiber, const Place* place, Error error, const char* cause) {
    if (block.fault->error != Error::None) return;  // the first one counts
    char thread[64] = "", line[96] = "";
    if (fiber) snprintf(thread, sizeof thread, ", thread (%u,%u,%u)", fiber->thread.x, fiber->thread.y, fiber->thread.z);
    if (place) snprintf(line, sizeof line, ", %s:%d", base_name(place->file), place->line);
    block.fault->error = error;
    snprintf(block.fault->text, sizeof block.fault->text, "kernel %s, block (%u,%u,%u)%s%s: %s", block.launch->kernel,
             block.index.x, block.index.y, block.index.z, thread, line, cause);
    release(&block.ended);
}

/// Ends the launch with a fault of the calling thread.
[[noreturn]] inline void fail_at(const Place* place, Error error, const char* format, va_list values) {
    Fiber& me = self();
    char cause[768];
    vsnprintf(cause, sizeof cause, format, values);
    report(*me.block, &me, place, error, cause);
    switch_context(me.context, me.block->host);
    __builtin_unreachable();
}

[[noreturn]] __attribute__((format(printf, 3, 4))) inline void fail(Place place, Error error, const char* format, ...) {
    va_list values;
    va_start(values, format);
    fail_at(&place, error, format, values);
}

}  // namespace simt

#define threadIdx (::simt::self().thread)
#define blockIdx (::simt::self().block->index)
#define blockDim (::simt::self().block->dim)
#define gridDim (::simt::self().block->grid)
#define warpSize 32
