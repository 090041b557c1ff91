// One device's memory: address space that is never given out twice, pages that are gone once freed, guards around
// every allocation.
#pragma once
#include <deque>
#include <map>
#include <mutex>
#include <string>

#include "simt/abi.h"

struct Allocation {
    uintptr_t begin;
    size_t bytes;
    uintptr_t pages_begin, pages_end;

    uintptr_t end() const { return begin + bytes; }
};

class Arena {
   public:
    /// `name` is for messages: "device 0".
    Arena(std::string name, size_t capacity_bytes) : name_(std::move(name)), capacity_bytes_(capacity_bytes) {}

    /// Memory full of 0xFF (NaN, -1), aligned to 256 bytes; 0 if the device is full.
    uintptr_t allocate(size_t bytes);
    /// False if nothing was allocated at this address.
    bool free(uintptr_t begin);
    /// The live allocation that holds [address, address + bytes).
    bool find(uintptr_t address, size_t bytes, simt::Range* found);
    /// Whether the address is in this device's address space, allocated or not.
    bool owns(uintptr_t address);
    /// Says what is or was at an address that `find` refuses.
    std::string describe(uintptr_t address);
    /// Names the first allocation whose guard somebody wrote to, and repairs the guards; empty if all are whole.
    std::string check_guards();

    size_t capacity_bytes() const { return capacity_bytes_; }
    size_t used_bytes();
    size_t live();

   private:
    std::string describe_locked(uintptr_t address);
    bool reserve(size_t bytes);

    std::string name_;
    size_t capacity_bytes_, used_bytes_ = 0;
    std::mutex lock_;
    std::map<uintptr_t, Allocation> live_;
    std::deque<Allocation> freed_;             // the latest ones, for messages
    std::deque<simt::Range> reservations_;
    uintptr_t next_ = 0, end_ = 0;
};
