#include <stdexcept>

#include "kernels/elementwise_rows.h"
#include "kernels/exact_activation.h"
#include "qlora/kernels/activation_math.h"

namespace qlora::kernels::cpu {
namespace {

int64_t parts(const NamedActivation& act) {
    return act.gated ? 2 : 1;
}

std::vector<float> forward(const NamedActivation& act, const std::vector<float>& entered, int64_t size,
                           size_t shift = 0) {
    const int64_t rows = static_cast<int64_t>(entered.size()) / (parts(act) * size);
    Guarded from(entered, shift), out(rows * size, shift);
    activate(act.kind, act.gated, from.data(), rows, size, out.data());
    EXPECT_TRUE(out.intact());
    return out.values();
}

/// d_entered; also checks that `out` comes again with the bits of forward.
std::vector<float> backward(const NamedActivation& act, const std::vector<float>& d_out,
                            const std::vector<float>& entered, int64_t size, size_t shift = 0) {
    const int64_t n = static_cast<int64_t>(entered.size()), rows = n / (parts(act) * size);
    Guarded from(entered, shift), gradient(d_out, shift), result(n, shift);
    Guarded out(rows * size, shift), alone(n, shift);
    activate_backward(act.kind, act.gated, gradient.data(), from.data(), rows, size, result.data(),
                      out.data());
    activate_backward(act.kind, act.gated, gradient.data(), from.data(), rows, size, alone.data(), nullptr);
    EXPECT_TRUE(result.intact() && out.intact() && alone.intact());
    EXPECT_EQ(bits_of(out.values()), bits_of(forward(act, entered, size)));
    EXPECT_EQ(bits_of(alone.values()), bits_of(result.values()));
    return result.values();
}

/// One value at a time.
struct Loop {
    std::vector<float> out, gradient;

    Loop(const NamedActivation& act, const std::vector<float>& d_out, const std::vector<float>& entered,
         int64_t size)
        : out(d_out.size()), gradient(entered.size()) {
        with_activation_form(act.kind, act.gated, [&](auto form) {
            for (size_t i = 0; i < out.size(); ++i) {
                const ActivationPlaces at(i, static_cast<size_t>(size), act.gated);
                const auto [value, slope] = activated<decltype(form)::kKind, OneLane>(entered[at.gate]);
                const float up = act.gated ? entered[at.up] : 1.0f;
                out[i] = value * up;
                if (act.gated) gradient[at.up] = d_out[i] * value;
                gradient[at.gate] = d_out[i] * up * slope;
            }
        });
    }
};

class Activations : public OnEveryPath {};

TEST_P(Activations, AreALoopOverTheElements) {
    for (const NamedActivation& act : kActivations) {
        for (int64_t size : row_sizes()) {
            const size_t shift = static_cast<size_t>(size % 8);
            const int64_t n = parts(act) * 2 * size;
            const std::vector<float> d_out = wild_values(2 * size, 3);
            for (const std::vector<float>& entered : {gaussian(n, 1, 4.0f), wild_values(n, 2)}) {
                const Loop expected(act, d_out, entered, size);
                ASSERT_EQ(bits_of(forward(act, entered, size, shift)), bits_of(expected.out))
                    << act.name << size;
                ASSERT_EQ(bits_of(backward(act, d_out, entered, size, shift)), bits_of(expected.gradient))
                    << act.name << size;
            }
        }
    }
}

TEST_P(Activations, BackwardIsTheSlopeOfForward) {
    const double h = 1e-5;
    for (const NamedActivation& act : kActivations) {
        const auto objective = [&](double gate, double up) {
            return 1.5 * ExactActivation(act.kind, gate).value * (act.gated ? up : 1.0);
        };
        for (double gate = -12.0; gate <= 12.0; gate += 0.37) {
            std::vector<float> entered = {static_cast<float>(gate)};
            if (act.gated) entered.push_back(0.8f);
            const std::vector<float> found = backward(act, {1.5f}, entered, 1);
            const double g = entered[0], u = 0.8f;
            // Values up to 18 at 30 roundings, quotient's own error below 1e-8.
            EXPECT_NEAR(found[0], (objective(g + h, u) - objective(g - h, u)) / (2 * h), 5e-6) << act.name;
            if (!act.gated) continue;
            EXPECT_NEAR(found[1], (objective(g, u + h) - objective(g, u - h)) / (2 * h), 1e-5) << act.name;
        }
    }
}

TEST_P(Activations, RowsOneByOneGiveTheBitsOfTheWhole) {
    const int64_t rows = 4, size = 37;
    for (const NamedActivation& act : kActivations) {
        const int64_t wide = parts(act) * size;
        const std::vector<float> entered = gaussian(rows * wide, 1), d_out = gaussian(rows * size, 2);
        const std::vector<float> out = forward(act, entered, size);
        const std::vector<float> gradient = backward(act, d_out, entered, size);
        for (int64_t row = 0; row < rows; ++row) {
            const std::vector<float> own = part(entered, row * wide, wide);
            EXPECT_EQ(forward(act, own, size, static_cast<size_t>(row)), part(out, row * size, size));
            EXPECT_EQ(backward(act, part(d_out, row * size, size), own, size),
                      part(gradient, row * wide, wide));
        }
    }
}

TEST_P(Activations, ImpossibleArgumentsThrow) {
    float x[4] = {};
    const auto refused = [&](Activation kind, int64_t rows, int64_t size) {
        EXPECT_THROW(activate(kind, true, x, rows, size, x), std::invalid_argument);
        EXPECT_THROW(activate_backward(kind, true, x, x, rows, size, x, nullptr), std::invalid_argument);
    };
    refused(Activation::kSilu, -1, 2);
    refused(Activation::kSilu, 1, -2);
    refused(static_cast<Activation>(9), 1, 1);
}

INSTANTIATE_TEST_SUITE_P(Paths, Activations, testing::ValuesIn(supported_sets()), set_name);

}  // namespace
}  // namespace qlora::kernels::cpu
