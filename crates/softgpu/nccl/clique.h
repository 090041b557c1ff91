// The ranks of one communicator, all in this process: where they meet, and what happens when one does not come.
#pragma once
#include <array>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "reduce.h"

enum class Kind { AllReduce, Reduce, Broadcast, AllGather, ReduceScatter, Send, Recv };

struct Call {
    Kind kind;
    const void* send;
    void* recv;
    size_t count;
    int type;
    Reduction op;
    int peer;  // of Send and Recv; the root of Broadcast and Reduce

    size_t bytes() const { return count * kTypeBytes[type]; }
};

const char* name_of(Kind kind);

class Clique {
   public:
    Clique(int ranks, std::chrono::milliseconds deadline) : ranks_(ranks), deadline_(deadline) {}

    /// Waits until all ranks are there.
    std::string join(int rank);
    /// The rank takes part in nothing any more; what it waits for ends with an error.
    void leave(int rank);
    /// One rank's part of a group: collectives in order, then all sends and receives at once. Empty if all went well.
    std::string run(int rank, const std::vector<Call>& calls);
    int ranks() const { return ranks_; }

   private:
    struct Meeting {
        std::map<int, Call> calls;
        bool done = false;
    };
    struct Post {
        Call call;
        bool taken = false;
    };
    using Lock = std::unique_lock<std::mutex>;

    std::string meet(Lock& guard, int rank, const Call& call);
    std::string exchange(Lock& guard, int rank, const std::vector<Call>& calls);
    std::string receive(Lock& guard, int rank, const Call& call);
    std::string disagreement(const Meeting& meeting) const;
    void move(const Meeting& meeting);
    /// Keeps the first failure: after it every call of every rank ends with it.
    std::string fail(std::string text);

    const int ranks_;
    const std::chrono::milliseconds deadline_;
    std::mutex lock_;
    std::condition_variable changed_;
    std::set<int> joined_, left_;
    std::map<uint64_t, Meeting> meetings_;
    std::map<int, uint64_t> sequence_;
    std::map<std::pair<int, int>, std::deque<std::shared_ptr<Post>>> mail_;  // by sender and receiver
    std::string failure_;
};
