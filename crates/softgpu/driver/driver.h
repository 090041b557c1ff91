// The driver's objects: devices, streams of tasks with a worker each, events, modules, graphs.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <unordered_set>
#include <vector>

#include "api.h"
#include "arena.h"
#include "simt/abi.h"

/// How the soft devices are and how they run kernels; read from the environment once, changed by softgpu_configure.
struct Config {
    int devices = 1;
    size_t memory_bytes;
    int threads = 1;  // OS threads per launch
    bool late_streams = false;
    std::string kernels;  // shared objects of kernels for images that are not ours, separated by ':'
    int driver_version, capability;  // as CUDA counts them: 12080 is 12.8, 80 is sm_80
    std::string failing;  // the kernel whose next launch is to fail
    std::atomic<simt::Schedule> schedule;
    std::atomic<simt::Copies> copies;
    std::atomic<uint64_t> seed;

    Config();
};

/// Work in stream order. An error makes the stream's device unusable, as a fault does on hardware.
using Task = std::function<CUresult()>;

/// A point in a stream that others can wait for.
struct Mark {
    std::mutex lock;
    std::condition_variable changed;
    bool reached = false;
    std::chrono::steady_clock::time_point at;

    void reach();
    void wait();
    bool is_reached();
};

/// A capture in progress: the tasks of all streams that joined it, in an order that respects their dependencies.
struct Capture {
    Stream* origin;
    std::vector<Task> tasks;
    std::unordered_set<Stream*> joined;  // every other stream that took part
    std::unordered_set<Stream*> forked;  // those with work that the origin has not waited for
    CUresult error = CUDA_SUCCESS;
};

struct Graph {
    std::vector<Task> tasks;
};

struct Event {
    std::mutex lock;
    std::shared_ptr<Mark> mark;        // of the last record outside a capture
    std::shared_ptr<Capture> capture;  // of the last record inside one
    Stream* stream = nullptr;          // where it was recorded
    bool timed = true;
};

struct Stream {
    Device* device;
    std::shared_ptr<Capture> capture;

    explicit Stream(Device* device) : device(device) {}
    ~Stream();

    /// Runs the task after everything submitted before; records it instead while the stream captures. After a fault
    /// of the device nothing runs any more, except what is there to let others go on (`always`).
    CUresult submit(Task task, bool always = false);
    /// Waits for everything submitted so far.
    CUresult synchronize();
    bool idle();
    /// Somebody waits for this stream's work: it may not be put off any longer.
    void hurry();

   private:
    struct Entry {
        Task task;
        bool always;
    };
    void work();

    std::mutex lock_;
    std::condition_variable changed_;
    std::deque<Entry> queue_;
    uint64_t submitted_ = 0, completed_ = 0;
    int waiting_ = 0;
    bool hurried_ = false, stop_ = false;
    std::thread worker_;
};

struct Device {
    int ordinal;
    Arena memory;
    Stream default_stream{this};
    /// The first fault; every later call reports it until the context is reset.
    std::atomic<CUresult> fault{CUDA_SUCCESS};
    std::atomic<uint64_t> launches{0};
    std::mutex lock;
    std::set<Stream*> streams;
    std::set<Device*> peers;
    int retained = 0;

    Device(int ordinal, size_t memory_bytes) : ordinal(ordinal), memory("device " + std::to_string(ordinal), memory_bytes) {}
};

/// The whole driver. It is never destroyed: workers may outlive main.
struct Driver {
    Config config;
    std::vector<std::unique_ptr<Device>> devices;
    Arena pinned{"the host (pinned)", size_t(1) << 40};
    std::mutex lock;
    std::atomic<size_t> graph_launches{0};
    std::unordered_set<const void*> handles;  // every stream, event, module, function and graph that is alive

    static Driver& get();

    template <class T>
    T* adopt(T* object) {
        std::lock_guard<std::mutex> guard(lock);
        handles.insert(object);
        return object;
    }
    bool alive(const void* object) {
        std::lock_guard<std::mutex> guard(lock);
        return handles.count(object) != 0;
    }
    bool disown(const void* object) {
        std::lock_guard<std::mutex> guard(lock);
        return handles.erase(object) != 0;
    }
    /// The device whose address space holds the address, or null.
    Device* owner_of(uintptr_t address);
};

/// The calling thread's current device; null and an error text if there is none or it has faulted.
CUresult current(Device** device);
/// The stream behind a handle; null means the current device's default stream.
CUresult find_stream(CUstream handle, Stream** stream);
/// Ends with an error if [address, address + bytes) is not live device memory that work on `device` may touch.
CUresult check_range(Device* device, uintptr_t address, size_t bytes, const char* what);
/// What launches ask about memory.
simt::Memory memory_of(Device* device);
void forget_last_error();
void install_fault_handler();
/// Marks the calling OS thread as running blocks of a module until destroyed.
struct FaultScope {
    FaultScope(const simt::Module* module, simt::Worker* worker);
    ~FaultScope();
};

#define CHECK_CALL(call) \
    if (CUresult check_result = (call)) return check_result
