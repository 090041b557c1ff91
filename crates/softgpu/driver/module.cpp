// Modules and launches. An image is a shared object of kernels (its bytes or `softgpu:PATH`); any other image, real
// machine code or PTX for instance, stands for the kernels of the same names in the objects that SOFTGPU_KERNELS lists.
#include <dlfcn.h>
#include <elf.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "driver.h"

struct Function {
    simt::Kernel kernel;
    const simt::Module* module;
    int dynamic_shared_max = 48 << 10;  // more must be asked for, as on hardware
};

struct LoadedModule {
    std::vector<const simt::Module*> modules;
    std::vector<std::unique_ptr<Function>> functions;
    std::mutex lock;
};

namespace {

constexpr int kSharedOptIn = 166912;

CUresult open_object(const std::string& path, const simt::Module** module) {
    // Never closed: a kernel of an unloaded module may still be running.
    void* object = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!object) return fail(CUDA_ERROR_INVALID_IMAGE, "%s", dlerror());
    auto* entry = reinterpret_cast<const simt::Module* (*)()>(dlsym(object, "simt_module"));
    if (!entry) return fail(CUDA_ERROR_INVALID_IMAGE, "%s is no shared object of kernels: it has no simt_module", path.c_str());
    *module = entry();
    if ((*module)->abi_version != simt::kAbiVersion) return fail(CUDA_ERROR_INVALID_IMAGE, "%s was built with other headers: build it again", path.c_str());
    return CUDA_SUCCESS;
}

/// The size of a shared object in memory: its section headers come last.
size_t object_bytes(const void* image) {
    auto* header = static_cast<const Elf64_Ehdr*>(image);
    return header->e_shoff + size_t(header->e_shentsize) * header->e_shnum;
}

bool is_host_object(const void* image) {
    auto* header = static_cast<const Elf64_Ehdr*>(image);
    return !memcmp(header->e_ident, ELFMAG, SELFMAG) && header->e_type == ET_DYN && header->e_machine != 190 /* EM_CUDA */;
}

CUresult open_new(const std::string& image, const simt::Module** module) {
    int file = memfd_create("softgpu-kernels", MFD_CLOEXEC);
    size_t written = 0;
    while (file >= 0 && written < image.size()) {
        ssize_t step = write(file, image.data() + written, image.size() - written);
        if (step <= 0) break;
        written += size_t(step);
    }
    if (written < image.size()) return fail(CUDA_ERROR_INVALID_IMAGE, "the image could not be written to memory");
    // The file stays open, so that the next image gets another number: dlopen tells objects apart by path.
    return open_object("/proc/self/fd/" + std::to_string(file), module);
}

/// The same image is loaded once, however often a client asks.
CUresult open_bytes(const void* image, const simt::Module** module) {
    static std::mutex lock;
    static std::map<std::string, const simt::Module*> opened;
    std::lock_guard<std::mutex> guard(lock);
    std::string bytes(static_cast<const char*>(image), object_bytes(image));
    auto known = opened.find(bytes);
    if (known != opened.end()) return *module = known->second, CUDA_SUCCESS;
    CHECK_CALL(open_new(bytes, module));
    opened[bytes] = *module;
    return CUDA_SUCCESS;
}

CUresult open_listed(std::vector<const simt::Module*>* modules) {
    const std::string& list = Driver::get().config.kernels;
    if (list.empty()) return fail(CUDA_ERROR_INVALID_IMAGE, "the image holds no kernels for softgpu, and SOFTGPU_KERNELS names none");
    for (size_t begin = 0; begin < list.size();) {
        size_t end = std::min(list.find(':', begin), list.size());
        const simt::Module* module;
        CHECK_CALL(open_object(list.substr(begin, end - begin), &module));
        modules->push_back(module);
        begin = end + 1;
    }
    return CUDA_SUCCESS;
}

