#include "qlora/kernels/adamw_math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

#include "kernels/instruction_sets.h"
#include "kernels/test_values.h"
#include "qlora/kernels/kernels.h"

namespace qlora::kernels::cpu {
namespace {

struct Parameters {
    std::vector<float> p, m, v;
    bool operator==(const Parameters&) const = default;
};

Parameters run(int64_t n, int steps, AdamwSettings settings) {
    Parameters state{gaussian(n, 1, 0.02f), std::vector<float>(static_cast<size_t>(n)),
                     std::vector<float>(static_cast<size_t>(n))};
    for (int step = 1; step <= steps; ++step) {
        const std::vector<float> g = gaussian(n, static_cast<uint32_t>(100 + step), 0.1f);
        settings.step = step;
        adamw_step(state.p.data(), g.data(), state.m.data(), state.v.data(), n, settings);
    }
    return state;
}

TEST(AdamW, FollowsTheFormulaInDouble) {
    AdamwSettings settings;
    settings.lr = 2e-3;
    settings.weight_decay = 0.1;
    settings.grad_scale = 0.5f;
    const int64_t n = 37;
    const Parameters found = run(n, 20, settings);
    std::vector<float> start = gaussian(n, 1, 0.02f);
    std::vector<double> p(start.begin(), start.end()), m(start.size()), v(start.size());
    for (int step = 1; step <= 20; ++step) {
        const std::vector<float> gradients = gaussian(n, static_cast<uint32_t>(100 + step), 0.1f);
        for (size_t i = 0; i < p.size(); ++i) {
            const double g = 0.5 * gradients[i];
            p[i] -= settings.lr * settings.weight_decay * p[i];
            m[i] = settings.beta1 * m[i] + (1 - settings.beta1) * g;
            v[i] = settings.beta2 * v[i] + (1 - settings.beta2) * g * g;
            const double m_hat = m[i] / (1 - std::pow(settings.beta1, step));
            const double v_hat = v[i] / (1 - std::pow(settings.beta2, step));
            p[i] -= settings.lr * m_hat / (std::sqrt(v_hat) + settings.eps);
        }
    }
    // Twenty fp32 roundings of values near 0.05 leave less than 1e-7.
    for (size_t i = 0; i < p.size(); ++i) EXPECT_NEAR(found.p[i], p[i], 1e-7);
}

TEST(AdamW, EveryPathGivesTheSameBitsAtEveryLength) {
    if (!supports(InstructionSet::kAvx2)) GTEST_SKIP() << "one path only";
    AdamwSettings settings;
    settings.weight_decay = 0.01;
    for (double beta1 : {0.9, 0.3}) {
        settings.beta1 = beta1;
        for (int64_t n = 0; n <= 70; ++n) {
            UseInstructionSet portable(InstructionSet::kPortable);
            const Parameters expected = run(n, 3, settings);
            UseInstructionSet vectors(InstructionSet::kAvx2);
            ASSERT_EQ(run(n, 3, settings), expected) << n;
        }
    }
}

TEST(AdamW, FirstStepMovesByTheLearningRateAgainstTheSign) {
    float p[2] = {1.0f, 1.0f}, m[2] = {}, v[2] = {};
    const float g[2] = {3.0f, -0.001f};
    AdamwSettings settings;
    settings.lr = 0.125;
    settings.eps = 0.0;
    adamw_step(p, g, m, v, 2, settings);
    EXPECT_NEAR(p[0], 0.875f, 1e-6);
    EXPECT_NEAR(p[1], 1.125f, 1e-6);
}

TEST(AdamW, StepZeroThrows) {
    float one = 1.0f;
    AdamwSettings settings;
    settings.step = 0;
    EXPECT_THROW(adamw_step(&one, &one, &one, &one, 1, settings), std::invalid_argument);
}

}  // namespace
}  // namespace qlora::kernels::cpu
