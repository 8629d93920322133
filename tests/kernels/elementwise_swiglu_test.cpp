#include <stdexcept>

#include "kernels/elementwise_rows.h"

namespace qlora::kernels::cpu {
namespace {

std::vector<float> forward(const std::vector<float>& gate_up, int64_t size, size_t shift = 0) {
    const int64_t rows = static_cast<int64_t>(gate_up.size()) / (2 * size);
    Guarded from(gate_up, shift), out(rows * size, shift);
    swiglu(from.data(), rows, size, out.data());
    EXPECT_TRUE(out.intact());
    return out.values();
}

/// d_gate_up; also checks that `out` comes again with the bits of forward.
std::vector<float> backward(const std::vector<float>& d_out, const std::vector<float>& gate_up, int64_t size,
                            size_t shift = 0) {
    const int64_t rows = static_cast<int64_t>(gate_up.size()) / (2 * size);
    Guarded from(gate_up, shift), gradient(d_out, shift), result(2 * rows * size, shift);
    Guarded out(rows * size, shift), alone(2 * rows * size, shift);
    swiglu_backward(gradient.data(), from.data(), rows, size, result.data(), out.data());
    swiglu_backward(gradient.data(), from.data(), rows, size, alone.data(), nullptr);
    EXPECT_TRUE(result.intact() && out.intact() && alone.intact());
    EXPECT_EQ(bits_of(out.values()), bits_of(forward(gate_up, size)));
    EXPECT_EQ(bits_of(alone.values()), bits_of(result.values()));
    return result.values();
}

struct Logistic {
    double value, complement;
};
Logistic logistic(double x) {
    return {1.0 / (1.0 + std::exp(-x)), 1.0 / (1.0 + std::exp(x))};
}

class Swiglu : public OnEveryPath {};

TEST_P(Swiglu, FollowsTheFormulaInDouble) {
    for (int64_t size : row_sizes()) {
        const std::vector<float> gate_up = gaussian(4 * size, 1, 4.0f), d_out = gaussian(2 * size, 2);
        const size_t shift = static_cast<size_t>(size % 8);
        const std::vector<float> out = forward(gate_up, size, shift);
        const std::vector<float> gradient = backward(d_out, gate_up, size, shift);
        for (int64_t i = 0; i < 2 * size; ++i) {
            const size_t gate_at = static_cast<size_t>(i / size * 2 * size + i % size);
            const size_t up_at = gate_at + static_cast<size_t>(size);
            const double x = gate_up[gate_at], up = gate_up[up_at], d = d_out[static_cast<size_t>(i)];
            const Logistic s = logistic(x);
            // The exponential is within 2 roundings; its sum with 1, the quotient, and the products by it, by
            // x and by up follow: less than 9.
            const double silu = x * s.value;
            ASSERT_NEAR(out[static_cast<size_t>(i)], silu * up, 9 * kRounding * std::abs(silu * up));
            ASSERT_NEAR(gradient[up_at], d * silu, 9 * kRounding * std::abs(d * silu));
            // Both terms of the slope carry such an error: twice as many roundings of the sum of magnitudes.
            const double terms = std::abs(d * up) * s.value * (1.0 + std::abs(x) * s.complement);
            ASSERT_NEAR(gradient[gate_at], d * up * s.value * (1.0 + x * s.complement),
                        18 * kRounding * terms);
        }
    }
}

TEST_P(Swiglu, BackwardIsTheSlopeOfForward) {
    const auto objective = [](double gate, double up, double d) {
        return d * gate / (1 + std::exp(-gate)) * up;
    };
    const double h = 1e-5;
    for (double gate = -12.0; gate <= 12.0; gate += 0.37) {
        const std::vector<float> gate_up = {static_cast<float>(gate), 0.8f};
        const std::vector<float> found = backward({1.5f}, gate_up, 1);
        const double g = gate_up[0], u = gate_up[1];
        // Values up to 18 at 9 roundings, quotient's own error below 1e-8.
        EXPECT_NEAR(found[0], (objective(g + h, u, 1.5) - objective(g - h, u, 1.5)) / (2 * h), 3e-6);
        EXPECT_NEAR(found[1], (objective(g, u + h, 1.5) - objective(g, u - h, 1.5)) / (2 * h), 1e-5);
    }
}

TEST_P(Swiglu, LargeGatesGiveTheLimits) {
    for (size_t pad : {size_t{0}, size_t{11}}) {  // in the tail and in a whole register
        const auto at_gate = [&](float gate) {
            std::vector<float> gate_up(2 * (1 + pad), 1.0f);
            gate_up[0] = gate;
            const int64_t size = static_cast<int64_t>(1 + pad);
            const std::vector<float> gradient = backward(std::vector<float>(1 + pad, 1.0f), gate_up, size);
            return std::vector<float>{forward(gate_up, size)[0], gradient[0],
                                      gradient[static_cast<size_t>(size)]};
        };
        using Three = std::vector<float>;  // out, slope by the gate, slope by up
        EXPECT_EQ(at_gate(kInfinity), (Three{kInfinity, 1.0f, kInfinity}));
        EXPECT_EQ(at_gate(1e4f), (Three{1e4f, 1.0f, 1e4f}));
        EXPECT_EQ(at_gate(120.0f), (Three{120.0f, 1.0f, 120.0f}));
        EXPECT_EQ(at_gate(88.0f), (Three{88.0f, 1.0f, 88.0f}));
        EXPECT_EQ(at_gate(3e38f), (Three{3e38f, 1.0f, 3e38f}));
        for (float gate : {-120.0f, -1e4f, -3e38f, -kInfinity}) {
            EXPECT_EQ(bits_of(at_gate(gate)), bits_of(Three{-0.0f, -0.0f, -0.0f})) << gate;
        }
        for (float value : at_gate(kNan)) EXPECT_TRUE(std::isnan(value));
    }
}

TEST_P(Swiglu, VanishingResultsAreAsExactAsDenormalsAllow) {
    for (float gate = -80.0f; gate > -112.0f; gate -= 0.25f) {
        const double exact = double{gate} * std::exp(double{gate});
        // e^gate is rounded to a multiple of 2^-149 before the product.
        const double tolerance = 0x1p-149 * (0.6 - gate) + 9 * kRounding * std::abs(exact);
        EXPECT_NEAR(forward({gate, 1.0f}, 1)[0], exact, tolerance) << gate;
    }
    for (float gate : {1e-45f, -1e-45f, 1e-39f, -0.0f}) {
        EXPECT_NEAR(forward({gate, 1.0f}, 1)[0], 0.5 * gate, 0x1p-149) << gate;
    }
}

TEST_P(Swiglu, RowsOneByOneGiveTheBitsOfTheWhole) {
    const int64_t rows = 4, size = 37;
    const std::vector<float> gate_up = gaussian(2 * rows * size, 1), d_out = gaussian(rows * size, 2);
    const std::vector<float> out = forward(gate_up, size), gradient = backward(d_out, gate_up, size);
    for (int64_t row = 0; row < rows; ++row) {
        const std::vector<float> own = part(gate_up, 2 * row * size, 2 * size);
        EXPECT_EQ(forward(own, size, static_cast<size_t>(row)), part(out, row * size, size));
        EXPECT_EQ(backward(part(d_out, row * size, size), own, size),
                  part(gradient, 2 * row * size, 2 * size));
    }
}

TEST_P(Swiglu, NegativeSizesThrow) {
    float x[4] = {};
    EXPECT_THROW(swiglu(x, -1, 2, x), std::invalid_argument);
    EXPECT_THROW(swiglu(x, 1, -2, x), std::invalid_argument);
    EXPECT_THROW(swiglu_backward(x, x, -1, 2, x, nullptr), std::invalid_argument);
    EXPECT_THROW(swiglu_backward(x, x, 1, -2, x, nullptr), std::invalid_argument);
}

INSTANTIATE_TEST_SUITE_P(Paths, Swiglu, testing::ValuesIn(supported_sets()), set_name);

TEST(SwigluPaths, GiveTheSameBits) {
    for (int64_t size : row_sizes()) {
        const std::vector<float> tame = gaussian(4 * size, 1, 4.0f), wild = wild_values(4 * size, 2);
        const std::vector<float> d_out = wild_values(2 * size, 3);
        for (const auto& gate_up : {tame, wild}) {
            expect_same_bits_on_every_path(
                [&] { return joined(forward(gate_up, size), backward(d_out, gate_up, size)); });
        }
    }
}

}  // namespace
}  // namespace qlora::kernels::cpu
