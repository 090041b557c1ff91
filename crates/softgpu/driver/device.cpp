// Initialisation, devices, their attributes and their primary contexts; configuration.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "driver.h"

namespace {

/// The device that calls of this thread mean.
thread_local Device* current_device = nullptr;

std::string variable(const char* name, const char* otherwise) {
    const char* value = getenv(name);
    return value && *value ? value : otherwise;
}

/// The index of the variable's value among the names; the first if it is unset or unknown.
int choice(const char* name, std::initializer_list<const char*> names) {
    std::string value = variable(name, *names.begin());
    int index = 0;
    for (const char* candidate : names) {
        if (value == candidate) return index;
        index++;
    }
    fprintf(stderr, "softgpu: %s=%s is unknown, %s is used\n", name, value.c_str(), *names.begin());
    return 0;
}

bool initialised = false;

}  // namespace

Config::Config() {
    devices = std::min(8, std::max(1, atoi(variable("SOFTGPU_DEVICES", "1").c_str())));
    memory_bytes = size_t(std::max(1, atoi(variable("SOFTGPU_MEMORY_MIB", "2048").c_str()))) << 20;
    threads = std::max(1, atoi(variable("SOFTGPU_THREADS", "1").c_str()));
    late_streams = choice("SOFTGPU_STREAMS", {"eager", "late"}) == 1;
    kernels = variable("SOFTGPU_KERNELS", "");
    driver_version = atoi(variable("SOFTGPU_DRIVER_VERSION", "13000").c_str());
    capability = atoi(variable("SOFTGPU_CAPABILITY", "80").c_str());
    schedule = simt::Schedule(choice("SOFTGPU_SCHEDULE", {"round-robin", "shuffled", "ahead", "random"}));
    copies = simt::Copies(choice("SOFTGPU_COPIES", {"lazy", "eager", "random"}));
    seed = strtoull(variable("SOFTGPU_SEED", "1").c_str(), nullptr, 10);
}

Driver& Driver::get() {
    static Driver* driver = new Driver;
    return *driver;
}

Device* Driver::owner_of(uintptr_t address) {
    for (auto& device : devices)
        if (device->memory.owns(address)) return device.get();
    return nullptr;
}

CUresult current(Device** device) {
    if (!current_device) return fail(CUDA_ERROR_INVALID_CONTEXT, "no context is current on this thread");
    *device = current_device;
    return current_device->fault;
}

/// The number of devices, for tests that want several; it must come before cuInit.
CUDA_API CUresult softgpu_set_devices(int count) {
    if (count < 1 || count > 8) return fail(CUDA_ERROR_INVALID_VALUE, "%d devices: 1 to 8 are possible", count);
    if (initialised && size_t(count) != Driver::get().devices.size())
        return fail(CUDA_ERROR_INVALID_VALUE, "the driver is initialised with %zu devices", Driver::get().devices.size());
    Driver::get().config.devices = count;
    return CUDA_SUCCESS;
}

/// The shared objects of kernels that stand in for machine code from now on, separated by ':'.
CUDA_API CUresult softgpu_set_kernels(const char* paths) {
    Driver::get().config.kernels = paths;
    return CUDA_SUCCESS;
}

/// The next launch of this kernel fails, as by a defect of the hardware.
CUDA_API CUresult softgpu_fail_next(const char* kernel) {
    Driver::get().config.failing = kernel;
    return CUDA_SUCCESS;
}

/// How later launches run.
CUDA_API CUresult softgpu_configure(int schedule, int copies, uint64_t seed) {
    if (schedule < 0 || schedule > 3 || copies < 0 || copies > 2) return fail(CUDA_ERROR_INVALID_VALUE, "no such schedule or mode of copies");
    Config& config = Driver::get().config;
    config.schedule = simt::Schedule(schedule);
    config.copies = simt::Copies(copies);
    config.seed = seed;
    return CUDA_SUCCESS;
}

/// Clears the last error and every device's fault, as if the process had started anew; memory stays.
CUDA_API CUresult softgpu_reset_errors() {
    forget_last_error();
    for (auto& device : Driver::get().devices) device->fault = CUDA_SUCCESS;
    return CUDA_SUCCESS;
}

/// How many allocations of a device are alive: a leak check.
CUDA_API size_t softgpu_live_allocations(int device) {
    Driver& driver = Driver::get();
    return device >= 0 && size_t(device) < driver.devices.size() ? driver.devices[device]->memory.live() : 0;
}

