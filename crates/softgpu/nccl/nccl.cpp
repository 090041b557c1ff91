// The calls of libnccl that cudarc's safe layer makes, over ranks that are threads of this process. Work runs in
// stream order through the software driver, so it can be captured in graphs, and a failure faults the device.
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <atomic>

#include "clique.h"

#define NCCL_API extern "C" __attribute__((visibility("default")))

using Stream = void*;
enum ncclResult_t { ncclSuccess, ncclUnhandledCudaError, ncclSystemError, ncclInternalError, ncclInvalidArgument, ncclInvalidUsage, ncclRemoteError };
struct ncclUniqueId {
    char internal[128];
};

struct Comm {
    std::shared_ptr<Clique> clique;
    int rank, device;
    std::mutex lock;
    std::condition_variable changed;
    int in_flight = 0;
    std::string failure;
};

namespace {

thread_local std::string last_error;

ncclResult_t fail(ncclResult_t code, std::string text) {
    last_error = std::move(text);
    return code;
}

std::chrono::milliseconds deadline() {
    const char* value = getenv("SOFTGPU_NCCL_DEADLINE_MS");
    return std::chrono::milliseconds(value && atoi(value) > 0 ? atoi(value) : 20000);
}

/// A function of the software driver, which must be loaded already.
template <class F>
F driver_function(const char* name) {
    void* driver = dlopen("libcuda.so", RTLD_NOW | RTLD_NOLOAD);
    return driver ? reinterpret_cast<F>(dlsym(driver, name)) : nullptr;
}

/// One rank's part of a group, on its way through a stream; graphs keep it and run it again.
struct Batch {
    Comm* comm;
    std::vector<Call> calls;
};

int check_buffers(const Batch& batch, char* text, size_t capacity) {
    static auto check = driver_function<int (*)(int, uintptr_t, size_t, char*, size_t)>("softgpu_check_range");
    int ranks = batch.comm->clique->ranks();
    for (const Call& call : batch.calls) {
        bool sends = call.kind != Kind::Recv && !((call.kind == Kind::Broadcast) && batch.comm->rank != call.peer);
        bool receives = call.kind != Kind::Send && !(call.kind == Kind::Reduce && batch.comm->rank != call.peer);
        size_t sent = call.bytes() * (call.kind == Kind::ReduceScatter ? ranks : 1), received = call.bytes() * (call.kind == Kind::AllGather ? ranks : 1);
        if (sends && check(batch.comm->device, reinterpret_cast<uintptr_t>(call.send), sent, text, capacity)) return 1;
        if (receives && check(batch.comm->device, reinterpret_cast<uintptr_t>(call.recv), received, text, capacity)) return 1;
    }
    return 0;
}

int run_batch(void* data, char* text, size_t capacity) {
    auto& batch = *static_cast<Batch*>(data);
    Comm& comm = *batch.comm;
    {
        std::lock_guard<std::mutex> guard(comm.lock);
        comm.in_flight++;
    }
    std::string error;
    if (check_buffers(batch, text, capacity))
        error = text;
    else
        error = comm.clique->run(comm.rank, batch.calls);
    if (!error.empty()) snprintf(text, capacity, "nccl rank %d: %s", comm.rank, error.c_str());
    std::lock_guard<std::mutex> guard(comm.lock);
    comm.in_flight--;
    if (!error.empty()) comm.failure = error;
    comm.changed.notify_all();
    return !error.empty();
}

ncclResult_t enqueue(Comm* comm, Stream stream, std::vector<Call> calls) {
    using Enqueue = int (*)(Stream, int (*)(void*, char*, size_t), void*, void (*)(void*));
    static auto submit = driver_function<Enqueue>("softgpu_enqueue");
    if (!submit) return fail(ncclSystemError, "this libnccl works with softgpu's libcuda only");
    int code = submit(stream, run_batch, new Batch{comm, std::move(calls)}, [](void* data) { delete static_cast<Batch*>(data); });
    return code ? fail(ncclUnhandledCudaError, "the driver ended with error " + std::to_string(code)) : ncclSuccess;
}

struct Pending {
    Comm* comm;
    Stream stream;
    std::vector<Call> calls;
};
thread_local int group_depth = 0;
thread_local std::vector<Pending> group;

ncclResult_t submit(Comm* comm, Stream stream, const Call& call) {
    if (!comm) return fail(ncclInvalidArgument, "the communicator is null");
    if (call.type < 0 || call.type >= kTypes) return fail(ncclInvalidArgument, "data type " + std::to_string(call.type) + " is not known");
    bool has_peer = call.kind == Kind::Send || call.kind == Kind::Recv || call.kind == Kind::Broadcast || call.kind == Kind::Reduce;
    if (has_peer && (call.peer < 0 || call.peer >= comm->clique->ranks())) return fail(ncclInvalidArgument, "there is no rank " + std::to_string(call.peer));
    if (group_depth == 0) return enqueue(comm, stream, {call});
    for (Pending& pending : group)
        if (pending.comm == comm && pending.stream == stream) return pending.calls.push_back(call), ncclSuccess;
    group.push_back({comm, stream, {call}});
    return ncclSuccess;
}

Reduction reduction(int op) { return op >= 0 && op <= 4 ? Reduction(op) : Reduction::Sum; }

int current_device() {
    auto get = driver_function<int (*)(int*)>("cuCtxGetDevice");
    int device = 0;
    return get && get(&device) == 0 ? device : -1;
}

}  // namespace

