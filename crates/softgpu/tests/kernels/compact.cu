// Counts and collects the indices of the positive elements of x[n]: votes, lane masks and one atomic per warp.
// The order of the indices depends on the schedule; their set does not. Test kernel: PLANT_* are its known bugs.
#include "simt/device.h"

extern "C" __global__ void __launch_bounds__(96) compact(const int* __restrict__ x, int n, int* __restrict__ indices, int* count) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x, lane = simt::lane_id();
#ifdef PLANT_EXITED_LANE
    if (i >= n) return;
#endif
    const bool keep = i < n && simt::load(x + i) > 0;
    const unsigned kept = __ballot_sync(0xffffffffu, keep);
    int base = 0;
#ifdef PLANT_RACING_COUNT
    if (lane == 0) {
        base = *count;
        *count = base + __popc(kept);
    }
#else
    if (lane == 0 && kept) base = atomicAdd(count, __popc(kept));
#endif
    base = __shfl_sync(0xffffffffu, base, 0);
#ifdef PLANT_UNGUARDED_STORE
    simt::store(indices + base + __popc(kept & ((1u << lane) - 1)) + (keep ? 0 : n), i);
#else
    if (keep) simt::store(indices + base + __popc(kept & ((1u << lane) - 1)), i);
#endif
}
SIMT_EXPORT(compact)
