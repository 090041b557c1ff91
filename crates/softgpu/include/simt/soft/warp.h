// Warp collectives: shuffles, votes, matches, reductions. Lanes deposit their arguments; the last one to arrive does
// the work for all.
#pragma once
#include "simt/soft/schedule.h"

namespace simt {

/// The meeting that waits for the caller and in which a lane waits whom the caller needs: anything but joining it
/// would never end.
SIMT_RUNTIME Meeting* find_meeting(Warp& warp, unsigned lane, uint32_t mask) {
    for (Meeting& meeting : warp.meetings)
        if ((meeting.arrived & mask) && (meeting.mask >> lane & 1)) return &meeting;
    return nullptr;
}

SIMT_RUNTIME Meeting& open_meeting(Warp& warp, const Op& op, uint32_t mask, Place place) {
    Meeting* meeting = warp.meetings;
    while (meeting->arrived) meeting++;
    meeting->op = &op;
    meeting->mask = mask;
    meeting->place = place;
    return *meeting;
}

SIMT_RUNTIME void check_same(const Meeting& meeting, const Op& op, uint32_t mask, Place place) {
    if (meeting.op != &op)
        fail(place, Error::LaunchFailed, "divergent collective: %s here, but other lanes of the warp are in %s (%s:%d)", op.name,
             meeting.op->name, base_name(meeting.place.file), meeting.place.line);
    if (meeting.mask != mask)
        fail(place, Error::LaunchFailed, "divergent collective: %s with mask 0x%08x here, 0x%08x in other lanes", op.name, mask,
             meeting.mask);
    if (!op.any_place && !(meeting.place == place))
        fail(place, Error::LaunchFailed, "divergent collective: %s here, other lanes reached it at %s:%d", op.name,
             base_name(meeting.place.file), meeting.place.line);
}

/// Meets the other lanes of `mask`. `run` sees every lane's arguments, indexed by lane, null outside the mask.
template <class Args>
SIMT_RUNTIME void collective(const Op& op, uint32_t mask, Args& args, void (*run)(Args* const*, uint32_t), Place place) {
    Fiber& me = self();
    Warp& warp = *me.warp;
    if (!(mask >> me.lane & 1))
        fail(place, Error::LaunchFailed, "%s: lane %u is not in its own mask 0x%08x", op.name, me.lane, mask);
    if (mask & warp.exited)
        fail(place, Error::LaunchFailed, "%s: mask 0x%08x names exited or missing lanes 0x%08x", op.name, mask, mask & warp.exited);
    Args* lanes[kWarpLanes] = {};
    Meeting* meeting = find_meeting(warp, me.lane, mask);
    if (!meeting && mask == 1u << me.lane) {
        lanes[me.lane] = &args;
        return run(lanes, mask);
    }
    if (meeting)
        check_same(*meeting, op, mask, place);
    else
        meeting = &open_meeting(warp, op, mask, place);
    meeting->arrived |= 1u << me.lane;
    meeting->args[me.lane] = &args;
    if (meeting->arrived != mask) return wait(me, op.name, place);
    for (unsigned lane = 0; lane < kWarpLanes; lane++)
        if (mask >> lane & 1) lanes[lane] = static_cast<Args*>(meeting->args[lane]);
    run(lanes, mask);
    meeting->arrived = 0;
    warp.ready |= mask;
}

template <class T>
struct Shuffle {
    T value, result;
    unsigned from;
    Place place;
};

template <class T>
SIMT_RUNTIME void run_shuffle(Shuffle<T>* const* lanes, uint32_t mask) {
    for (unsigned lane = 0; lane < kWarpLanes; lane++) {
        if (!lanes[lane]) continue;
        unsigned from = lanes[lane]->from % kWarpLanes;
        if (!(mask >> from & 1))
            fail(lanes[lane]->place, Error::LaunchFailed, "shuffle: lane %u reads lane %u, which is not in the mask 0x%08x", lane, from, mask);
        lanes[lane]->result = lanes[from]->value;
    }
}

template <class T>
inline T shuffle(const Op& op, uint32_t mask, T value, unsigned from, Place place) {
    Shuffle<T> args{value, value, from, place};
    collective(op, mask, args, run_shuffle<T>, place);
    return args.result;
}

struct Vote {
    uint64_t value;
    uint32_t result;
};

SIMT_RUNTIME void run_ballot(Vote* const* lanes, uint32_t) {
    uint32_t ballot = 0;
    for (unsigned lane = 0; lane < kWarpLanes; lane++)
        if (lanes[lane]) ballot |= uint32_t(lanes[lane]->value != 0) << lane;
    for (unsigned lane = 0; lane < kWarpLanes; lane++)
        if (lanes[lane]) lanes[lane]->result = ballot;
}

SIMT_RUNTIME void run_match(Vote* const* lanes, uint32_t) {
    for (unsigned lane = 0; lane < kWarpLanes; lane++) {
        if (!lanes[lane]) continue;
        lanes[lane]->result = 0;
        for (unsigned other = 0; other < kWarpLanes; other++)
            if (lanes[other] && lanes[other]->value == lanes[lane]->value) lanes[lane]->result |= 1u << other;
    }
}

inline uint32_t vote(const Op& op, uint32_t mask, uint64_t value, void (*run)(Vote* const*, uint32_t), Place place) {
    Vote args{value, 0};
    collective(op, mask, args, run, place);
    return args.result;
}

/// The lane that a shuffle of `width` reads, or the caller's own where the source lies outside its segment.
inline unsigned in_segment(unsigned lane, unsigned from, unsigned width) {
    return ((from ^ lane) & ~(width - 1)) ? lane : from;
}

template <class T>
struct Reduction {
    T value, result;
    T (*combine)(T, T);
};

template <class T>
SIMT_RUNTIME void run_reduction(Reduction<T>* const* lanes, uint32_t mask) {
    unsigned first = __builtin_ctz(mask);
    T total = lanes[first]->value;
    for (unsigned lane = first + 1; lane < kWarpLanes; lane++)
        if (lanes[lane]) total = lanes[first]->combine(total, lanes[lane]->value);
    for (unsigned lane = first; lane < kWarpLanes; lane++)
        if (lanes[lane]) lanes[lane]->result = total;
}

template <class T>
inline T reduce(const Op& op, uint32_t mask, T value, T (*combine)(T, T), Place place) {
    Reduction<T> args{value, value, combine};
    collective(op, mask, args, run_reduction<T>, place);
    return args.result;
}

}  // namespace simt