NCCL_API const char* ncclGetErrorString(ncclResult_t code) {
    static const char* names[] = {"no error", "unhandled cuda error", "unhandled system error", "internal error", "invalid argument",
                                  "invalid usage", "remote process exited or there was a network error"};
    return code >= ncclSuccess && code <= ncclRemoteError ? names[code] : "unknown result code";
}

NCCL_API const char* ncclGetLastError(Comm*) { return last_error.c_str(); }

NCCL_API ncclResult_t ncclGetVersion(int* version) {
    *version = 22304;
    return ncclSuccess;
}

NCCL_API ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
    static std::atomic<uint64_t> next{1};
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "softgpu-%llu", static_cast<unsigned long long>(next++));
    return ncclSuccess;
}

NCCL_API ncclResult_t ncclCommInitRank(Comm** comm, int ranks, ncclUniqueId id, int rank) {
    static std::mutex lock;
    static std::map<std::string, std::weak_ptr<Clique>> cliques;
    if (ranks < 1 || rank < 0 || rank >= ranks) return fail(ncclInvalidArgument, "rank " + std::to_string(rank) + " of " + std::to_string(ranks));
    int device = current_device();
    if (device < 0) return fail(ncclUnhandledCudaError, "no CUDA context is current");
    std::shared_ptr<Clique> clique;
    {
        std::lock_guard<std::mutex> guard(lock);
        auto& known = cliques[std::string(id.internal, sizeof id.internal)];
        clique = known.lock();
        if (!clique) known = clique = std::make_shared<Clique>(ranks, deadline());
    }
    if (clique->ranks() != ranks) return fail(ncclInvalidArgument, "the ranks disagree on their number");
    std::string error = clique->join(rank);
    if (!error.empty()) return fail(ncclSystemError, error);
    *comm = new Comm{clique, rank, device, {}, {}, 0, {}};
    return ncclSuccess;
}

NCCL_API ncclResult_t ncclCommInitAll(Comm** comms, int ranks, const int* devices) {
    if (ranks < 1) return fail(ncclInvalidArgument, "no devices");
    auto clique = std::make_shared<Clique>(ranks, deadline());
    for (int rank = 0; rank < ranks; rank++) comms[rank] = new Comm{clique, rank, devices ? devices[rank] : rank, {}, {}, 0, {}};
    return ncclSuccess;
}

