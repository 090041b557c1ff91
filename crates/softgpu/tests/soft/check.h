// What the C++ test programs share: every schedule, counted failures, one line per test.
#pragma once
#include <stdio.h>

#include <functional>

#include "simt/host.h"

inline int failures = 0;

#define CHECK(condition, ...)                                                  \
    do {                                                                       \
        if (!(condition)) {                                                    \
            if (failures++ < 20) {                                             \
                fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition); \
                fprintf(stderr, __VA_ARGS__);                                  \
                fprintf(stderr, "\n");                                         \
            }                                                                  \
        }                                                                      \
    } while (0)

/// Calls the test under every schedule and every mode of cp.async.
inline void under_all_settings(const std::function<void(const simt::Settings&)>& test, int seeds = 2) {
    for (int schedule = 0; schedule < 4; schedule++)
        for (int copies = 0; copies < 3; copies++)
            for (int seed = 1; seed <= seeds; seed++)
                test({simt::Schedule(schedule), simt::Copies(copies), uint64_t(seed)});
}

inline int report() {
    if (failures) fprintf(stderr, "%d failures\n", failures);
    return failures != 0;
}
