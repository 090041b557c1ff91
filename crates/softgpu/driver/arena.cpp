// See arena.h. An allocation ends at most 255 bytes before an inaccessible page, so that even an unchecked access
// past its end faults or spoils a guard.
#include "arena.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kAlign = 256;
constexpr size_t kGuard = 256;
constexpr unsigned char kGuardByte = 0xA5;
constexpr unsigned char kPoison = 0xFF;
// Poisoning touches every page. What lies further in a huge allocation (a KV cache that takes all memory) is zero.
constexpr size_t kPoisonMax = size_t(64) << 20;
constexpr size_t kFreedMax = 4096;

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

/// The bytes before and behind an allocation that nobody may write.
simt::Range guard_before(const Allocation& a) {
    uintptr_t begin = a.begin > a.pages_begin + kGuard ? a.begin - kGuard : a.pages_begin;
    return {begin, a.begin};
}
simt::Range guard_behind(const Allocation& a) { return {a.end(), a.pages_end}; }

void write_guard(simt::Range guard) { memset(reinterpret_cast<void*>(guard.begin), kGuardByte, guard.end - guard.begin); }

/// The first spoilt byte, or 0.
uintptr_t find_spoilt(simt::Range guard) {
    for (uintptr_t at = guard.begin; at < guard.end; at++)
        if (*reinterpret_cast<unsigned char*>(at) != kGuardByte) return at;
    return 0;
}

}  // namespace

bool Arena::reserve(size_t bytes) {
    for (size_t size : {size_t(1) << 40, size_t(1) << 36, size_t(1) << 33}) {
        if (size < bytes) continue;
        void* mapped = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapped == MAP_FAILED) continue;
        next_ = reinterpret_cast<uintptr_t>(mapped) + kPage;
        end_ = reinterpret_cast<uintptr_t>(mapped) + size;
        reservations_.push_back({next_ - kPage, end_});
        return true;
    }
    return false;
}

uintptr_t Arena::allocate(size_t bytes) {
    std::lock_guard<std::mutex> guard(lock_);
    if (bytes > capacity_bytes_ - used_bytes_) return 0;
    size_t pages = round_up(round_up(bytes, kAlign), kPage);
    if (next_ + pages + kPage > end_ && !reserve(pages + 2 * kPage)) return 0;
    if (mprotect(reinterpret_cast<void*>(next_), pages, PROT_READ | PROT_WRITE)) return 0;
    Allocation a{next_ + pages - round_up(bytes, kAlign), bytes, next_, next_ + pages};
    next_ += pages + kPage;
    used_bytes_ += bytes;
    memset(reinterpret_cast<void*>(a.begin), kPoison, bytes < kPoisonMax ? bytes : kPoisonMax);
    write_guard(guard_before(a));
    write_guard(guard_behind(a));
    live_[a.begin] = a;
    return a.begin;
}

bool Arena::free(uintptr_t begin) {
    std::lock_guard<std::mutex> guard(lock_);
    auto found = live_.find(begin);
    if (found == live_.end()) return false;
    Allocation a = found->second;
    live_.erase(found);
    used_bytes_ -= a.bytes;
    void* pages = reinterpret_cast<void*>(a.pages_begin);
    madvise(pages, a.pages_end - a.pages_begin, MADV_DONTNEED);
    mprotect(pages, a.pages_end - a.pages_begin, PROT_NONE);
    freed_.push_back(a);
    if (freed_.size() > kFreedMax) freed_.pop_front();
    return true;
}

bool Arena::find(uintptr_t address, size_t bytes, simt::Range* found) {
    std::lock_guard<std::mutex> guard(lock_);
    auto after = live_.upper_bound(address);
    if (after == live_.begin()) return false;
    const Allocation& a = std::prev(after)->second;
    if (address > a.end() || bytes > a.end() - address) return false;
    *found = {a.begin, a.end()};
    return true;
}

bool Arena::owns(uintptr_t address) {
    std::lock_guard<std::mutex> guard(lock_);
    for (const simt::Range& range : reservations_)
        if (address >= range.begin && address < range.end) return true;
    return false;
}

std::string Arena::describe(uintptr_t address) {
    std::lock_guard<std::mutex> guard(lock_);
    return describe_locked(address);
}

std::string Arena::describe_locked(uintptr_t address) {
    char text[256];
    auto after = live_.upper_bound(address);
    for (const Allocation& a : freed_)
        if (address >= a.pages_begin && address < a.pages_end) {
            snprintf(text, sizeof text, "use after free: byte %td of a freed allocation of %zu bytes on %s", ptrdiff_t(address - a.begin), a.bytes,
                     name_.c_str());
            return text;
        }
    const Allocation* before = after == live_.begin() ? nullptr : &std::prev(after)->second;
    const Allocation* behind = after == live_.end() ? nullptr : &after->second;
    if (before && address < before->end())
        snprintf(text, sizeof text, "out of bounds: it starts %zu bytes before the end of an allocation of %zu bytes on %s",
                 size_t(before->end() - address), before->bytes, name_.c_str());
    else if (before && (!behind || address - before->end() <= behind->begin - address))
        snprintf(text, sizeof text, "out of bounds: %zu bytes past the end of an allocation of %zu bytes on %s", size_t(address - before->end()),
                 before->bytes, name_.c_str());
    else if (behind)
        snprintf(text, sizeof text, "out of bounds: %zu bytes before an allocation of %zu bytes on %s", size_t(behind->begin - address),
                 behind->bytes, name_.c_str());
    else
        snprintf(text, sizeof text, "out of bounds: in no allocation on %s", name_.c_str());
    return text;
}

std::string Arena::check_guards() {
    std::lock_guard<std::mutex> guard(lock_);
    std::string first;
    for (const auto& [begin, a] : live_) {
        for (simt::Range range : {guard_before(a), guard_behind(a)}) {
            uintptr_t spoilt = find_spoilt(range);
            if (!spoilt) continue;
            if (first.empty()) first = "a write was " + describe_locked(spoilt);
            write_guard(range);
        }
    }
    return first;
}

size_t Arena::used_bytes() {
    std::lock_guard<std::mutex> guard(lock_);
    return used_bytes_;
}

size_t Arena::live() {
    std::lock_guard<std::mutex> guard(lock_);
    return live_.size();
}