/// Waits for what has begun; whoever still needs this rank afterwards gets an error. The handle stays readable, since
/// captured graphs may hold it.
NCCL_API ncclResult_t ncclCommDestroy(Comm* comm) {
    std::unique_lock<std::mutex> guard(comm->lock);
    comm->changed.wait_for(guard, deadline(), [&] { return comm->in_flight == 0; });
    comm->clique->leave(comm->rank);
    return ncclSuccess;
}

/// Ends what has begun, from whichever thread; the rest is as above.
NCCL_API ncclResult_t ncclCommAbort(Comm* comm) {
    comm->clique->leave(comm->rank);
    return ncclCommDestroy(comm);
}

NCCL_API ncclResult_t ncclCommFinalize(Comm*) { return ncclSuccess; }

NCCL_API ncclResult_t ncclCommGetAsyncError(Comm* comm, ncclResult_t* error) {
    std::lock_guard<std::mutex> guard(comm->lock);
    *error = comm->failure.empty() ? ncclSuccess : ncclRemoteError;
    if (!comm->failure.empty()) last_error = comm->failure;
    return ncclSuccess;
}

NCCL_API ncclResult_t ncclCommCount(const Comm* comm, int* count) { return *count = comm->clique->ranks(), ncclSuccess; }
NCCL_API ncclResult_t ncclCommCuDevice(const Comm* comm, int* device) { return *device = comm->device, ncclSuccess; }
NCCL_API ncclResult_t ncclCommUserRank(const Comm* comm, int* rank) { return *rank = comm->rank, ncclSuccess; }

NCCL_API ncclResult_t ncclAllReduce(const void* send, void* recv, size_t count, int type, int op, Comm* comm, Stream stream) {
    return submit(comm, stream, {Kind::AllReduce, send, recv, count, type, reduction(op), 0});
}
NCCL_API ncclResult_t ncclReduce(const void* send, void* recv, size_t count, int type, int op, int root, Comm* comm, Stream stream) {
    return submit(comm, stream, {Kind::Reduce, send, recv, count, type, reduction(op), root});
}
NCCL_API ncclResult_t ncclBroadcast(const void* send, void* recv, size_t count, int type, int root, Comm* comm, Stream stream) {
    return submit(comm, stream, {Kind::Broadcast, send, recv, count, type, Reduction::Sum, root});
}
NCCL_API ncclResult_t ncclAllGather(const void* send, void* recv, size_t count, int type, Comm* comm, Stream stream) {
    return submit(comm, stream, {Kind::AllGather, send, recv, count, type, Reduction::Sum, 0});
}
NCCL_API ncclResult_t ncclReduceScatter(const void* send, void* recv, size_t count, int type, int op, Comm* comm, Stream stream) {
    return submit(comm, stream, {Kind::ReduceScatter, send, recv, count, type, reduction(op), 0});
}
NCCL_API ncclResult_t ncclSend(const void* send, size_t count, int type, int peer, Comm* comm, Stream stream) {
    return submit(comm, stream, {Kind::Send, send, nullptr, count, type, Reduction::Sum, peer});
}
NCCL_API ncclResult_t ncclRecv(void* recv, size_t count, int type, int peer, Comm* comm, Stream stream) {
    return submit(comm, stream, {Kind::Recv, nullptr, recv, count, type, Reduction::Sum, peer});
}

NCCL_API ncclResult_t ncclGroupStart() {
    group_depth++;
    return ncclSuccess;
}

NCCL_API ncclResult_t ncclGroupEnd() {
    if (group_depth == 0) return fail(ncclInvalidUsage, "no group was started");
    if (--group_depth > 0) return ncclSuccess;
    std::vector<Pending> ready = std::move(group);
    group.clear();
    ncclResult_t first = ncclSuccess;
    for (Pending& pending : ready) {
        ncclResult_t result = enqueue(pending.comm, pending.stream, std::move(pending.calls));
        if (first == ncclSuccess) first = result;
    }
    return first;
}
