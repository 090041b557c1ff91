// sample.cu under the race detector: every filter at once, a mask, edits, a token id out of range.
#include "sample.cu"

#include "driver.h"

int main() {
    using namespace cachalot;
    const uint32_t vocab = 300, rows = 3;
    std::vector<float> logits(rows * vocab), scratch(rows * kRowUnit), logprobs(rows);
    for (size_t i = 0; i < logits.size(); i++) logits[i] = float(i * 7919 % 23) * 0.25f;
    const float all[] = {1.0f, 0.9f, 0.01f, 1.1f, 0.5f, 0.25f}, plain[] = {1.0f, 1.0f, 0.0f, 1.0f, 0.0f, 0.0f};
    const auto params = [](const float* p, uint32_t top_k) {
        return SampleParams{0x9e3779b97f4a7c15u, p[0], p[1], p[2], p[3], p[4], p[5], top_k, 1};
    };
    std::vector<SampleParams> params_of = {params(all, 40), params(plain, 0), params(all, 0)};
    std::vector<uint32_t> offsets = {0, 2, 3, 3}, allowed(rows * 10, 0xfffffff7u), ids(rows);
    std::vector<LogitEdit> edits = {{3, 1.0f, 1, 0}, {299, -1.0f, 1, 2}, {vocab, 1.0f, 0, 0}};
    for_each_setting([&](const simt::Settings& settings) {
        Fault fault{};
        RUN(sample_f32, rows, 1024, 0, settings, logits.data(), params_of.data(), offsets.data(), edits.data(), allowed.data(),
            scratch.data(), ids.data(), logprobs.data(), &fault, vocab);
        CHECK(fault.code == kSample && fault.value == vocab && fault.limit == vocab, "code %u, value %u", fault.code, fault.value);
        for (uint32_t id : ids) CHECK(id < vocab && id % 32 != 3, "id %u", id);
    });
    return report();
}
