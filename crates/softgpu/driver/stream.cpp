// Streams, events and graph capture. A stream's worker runs its tasks in order, truly beside the calling thread.
#include "driver.h"

namespace {

/// In late mode work that nobody waits for is put off this long, so that a missing wait is seen.
constexpr auto kLate = std::chrono::milliseconds(3);

}  // namespace

void Mark::reach() {
    std::lock_guard<std::mutex> guard(lock);
    reached = true;
    at = std::chrono::steady_clock::now();
    changed.notify_all();
}

void Mark::wait() {
    std::unique_lock<std::mutex> guard(lock);
    changed.wait(guard, [this] { return reached; });
}

bool Mark::is_reached() {
    std::lock_guard<std::mutex> guard(lock);
    return reached;
}

Stream::~Stream() {
    {
        std::lock_guard<std::mutex> guard(lock_);
        stop_ = true;
        changed_.notify_all();
    }
    if (worker_.joinable()) worker_.join();
}

CUresult Stream::submit(Task task, bool always) {
    if (capture) {
        if (this != capture->origin) capture->forked.insert(this);
        capture->tasks.push_back(std::move(task));
        return capture->error;
    }
    std::lock_guard<std::mutex> guard(lock_);
    queue_.push_back({std::move(task), always});
    submitted_++;
    if (!worker_.joinable()) worker_ = std::thread([this] { work(); });
    changed_.notify_all();
    return device->fault;
}

void Stream::work() {
    bool late = Driver::get().config.late_streams;
    std::unique_lock<std::mutex> guard(lock_);
    for (;;) {
        changed_.wait(guard, [this] { return stop_ || !queue_.empty(); });
        if (queue_.empty()) return;
        if (late) changed_.wait_for(guard, kLate, [this] { return stop_ || hurried_ || waiting_ > 0; });
        Entry entry = std::move(queue_.front());
        queue_.pop_front();
        guard.unlock();
        CUresult result = entry.always || !device->fault ? entry.task() : CUDA_SUCCESS;
        entry.task = nullptr;  // lets go of what the task held before anybody learns that it is done
        CUresult none = CUDA_SUCCESS;
        if (result) device->fault.compare_exchange_strong(none, result);
        guard.lock();
        completed_++;
        hurried_ = hurried_ && !queue_.empty();
        changed_.notify_all();
    }
}

CUresult Stream::synchronize() {
    if (capture) {
        capture->error = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        return fail(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "a capturing stream cannot be synchronised");
    }
    std::unique_lock<std::mutex> guard(lock_);
    uint64_t target = submitted_;
    waiting_++;
    changed_.notify_all();
    changed_.wait(guard, [&] { return completed_ >= target; });
    waiting_--;
    return device->fault;
}

bool Stream::idle() {
    std::lock_guard<std::mutex> guard(lock_);
    return completed_ == submitted_;
}

void Stream::hurry() {
    std::lock_guard<std::mutex> guard(lock_);
    hurried_ = true;
    changed_.notify_all();
}

CUresult find_stream(CUstream handle, Stream** stream) {
    // 0, 1 and 2 are the default, the legacy default and the per-thread default stream: one per device here.
    if (reinterpret_cast<uintptr_t>(handle) <= 2) {
        Device* device;
        CHECK_CALL(current(&device));
        *stream = &device->default_stream;
        return CUDA_SUCCESS;
    }
    if (!Driver::get().alive(handle)) return fail(CUDA_ERROR_INVALID_HANDLE, "no such stream, or it was destroyed");
    *stream = handle;
    return handle->device->fault;
}

