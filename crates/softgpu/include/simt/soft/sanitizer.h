// Tells ThreadSanitizer and AddressSanitizer about fibers and barriers; compiles to nothing without them.
#pragma once

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SIMT_TSAN 1
#endif
#if __has_feature(address_sanitizer)
#define SIMT_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define SIMT_TSAN 1
#endif
#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ASAN 1
#endif

#ifdef SIMT_TSAN
#include <sanitizer/tsan_interface.h>
// The runtime's own bookkeeping is touched by all fibers of a block and is not what is being checked.
#define SIMT_RUNTIME __attribute__((no_sanitize("thread"), noinline)) inline
#else
#define SIMT_RUNTIME inline
#endif
#ifdef SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace simt {

/// Orders everything before it in this fiber before every later `acquire` of the same tag.
inline void release([[maybe_unused]] void* tag) {
#ifdef SIMT_TSAN
    __tsan_release(tag);
#endif
}

inline void acquire([[maybe_unused]] void* tag) {
#ifdef SIMT_TSAN
    __tsan_acquire(tag);
#endif
}

}  // namespace simt
