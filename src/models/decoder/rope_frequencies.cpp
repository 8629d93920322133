#include "rope_frequencies.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/where.h>

#include <numbers>

namespace qlora::models {

at::Tensor inverse_frequencies(const RopeConfig& rope, std::int64_t dims) {
    const at::Tensor exponent = at::arange(0, dims, 2, at::kLong).to(at::kFloat) / dims;
    at::Tensor inverse = 1.0 / at::pow(at::Scalar(rope.theta), exponent);
    if (rope.type == RopeType::kLinear) return inverse / rope.factor;
    if (rope.type != RopeType::kLlama3) return inverse;
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

}  // namespace qlora::models
