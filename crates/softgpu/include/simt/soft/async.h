// cp.async: copies from global to shared memory that land at the wait, at once, or by chance.
#pragma once
#include "simt/soft/access.h"

namespace simt {

/// The copy itself is the kernel's access and stays visible to the sanitizers.
inline void land(Copy& copy) {
    if (copy.landed) return;
    memcpy(copy.to, copy.from, copy.read);
    memset(copy.to + copy.read, 0, copy.bytes - copy.read);
    copy.landed = true;
}

inline void start_copy(void* to, const void* from, unsigned bytes, unsigned read, Place place) {
    Fiber& me = self();
    Block& block = *me.block;
    check_aligned(to, bytes, "cp.async to shared memory", place);
    check_aligned(from, bytes, "cp.async from global memory", place);
    if (!in_shared(block.shared, to, bytes))
        fail(place, Error::IllegalAddress, "cp.async of %u bytes to %p: outside the block's shared memory", bytes, to);
    if (read > bytes) fail(place, Error::LaunchFailed, "cp.async reads %u bytes to write %u", read, bytes);
    if (read) check_global(from, read, "cp.async", place);
    Copy copy{static_cast<unsigned char*>(to), static_cast<const unsigned char*>(from), uint8_t(bytes), uint8_t(read), false};
    mark_in_flight(block.shared, to, bytes, me.linear);
    Copies mode = block.launch->copies;
    if (mode == Copies::Eager || (mode == Copies::Random && next_random(block) % 2)) land(copy);
    me.copies.push_back(copy);
}

/// Lands all but the latest `pending` groups of the calling thread.
inline void wait_copies(unsigned pending) {
    Fiber& me = self();
    if (me.groups.size() <= pending) return;
    size_t groups = me.groups.size() - pending, copies = me.groups[groups - 1];
    for (size_t i = 0; i < copies; i++) {
        land(me.copies[i]);
        mark_landed(me.block->shared, me.copies[i].to, me.copies[i].bytes);
    }
    me.copies.erase(me.copies.begin(), me.copies.begin() + copies);
    me.groups.erase(me.groups.begin(), me.groups.begin() + groups);
    for (size_t& end : me.groups) end -= copies;
}

/// Copies 4, 8 or 16 bytes to shared memory without passing through registers.
template <int Bytes>
inline void cp_async(void* shared, const void* global, SIMT_HERE) {
    static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16, "cp.async moves 4, 8 or 16 bytes");
    start_copy(shared, global, Bytes, Bytes, place);
}

/// The same, reading only the first `read` bytes and writing zeros for the rest; with 0 nothing is read.
template <int Bytes>
inline void cp_async_zfill(void* shared, const void* global, int read, SIMT_HERE) {
    static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16, "cp.async moves 4, 8 or 16 bytes");
    start_copy(shared, global, Bytes, unsigned(read), place);
}

/// Closes the group of all copies since the last commit.
inline void cp_async_commit() {
    Fiber& me = self();
    me.groups.push_back(me.copies.size());
}

/// Waits until at most `Pending` of the thread's own groups are in flight. Other threads' copies need a barrier too.
template <int Pending>
inline void cp_async_wait() {
    wait_copies(Pending);
}

}  // namespace simt
