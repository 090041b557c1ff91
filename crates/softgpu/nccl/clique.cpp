// See clique.h. The last rank to arrive at a collective does all of its work.
#include "clique.h"

#include <stdio.h>

const char* name_of(Kind kind) {
    static const char* names[] = {"all_reduce", "reduce", "broadcast", "all_gather", "reduce_scatter", "send", "recv"};
    return names[int(kind)];
}

static std::string format(const char* pattern, const char* what, int a, long b) {
    char text[256];
    snprintf(text, sizeof text, pattern, what, a, b);
    return text;
}

std::string Clique::fail(std::string text) {
    if (failure_.empty()) failure_ = std::move(text);
    changed_.notify_all();
    return failure_;
}

std::string Clique::join(int rank) {
    Lock guard(lock_);
    if (!joined_.insert(rank).second) return fail(format("%s: rank %d of %ld joined twice", "comm_init", rank, ranks_));
    changed_.notify_all();
    bool all = changed_.wait_for(guard, deadline_, [this] { return int(joined_.size()) == ranks_ || !failure_.empty(); });
    if (!failure_.empty()) return failure_;
    for (int missing = 0; !all && missing < ranks_; missing++)
        if (!joined_.count(missing)) return fail(format("%s: rank %d did not join within %ld ms", "comm_init", missing, long(deadline_.count())));
    return {};
}

void Clique::leave(int rank) {
    Lock guard(lock_);
    left_.insert(rank);
    changed_.notify_all();
}

std::string Clique::run(int rank, const std::vector<Call>& calls) {
    Lock guard(lock_);
    std::vector<Call> messages;
    for (const Call& call : calls) {
        if (!failure_.empty()) return failure_;
        if (call.kind >= Kind::Send) {
            messages.push_back(call);
            continue;
        }
        std::string error = meet(guard, rank, call);
        if (!error.empty()) return error;
    }
    return exchange(guard, rank, messages);
}

std::string Clique::meet(Lock& guard, int rank, const Call& call) {
    uint64_t number = sequence_[rank]++;
    Meeting& meeting = meetings_[number];
    meeting.calls[rank] = call;
    if (int(meeting.calls.size()) == ranks_) {
        std::string error = disagreement(meeting);
        if (!error.empty()) return fail(error);
        move(meeting);
        meetings_.erase(number);  // whoever waits sees it gone
        changed_.notify_all();
        return {};
    }
    int missing = -1;
    auto over = [&] {
        auto found = meetings_.find(number);
        if (found == meetings_.end() || !failure_.empty()) return true;
        for (int gone : left_)
            if (gone == rank || !found->second.calls.count(gone)) return missing = gone, true;
        return false;
    };
    bool in_time = changed_.wait_for(guard, deadline_, over);
    if (!failure_.empty()) return failure_;
    if (missing >= 0) return fail(format("%s: rank %d has left the communicator", name_of(call.kind), missing, 0));
    for (int other = 0; !in_time && other < ranks_; other++)
        if (!meetings_[number].calls.count(other))
            return fail(format("%s: rank %d did not arrive within %ld ms", name_of(call.kind), other, long(deadline_.count())));
    return {};
}

std::string Clique::disagreement(const Meeting& meeting) const {
    const Call& first = meeting.calls.at(0);
    for (const auto& [rank, call] : meeting.calls) {
        bool rooted = call.kind == Kind::Broadcast || call.kind == Kind::Reduce;
        if (call.kind != first.kind) return format("rank 0 and others call different collectives: %s on rank %d (%ld elements)", name_of(call.kind), rank, long(call.count));
        if (call.count != first.count || call.type != first.type || call.op != first.op || (rooted && call.peer != first.peer))
            return format("%s: rank %d differs from rank 0 in count (%ld), type, operation or root", name_of(call.kind), rank, long(call.count));
    }
    return {};
}

void Clique::move(const Meeting& meeting) {
    const Call& first = meeting.calls.at(0);
    size_t bytes = first.bytes();
    std::vector<const void*> inputs;
    for (const auto& [rank, call] : meeting.calls) inputs.push_back(call.send);
    // Results go through memory of their own first: a rank's output may be its input.
    std::vector<std::vector<char>> outputs(ranks_);
    if (first.kind == Kind::AllReduce || first.kind == Kind::Reduce) {
        std::vector<char> total = reduce(first.type, first.op, inputs, 0, first.count);
        for (int rank = 0; rank < ranks_; rank++)
            if (first.kind == Kind::AllReduce || rank == first.peer) outputs[rank] = total;
    } else if (first.kind == Kind::ReduceScatter) {
        for (int rank = 0; rank < ranks_; rank++) outputs[rank] = reduce(first.type, first.op, inputs, rank * first.count, first.count);
    } else {
        std::vector<char> all;
        for (int rank = 0; rank < ranks_; rank++) {
            if (first.kind == Kind::Broadcast && rank != first.peer) continue;
            auto* from = static_cast<const char*>(inputs[rank]);
            all.insert(all.end(), from, from + bytes);
        }
        for (auto& output : outputs) output = all;
    }
    for (const auto& [rank, call] : meeting.calls)
        if (!outputs[rank].empty()) memcpy(call.recv, outputs[rank].data(), outputs[rank].size());
}

/// A send ends when its receiver has taken the data, so that a cycle of sends without a group is found as what it is.
std::string Clique::exchange(Lock& guard, int rank, const std::vector<Call>& calls) {
    std::vector<std::shared_ptr<Post>> sent;
    for (const Call& call : calls) {
        if (call.kind != Kind::Send) continue;
        sent.push_back(std::make_shared<Post>(Post{call}));
        mail_[{rank, call.peer}].push_back(sent.back());
    }
    changed_.notify_all();
    for (const Call& call : calls) {
        if (call.kind != Kind::Recv) continue;
        std::string error = receive(guard, rank, call);
        if (!error.empty()) return error;
    }
    for (const auto& post : sent) {
        auto over = [&] { return post->taken || !failure_.empty() || left_.count(post->call.peer) || left_.count(rank); };
        bool in_time = changed_.wait_for(guard, deadline_, over);
        if (!failure_.empty()) return failure_;
        if (!post->taken)
            return fail(format(in_time ? "%s: rank %d has left the communicator" : "%s: rank %d did not receive within %ld ms", "send", post->call.peer,
                               long(deadline_.count())));
    }
    return {};
}

std::string Clique::receive(Lock& guard, int rank, const Call& call) {
    auto& box = mail_[{call.peer, rank}];
    bool in_time = changed_.wait_for(guard, deadline_, [&] { return !box.empty() || !failure_.empty() || left_.count(call.peer) || left_.count(rank); });
    if (!failure_.empty()) return failure_;
    if (box.empty())
        return fail(format(in_time ? "%s: rank %d has left the communicator" : "%s: rank %d did not send within %ld ms", "recv", call.peer,
                           long(deadline_.count())));
    std::shared_ptr<Post> post = box.front();
    box.pop_front();
    if (post->call.bytes() != call.bytes())
        return fail(format("%s: rank %d sent another size than the %ld bytes expected", "recv", call.peer, long(call.bytes())));
    memcpy(call.recv, post->call.send, call.bytes());
    post->taken = true;
    changed_.notify_all();
    return {};
}
