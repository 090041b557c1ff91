// Which thread runs next. A thread runs until it must wait; the schedule chooses among those that need not.
#pragma once
#include "simt/soft/fiber.h"

namespace simt {

/// A random bit of a set that is not empty.
SIMT_RUNTIME unsigned random_bit(Block& block, uint32_t set) {
    unsigned turns = next_random(block) % 32;
    uint32_t rotated = set >> turns | set << (32 - turns) % 32;
    return (__builtin_ctz(rotated) + turns) % 32;
}

SIMT_RUNTIME uint32_t ready_warps(const Block& block) {
    uint32_t ready = 0;
    for (unsigned w = 0; w < block.warp_count; w++) ready |= uint32_t(block.warps[w].ready != 0) << w;
    return ready;
}

/// Whether the warp on turn goes on once all of its lanes ran.
SIMT_RUNTIME bool keeps_turn(Block& block) {
    switch (block.launch->schedule) {
        case Schedule::Ahead: return true;
        case Schedule::Random: return next_random(block) % 4 != 0;
        default: return false;
    }
}

SIMT_RUNTIME unsigned next_warp(Block& block, uint32_t ready) {
    if (block.launch->schedule >= Schedule::Ahead) return random_bit(block, ready);
    if (!(block.turn_warps & ready)) block.turn_warps = ready;
    uint32_t left = block.turn_warps & ready;
    unsigned warp = block.launch->schedule == Schedule::Shuffled ? random_bit(block, left) : __builtin_ctz(left);
    block.turn_warps &= ~(1u << warp);
    return warp;
}

/// The next thread to run, or null if every thread waits or has exited.
SIMT_RUNTIME Fiber* next_fiber(Block& block) {
    for (;;) {
        Warp& warp = block.warps[block.turn_warp];
        if (uint32_t lanes = block.turn_lanes & warp.ready) {
            bool in_order = block.launch->schedule == Schedule::RoundRobin;
            unsigned lane = in_order ? __builtin_ctz(lanes) : random_bit(block, lanes);
            block.turn_lanes &= ~(1u << lane);
            return &block.fibers[block.turn_warp * kWarpLanes + lane];
        }
        uint32_t ready = ready_warps(block);
        if (!ready) return nullptr;
        if (!(warp.ready && keeps_turn(block))) block.turn_warp = next_warp(block, ready);
        block.turn_lanes = block.warps[block.turn_warp].ready;
    }
}

/// Says who waits where when nobody can run.
inline void report_deadlock(Block& block) {
    char text[640];
    int length = snprintf(text, sizeof text, "barrier deadlock:");
    uint32_t told[kMaxWarps] = {};
    for (unsigned t = 0; t < block.threads && length < 512; t++) {
        const Fiber& first = block.fibers[t];
        if ((block.warps[t / 32].exited | told[t / 32]) >> t % 32 & 1) continue;
        unsigned count = 0;
        for (unsigned u = t; u < block.threads; u++) {
            const Fiber& other = block.fibers[u];
            bool exited = block.warps[u / 32].exited >> u % 32 & 1;
            if (exited || other.waits_at != first.waits_at || !(other.waits_place == first.waits_place)) continue;
            told[u / 32] |= 1u << u % 32;
            count++;
        }
        length += snprintf(text + length, sizeof text - length, "%s %u threads from (%u,%u,%u) wait at %s (%s:%d)",
                           length > 20 ? "," : "", count, first.thread.x, first.thread.y, first.thread.z, first.waits_at,
                           base_name(first.waits_place.file), first.waits_place.line);
    }
    snprintf(text + length, sizeof text - length, ", %u exited", block.threads - block.live);
    report(block, nullptr, nullptr, Error::LaunchFailed, text);
}

/// Hands the processor to the next thread; comes back when somebody has made the caller ready and its turn has come.
SIMT_RUNTIME void wait_for_turn(Fiber& me) {
    Block& block = *me.block;
    Fiber* next = next_fiber(block);
    if (next == &me) return;
    block.running = next;
    if (!next && block.live) report_deadlock(block);
    switch_context(me.context, next ? next->context : block.host);
}

/// Waits until another thread makes the caller ready.
SIMT_RUNTIME void wait(Fiber& me, const char* at, Place place) {
    me.waits_at = at;
    me.waits_place = place;
    me.warp->ready &= ~(1u << me.lane);
    wait_for_turn(me);
}

}  // namespace simt