/// Runs the launch's blocks on as many OS threads as configured, and checks every guard afterwards.
CUresult run(Device* device, const Function& function, const simt::Launch& launch) {
    int threads = Driver::get().config.threads;
    std::vector<simt::Fault> faults(threads);
    auto share = [&](int i) {
        simt::Worker worker{};
        FaultScope scope(function.module, &worker);
        function.module->run(launch, uint64_t(i), uint64_t(threads), &worker, &faults[i]);
    };
    std::vector<std::thread> others;
    for (int i = 1; i < threads; i++) others.emplace_back(share, i);
    share(0);
    for (std::thread& other : others) other.join();
    for (const simt::Fault& fault : faults)
        if (fault.error != simt::Error::None) return fail(CUresult(fault.error), "%s", fault.text);
    std::string spoilt = device->memory.check_guards();
    if (!spoilt.empty()) return fail(CUDA_ERROR_ILLEGAL_ADDRESS, "kernel %s: %s", launch.kernel, spoilt.c_str());
    return CUDA_SUCCESS;
}

CUresult check_shape(const Function& function, simt::Dim grid, simt::Dim block, unsigned shared) {
    const char* name = function.kernel.name;
    uint64_t threads = uint64_t(block.x) * block.y * block.z;
    if (!threads || threads > 1024 || block.z > 64)
        return fail(CUDA_ERROR_INVALID_VALUE, "kernel %s: a block of %ux%ux%u threads", name, block.x, block.y, block.z);
    if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535)
        return fail(CUDA_ERROR_INVALID_VALUE, "kernel %s: a grid of %ux%ux%u blocks", name, grid.x, grid.y, grid.z);
    if (int64_t(shared) > function.dynamic_shared_max)
        return fail(CUDA_ERROR_INVALID_VALUE, "kernel %s: %u bytes of dynamic shared memory, the function's limit is %d", name, shared,
                    function.dynamic_shared_max);
    return CUDA_SUCCESS;
}

}  // namespace