CUDA_API CUresult cuInit(unsigned flags) {
    if (flags) return fail(CUDA_ERROR_INVALID_VALUE, "cuInit: flags must be 0");
    static std::once_flag once;
    std::call_once(once, [] {
        Driver& driver = Driver::get();
        for (int i = 0; i < driver.config.devices; i++) driver.devices.push_back(std::make_unique<Device>(i, driver.config.memory_bytes));
        install_fault_handler();
        initialised = true;
    });
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuDriverGetVersion(int* version) {
    *version = Driver::get().config.driver_version;
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuDeviceGetCount(int* count) {
    if (!initialised) return fail(CUDA_ERROR_NOT_INITIALIZED, "cuInit was not called");
    *count = int(Driver::get().devices.size());
    return CUDA_SUCCESS;
}

static CUresult find_device(int ordinal, Device** device) {
    if (!initialised) return fail(CUDA_ERROR_NOT_INITIALIZED, "cuInit was not called");
    Driver& driver = Driver::get();
    if (ordinal < 0 || size_t(ordinal) >= driver.devices.size())
        return fail(CUDA_ERROR_INVALID_DEVICE, "there is no device %d, only %zu", ordinal, driver.devices.size());
    *device = driver.devices[ordinal].get();
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuDeviceGet(CUdevice* handle, int ordinal) {
    Device* device;
    CHECK_CALL(find_device(ordinal, &device));
    *handle = ordinal;
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuDeviceGetName(char* name, int capacity, CUdevice handle) {
    Device* device;
    CHECK_CALL(find_device(handle, &device));
    snprintf(name, size_t(capacity), "softgpu (software model of sm_80)");
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuDeviceGetUuid_v2(char* uuid, CUdevice handle) {
    Device* device;
    CHECK_CALL(find_device(handle, &device));
    memcpy(uuid, "softgpu-uuid-00", 16);
    uuid[14] = char('0' + handle);
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuDeviceGetUuid(char* uuid, CUdevice handle) { return cuDeviceGetUuid_v2(uuid, handle); }

CUDA_API CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice handle) {
    Device* device;
    CHECK_CALL(find_device(handle, &device));
    *bytes = device->memory.capacity_bytes();
    return CUDA_SUCCESS;
}

/// An A100's attributes, by the numbers of CUdevice_attribute; what is not listed is 0.
CUDA_API CUresult cuDeviceGetAttribute(int* value, int attribute, CUdevice handle) {
    static const int known[][2] = {
        {1, 1024}, {2, 1024}, {3, 1024}, {4, 64},        // threads per block, block size
        {5, 2147483647}, {6, 65535}, {7, 65535},         // grid size
        {8, 49152}, {97, 166912}, {81, 167936},          // shared memory per block, opt-in, per multiprocessor
        {9, 65536}, {10, 32}, {12, 65536}, {82, 65536},  // constant memory, warp size, registers
        {16, 108}, {39, 2048}, {106, 32}, {111, 1024},   // multiprocessors, threads and blocks on each, reserved shared memory
        {13, 1410000}, {36, 1215000}, {37, 5120}, {38, 41943040},  // clocks in kHz, bus width, L2 cache
        {19, 1}, {31, 1}, {40, 3}, {41, 1}, {115, 1},    // host mapping, concurrency, copy engines, unified addresses, async alloc
    };
    Device* device;
    CHECK_CALL(find_device(handle, &device));
    *value = 0;
    for (auto& pair : known)
        if (pair[0] == attribute) *value = pair[1];
    int capability = Driver::get().config.capability;
    if (attribute == 75) *value = capability / 10;
    if (attribute == 76) *value = capability % 10;
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice handle) {
    Device* device;
    CHECK_CALL(find_device(handle, &device));
    std::lock_guard<std::mutex> guard(device->lock);
    device->retained++;
    *context = device;
    return CUDA_SUCCESS;
}

/// The last release resets the context: a fault is forgotten.
CUDA_API CUresult cuDevicePrimaryCtxRelease_v2(CUdevice handle) {
    Device* device;
    CHECK_CALL(find_device(handle, &device));
    std::lock_guard<std::mutex> guard(device->lock);
    if (device->retained == 0) return fail(CUDA_ERROR_INVALID_CONTEXT, "the primary context of device %d is not retained", handle);
    if (--device->retained == 0) device->fault = CUDA_SUCCESS;
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuDevicePrimaryCtxReset_v2(CUdevice handle) {
    Device* device;
    CHECK_CALL(find_device(handle, &device));
    device->fault = CUDA_SUCCESS;
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuCtxSetCurrent(CUcontext context) {
    current_device = context;
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuCtxGetCurrent(CUcontext* context) {
    *context = current_device;
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuCtxGetDevice(CUdevice* handle) {
    Device* device;
    CHECK_CALL(current(&device));
    *handle = device->ordinal;
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuCtxSynchronize() {
    Device* device;
    CHECK_CALL(current(&device));
    std::set<Stream*> streams;
    {
        std::lock_guard<std::mutex> guard(device->lock);
        streams = device->streams;
    }
    CHECK_CALL(device->default_stream.synchronize());
    for (Stream* stream : streams) CHECK_CALL(stream->synchronize());
    return device->fault;
}

// Settings without a counterpart here are accepted and read back as 0.
CUDA_API CUresult cuCtxSetFlags(unsigned) { return CUDA_SUCCESS; }
CUDA_API CUresult cuCtxSetLimit(int, size_t) { return CUDA_SUCCESS; }
CUDA_API CUresult cuCtxGetLimit(size_t* value, int) { return *value = 0, CUDA_SUCCESS; }
CUDA_API CUresult cuCtxSetCacheConfig(int) { return CUDA_SUCCESS; }
CUDA_API CUresult cuCtxGetCacheConfig(int* value) { return *value = 0, CUDA_SUCCESS; }
CUDA_API CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) { return *least = *greatest = 0, CUDA_SUCCESS; }

CUDA_API CUresult cuDeviceCanAccessPeer(int* can, CUdevice handle, CUdevice peer) {
    Device* device;
    CHECK_CALL(find_device(handle, &device));
    CHECK_CALL(find_device(peer, &device));
    *can = handle != peer;
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuCtxEnablePeerAccess(CUcontext peer, unsigned) {
    Device* device;
    CHECK_CALL(current(&device));
    if (peer == device) return fail(CUDA_ERROR_INVALID_DEVICE, "device %d is not its own peer", device->ordinal);
    std::lock_guard<std::mutex> guard(device->lock);
    if (!device->peers.insert(peer).second) return fail(CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED, "device %d already reaches its peer", device->ordinal);
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuCtxDisablePeerAccess(CUcontext peer) {
    Device* device;
    CHECK_CALL(current(&device));
    std::lock_guard<std::mutex> guard(device->lock);
    if (!device->peers.erase(peer)) return fail(CUDA_ERROR_PEER_ACCESS_NOT_ENABLED, "device %d does not reach its peer", device->ordinal);
    return CUDA_SUCCESS;
}
