// Every kind of fault a thread can cause ends its launch with a message that names kernel, block, thread and cause.
#include <string>

#include "check.h"

__global__ void divergent() {
    if (threadIdx.x < 16)
        __shfl_sync(0xffffffffu, 1, 0);
    else
        __ballot_sync(0xffffffffu, 1);
}
__global__ void two_lines() {
    if (threadIdx.x < 16)
        __shfl_sync(0xffffffffu, 1, 0);
    else
        __shfl_sync(0xffffffffu, 2, 0);
}
__global__ void two_masks() { __syncwarp(threadIdx.x ? 0xffffffffu : 0x0000ffffu); }
__global__ void not_in_mask() { __syncwarp(0xfffffffeu); }
__global__ void reads_outside() {
    if (threadIdx.x < 16) __shfl_sync(0x0000ffffu, 1, 20);
}
__global__ void exited() {
    if (threadIdx.x == 5) return;
    __syncwarp();
}
__global__ void missing_lanes() { __syncwarp(); }
__global__ void deadlock() {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        simt::barrier_sync(3, 64);
}
__global__ void misaligned_copy(const char* in) {
    SIMT_DYNAMIC_SHARED(char, row);
    simt::cp_async<16>(row + 16 * threadIdx.x, in + (threadIdx.x == 7 ? 4 : 0));
}
__global__ void misaligned_row() {
    SIMT_DYNAMIC_SHARED(char, row);
    uint32_t fragment[4];
    simt::ldmatrix_x4(fragment, row + threadIdx.x * 8);
}
__global__ void misaligned_vector(char* in) {
    if (threadIdx.x == 3) simt::load(reinterpret_cast<const int4*>(in + 8));
}
__global__ void copy_past_shared(const char* in) {
    SIMT_DYNAMIC_SHARED(char, row);
    simt::cp_async<16>(row + 16 * threadIdx.x, in);
}
__global__ void row_past_shared() {
    SIMT_DYNAMIC_SHARED(char, row);
    uint32_t fragment[4];
    simt::ldmatrix_x4(fragment, row + threadIdx.x * 16);
}
__global__ void store_past_shared() {
    SIMT_DYNAMIC_SHARED(char, row);
    if (threadIdx.x == 9) row[500] = 1;
}
__global__ void unwaited_copy(const char* in) {
    SIMT_DYNAMIC_SHARED(char, row);
    uint32_t fragment[4];
    simt::cp_async<16>(row + 16 * threadIdx.x, in);
    simt::cp_async_commit();
    simt::ldmatrix_x4(fragment, row + 16 * threadIdx.x);
}
__global__ void trap() {
    if (threadIdx.x == 2) __trap();
}
__global__ void asserts(int n) { assert(n == 3); }

template <auto Kernel, class... Args>
static void expect(const char* name, simt::Error error, const std::string& wanted, dim3 block, size_t shared, Args... args) {
    for (int schedule = 0; schedule < 4; schedule++) {
        simt::Fault fault = simt::launch<Kernel>(name, 2, block, shared, {simt::Schedule(schedule), simt::Copies::Lazy, 5}, args...);
        std::string text = fault.error == simt::Error::None ? "" : fault.text;
        CHECK(fault.error == error, "%s, schedule %d: error %d: %s", name, schedule, int(fault.error), text.c_str());
        CHECK(text.find(std::string("kernel ") + name + ", block (") == 0, "%s: %s", name, text.c_str());
        CHECK(text.find(wanted) != std::string::npos, "%s: %s", name, text.c_str());
    }
}

int main() {
    using simt::Error;
    alignas(16) static char in[1024];
    expect<divergent>("divergent", Error::LaunchFailed, "divergent collective", 32, 0);
    expect<two_lines>("two_lines", Error::LaunchFailed, "other lanes reached it at faults.cpp:", 32, 0);
    expect<two_masks>("two_masks", Error::LaunchFailed, "divergent collective: __syncwarp with mask", 32, 0);
    expect<not_in_mask>("not_in_mask", Error::LaunchFailed, "thread (0,0,0), faults.cpp:19: __syncwarp: lane 0 is not in its own mask", 32, 0);
    expect<reads_outside>("reads_outside", Error::LaunchFailed, "reads lane 20, which is not in the mask 0x0000ffff", 32, 0);
    expect<exited>("exited", Error::LaunchFailed, "exited", 32, 0);
    expect<missing_lanes>("missing_lanes", Error::LaunchFailed, "names exited or missing lanes 0xffffff00", 8, 0);
    expect<deadlock>("deadlock", Error::LaunchFailed, "32 threads from (0,0,0) wait at __syncthreads (faults.cpp:", 64, 0);
    expect<misaligned_copy>("misaligned_copy", Error::Misaligned, "thread (7,0,0), faults.cpp:36: cp.async from global memory: misaligned", 32, 512, in);
    expect<misaligned_row>("misaligned_row", Error::Misaligned, "ldmatrix: misaligned", 32, 512);
    expect<misaligned_vector>("misaligned_vector", Error::Misaligned, "thread (3,0,0), faults.cpp:44: load: misaligned", 32, 0, in);
    expect<copy_past_shared>("copy_past_shared", Error::IllegalAddress, "outside the block's shared memory", 32, 496, in);
    expect<row_past_shared>("row_past_shared", Error::IllegalAddress, "outside the block's shared memory", 32, 496);
    expect<store_past_shared>("store_past_shared", Error::IllegalAddress, "shared memory overflow: a write 20 bytes past the 480", 32, 480);
    expect<unwaited_copy>("unwaited_copy", Error::LaunchFailed, "is still writing: a missing wait", 32, 512, in);
    expect<trap>("trap", Error::LaunchFailed, "thread (2,0,0), faults.cpp:67: __trap", 32, 0);
    expect<asserts>("asserts", Error::Assert, "assertion failed: n == 3", 32, 0, 4);
    return report();
}
