// Error names and texts, and the process's last error in words.
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <mutex>
#include <set>
#include <string>

#include "api.h"

namespace {

struct Entry {
    CUresult code;
    const char *name, *text;
};

#define ENTRY(name, text) {name, #name, text}
constexpr Entry kErrors[] = {
    ENTRY(CUDA_SUCCESS, "no error"),
    ENTRY(CUDA_ERROR_INVALID_VALUE, "invalid argument"),
    ENTRY(CUDA_ERROR_OUT_OF_MEMORY, "out of memory"),
    ENTRY(CUDA_ERROR_NOT_INITIALIZED, "initialization error"),
    ENTRY(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected"),
    ENTRY(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal"),
    ENTRY(CUDA_ERROR_INVALID_IMAGE, "device kernel image is invalid"),
    ENTRY(CUDA_ERROR_INVALID_CONTEXT, "invalid device context"),
    ENTRY(CUDA_ERROR_FILE_NOT_FOUND, "file not found"),
    ENTRY(CUDA_ERROR_INVALID_HANDLE, "invalid resource handle"),
    ENTRY(CUDA_ERROR_NOT_FOUND, "named symbol not found"),
    ENTRY(CUDA_ERROR_NOT_READY, "device not ready"),
    ENTRY(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered"),
    ENTRY(CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED, "peer access is already enabled"),
    ENTRY(CUDA_ERROR_PEER_ACCESS_NOT_ENABLED, "peer access has not been enabled"),
    ENTRY(CUDA_ERROR_ASSERT, "device-side assert triggered"),
    ENTRY(CUDA_ERROR_MISALIGNED_ADDRESS, "misaligned address"),
    ENTRY(CUDA_ERROR_LAUNCH_FAILED, "unspecified launch failure"),
    ENTRY(CUDA_ERROR_NOT_SUPPORTED, "operation not supported"),
    ENTRY(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "operation not permitted when stream is capturing"),
    ENTRY(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "operation failed due to a previous error during capture"),
    ENTRY(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "capture was not initiated in this stream"),
    ENTRY(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "capturing stream has unjoined work"),
    ENTRY(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "dependency created on uncaptured work in another stream"),
    ENTRY(CUDA_ERROR_CAPTURED_EVENT, "operation not permitted on an event last recorded in a capturing stream"),
    ENTRY(CUDA_ERROR_UNKNOWN, "unknown error"),
};

struct LastError {
    std::mutex lock;
    CUresult code = CUDA_SUCCESS;
    std::string text;
    // What cuGetErrorString gave out must stay readable for as long as the process lives.
    std::set<std::string> given_out;
};

LastError& last_error() {
    static LastError* last = new LastError;
    return *last;
}

const Entry* find(CUresult code) {
    for (const Entry& entry : kErrors)
        if (entry.code == code) return &entry;
    return nullptr;
}

}  // namespace

CUresult fail(CUresult code, const char* format, ...) {
    char text[1400];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    LastError& last = last_error();
    std::lock_guard<std::mutex> guard(last.lock);
    last.code = code;
    last.text = text;
    return code;
}

CUDA_API CUresult cuGetErrorName(CUresult code, const char** name) {
    const Entry* entry = find(code);
    *name = entry ? entry->name : nullptr;
    return entry ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/// CUDA's text; for the code of the last error, followed by what exactly went wrong.
CUDA_API CUresult cuGetErrorString(CUresult code, const char** text) {
    const Entry* entry = find(code);
    *text = entry ? entry->text : nullptr;
    if (!entry) return CUDA_ERROR_INVALID_VALUE;
    LastError& last = last_error();
    std::lock_guard<std::mutex> guard(last.lock);
    if (code != CUDA_SUCCESS && code == last.code)
        *text = last.given_out.insert(std::string(entry->text) + ": " + last.text).first->c_str();
    return CUDA_SUCCESS;
}

/// Copies the last error's text, cut to the buffer, and returns its code.
CUDA_API CUresult softgpu_last_error(char* text, size_t capacity) {
    LastError& last = last_error();
    std::lock_guard<std::mutex> guard(last.lock);
    if (capacity) snprintf(text, capacity, "%s", last.text.c_str());
    return last.code;
}

void forget_last_error() {
    LastError& last = last_error();
    std::lock_guard<std::mutex> guard(last.lock);
    last.code = CUDA_SUCCESS;
    last.text.clear();
}
