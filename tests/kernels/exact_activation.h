#pragma once

#include <cmath>
#include <vector>

#include "qlora/kernels/layer_kinds.h"

namespace qlora::kernels {

/// An activation in extended precision, and how far fp32 may be from it: each error counts roundings of the
/// magnitudes named beside it.
struct ExactActivation {
    double value, slope;
    double value_error;  ///< relative to the value
    double slope_error;  ///< relative to slope_terms
    double slope_terms;  ///< sum of the magnitudes that make the slope

    ExactActivation(Activation kind, double x) {
        // The exponential is within 2 roundings; its sum with 1, the quotient and products by it and x
        // follow.
        constexpr double kOfSigmoid = 6.0;
        if (kind == Activation::kGelu) {
            const long double root = std::sqrt(2.0L), wide = x;
            const double below = static_cast<double>(0.5L * std::erfc(-wide / root));
            const double above = static_cast<double>(0.5L * std::erfc(wide / root));
            const double density = static_cast<double>(std::exp(-0.5L * wide * wide) / 2.506628274631000502L);
            value = x * below;
            slope = below + x * density;
            // x^2 / 2 is rounded once, which its exponential multiplies by x^2 / 2. Then the exponential, a
            // polynomial and a quotient (5 together), and the products.
            const double of_tail = 0.5 * x * x + 9.0;
            value_error = 2.0 + (x < 0 ? of_tail : of_tail * above / below);
            slope_terms = below + std::abs(x) * density;
            slope_error = 4.0 + of_tail;
            return;
        }
        const bool is_silu = kind == Activation::kSilu;
        constexpr long double kA = 1.595769121605730711759L, kCube = 0.044715L;
        const long double wide = x, z = is_silu ? wide : kA * (wide + kCube * wide * wide * wide);
        const double slope_of_z =
            is_silu ? 1.0 : static_cast<double>(kA * (1.0L + 3.0L * kCube * wide * wide));
        const double s = static_cast<double>(1.0L / (1.0L + std::exp(-z)));
        const double complement = static_cast<double>(1.0L / (1.0L + std::exp(z)));
        // Constant, square, product, sum, product: 5 roundings of z, which the exponential multiplies by z.
        const double of_z = is_silu ? 0.0 : 5.0 * std::abs(static_cast<double>(z));
        value = x * s;
        slope = s * (1.0 + x * complement * slope_of_z);
        value_error = kOfSigmoid + 2.0 + of_z * complement;
        slope_terms = s * (1.0 + std::abs(x) * complement * slope_of_z);
        slope_error = 2.0 * kOfSigmoid + 10.0 + of_z;
    }
};

struct NamedActivation {
    const char* name;
    Activation kind;
    bool gated;
};
inline constexpr NamedActivation kActivations[] = {
    {"swiglu", Activation::kSilu, true},         {"geglu_tanh", Activation::kGeluTanh, true},
    {"geglu", Activation::kGelu, true},          {"silu", Activation::kSilu, false},
    {"gelu_tanh", Activation::kGeluTanh, false}, {"gelu", Activation::kGelu, false},
};

/// Where the values of one output lie in a row of what enters.
struct ActivationPlaces {
    std::size_t gate, up;

    ActivationPlaces(std::size_t output, std::size_t size, bool gated)
        : gate(gated ? output / size * 2 * size + output % size : output), up(gate + (gated ? size : 0)) {}
};

}  // namespace qlora::kernels
