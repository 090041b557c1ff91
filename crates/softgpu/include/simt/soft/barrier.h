// Block barriers: __syncthreads and its voting kin, named barriers, memory fences.
#pragma once
#include "simt/soft/warp.h"

namespace simt {

SIMT_RUNTIME void release_barrier(Block& block, Barrier& barrier) {
    for (unsigned w = 0; w < block.warp_count; w++) {
        block.warps[w].ready |= barrier.waiting[w];
        barrier.waiting[w] = 0;
    }
    barrier.expected = barrier.arrived = 0;
    barrier.result = barrier.votes;
    barrier.votes = 0;
}

/// Counts a thread in, and waits unless it was the last one or `stays` is false (bar.arrive).
SIMT_RUNTIME void arrive(unsigned id, unsigned expected, int vote, bool stays, const char* name, Place place) {
    Fiber& me = self();
    Block& block = *me.block;
    if (id >= kBarriers) fail(place, Error::LaunchFailed, "%s: there is no barrier %u", name, id);
    if (expected % kWarpLanes && expected != block.live)
        fail(place, Error::LaunchFailed, "%s: %u threads are not a whole number of warps", name, expected);
    Barrier& barrier = block.barriers[id];
    if (barrier.expected && barrier.expected != expected)
        fail(place, Error::LaunchFailed, "%s: barrier %u waits for %u threads, this one says %u", name, id, barrier.expected, expected);
    barrier.expected = expected;
    barrier.arrived++;
    barrier.votes += vote;
    if (stays) barrier.waiting[me.warp->index] |= 1u << me.lane;
    if (barrier.arrived < expected) {
        if (stays) wait(me, name, place);
        return;
    }
    release_barrier(block, barrier);
}

inline int sync_threads(int vote, const char* name, Place place) {
    Block& block = *self().block;
    Barrier& barrier = block.barriers[0];
    release(&barrier.order);
    arrive(0, block.live, vote, true, name, place);
    acquire(&barrier.order);
    return barrier.result;
}

/// `bar.sync id, threads`: meets the other threads that name the same barrier.
inline void barrier_sync(unsigned id, unsigned threads, SIMT_HERE) {
    Barrier& barrier = self().block->barriers[id % kBarriers];
    release(&barrier.order);
    arrive(id, threads, 0, true, "bar.sync", place);
    acquire(&barrier.order);
}

/// `bar.arrive id, threads`: counts itself in and goes on.
inline void barrier_arrive(unsigned id, unsigned threads, SIMT_HERE) {
    release(&self().block->barriers[id % kBarriers].order);
    arrive(id, threads, 0, false, "bar.arrive", place);
}

/// A thread that has exited is no longer waited for, except in a collective that names it: that is an error.
SIMT_RUNTIME void exit_thread(Fiber& me) {
    Block& block = *me.block;
    uint32_t bit = 1u << me.lane;
    for (const Meeting& meeting : me.warp->meetings)
        if (meeting.arrived && (meeting.mask & bit))
            fail(meeting.place, Error::LaunchFailed, "exited lane in a collective: lane %u exits while others wait for it in %s", me.lane,
                 meeting.op->name);
    me.warp->ready &= ~bit;
    me.warp->exited |= bit;
    block.live--;
    Barrier& barrier = block.barriers[0];
    if (barrier.arrived) {
        barrier.expected--;
        if (barrier.arrived >= barrier.expected) release_barrier(block, barrier);
    }
    wait_for_turn(me);
}

}  // namespace simt

inline void __syncthreads(SIMT_HERE) { simt::sync_threads(0, "__syncthreads", place); }
inline int __syncthreads_count(int predicate, SIMT_HERE) {
    return simt::sync_threads(predicate != 0, "__syncthreads_count", place);
}
inline int __syncthreads_or(int predicate, SIMT_HERE) {
    return simt::sync_threads(predicate != 0, "__syncthreads_or", place) != 0;
}
inline int __syncthreads_and(int predicate, SIMT_HERE) {
    return simt::sync_threads(predicate == 0, "__syncthreads_and", place) == 0;
}

// Blocks run one after another on a thread, and atomics are sequentially consistent: a fence has nothing to do.
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
