// What the race drivers share. A driver is a program that launches each kernel of its stem on small shapes under
// ThreadSanitizer; a fault of a launch is a failure too. Results are the business of the tests in ../<stem>.rs.
#pragma once
#include <stdio.h>

#include <functional>
#include <vector>

#include "simt/host.h"

inline int failures = 0;

#define CHECK(condition, ...)                                                           \
    do {                                                                                \
        if (!(condition) && failures++ < 20) {                                          \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);             \
            fprintf(stderr, __VA_ARGS__), fprintf(stderr, "\n");                        \
        }                                                                               \
    } while (0)

/// In the order of the threads with late copies, and with one warp far ahead of the others and early copies.
inline void for_each_setting(const std::function<void(const simt::Settings&)>& run) {
    run({simt::Schedule::RoundRobin, simt::Copies::Lazy, 1});
    run({simt::Schedule::Ahead, simt::Copies::Eager, 2});
}

/// Launches a kernel; the words after the settings are its arguments.
#define RUN(kernel, grid, block, shared_bytes, settings, ...)                                                    \
    do {                                                                                                         \
        simt::Fault launch_fault = simt::launch<kernel>(#kernel, grid, block, shared_bytes, settings, __VA_ARGS__); \
        CHECK(launch_fault.error == simt::Error::None, "%s", launch_fault.text);                                 \
    } while (0)

inline int report() {
    if (failures) fprintf(stderr, "%d failures\n", failures);
    return failures != 0;
}
