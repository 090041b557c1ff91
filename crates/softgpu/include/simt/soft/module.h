// Runs the blocks of a launch, and lists the kernels of a shared object for the software driver.
#pragma once
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <mutex>
#include <utility>

#include "simt/soft/barrier.h"
#include "simt/soft/shared.h"

namespace simt {

/// Stacks and shared memory for one block at a time, kept from launch to launch.
struct Room {
    unsigned char* stacks;
    Fiber* fibers;
    SharedRoom shared;
    Block block;
    Room* next;
    unsigned guarded = 0;

    /// Makes a stack that overflows fault, for the first `threads` stacks. Only as many as are used: each guard costs a
    /// mapping of the process, of which the system allows some 65,000 in all.
    void guard(unsigned threads) {
        for (; guarded < threads; guarded++) mprotect(stacks + guarded * kStackBytes, kGuardBytes, PROT_NONE);
    }
};

/// Hands out rooms; one per OS thread that runs blocks at the same time.
struct Rooms {
    std::mutex lock;
    Room* free = nullptr;

    static Rooms& all() {
        static Rooms* rooms = new Rooms;
        return *rooms;
    }

    Room& take() {
        std::lock_guard<std::mutex> guard(lock);
        Room* room = free;
        if (!room) return *build();
        free = room->next;
        return *room;
    }

    void give_back(Room& room) {
        std::lock_guard<std::mutex> guard(lock);
        room.next = free;
        free = &room;
    }

   private:
    static Room* build() {
        Room* room = new Room();
        size_t bytes = (kMaxThreads + 1) * kStackBytes;
        void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapped == MAP_FAILED) abort();
        uintptr_t begin = (reinterpret_cast<uintptr_t>(mapped) + kStackBytes - 1) & ~(kStackBytes - 1);
        room->stacks = reinterpret_cast<unsigned char*>(begin);
        room->fibers = new Fiber[kMaxThreads]();
#ifdef SIMT_TSAN
        for (unsigned t = 0; t < kMaxThreads; t++) room->fibers[t].context.tsan = nullptr;
#endif
        return room;
    }
};

/// The life of a CUDA thread.
inline void run_thread() {
    Fiber& me = self();
    Block& block = *me.block;
#ifdef SIMT_ASAN
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
    acquire(&block.started);
    block.launch->call(block.launch->params);
    release(&block.ended);
    exit_thread(me);
    __builtin_unreachable();
}

SIMT_RUNTIME void prepare_fiber(Block& block, Room& room, unsigned t) {
    Fiber& fiber = room.fibers[t];
    fiber.block = &block;
    fiber.warp = &block.warps[t / kWarpLanes];
    fiber.linear = t;
    fiber.lane = t % kWarpLanes;
    fiber.thread = {t % block.dim.x, t / block.dim.x % block.dim.y, t / (block.dim.x * block.dim.y)};
    fiber.copies.clear();
    fiber.groups.clear();
#ifdef SIMT_TSAN
    if (!fiber.context.tsan) fiber.context.tsan = __tsan_create_fiber(0);
#endif
    start_context(fiber.context, room.stacks + t * kStackBytes, &fiber, run_thread);
}

/// Sets up block number `linear` of the launch: nothing of the block before it is left but the stacks' pages.
SIMT_RUNTIME void prepare_block(Block& block, Room& room, Range fixed, uint64_t linear) {
    const Launch& launch = *block.launch;
    block.index = {unsigned(linear % launch.grid.x), unsigned(linear / launch.grid.x % launch.grid.y),
                   unsigned(linear / launch.grid.x / launch.grid.y)};
    block.random = (launch.seed * 0x9E3779B97F4A7C15ull ^ (linear + 1) * 0xD1B54A32D192ED03ull) | 1;
    for (int warm_up = 0; warm_up < 4; warm_up++) next_random(block);
    block.live = block.threads;
    block.turn_warp = 0;
    block.turn_lanes = block.turn_warps = 0;
    block.running = nullptr;
    for (unsigned w = 0; w < block.warp_count; w++) {
        Warp& warp = block.warps[w];
        unsigned lanes = min(kWarpLanes, block.threads - w * kWarpLanes);
        warp.index = w;
        warp.ready = uint32_t((uint64_t(1) << lanes) - 1);
        warp.exited = ~warp.ready;
        for (Meeting& meeting : warp.meetings) meeting.arrived = 0;
    }
    memset(block.barriers, 0, sizeof block.barriers);
    for (unsigned t = 0; t < block.threads; t++) prepare_fiber(block, room, t);
    prepare_shared(block, room.shared, fixed, launch.dynamic_shared);
}

/// The bounds of this OS thread's stack, for AddressSanitizer; and its ThreadSanitizer state.
inline void adopt_host([[maybe_unused]] Context& host) {
#ifdef SIMT_TSAN
    host.tsan = __tsan_get_current_fiber();
#endif
#ifdef SIMT_ASAN
    pthread_attr_t attributes;
    void* bottom;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &bottom, &host.bytes);
    host.bottom = bottom;
    pthread_attr_destroy(&attributes);
#endif
}

