// Launches a kernel from a C++ program, without the software driver: for sanitizer builds and for tests of single
// primitives. Memory is the program's own and is not checked.
#pragma once
#include "simt/device.h"

namespace simt {

struct Settings {
    Schedule schedule = Schedule::RoundRobin;
    Copies copies = Copies::Lazy;
    uint64_t seed = 1;
};

/// Runs every block of the launch on the calling thread.
template <auto Kernel, class... Args>
inline Fault launch(const char* name, dim3 grid, dim3 block, size_t dynamic_shared, const Settings& settings, Args... args) {
    void* params[] = {static_cast<void*>(&args)..., nullptr};
    Launch launch{name, Caller<Kernel>::call, params, {grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, dynamic_shared,
                  settings.schedule, settings.copies, settings.seed, {nullptr, nullptr, nullptr}};
    Worker worker;
    Fault fault;
    run_blocks(launch, 0, 1, &worker, &fault);
    return fault;
}

}  // namespace simt
