// Turns a memory fault of a kernel into the launch's error. A fault outside a kernel goes to whoever handled such
// faults before.
#include <signal.h>
#include <string.h>
#include <ucontext.h>

#include "driver.h"

namespace {

struct Running {
    const simt::Module* module;
    simt::Worker* worker;
};

thread_local Running running{nullptr, nullptr};
struct sigaction previous[2];

void pass_on(int signal, siginfo_t* info, void* context) {
    struct sigaction& old = previous[signal == SIGBUS];
    if (old.sa_flags & SA_SIGINFO) return old.sa_sigaction(signal, info, context);
    if (old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN) return old.sa_handler(signal);
    // Back to the default; the instruction faults again and ends the process.
    sigaction(signal, &old, nullptr);
}

void handle(int signal, siginfo_t* info, void* context) {
#ifdef __x86_64__
    greg_t* registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    if (running.module) {
        uintptr_t sp = 0, ip = 0, address = reinterpret_cast<uintptr_t>(info->si_addr);
        running.module->redirect(running.worker, uintptr_t(registers[REG_RSP]), address, &sp, &ip);
        if (sp) {
            registers[REG_RSP] = greg_t(sp);
            registers[REG_RIP] = greg_t(ip);
            registers[REG_RDI] = greg_t(address);
            return;
        }
    }
#endif
    pass_on(signal, info, context);
}

/// A stack for the handler: the faulting thread's own may be what ran out.
struct HandlerStack {
    char memory[64 << 10];
    HandlerStack() {
        stack_t stack{};
        stack.ss_sp = memory;
        stack.ss_size = sizeof memory;
        stack_t old;
        if (sigaltstack(nullptr, &old) == 0 && (old.ss_flags & SS_DISABLE)) sigaltstack(&stack, nullptr);
    }
    ~HandlerStack() {
        stack_t old;
        if (sigaltstack(nullptr, &old) == 0 && old.ss_sp == memory) {
            old.ss_flags = SS_DISABLE;
            sigaltstack(&old, nullptr);
        }
    }
};

}  // namespace

void install_fault_handler() {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, &previous[0]);
    sigaction(SIGBUS, &action, &previous[1]);
}

FaultScope::FaultScope(const simt::Module* module, simt::Worker* worker) {
    static thread_local std::unique_ptr<HandlerStack> stack(new HandlerStack);
    running = {module, worker};
}

FaultScope::~FaultScope() { running = {nullptr, nullptr}; }
