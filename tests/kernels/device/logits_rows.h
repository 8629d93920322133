#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/device/device.h"
#include "kernels/test_values.h"
#include "qlora/kernels/cuda_loss.h"
#include "qlora/kernels/elementwise.h"
#include "qlora/kernels/logit_math.h"

/// Rows of logits through the softmax kernels of a device, and what they should give.
namespace qlora::kernels {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr double kRounding = 0x1p-24;  // largest relative error of one fp32 rounding

/// Around groups of 16, vectors, warps and passes of 512 threads; vocabularies.
inline constexpr int64_t kColumnCounts[] = {1,   2,    15,   16,   17,   31,    33,    255,
                                            257, 1023, 8192, 8193, 8209, 32000, 49152, 50257};

struct Rows {
    std::vector<float> logits;  // [rows, columns]
    std::vector<int64_t> targets;
    FloatType type = FloatType::kF32;
    int shift = 0;  // elements
    LogitCurve curve = {};

    int64_t rows() const { return static_cast<int64_t>(targets.size()); }
    int64_t columns() const { return static_cast<int64_t>(logits.size() / targets.size()); }
    std::size_t shift_bytes() const { return static_cast<std::size_t>(shift * float_bytes(type)); }
    /// As the device reads it.
    std::vector<float> row(int64_t number) const {
        const auto begin = logits.begin() + number * columns();
        return round_elements({begin, begin + columns()}, type);
    }
};

/// A curve of the tests: a scale alone, a softcap alone, both.
inline constexpr LogitCurve kCurves[] = {{0.0625f, 0.0f}, {1.0f, 3.0f}, {0.7f, 5.0f}};

/// What the softmax sees of a logit, and the gradient of the logit from `own`, rounded as tensors of the
/// type.
inline CurvedLogit<OneLane> curved_element(float logit, LogitCurve curve, FloatType type) {
    return curved<OneLane>(logit, curve, [type](float value) { return round_element(value, type); });
}
inline float curve_gradient_element(float own, float tanh, LogitCurve curve, FloatType type) {
    return curve_gradient<OneLane>(own, tanh, curve,
                                   [type](float value) { return round_element(value, type); });
}

/// The rows that the softmax sees, as they would be without a curve.
inline Rows without_curve(Rows rows) {
    for (float& logit : rows.logits) {
        logit = curved_element(round_element(logit, rows.type), rows.curve, rows.type).value;
    }
    rows.curve = {};
    return rows;
}

struct CrossEntropy {
    std::vector<uint8_t> gradient;
    std::vector<double> losses;
    bool operator==(const CrossEntropy&) const = default;
};

inline CrossEntropy cross_entropy(const Rows& rows) {
    const DeviceArray<uint8_t> logits(encode_elements(rows.logits, rows.type), Access::kOutput,
                                      rows.shift_bytes());
    const DeviceArray<int64_t> targets(rows.targets);
    const DeviceArray<double> losses(std::vector<double>(rows.targets.size(), -7.0), Access::kOutput);
    device::softmax_cross_entropy(
        {logits.data(), targets.data(), rows.rows(), rows.columns(), losses.data(), rows.type, rows.curve},
        nullptr);
    return {logits.download(), losses.download()};
}

struct Scores {
    std::vector<float> logprobs;
    std::vector<uint8_t> correct;
    bool operator==(const Scores&) const = default;
};

inline Scores score(const Rows& rows) {
    const std::vector<uint8_t> bytes = encode_elements(rows.logits, rows.type);
    const DeviceArray<uint8_t> logits(bytes, Access::kInput, rows.shift_bytes());
    const DeviceArray<int64_t> targets(rows.targets);
    const DeviceArray<float> logprobs(std::vector<float>(rows.targets.size(), -7.0f), Access::kOutput);
    const DeviceArray<uint8_t> correct(std::vector<uint8_t>(rows.targets.size(), 0xee), Access::kOutput);
    device::score_rows({logits.data(), targets.data(), rows.rows(), rows.columns(), logprobs.data(),
                        reinterpret_cast<bool*>(correct.data()), rows.type, rows.curve},
                       nullptr);
    EXPECT_EQ(logits.download(), bytes);
    return {logprobs.download(), correct.download()};
}

inline Scores score_on_cpu(const Rows& rows) {
    const std::vector<float> logits = round_elements(rows.logits, rows.type);
    Scores found{std::vector<float>(rows.targets.size()), std::vector<uint8_t>(rows.targets.size())};
    cpu::score_rows(logits.data(), rows.targets.data(), rows.rows(), rows.columns(), found.logprobs.data(),
                    reinterpret_cast<bool*>(found.correct.data()));
    return found;
}

struct Exact {
    double max, sum;  // sum of e^(x - max)
    double log_sum() const { return max + std::log(sum); }
};

inline Exact exact(const std::vector<float>& row) {
    Exact result = {*std::max_element(row.begin(), row.end()), 0.0};
    for (float x : row) result.sum += std::exp(double{x} - result.max);
    return result;
}

}  // namespace qlora::kernels