CUDA_API CUresult cuStreamCreate(CUstream* handle, unsigned) {
    Device* device;
    CHECK_CALL(current(&device));
    *handle = Driver::get().adopt(new Stream(device));
    std::lock_guard<std::mutex> guard(device->lock);
    device->streams.insert(*handle);
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuStreamCreateWithPriority(CUstream* handle, unsigned flags, int) { return cuStreamCreate(handle, flags); }

CUDA_API CUresult cuStreamDestroy_v2(CUstream handle) {
    if (!Driver::get().disown(handle)) return fail(CUDA_ERROR_INVALID_HANDLE, "no such stream, or it was destroyed");
    {
        std::lock_guard<std::mutex> guard(handle->device->lock);
        handle->device->streams.erase(handle);
    }
    delete handle;  // finishes what was submitted
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuStreamSynchronize(CUstream handle) {
    Stream* stream;
    CHECK_CALL(find_stream(handle, &stream));
    return stream->synchronize();
}

CUDA_API CUresult cuStreamQuery(CUstream handle) {
    Stream* stream;
    CHECK_CALL(find_stream(handle, &stream));
    return stream->idle() ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUDA_API CUresult cuLaunchHostFunc(CUstream handle, void (*function)(void*), void* data) {
    Stream* stream;
    CHECK_CALL(find_stream(handle, &stream));
    return stream->submit([=] {
        function(data);
        return CUDA_SUCCESS;
    });
}

/// For libraries above the driver: work in stream order that can fail. `run` writes its error into the text; `drop`
/// is called when the work can never run again.
CUDA_API CUresult softgpu_enqueue(CUstream handle, int (*run)(void* data, char* text, size_t capacity), void* data, void (*drop)(void*)) {
    std::shared_ptr<void> held(data, drop);
    Stream* stream;
    CHECK_CALL(find_stream(handle, &stream));
    return stream->submit([=]() -> CUresult {
        char text[512] = "";
        return run(held.get(), text, sizeof text) ? fail(CUDA_ERROR_LAUNCH_FAILED, "%s", text) : CUDA_SUCCESS;
    });
}

CUDA_API CUresult cuEventCreate(CUevent* handle, unsigned flags) {
    constexpr unsigned kDisableTiming = 2;
    Device* device;
    CHECK_CALL(current(&device));
    *handle = Driver::get().adopt(new Event);
    (*handle)->timed = !(flags & kDisableTiming);
    return CUDA_SUCCESS;
}

static CUresult find_event(CUevent handle) {
    return Driver::get().alive(handle) ? CUDA_SUCCESS : fail(CUDA_ERROR_INVALID_HANDLE, "no such event, or it was destroyed");
}

CUDA_API CUresult cuEventDestroy_v2(CUevent handle) {
    CHECK_CALL(find_event(handle));
    Driver::get().disown(handle);
    delete handle;
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuEventRecord(CUevent handle, CUstream stream_handle) {
    Stream* stream;
    CHECK_CALL(find_stream(stream_handle, &stream));
    CHECK_CALL(find_event(handle));
    std::lock_guard<std::mutex> guard(handle->lock);
    handle->stream = stream;
    handle->capture = stream->capture;
    handle->mark = nullptr;
    if (stream->capture) return CUDA_SUCCESS;  // an edge of the graph, which its order already respects
    auto mark = handle->mark = std::make_shared<Mark>();
    stream->submit([mark] {
        mark->reach();
        return CUDA_SUCCESS;
    }, true);
    return CUDA_SUCCESS;
}

/// What an event waits for; null if it was never recorded.
static CUresult mark_of(CUevent handle, std::shared_ptr<Mark>* mark) {
    CHECK_CALL(find_event(handle));
    std::lock_guard<std::mutex> guard(handle->lock);
    if (handle->capture) return fail(CUDA_ERROR_CAPTURED_EVENT, "the event was recorded in a capture");
    *mark = handle->mark;
    if (*mark && !(*mark)->is_reached() && Driver::get().config.late_streams && Driver::get().alive(handle->stream)) handle->stream->hurry();
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuEventSynchronize(CUevent handle) {
    std::shared_ptr<Mark> mark;
    CHECK_CALL(mark_of(handle, &mark));
    if (mark) mark->wait();
    Device* device;
    return current(&device);
}

CUDA_API CUresult cuEventQuery(CUevent handle) {
    std::shared_ptr<Mark> mark;
    CHECK_CALL(mark_of(handle, &mark));
    return !mark || mark->is_reached() ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

/// Wall time of this machine: says nothing about any GPU.
CUDA_API CUresult cuEventElapsedTime_v2(float* ms, CUevent from, CUevent to) {
    std::shared_ptr<Mark> begin, end;
    CHECK_CALL(mark_of(from, &begin));
    CHECK_CALL(mark_of(to, &end));
    if (!begin || !end || !from->timed || !to->timed) return fail(CUDA_ERROR_INVALID_HANDLE, "an event was not recorded, or has no timing");
    if (!begin->is_reached() || !end->is_reached()) return CUDA_ERROR_NOT_READY;
    *ms = std::chrono::duration<float, std::milli>(end->at - begin->at).count();
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuEventElapsedTime(float* ms, CUevent from, CUevent to) { return cuEventElapsedTime_v2(ms, from, to); }

/// The stream goes on only after the event's last record; in a capture this is what makes streams join it.
CUDA_API CUresult cuStreamWaitEvent(CUstream handle, CUevent event, unsigned) {
    Stream* stream;
    CHECK_CALL(find_stream(handle, &stream));
    CHECK_CALL(find_event(event));
    std::lock_guard<std::mutex> guard(event->lock);
    if (event->capture) {
        if (stream->capture && stream->capture != event->capture)
            return fail(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "the event belongs to another capture");
        stream->capture = event->capture;
        if (stream == event->capture->origin) {
            event->capture->forked.erase(event->stream);
        } else {
            event->capture->forked.insert(stream);
            event->capture->joined.insert(stream);
        }
        return CUDA_SUCCESS;
    }
    if (stream->capture) {
        stream->capture->error = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        return fail(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "a capturing stream waits for an event recorded outside the capture");
    }
    auto mark = event->mark;
    if (!mark || mark->is_reached()) return CUDA_SUCCESS;
    return stream->submit([mark] {
        mark->wait();
        return CUDA_SUCCESS;
    });
}