inline bool run_blocks(const Launch& launch, uint64_t first, uint64_t step, Worker* worker, Fault* fault) {
    Room& room = Rooms::all().take();
    Block& block = room.block;
    block.launch = &launch;
    block.dim = {launch.block.x, launch.block.y, launch.block.z};
    block.grid = {launch.grid.x, launch.grid.y, launch.grid.z};
    block.threads = launch.block.x * launch.block.y * launch.block.z;
    block.warp_count = (block.threads + kWarpLanes - 1) / kWarpLanes;
    block.fibers = room.fibers;
    room.guard(block.threads);
    block.fault = fault;
    memset(block.recent, 0, sizeof block.recent);
    fault->error = Error::None;
    adopt_host(block.host);
    uintptr_t stacks = reinterpret_cast<uintptr_t>(room.stacks);
    *worker = {stacks, stacks + kMaxThreads * kStackBytes, &block};
    Range fixed = static_shared();
    uint64_t blocks = uint64_t(launch.grid.x) * launch.grid.y * launch.grid.z;
    bool backwards = launch.schedule != Schedule::RoundRobin;
    for (uint64_t b = first; b < blocks && fault->error == Error::None; b += step) {
        prepare_block(block, room, fixed, backwards ? blocks - 1 - b : b);
        release(&block.started);
        switch_context(block.host, next_fiber(block)->context);
        acquire(&block.ended);
        if (fault->error == Error::None) check_shared_guard(block, room.shared);
    }
    *worker = {0, 0, nullptr};
    Rooms::all().give_back(room);
    return fault->error == Error::None;
}

/// Runs on the emptied stack of a thread that touched memory it must not.
inline void report_bad_access(uintptr_t address) {
    Fiber& me = self();
    const Memory& memory = me.block->launch->memory;
    const Shared& shared = me.block->shared;
    char where[512] = "not in memory of any device";
    uintptr_t stack = reinterpret_cast<uintptr_t>(__builtin_frame_address(0)) & ~(kStackBytes - 1);
    uintptr_t shared_end = reinterpret_cast<uintptr_t>(shared.dynamic + shared.dynamic_bytes);
    if (address >= stack && address < stack + kGuardBytes)
        snprintf(where, sizeof where, "stack overflow");
    else if (address >= shared_end && address < shared_end + kSharedAlign + kGuardBytes)
        snprintf(where, sizeof where, "shared memory overflow: %zu bytes past the %zu bytes of dynamic shared memory",
                 size_t(address - shared_end), shared.dynamic_bytes);
    else if (memory.describe)
        memory.describe(memory.owner, address, where, sizeof where);
    char cause[640];
    snprintf(cause, sizeof cause, "illegal access to 0x%zx: %s", size_t(address), where);
    report(*me.block, &me, nullptr, Error::IllegalAddress, cause);
    switch_context(me.context, me.block->host);
}

/// The signal handler's way out: the faulting thread goes on in `report_bad_access`, with its stack emptied.
inline void redirect(Worker* worker, uintptr_t sp, uintptr_t, uintptr_t* new_sp, uintptr_t* new_ip) {
    *new_sp = *new_ip = 0;
    if (sp < worker->stacks_begin || sp >= worker->stacks_end) return;
    *new_sp = (sp | (kStackBytes - 1)) + 1 - kOwnerBytes - 8;
    *new_ip = reinterpret_cast<uintptr_t>(report_bad_access);
}

template <class T>
inline T& param(void* storage) {
    return *static_cast<std::remove_const_t<T>*>(storage);
}

template <auto Function>
struct Caller;

/// Turns the driver's array of parameter addresses into a call.
template <class... Params, void (*Function)(Params...)>
struct Caller<Function> {
    static constexpr uint32_t count = sizeof...(Params);
    static constexpr uint32_t bytes[count + 1] = {sizeof(Params)..., 0};

    static void call(void** params) { unpack(params, std::index_sequence_for<Params...>()); }

   private:
    template <size_t... I>
    static void unpack([[maybe_unused]] void** params, std::index_sequence<I...>) {
        Function(param<Params>(params[I])...);
    }
};

/// The kernels of this shared object, in the order of their SIMT_EXPORT lines.
struct Exports {
    std::vector<Kernel> kernels;

    static Exports& all() {
        static Exports* exports = new Exports;
        return *exports;
    }

    static bool add(const Kernel& kernel) {
        all().kernels.push_back(kernel);
        return true;
    }
};

}  // namespace simt

#define SIMT_TEXT(name) #name
#define SIMT_JOIN(a, b) a##b
#define SIMT_EXPORT(name) SIMT_EXPORT_EXPANDED(name)
#define SIMT_EXPORT_EXPANDED(name)                                       \
    [[maybe_unused]] static const bool SIMT_JOIN(simt_export_, name) =   \
        ::simt::Exports::add({SIMT_TEXT(name), ::simt::Caller<name>::call, ::simt::Caller<name>::bytes, ::simt::Caller<name>::count});

extern "C" __attribute__((visibility("default"), weak)) const simt::Module* simt_module() {
    static simt::Module module;
    auto& kernels = simt::Exports::all().kernels;
    module = {simt::kAbiVersion, uint32_t(kernels.size()), kernels.data(), simt::run_blocks, simt::redirect};
    return &module;
}
