// Allocation, copies and fills. Every range is checked: in bounds, alive, on a device this work may touch.
#include <string.h>

#include "driver.h"

namespace {

void* pointer(uintptr_t address) { return reinterpret_cast<void*>(address); }

bool find_on(void* owner, uintptr_t address, size_t bytes, simt::Range* found) {
    Device* device = static_cast<Device*>(owner);
    if (device->memory.find(address, bytes, found) || Driver::get().pinned.find(address, bytes, found)) return true;
    std::lock_guard<std::mutex> guard(device->lock);
    for (Device* peer : device->peers)
        if (peer->memory.find(address, bytes, found)) return true;
    return false;
}

std::string describe(Device* device, uintptr_t address) {
    Driver& driver = Driver::get();
    Device* owner = driver.owner_of(address);
    simt::Range range;
    if (driver.pinned.owns(address)) return driver.pinned.describe(address);
    if (!owner) return "not in memory of any device";
    if (owner != device && owner->memory.find(address, 1, &range))
        return "memory of device " + std::to_string(owner->ordinal) + ", which device " + std::to_string(device->ordinal) + " has no peer access to";
    return owner->memory.describe(address);
}

void describe_on(void* owner, uintptr_t address, char* text, size_t capacity) {
    std::string words = describe(static_cast<Device*>(owner), address);
    strncpy(text, words.c_str(), capacity - 1);
    text[capacity - 1] = 0;
}

bool is_pinned(const void* host) { return Driver::get().pinned.owns(reinterpret_cast<uintptr_t>(host)); }

/// A host pointer that points to device memory would be read as if it were plain memory.
CUresult check_host(const void* host, const char* what) {
    uintptr_t address = reinterpret_cast<uintptr_t>(host);
    Device* owner = Driver::get().owner_of(address);
    if (owner) return fail(CUDA_ERROR_INVALID_VALUE, "%s: %p is memory of device %d, not of the host", what, host, owner->ordinal);
    return CUDA_SUCCESS;
}

/// Pageable memory may be gone when a graph is replayed.
CUresult check_capturable(Stream* stream, const void* host, const char* what) {
    if (!stream->capture || is_pinned(host)) return CUDA_SUCCESS;
    stream->capture->error = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    return fail(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "%s: only pinned host memory can be copied in a capture", what);
}

/// Copies in stream order between ranges that are checked now, and again when the copy runs.
CUresult copy(Stream* stream, uintptr_t to, uintptr_t from, size_t bytes, Device* to_device, Device* from_device, const char* what) {
    return stream->submit([=]() -> CUresult {
        if (to_device) CHECK_CALL(check_range(to_device, to, bytes, what));
        if (from_device) CHECK_CALL(check_range(from_device, from, bytes, what));
        memmove(pointer(to), pointer(from), bytes);
        return CUDA_SUCCESS;
    });
}

/// The device that a device pointer belongs to; a copy, unlike a kernel, reaches every device.
CUresult device_of(uintptr_t address, size_t bytes, const char* what, Device** owner) {
    Device* device;
    CHECK_CALL(current(&device));
    *owner = Driver::get().owner_of(address);
    if (!*owner) *owner = device;
    return check_range(*owner, address, bytes, what);
}

}  // namespace

simt::Memory memory_of(Device* device) { return {device, find_on, describe_on}; }

CUresult check_range(Device* device, uintptr_t address, size_t bytes, const char* what) {
    simt::Range found;
    if (bytes == 0 || find_on(device, address, bytes, &found)) return CUDA_SUCCESS;
    // The start may be fine; then the end is what is out of bounds.
    bool starts_inside = find_on(device, address, 1, &found);
    std::string words = describe(device, starts_inside ? found.end : address);
    return fail(CUDA_ERROR_INVALID_VALUE, "%s of %zu bytes at 0x%zx: %s", what, bytes, size_t(address), words.c_str());
}

