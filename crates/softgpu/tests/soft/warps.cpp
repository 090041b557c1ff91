// Warp collectives, barriers and atomics against plain loops, under every schedule.
#include <vector>

#include "check.h"

constexpr unsigned kAll = 0xffffffffu;

__global__ void shuffles(const int* in, int* out, int amount, int width) {
    int lane = threadIdx.x;
    out[lane] = __shfl_sync(kAll, in[lane], amount, width);
    out[32 + lane] = __shfl_up_sync(kAll, in[lane], amount, width);
    out[64 + lane] = __shfl_down_sync(kAll, in[lane], amount, width);
    out[96 + lane] = __shfl_xor_sync(kAll, in[lane], amount, width);
}

static void check_shuffles(const simt::Settings& settings) {
    std::vector<int> in(32), out(128);
    for (int i = 0; i < 32; i++) in[i] = 100 + i * i;
    for (int width = 1; width <= 32; width *= 2)
        for (int amount = 0; amount < 32; amount += 1 + amount / 4) {
            simt::Fault fault = simt::launch<shuffles>("shuffles", 1, 32, 0, settings, in.data(), out.data(), amount, width);
            CHECK(fault.error == simt::Error::None, "%s", fault.text);
            for (int lane = 0; lane < 32; lane++) {
                int base = lane / width * width, end = base + width;
                int sources[4] = {base + amount % width, lane - amount < base ? lane : lane - amount,
                                  lane + amount >= end ? lane : lane + amount, (lane ^ amount) >= end ? lane : lane ^ amount};
                for (int kind = 0; kind < 4; kind++)
                    CHECK(out[kind * 32 + lane] == in[sources[kind]], "kind %d lane %d amount %d width %d", kind, lane, amount, width);
            }
        }
}

__global__ void votes(const int* in, unsigned* out, unsigned mask) {
    int lane = threadIdx.x;
    if (!(mask >> lane & 1)) return;
    int all;
    unsigned* row = out + lane * 12;
    row[0] = __ballot_sync(mask, in[lane] & 1);
    row[1] = __any_sync(mask, in[lane] == 3);
    row[2] = __all_sync(mask, in[lane] >= 0);
    row[3] = __match_any_sync(mask, in[lane]);
    row[4] = __match_all_sync(mask, in[lane] / 100, &all);
    row[5] = all;
    row[6] = __reduce_add_sync(mask, unsigned(in[lane]));
    row[7] = __reduce_min_sync(mask, in[lane] - 3);
    row[8] = __reduce_max_sync(mask, unsigned(in[lane]));
    row[9] = __reduce_xor_sync(mask, unsigned(in[lane]));
    row[10] = __reduce_or_sync(mask, unsigned(in[lane]));
    row[11] = __reduce_and_sync(mask, unsigned(in[lane]));
}

static void check_votes(const simt::Settings& settings) {
    std::vector<int> in(32);
    for (int i = 0; i < 32; i++) in[i] = i * 7 % 5;
    for (unsigned mask : {kAll, 0x0000ffffu, 0xf0f0f0f0u, 0x00000008u}) {
        std::vector<unsigned> out(32 * 12, 77);
        simt::Fault fault = simt::launch<votes>("votes", 1, 32, 0, settings, in.data(), out.data(), mask);
        CHECK(fault.error == simt::Error::None, "%s", fault.text);
        for (int lane = 0; lane < 32; lane++) {
            if (!(mask >> lane & 1)) continue;
            unsigned want[12] = {0, 0, 1, 0, mask, 1, 0, 1000, 0, 0, 0, kAll};
            for (int other = 0; other < 32; other++) {
                if (!(mask >> other & 1)) continue;
                unsigned value = in[other];
                want[0] |= (value & 1) << other;
                want[1] |= value == 3;
                want[3] |= unsigned(in[lane] == in[other]) << other;
                want[6] += value;
                want[7] = min(int(want[7]), in[other] - 3);
                want[8] = max(want[8], value);
                want[9] ^= value;
                want[10] |= value;
                want[11] &= value;
            }
            for (int i = 0; i < 12; i++) CHECK(out[lane * 12 + i] == want[i], "vote %d lane %d mask %08x: %u, want %u", i, lane, mask, out[lane * 12 + i], want[i]);
        }
    }
}

/// Two halves of a warp in different collectives at the same time, then together again.
__global__ void halves(int* out) {
    int lane = threadIdx.x % 32, value;
    if (lane < 16)
        value = __shfl_down_sync(0x0000ffffu, lane, 8, 16);
    else
        value = __popc(__ballot_sync(0xffff0000u, lane % 4 == 0));
    __syncwarp();
    out[threadIdx.x] = value + __shfl_sync(kAll, value, 31);
}

