#include "rope_frequencies.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace qlora::models {
namespace {

/// theta^(2i / dims): the tokens in which angle i grows by one.
at::Tensor periods(double theta, std::int64_t dims) {
    const at::Tensor exponent = at::arange(0, dims, 2, at::kLong).to(at::kFloat) / dims;
    return at::pow(at::Scalar(theta), exponent);
}

at::Tensor llama3_frequencies(const RopeConfig& rope, const at::Tensor& inverse) {
    const double original = static_cast<double>(rope.original_max_position_embeddings);
    const double low_wavelength = original / rope.low_freq_factor;
    const double high_wavelength = original / rope.high_freq_factor;
    const at::Tensor wavelength = 2 * std::numbers::pi / inverse;
    const at::Tensor scaled = at::where(wavelength.gt(low_wavelength), inverse / rope.factor, inverse);
    const at::Tensor smooth =
        (original / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
    const at::Tensor smoothed = (1 - smooth) * scaled / rope.factor + smooth * scaled;
    const at::Tensor medium =
        wavelength.lt(high_wavelength).logical_not().logical_and(wavelength.gt(low_wavelength).logical_not());
    return at::where(medium, smoothed, scaled);
}

/// The angle, not a whole one, that turns so many times within the original positions.
double angle_of_turns(const RopeConfig& rope, std::int64_t dims, double turns) {
    const double original = static_cast<double>(rope.original_max_position_embeddings);
    return (static_cast<double>(dims) * std::log(original / (turns * 2 * std::numbers::pi))) /
           (2 * std::log(rope.theta));
}

/// Fast angles keep their speed, slow ones are divided by the factor, those between get some of both.
at::Tensor yarn_frequencies(const RopeConfig& rope, std::int64_t dims) {
    double low = angle_of_turns(rope, dims, rope.beta_fast);
    double high = angle_of_turns(rope, dims, rope.beta_slow);
    if (rope.truncate) {
        low = std::floor(low);
        high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, static_cast<double>(dims - 1));
    if (low == high) high += 0.001;
    const at::Tensor ramp = at::clamp((at::arange(dims / 2, at::kFloat) - low) / (high - low), 0, 1);
    const at::Tensor period = periods(rope.theta, dims);
    const at::Tensor kept = 1 - ramp;
    return 1.0 / (rope.factor * period) * (1 - kept) + 1.0 / period * kept;
}

}  // namespace

at::Tensor inverse_frequencies(const RopeConfig& rope, std::int64_t dims, std::int64_t tokens) {
    switch (rope.type) {
        case RopeType::kDefault:
            break;
        case RopeType::kLinear:
            return 1.0 / periods(rope.theta, dims) / rope.factor;
        case RopeType::kDynamic: {
            // At most_positions tokens, up to which it stays as it is: the default but for roundings.
            const auto most = static_cast<double>(rope.most_positions), d = static_cast<double>(dims);
            const double growth = rope.factor * most / most - (rope.factor - 1);
            return 1.0 / periods(rope.theta * std::pow(growth, d / (d - 2)), dims);
        }
        case RopeType::kLlama3:
            return llama3_frequencies(rope, 1.0 / periods(rope.theta, dims));
        case RopeType::kYarn:
            return yarn_frequencies(rope, dims);
        case RopeType::kLongrope: {
            const std::vector<double>& divisors =
                rope.turns_long(tokens) ? rope.long_factor : rope.short_factor;
            return 1.0 / (at::tensor(divisors, at::kFloat) * periods(rope.theta, dims));
        }
    }
    return 1.0 / periods(rope.theta, dims);
}

}  // namespace qlora::models
