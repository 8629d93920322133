// Correct kernels give their results under every schedule, and nothing is reported.
#include "grid.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "sample_kernels.h"

namespace qlora::emulation {
namespace {

constexpr int kCount = 256;

using Expected = std::function<float(const std::vector<float>& in, int i)>;

struct Case {
    const char* kernel;
    std::function<std::vector<float>(const std::vector<float>&)> expected;
};

std::vector<float> input() {
    std::vector<float> values;
    for (int i = 0; i < kCount; ++i) values.push_back(static_cast<float>((i * 37 + 11) % 97));
    return values;
}

std::vector<float> each(const Expected& value, const std::vector<float>& in) {
    std::vector<float> values;
    for (int i = 0; i < kCount; ++i) values.push_back(value(in, i));
    return values;
}

float at(const std::vector<float>& in, int i) {
    return in[static_cast<std::size_t>(i)];
}

/// Sum of `count` values from `first`; whole numbers, so in any order.
float sum(const std::vector<float>& in, int first, int count) {
    float total = 0.0f;
    for (int i = first; i < first + count; ++i) total += at(in, i);
    return total;
}

Case elementwise(const char* kernel, const Expected& value) {
    return {kernel, [value](const std::vector<float>& in) { return each(value, in); }};
}

float shuffled(const std::vector<float>& in, int i) {
    const int first = i / 8 * 8;
    const float up = at(in, i - 3 < first ? i : i - 3);
    const float down = at(in, i + 3 > first + 7 ? i : i + 3);
    // Lane 10 of a segment of eight is its lane 2. Distance 8 leads out of the segment: upwards the lane's
    // own value is taken, downwards the earlier segment's.
    const float from = at(in, first + 2);
    const float across = i % 16 < 8 ? at(in, i) : at(in, i - 8);
    return ((up * 100.0f + down) * 100.0f + from) * 100.0f + across;
}

float voted(const std::vector<float>& in, int i) {
    int threes = 0, any = 0, total = 0, largest = 0, least = 1 << 20;
    unsigned exclusive = 0, inclusive = 0, common = ~0u;
    for (int lane = i / 32 * 32; lane < i / 32 * 32 + 32; ++lane) {
        const int value = static_cast<int>(at(in, lane));
        threes += value % 3 == 0 ? 1 : 0;
        any |= value == 40 ? 1 : 0;
        total += value;
        largest = std::max(largest, value);
        least = std::min(least, value - 100);
        exclusive ^= static_cast<unsigned>(value);
        inclusive |= static_cast<unsigned>(value);
        common &= static_cast<unsigned>(value) + 64u;
    }
    const int result = threes * 4 + any * 2 + 1 + total + largest + least * 1000 +
                       static_cast<int>(exclusive + inclusive + common) + largest;
    return static_cast<float>(result + i % 32);
}

std::vector<float> counted(const std::vector<float>& in) {
    std::vector<float> counts(kCount, 0.0f);
    for (float value : in) counts[static_cast<std::size_t>(value) % 8] += 1.0f;
    return counts;
}

std::vector<float> packed_bytes(const std::vector<float>& in) {
    std::vector<float> words(kCount, 0.0f);
    std::vector<unsigned char> bytes;
    for (float value : in) bytes.push_back(static_cast<unsigned char>(value));
    std::memcpy(words.data(), bytes.data(), bytes.size());
    return words;
}

const Case kCases[] = {
    elementwise("tree_sum", [](const auto& in, int i) { return sum(in, i / 64 * 64, 64); }),
    elementwise("warp_sums_in_turns",
                [](const auto& in, int i) {
                    const int block = i / 64 * 64;
                    const float difference = sum(in, block, 32) - sum(in, block + 32, 32);
                    float total = 0.0f;
                    for (int turn = 1; turn <= 4; ++turn)
                        total = total * 2.0f + difference * static_cast<float>(turn);
                    return total;
                }),
    elementwise("warp_slices", [](const auto& in, int i) { return at(in, i ^ 30) + 1.0f; }),
    elementwise("half_warps",
                [](const auto& in, int i) {
                    const int other = i ^ 16;
                    return other % 32 < 16 ? sum(in, other / 16 * 16, 16) : at(in, other ^ 8);
                }),
    elementwise("sixteen_threads", [](const auto& in, int i) { return at(in, i / 16 * 16 + 15 - i % 16); }),
    elementwise("shuffles", shuffled),
    elementwise("votes", voted),
    {"histogram", counted},
    {"neighbouring_bytes", packed_bytes},
    elementwise(
        "late_return",
        [](const auto& in, int i) { return i >= kCount - 3 ? 0.0f : at(in, i) - at(in, i / 64 * 64); }),
    elementwise("transpose",
                [](const auto& in, int i) { return at(in, i / 64 * 64 + i % 8 * 8 + i % 64 / 8); }),
    elementwise("vectors", [](const auto& in, int i) { return at(in, i / 4 * 4 + 3 - i % 4); }),
    elementwise("in_place", [](const auto& in, int i) { return at(in, i) * 2.0f; }),
};

class CorrectKernel : public testing::TestWithParam<Case> {
  protected:
    void TearDown() override { set_schedule({}); }
};
INSTANTIATE_TEST_SUITE_P(, CorrectKernel, testing::ValuesIn(kCases),
                         [](const auto& test) { return std::string(test.param.kernel); });

TEST_P(CorrectKernel, GivesItsResultUnderEverySchedule) {
    const std::vector<float> in = input();
    const std::vector<float> expected = GetParam().expected(in);
    for (const Schedule& schedule : all_schedules()) {
        SCOPED_TRACE(to_string(schedule));
        set_schedule(schedule);
        std::vector<float> out(kCount, 0.0f);
        const RegisteredBuffer input(in.data(), sizeof(float) * in.size(), RegisteredBuffer::Access::kRead);
        const RegisteredBuffer output(out.data(), sizeof(float) * out.size(),
                                      RegisteredBuffer::Access::kReadWrite);
        const int64_t launches = finished_launches();
        correct_kernel(GetParam().kernel)(in.data(), out.data(), kCount);
        EXPECT_EQ(finished_launches(), launches + 1);
        EXPECT_EQ(out, expected);
    }
}

TEST(Schedules, AreEightDifferentOnes) {
    std::vector<std::string> names;
    for (const Schedule& schedule : all_schedules()) names.push_back(to_string(schedule));
    std::sort(names.begin(), names.end());
    EXPECT_EQ(names.size(), 8u);
    EXPECT_EQ(std::unique(names.begin(), names.end()), names.end());
}

}  // namespace
}  // namespace qlora::emulation