#define SIMT_HERE simt::Place place = simt::Place::here()

template <class T>
inline T __shfl_sync(uint32_t mask, T value, int source, int width = 32, SIMT_HERE) {
    static const simt::Op op{"__shfl_sync", false};
    return simt::shuffle(op, mask, value, (simt::lane_id() & ~(width - 1)) | (source & (width - 1)), place);
}

template <class T>
inline T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32, SIMT_HERE) {
    static const simt::Op op{"__shfl_up_sync", false};
    unsigned lane = simt::lane_id();
    return simt::shuffle(op, mask, value, simt::in_segment(lane, lane - delta, width), place);
}

template <class T>
inline T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32, SIMT_HERE) {
    static const simt::Op op{"__shfl_down_sync", false};
    unsigned lane = simt::lane_id();
    return simt::shuffle(op, mask, value, simt::in_segment(lane, lane + delta, width), place);
}

template <class T>
inline T __shfl_xor_sync(uint32_t mask, T value, int flip, int width = 32, SIMT_HERE) {
    static const simt::Op op{"__shfl_xor_sync", false};
    unsigned lane = simt::lane_id(), from = lane ^ flip;
    // Unlike the others it may read a lower segment; only a higher one gives back the lane's own value.
    bool higher = (from & ~(width - 1)) > (lane & ~(width - 1));
    return simt::shuffle(op, mask, value, higher ? lane : from, place);
}

inline uint32_t __ballot_sync(uint32_t mask, int predicate, SIMT_HERE) {
    static const simt::Op op{"__ballot_sync", false};
    return simt::vote(op, mask, predicate != 0, simt::run_ballot, place);
}

inline int __any_sync(uint32_t mask, int predicate, SIMT_HERE) {
    static const simt::Op op{"__any_sync", false};
    return simt::vote(op, mask, predicate != 0, simt::run_ballot, place) != 0;
}

inline int __all_sync(uint32_t mask, int predicate, SIMT_HERE) {
    static const simt::Op op{"__all_sync", false};
    return simt::vote(op, mask, predicate != 0, simt::run_ballot, place) == mask;
}

template <class T>
inline uint32_t __match_any_sync(uint32_t mask, T value, SIMT_HERE) {
    static const simt::Op op{"__match_any_sync", false};
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    return simt::vote(op, mask, bits, simt::run_match, place);
}

template <class T>
inline uint32_t __match_all_sync(uint32_t mask, T value, int* all, SIMT_HERE) {
    static const simt::Op op{"__match_all_sync", false};
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    *all = simt::vote(op, mask, bits, simt::run_match, place) == mask;
    return *all ? mask : 0;
}

#define SIMT_REDUCE(T, name, expression)                                              \
    inline T __reduce_##name##_sync(uint32_t mask, T value, SIMT_HERE) {              \
        static const simt::Op op{"__reduce_" #name "_sync", false};                   \
        return simt::reduce<T>(op, mask, value, [](T a, T b) -> T { return expression; }, place); \
    }
SIMT_REDUCE(unsigned, add, a + b)
SIMT_REDUCE(unsigned, min, a < b ? a : b)
SIMT_REDUCE(unsigned, max, a > b ? a : b)
SIMT_REDUCE(unsigned, and, a& b)
SIMT_REDUCE(unsigned, or, a | b)
SIMT_REDUCE(unsigned, xor, a ^ b)
SIMT_REDUCE(int, add, int(unsigned(a) + unsigned(b)))
SIMT_REDUCE(int, min, a < b ? a : b)
SIMT_REDUCE(int, max, a > b ? a : b)
#undef SIMT_REDUCE

inline void __syncwarp(uint32_t mask = 0xffffffffu, SIMT_HERE) {
    static const simt::Op op{"__syncwarp", true};
    char none = 0;
    simt::Warp& warp = *simt::self().warp;
    simt::release(&warp.order);
    simt::collective<char>(op, mask, none, [](char* const*, uint32_t) {}, place);
    simt::acquire(&warp.order);
}