/// For libraries above the driver: whether a device may touch the range; if not, the text says why.
CUDA_API CUresult softgpu_check_range(int device, uintptr_t address, size_t bytes, char* text, size_t capacity) {
    Driver& driver = Driver::get();
    simt::Range found;
    if (device < 0 || size_t(device) >= driver.devices.size()) return fail(CUDA_ERROR_INVALID_DEVICE, "there is no device %d", device);
    Device* owner = driver.devices[device].get();
    if (bytes == 0 || find_on(owner, address, bytes, &found)) return CUDA_SUCCESS;
    describe_on(owner, find_on(owner, address, 1, &found) ? found.end : address, text, capacity);
    return CUDA_ERROR_INVALID_VALUE;
}

CUDA_API CUresult cuMemGetInfo_v2(size_t* free_bytes, size_t* total_bytes) {
    Device* device;
    CHECK_CALL(current(&device));
    *total_bytes = device->memory.capacity_bytes();
    *free_bytes = *total_bytes - device->memory.used_bytes();
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuMemAlloc_v2(CUdeviceptr* address, size_t bytes) {
    Device* device;
    CHECK_CALL(current(&device));
    if (bytes == 0) return fail(CUDA_ERROR_INVALID_VALUE, "an allocation of 0 bytes");
    *address = device->memory.allocate(bytes);
    if (*address) return CUDA_SUCCESS;
    return fail(CUDA_ERROR_OUT_OF_MEMORY, "device %d has %zu of %zu bytes in use: %zu more do not fit", device->ordinal, device->memory.used_bytes(),
                device->memory.capacity_bytes(), bytes);
}

CUDA_API CUresult cuMemAllocAsync(CUdeviceptr* address, size_t bytes, CUstream handle) {
    Stream* stream;
    CHECK_CALL(find_stream(handle, &stream));
    if (stream->capture) {
        stream->capture->error = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        return fail(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "softgpu has no allocations in graphs");
    }
    // What was freed earlier in this stream is room again.
    if (bytes > stream->device->memory.capacity_bytes() - stream->device->memory.used_bytes()) CHECK_CALL(stream->synchronize());
    Device* device;
    CHECK_CALL(current(&device));
    return cuMemAlloc_v2(address, bytes);
}

static CUresult free_now(uintptr_t address) {
    Device* owner = Driver::get().owner_of(address);
    if (owner && owner->memory.free(address)) return CUDA_SUCCESS;
    std::string words = owner ? owner->memory.describe(address) : "not device memory";
    return fail(CUDA_ERROR_INVALID_VALUE, "free of 0x%zx, which is no live allocation: %s", size_t(address), words.c_str());
}

CUDA_API CUresult cuMemFree_v2(CUdeviceptr address) {
    if (address == 0) return CUDA_SUCCESS;
    // Like the real one it waits for the work that may still use the memory.
    if (Device* owner = Driver::get().owner_of(address)) {
        std::set<Stream*> streams;
        {
            std::lock_guard<std::mutex> guard(owner->lock);
            streams = owner->streams;
        }
        owner->default_stream.synchronize();
        for (Stream* stream : streams)
            if (!stream->capture) stream->synchronize();
    }
    return free_now(address);
}

CUDA_API CUresult cuMemFreeAsync(CUdeviceptr address, CUstream handle) {
    Stream* stream;
    CUresult fault = find_stream(handle, &stream);
    if (fault == CUDA_ERROR_INVALID_HANDLE || fault == CUDA_ERROR_INVALID_CONTEXT) return fault;
    if (stream->capture) {
        stream->capture->error = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        return fail(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "softgpu has no frees in graphs");
    }
    simt::Range found;
    Device* owner = Driver::get().owner_of(address);
    if (!owner || !owner->memory.find(address, 1, &found) || found.begin != address) return free_now(address);
    return stream->submit([=] { return free_now(address); }, true);
}

CUDA_API CUresult cuMemHostAlloc(void** host, size_t bytes, unsigned) {
    *host = pointer(Driver::get().pinned.allocate(bytes));
    return *host ? CUDA_SUCCESS : fail(CUDA_ERROR_OUT_OF_MEMORY, "no room for %zu bytes of pinned memory", bytes);
}

CUDA_API CUresult cuMemAllocHost_v2(void** host, size_t bytes) { return cuMemHostAlloc(host, bytes, 0); }

CUDA_API CUresult cuMemFreeHost(void* host) {
    return Driver::get().pinned.free(reinterpret_cast<uintptr_t>(host)) ? CUDA_SUCCESS : fail(CUDA_ERROR_INVALID_VALUE, "%p is not pinned memory", host);
}

CUDA_API CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream handle) {
    const char* what = "copy from host to device";
    Stream* stream;
    Device* owner;
    CHECK_CALL(find_stream(handle, &stream));
    CHECK_CALL(check_host(from, what));
    CHECK_CALL(device_of(to, bytes, what, &owner));
    CHECK_CALL(check_capturable(stream, from, what));
    if (is_pinned(from)) return copy(stream, to, reinterpret_cast<uintptr_t>(from), bytes, owner, nullptr, what);
    // Pageable memory is staged before the call returns: the caller may free it at once.
    auto staged = std::make_shared<std::vector<char>>(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
    return stream->submit([=]() -> CUresult {
        CHECK_CALL(check_range(owner, to, bytes, what));
        memcpy(pointer(to), staged->data(), bytes);
        return CUDA_SUCCESS;
    });
}

CUDA_API CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream handle) {
    const char* what = "copy from device to host";
    Stream* stream;
    Device* owner;
    CHECK_CALL(find_stream(handle, &stream));
    CHECK_CALL(check_host(to, what));
    CHECK_CALL(device_of(from, bytes, what, &owner));
    CHECK_CALL(check_capturable(stream, to, what));
    CHECK_CALL(copy(stream, reinterpret_cast<uintptr_t>(to), from, bytes, nullptr, owner, what));
    return is_pinned(to) ? CUDA_SUCCESS : stream->synchronize();
}

