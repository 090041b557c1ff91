// A kernel that indexes by data which only the device has (ids, slots, blocks) checks the bound, reports a violation
// here and skips the access. The host reads the record whenever it waits for the device (src/cuda/fault.rs).
#pragma once
#include "simt/device.h"

namespace cachalot {

/// The numbers are known to src/cuda/fault.rs.
enum FaultCode : uint32_t {
    kTokenId = 1,
    kSlot = 2,
    kBlock = 3,
    kExpert = 4,
    kIndex = 5,
    kRow = 6,
    kBlockCopy = 7,
    kSample = 8,
    kSequence = 9,
};

struct Fault {
    uint32_t code, value, limit, reserved;
};

/// The first report since the host last looked is kept.
__device__ __forceinline__ void report_fault(Fault* fault, uint32_t code, uint32_t value, uint32_t limit) {
    if (atomicCAS(&fault->code, 0u, code) == 0u) {
        fault->value = value;
        fault->limit = limit;
    }
}

/// Whether `value` may be used as an index below `limit`; reports it if not.
__device__ __forceinline__ bool index_in_range(Fault* fault, uint32_t code, uint32_t value, uint32_t limit) {
    if (value < limit) return true;
    report_fault(fault, code, value, limit);
    return false;
}

}  // namespace cachalot