CUDA_API CUresult cuModuleLoadData(CUmodule* handle, const void* image) {
    constexpr char kPrefix[] = "softgpu:";
    std::vector<const simt::Module*> modules;
    const simt::Module* module = nullptr;
    Device* device;
    CHECK_CALL(current(&device));
    const char* text = static_cast<const char*>(image);
    if (!strncmp(text, kPrefix, strlen(kPrefix))) {
        std::string path = text + strlen(kPrefix);
        CHECK_CALL(open_object(path.substr(0, path.find('\n')), &module));
    } else if (!strncmp(text, ELFMAG, SELFMAG) && is_host_object(image)) {
        CHECK_CALL(open_bytes(image, &module));
    } else {
        CHECK_CALL(open_listed(&modules));
    }
    if (module) modules.push_back(module);
    *handle = Driver::get().adopt(new LoadedModule);
    (*handle)->modules = std::move(modules);
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuModuleLoad(CUmodule* handle, const char* path) {
    FILE* file = fopen(path, "rb");
    if (!file) return fail(CUDA_ERROR_FILE_NOT_FOUND, "%s cannot be opened", path);
    std::string image;
    char part[65536];
    while (size_t bytes = fread(part, 1, sizeof part, file)) image.append(part, bytes);
    fclose(file);
    return cuModuleLoadData(handle, image.c_str());
}

CUDA_API CUresult cuModuleUnload(CUmodule handle) {
    if (!Driver::get().disown(handle)) return fail(CUDA_ERROR_INVALID_HANDLE, "no such module, or it was unloaded");
    for (auto& function : handle->functions) Driver::get().disown(function.get());
    // The object is kept: launches in flight and captured graphs hold its functions.
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuModuleGetFunction(CUfunction* handle, CUmodule module, const char* name) {
    if (!Driver::get().alive(module)) return fail(CUDA_ERROR_INVALID_HANDLE, "no such module, or it was unloaded");
    std::lock_guard<std::mutex> guard(module->lock);
    for (auto& function : module->functions)
        if (!strcmp(function->kernel.name, name)) return *handle = function.get(), CUDA_SUCCESS;
    for (const simt::Module* source : module->modules)
        for (uint32_t i = 0; i < source->kernels; i++) {
            if (strcmp(source->kernel[i].name, name)) continue;
            module->functions.push_back(std::make_unique<Function>(Function{source->kernel[i], source}));
            *handle = Driver::get().adopt(module->functions.back().get());
            return CUDA_SUCCESS;
        }
    return fail(CUDA_ERROR_NOT_FOUND, "the module has no kernel %s (is it listed with SIMT_EXPORT?)", name);
}

CUDA_API CUresult cuModuleGetGlobal_v2(CUdeviceptr*, size_t*, CUmodule, const char* name) {
    return fail(CUDA_ERROR_NOT_FOUND, "softgpu gives no address for the global %s", name);
}

static CUresult find_function(CUfunction handle) {
    return Driver::get().alive(handle) ? CUDA_SUCCESS : fail(CUDA_ERROR_INVALID_HANDLE, "no such function, or its module was unloaded");
}

/// Registers and static shared memory are the compiler's business: they read as 0 here.
CUDA_API CUresult cuFuncGetAttribute(int* value, int attribute, CUfunction handle) {
    enum { kMaxThreadsPerBlock = 0, kPtxVersion = 5, kBinaryVersion = 6, kMaxDynamicShared = 8 };
    CHECK_CALL(find_function(handle));
    *value = attribute == kMaxThreadsPerBlock                              ? 1024
             : attribute == kPtxVersion || attribute == kBinaryVersion ? 80
             : attribute == kMaxDynamicShared                            ? handle->dynamic_shared_max
                                                                         : 0;
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuFuncSetAttribute(CUfunction handle, int attribute, int value) {
    constexpr int kMaxDynamicShared = 8;
    CHECK_CALL(find_function(handle));
    if (attribute != kMaxDynamicShared) return CUDA_SUCCESS;  // the carve-out is a hint
    if (value < 0 || value > kSharedOptIn)
        return fail(CUDA_ERROR_INVALID_VALUE, "kernel %s: %d bytes of dynamic shared memory, sm_80 has %d", handle->kernel.name, value, kSharedOptIn);
    handle->dynamic_shared_max = value;
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuFuncSetCacheConfig(CUfunction handle, int) { return find_function(handle); }

/// By threads and dynamic shared memory alone: the true number also depends on registers.
CUDA_API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, CUfunction handle, int threads, size_t shared, unsigned) {
    CHECK_CALL(find_function(handle));
    if (threads < 1 || threads > 1024) return fail(CUDA_ERROR_INVALID_VALUE, "a block of %d threads", threads);
    *blocks = std::min({32, 2048 / threads, int(167936 / (shared + 1024))});
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction handle, int threads, size_t shared) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, handle, threads, shared, 0);
}

CUDA_API CUresult cuLaunchKernel(CUfunction handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                                 unsigned block_z, unsigned shared, CUstream stream_handle, void** params, void** extra) {
    Stream* stream;
    CHECK_CALL(find_stream(stream_handle, &stream));
    CHECK_CALL(find_function(handle));
    simt::Dim grid{grid_x, grid_y, grid_z}, block{block_x, block_y, block_z};
    CHECK_CALL(check_shape(*handle, grid, block, shared));
    if (extra || (!params && handle->kernel.params)) return fail(CUDA_ERROR_NOT_SUPPORTED, "kernel %s: parameters come in an array of pointers", handle->kernel.name);
    // The values are read now; a graph replays them.
    auto values = std::make_shared<std::vector<std::vector<char>>>();
    for (uint32_t i = 0; i < handle->kernel.params; i++) {
        auto* begin = static_cast<const char*>(params[i]);
        values->emplace_back(begin, begin + handle->kernel.param_bytes[i]);
    }
    Device* device = stream->device;
    Function function = *handle;
    return stream->submit([=]() -> CUresult {
        Config& config = Driver::get().config;
        if (config.failing == function.kernel.name) {
            config.failing.clear();
            return fail(CUDA_ERROR_LAUNCH_FAILED, "kernel %s: a fault that a test asked for", function.kernel.name);
        }
        std::vector<void*> pointers;
        for (auto& value : *values) pointers.push_back(value.data());
        simt::Launch launch{function.kernel.name, function.kernel.call, pointers.data(), grid, block, shared, config.schedule, config.copies,
                            config.seed * 1000003 + device->launches++, memory_of(device)};
        return run(device, function, launch);
    });
}

CUDA_API CUresult cuLaunchCooperativeKernel(CUfunction handle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream, void**) {
    CHECK_CALL(find_function(handle));
    return fail(CUDA_ERROR_NOT_SUPPORTED, "kernel %s: blocks run one after another, so they cannot wait for each other", handle->kernel.name);
}
