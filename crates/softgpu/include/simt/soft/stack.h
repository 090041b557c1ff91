// Stacks, and switching between them: sixteen instructions on x86-64, ucontext elsewhere or with SIMT_UCONTEXT.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "simt/soft/sanitizer.h"

#if !defined(__x86_64__) && !defined(SIMT_UCONTEXT)
#define SIMT_UCONTEXT 1
#endif
#ifdef SIMT_UCONTEXT
#include <ucontext.h>
#endif

namespace simt {

// A power of two: a fiber finds itself by rounding its stack pointer. Untouched pages cost nothing.
#if defined(SIMT_TSAN) || defined(SIMT_ASAN)
constexpr size_t kStackBytes = 256 << 10;
#else
constexpr size_t kStackBytes = 128 << 10;
#endif
constexpr size_t kGuardBytes = 4096;
/// The top of a stack holds the address of its owner.
constexpr size_t kOwnerBytes = 64;

/// A suspended flow of control and the stack that it runs on.
struct Context {
#ifdef SIMT_UCONTEXT
    ucontext_t saved;
#else
    void* sp = nullptr;
#endif
#ifdef SIMT_TSAN
    void* tsan = nullptr;
#endif
    const void* bottom = nullptr;
    size_t bytes = 0;
#ifdef SIMT_ASAN
    void* fake_stack = nullptr;
#endif
};

/// The owner of the stack this code runs on; only device code may ask.
template <class Owner>
inline Owner& stack_owner() {
#ifdef __x86_64__
    uintptr_t sp;
    asm("movq %%rsp, %0" : "=r"(sp));
#else
    uintptr_t sp = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
#endif
    return **reinterpret_cast<Owner**>((sp | (kStackBytes - 1)) + 1 - kOwnerBytes);
}

}  // namespace simt

#ifndef SIMT_UCONTEXT
// Saves the callee-saved registers of the System V ABI on the old stack, and takes up those on the new one.
extern "C" void simt_switch_stack(void** save_sp, void* load_sp);
asm(R"(
.text
.weak simt_switch_stack
.hidden simt_switch_stack
.type simt_switch_stack, @function
simt_switch_stack:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size simt_switch_stack, .-simt_switch_stack
)");
#endif

namespace simt {

/// Makes `context` start `entry` on an empty stack when it is switched to; `entry` never returns.
SIMT_RUNTIME void start_context(Context& context, unsigned char* stack, void* owner, void (*entry)()) {
    *reinterpret_cast<void**>(stack + kStackBytes - kOwnerBytes) = owner;
    context.bottom = stack + kGuardBytes;
    context.bytes = kStackBytes - kGuardBytes - kOwnerBytes;
#ifdef SIMT_ASAN
    // The stack's last user did not return: its frames are still marked.
    __asan_unpoison_memory_region(stack + kGuardBytes, kStackBytes - kGuardBytes);
#endif
#ifdef SIMT_UCONTEXT
    getcontext(&context.saved);
    context.saved.uc_stack.ss_sp = stack + kGuardBytes;
    context.saved.uc_stack.ss_size = context.bytes;
    context.saved.uc_link = nullptr;
    makecontext(&context.saved, entry, 0);
#else
    void** sp = reinterpret_cast<void**>(stack + kStackBytes - kOwnerBytes);
    *--sp = nullptr;  // keeps the alignment that a call would leave: `entry` never returns
    *--sp = reinterpret_cast<void*>(entry);
    for (int saved = 0; saved < 6; saved++) *--sp = nullptr;
    context.sp = sp;
#endif
}

/// Suspends `from`, which is running, and takes up `to`.
SIMT_RUNTIME void switch_context(Context& from, Context& to) {
#ifdef SIMT_TSAN
    __tsan_switch_to_fiber(to.tsan, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef SIMT_ASAN
    __sanitizer_start_switch_fiber(&from.fake_stack, to.bottom, to.bytes);
#endif
#ifdef SIMT_UCONTEXT
    swapcontext(&from.saved, &to.saved);
#else
    simt_switch_stack(&from.sp, to.sp);
#endif
#ifdef SIMT_ASAN
    __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

}  // namespace simt