CUDA_API CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream handle) {
    const char* what = "copy from device to device";
    Stream* stream;
    Device *to_owner, *from_owner;
    CHECK_CALL(find_stream(handle, &stream));
    CHECK_CALL(device_of(to, bytes, what, &to_owner));
    CHECK_CALL(device_of(from, bytes, what, &from_owner));
    return copy(stream, to, from, bytes, to_owner, from_owner, what);
}

CUDA_API CUresult cuMemcpyPeerAsync(CUdeviceptr to, CUcontext, CUdeviceptr from, CUcontext, size_t bytes, CUstream stream) {
    return cuMemcpyDtoDAsync_v2(to, from, bytes, stream);
}

CUDA_API CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
    CHECK_CALL(cuMemcpyHtoDAsync_v2(to, from, bytes, nullptr));
    Stream* stream;
    CHECK_CALL(find_stream(nullptr, &stream));
    return stream->synchronize();
}

CUDA_API CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
    CHECK_CALL(cuMemcpyDtoHAsync_v2(to, from, bytes, nullptr));
    Stream* stream;
    CHECK_CALL(find_stream(nullptr, &stream));
    return stream->synchronize();
}

CUDA_API CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    CHECK_CALL(cuMemcpyDtoDAsync_v2(to, from, bytes, nullptr));
    Stream* stream;
    CHECK_CALL(find_stream(nullptr, &stream));
    return stream->synchronize();
}

/// Fills `count` elements of 1, 2 or 4 bytes.
static CUresult fill(CUdeviceptr to, uint32_t value, size_t element, size_t count, CUstream handle) {
    Stream* stream;
    Device* owner;
    CHECK_CALL(find_stream(handle, &stream));
    CHECK_CALL(device_of(to, element * count, "memset", &owner));
    return stream->submit([=]() -> CUresult {
        CHECK_CALL(check_range(owner, to, element * count, "memset"));
        for (size_t i = 0; element > 1 && i < count; i++) memcpy(pointer(to + i * element), &value, element);
        if (element == 1) memset(pointer(to), int(value & 255), count);
        return CUDA_SUCCESS;
    });
}

CUDA_API CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream stream) { return fill(to, value, 1, count, stream); }
CUDA_API CUresult cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t count, CUstream stream) { return fill(to, value, 2, count, stream); }
CUDA_API CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, CUstream stream) { return fill(to, value, 4, count, stream); }

CUDA_API CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t count) {
    CHECK_CALL(fill(to, value, 1, count, nullptr));
    Stream* stream;
    CHECK_CALL(find_stream(nullptr, &stream));
    return stream->synchronize();
}
