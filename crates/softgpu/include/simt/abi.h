// What a shared object of kernels and the software driver say to one another: plain structs, no shared state.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace simt {

/// In which order the threads of a block run. Threads switch only where CUDA lets them meet.
enum class Schedule : int32_t {
    RoundRobin,  ///< every warp in turn, lanes in order
    Shuffled,    ///< every warp in turn, warps and lanes in random order
    Ahead,       ///< one random warp runs until it must wait for the others
    Random,      ///< random warps for random stretches
};

/// When the bytes of a cp.async land: at the wait (finds a missing wait), at once (finds a refill that comes too
/// early), or either by chance.
enum class Copies : int32_t { Lazy, Eager, Random };

/// What a faulting launch ends with; the values are the driver API's.
enum class Error : int32_t {
    None = 0,
    IllegalAddress = 700,
    Assert = 710,
    Misaligned = 716,
    LaunchFailed = 719,
};

struct Dim {
    uint32_t x, y, z;
};

struct Range {
    uintptr_t begin, end;
};

/// The first error of a launch, in words: kernel, block, thread, source line, cause.
struct Fault {
    Error error;
    char text[1024];
};

/// How a launch asks about device memory. Without it (`find` null) global addresses are not checked.
struct Memory {
    void* owner;
    /// The live allocation that holds [address, address + bytes), if there is one.
    bool (*find)(void* owner, uintptr_t address, size_t bytes, Range* found);
    /// Says what lies at an address that is in no live allocation, as "..., 4 bytes past the end of ...".
    void (*describe)(void* owner, uintptr_t address, char* text, size_t capacity);
};

struct Launch {
    const char* kernel;
    void (*call)(void** params);
    void** params;
    Dim grid, block;
    size_t dynamic_shared;
    Schedule schedule;
    Copies copies;
    uint64_t seed;
    Memory memory;
};

/// What one OS thread is running, so that a SIGSEGV handler can tell a kernel's fault from the host's.
struct Worker {
    uintptr_t stacks_begin, stacks_end;
    void* block;
};

struct Kernel {
    const char* name;
    void (*call)(void** params);
    const uint32_t* param_bytes;
    uint32_t params;
};

constexpr uint32_t kAbiVersion = 1;

struct Module {
    uint32_t abi_version;
    uint32_t kernels;
    const Kernel* kernel;
    /// Runs blocks first, first + step, ... of the launch on this OS thread. False: `fault` says why.
    bool (*run)(const Launch& launch, uint64_t first, uint64_t step, Worker* worker, Fault* fault);
    /// Where a thread that faulted at `address` goes on: on its own, emptied stack, to report the fault.
    void (*redirect)(Worker* worker, uintptr_t sp, uintptr_t address, uintptr_t* new_sp, uintptr_t* new_ip);
};

}  // namespace simt

/// The symbol every shared object of kernels has.
extern "C" const simt::Module* simt_module();
