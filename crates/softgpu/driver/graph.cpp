// Graph capture, instantiation and replay. A graph is the captured tasks in capture order, which respects every
// dependency between the streams that took part.
#include "driver.h"

CUDA_API CUresult cuStreamBeginCapture_v2(CUstream handle, int) {
    Stream* stream;
    CHECK_CALL(find_stream(handle, &stream));
    if (reinterpret_cast<uintptr_t>(handle) <= 1) return fail(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "the default stream cannot capture");
    if (stream->capture) return fail(CUDA_ERROR_INVALID_VALUE, "the stream is capturing already");
    stream->capture = std::make_shared<Capture>();
    stream->capture->origin = stream;
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuStreamIsCapturing(CUstream handle, int* status) {
    enum { kNone, kActive, kInvalidated };
    Stream* stream;
    CHECK_CALL(find_stream(handle, &stream));
    *status = !stream->capture ? kNone : stream->capture->error ? kInvalidated : kActive;
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuStreamEndCapture(CUstream handle, CUgraph* graph) {
    Stream* stream;
    *graph = nullptr;
    CHECK_CALL(find_stream(handle, &stream));
    std::shared_ptr<Capture> capture = stream->capture;
    if (!capture || capture->origin != stream) return fail(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "no capture was begun in this stream");
    stream->capture = nullptr;
    for (Stream* joined : capture->joined)
        if (Driver::get().alive(joined)) joined->capture = nullptr;
    if (capture->error) return fail(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "an error happened while the stream was capturing");
    if (!capture->forked.empty())
        return fail(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "%zu streams took part and were not waited for", capture->forked.size());
    *graph = Driver::get().adopt(new Graph{std::move(capture->tasks)});
    return CUDA_SUCCESS;
}

static CUresult find_graph(CUgraph handle) {
    return Driver::get().alive(handle) ? CUDA_SUCCESS : fail(CUDA_ERROR_INVALID_HANDLE, "no such graph, or it was destroyed");
}

CUDA_API CUresult cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph graph, unsigned long long flags) {
    constexpr unsigned long long kAutoFree = 1, kDeviceLaunch = 4, kNodePriority = 8;
    CHECK_CALL(find_graph(graph));
    if (flags & ~(kAutoFree | kNodePriority | 2))
        return fail(flags & kDeviceLaunch ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_NOT_SUPPORTED, "graph flags 0x%llx", flags);
    *executable = Driver::get().adopt(new Graph(*graph));
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuGraphUpload(CUgraphExec executable, CUstream) { return find_graph(executable); }

CUDA_API CUresult cuGraphLaunch(CUgraphExec executable, CUstream handle) {
    Stream* stream;
    CHECK_CALL(find_stream(handle, &stream));
    CHECK_CALL(find_graph(executable));
    Driver::get().graph_launches++;
    for (const Task& task : executable->tasks) CHECK_CALL(stream->submit(task));
    return CUDA_SUCCESS;
}

/// How many graphs were launched so far: whether steps are replayed.
CUDA_API size_t softgpu_graph_launches() { return Driver::get().graph_launches; }

static CUresult destroy(CUgraph graph) {
    CHECK_CALL(find_graph(graph));
    Driver::get().disown(graph);
    delete graph;
    return CUDA_SUCCESS;
}

CUDA_API CUresult cuGraphExecDestroy(CUgraphExec executable) { return destroy(executable); }
CUDA_API CUresult cuGraphDestroy(CUgraph graph) { return destroy(graph); }

CUDA_API CUresult cuGraphGetNodes(CUgraph graph, void** nodes, size_t* count) {
    CHECK_CALL(find_graph(graph));
    if (nodes) return fail(CUDA_ERROR_NOT_SUPPORTED, "nodes cannot be looked into, only counted");
    *count = graph->tasks.size();
    return CUDA_SUCCESS;
}