static void check_halves(const simt::Settings& settings) {
    std::vector<int> out(64);
    simt::Fault fault = simt::launch<halves>("halves", 1, 64, 0, settings, out.data());
    CHECK(fault.error == simt::Error::None, "%s", fault.text);
    for (int t = 0; t < 64; t++) {
        int lane = t % 32, value = lane >= 16 ? 4 : lane + (lane < 8 ? 8 : 0);
        CHECK(out[t] == value + 4, "thread %d: %d", t, out[t]);
    }
}

/// Every round each thread reads its neighbour's word; a barrier that lets anyone through early gives a wrong chain.
__global__ void ring(int* out, int rounds) {
    __shared__ int word[160];
    int t = threadIdx.x, n = blockDim.x, value = t;
    for (int round = 0; round < rounds; round++) {
        word[t] = value;
        __syncthreads();
        value = word[(t + 1) % n] + 1;
        __syncthreads();
    }
    int total = __syncthreads_count(t % 3 == 0), any = __syncthreads_or(t == n - 1), all = __syncthreads_and(t >= 0);
    out[blockIdx.x * n + t] = value + 1000 * total + 100000 * any + 200000 * all;
}

static void check_ring(const simt::Settings& settings) {
    for (int n : {1, 31, 96, 160}) {
        std::vector<int> out(3 * n);
        simt::Fault fault = simt::launch<ring>("ring", 3, n, 0, settings, out.data(), 5);
        CHECK(fault.error == simt::Error::None, "%s", fault.text);
        for (int i = 0; i < 3 * n; i++)
            CHECK(out[i] == (i % n + 5) % n + 5 + 1000 * ((n + 2) / 3) + 300000, "n %d, %d: %d", n, i, out[i]);
    }
}

/// Warp 0 fills a buffer for warp 1 through a pair of named barriers, while warps 2 and 3 use a third.
__global__ void producer(int* out) {
    __shared__ int slot[32];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int round = 0; round < 4; round++) {
        if (warp == 0) {
            if (round) simt::barrier_sync(2, 64);
            slot[lane] = round * 100 + lane;
            simt::barrier_arrive(1, 64);
        } else if (warp == 1) {
            simt::barrier_sync(1, 64);
            out[round * 32 + lane] = slot[31 - lane];
            if (round < 3) simt::barrier_arrive(2, 64);
        } else {
            simt::barrier_sync(3, 64);
        }
    }
}

static void check_producer(const simt::Settings& settings) {
    std::vector<int> out(128);
    simt::Fault fault = simt::launch<producer>("producer", 1, 128, 0, settings, out.data());
    CHECK(fault.error == simt::Error::None, "%s", fault.text);
    for (int i = 0; i < 128; i++) CHECK(out[i] == i / 32 * 100 + 31 - i % 32, "%d: %d", i, out[i]);
}

struct Counters {
    float sum;
    double wide;
    unsigned largest, smallest, wrapped, bits, owner;
    unsigned long long total;
    int difference;
};

__global__ void atomics(Counters* c) {
    unsigned t = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(&c->sum, 0.5f);
    atomicAdd(&c->wide, 0.25);
    atomicMax(&c->largest, t * 37 % 101);
    atomicMin(&c->smallest, t * 37 % 101 + 5);
    atomicInc(&c->wrapped, 9);
    atomicOr(&c->bits, 1u << t % 8);
    atomicAdd(&c->total, t);
    atomicSub(&c->difference, 2);
    if (t == 40) atomicExch(&c->owner, 3u);
    atomicCAS(&c->owner, 3u, 4u);
}

static void check_atomics(const simt::Settings& settings) {
    Counters c{0, 0, 0, 1000, 0, 0, 1, 0, 0};
    simt::Fault fault = simt::launch<atomics>("atomics", 2, 64, 0, settings, &c);
    CHECK(fault.error == simt::Error::None, "%s", fault.text);
    CHECK(c.sum == 64 && c.wide == 32 && c.total == 127 * 64 && c.difference == -256, "%f %f %llu %d", c.sum, c.wide, c.total, c.difference);
    CHECK(c.largest == 100 && c.smallest == 5 && c.wrapped == 128 % 10 && c.bits == 255 && c.owner == 4, "%u %u %u %x %u", c.largest,
          c.smallest, c.wrapped, c.bits, c.owner);
}

/// Threads that leave early are not waited for by those that stay.
__global__ void leavers(int* out) {
    if (threadIdx.x % 3 == 1) return;
    __syncthreads();
    out[threadIdx.x] = 1;
}

static void check_leavers(const simt::Settings& settings) {
    std::vector<int> out(100);
    simt::Fault fault = simt::launch<leavers>("leavers", 1, 100, 0, settings, out.data());
    CHECK(fault.error == simt::Error::None, "%s", fault.text);
    for (int t = 0; t < 100; t++) CHECK(out[t] == (t % 3 != 1), "thread %d", t);
}

int main() {
    under_all_settings([](const simt::Settings& settings) {
        check_shuffles(settings);
        check_votes(settings);
        check_halves(settings);
        check_ring(settings);
        check_producer(settings);
        check_atomics(settings);
        check_leavers(settings);
    });
    return report();
}
