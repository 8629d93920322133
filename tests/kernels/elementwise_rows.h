#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/instruction_sets.h"
#include "kernels/test_values.h"
#include "qlora/kernels/elementwise.h"

namespace qlora::kernels::cpu {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
/// Largest relative error of one fp32 rounding.
inline constexpr double kRounding = 0x1p-24;

/// Every small size, then some around the blocks and unrolled loops of the kernels.
inline std::vector<int64_t> row_sizes() {
    std::vector<int64_t> sizes;
    for (int64_t size = 1; size <= 70; ++size) sizes.push_back(size);
    for (int64_t size : {576, 1023, 1024, 1025, 2049, 5003}) sizes.push_back(size);
    return sizes;
}

/// A buffer between marks, `shift` floats after an aligned address.
class Guarded {
  public:
    explicit Guarded(const std::vector<float>& values, size_t shift = 0)
        : before_(kMarks + shift), size_(values.size()), storage_(before_ + size_ + kMarks, kMark) {
        std::copy(values.begin(), values.end(), storage_.begin() + static_cast<int64_t>(before_));
    }
    explicit Guarded(int64_t size, size_t shift = 0)
        : Guarded(std::vector<float>(static_cast<size_t>(size), -7.0f), shift) {}

    float* data() { return storage_.data() + before_; }
    std::vector<float> values() const {
        const auto begin = storage_.begin() + static_cast<int64_t>(before_);
        return {begin, begin + static_cast<int64_t>(size_)};
    }
    bool intact() const {
        for (size_t i = 0; i < storage_.size(); ++i) {
            if ((i < before_ || i >= before_ + size_) && storage_[i] != kMark) return false;
        }
        return true;
    }

  private:
    static constexpr size_t kMarks = 16;
    static constexpr float kMark = 1234.5f;
    size_t before_, size_;
    std::vector<float> storage_;
};

/// For comparing results exactly: -0 differs from 0, all NaN are one.
inline std::vector<uint32_t> bits_of(const std::vector<float>& values) {
    std::vector<uint32_t> bits;
    bits.reserve(values.size());
    for (float value : values) bits.push_back(float_bits(std::isnan(value) ? kNan : value));
    return bits;
}

inline std::vector<float> joined(std::vector<float> first, const std::vector<float>& second) {
    first.insert(first.end(), second.begin(), second.end());
    return first;
}

inline std::vector<float> part(const std::vector<float>& values, int64_t begin, int64_t count) {
    return {values.begin() + begin, values.begin() + begin + count};
}

/// Finite values of every magnitude, zeros of both signs, infinities and NaN, in no regular order.
inline std::vector<float> wild_values(int64_t n, uint32_t seed) {
    static const std::vector<float> kSpecial = {
        0.0f,    -0.0f,  1e-45f, -1e-45f, 1e-39f, -1e-39f, 88.0f, -88.0f, 103.5f, -103.5f,   104.5f,
        -104.5f, -87.4f, 1e4f,   -1e4f,   1e19f,  -1e19f,  3e38f, -3e38f, kNan,   kInfinity, -kInfinity};
    std::vector<float> values = gaussian(n, seed, 3.0f);
    std::mt19937 engine(seed);
    for (float& value : values) {
        const size_t choice = engine() % (2 * kSpecial.size());
        if (choice < kSpecial.size()) value = kSpecial[choice];
    }
    return values;
}

/// run() gives a vector of floats: the same bits on every path this machine has.
template <class Run>
void expect_same_bits_on_every_path(Run run) {
    std::vector<uint32_t> expected;
    {
        UseInstructionSet portable(InstructionSet::kPortable);
        expected = bits_of(run());
    }
    for (InstructionSet set : supported_sets()) {
        UseInstructionSet use(set);
        ASSERT_EQ(bits_of(run()), expected) << to_string(set);
    }
}

/// Suites whose cases run on every path.
class OnEveryPath : public testing::TestWithParam<InstructionSet> {
    UseInstructionSet use_{GetParam()};
};

}  // namespace qlora::kernels::cpu
