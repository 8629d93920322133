#include "qlora/kernels/adamw_8bit_math.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "kernels/instruction_sets.h"
#include "kernels/moments_8bit.h"

namespace qlora::kernels::cpu {
namespace {

AdamwSettings plain_settings(int64_t step = 1) {
    AdamwSettings settings;
    settings.lr = 2e-3;
    settings.weight_decay = 0.1;
    settings.step = step;
    return settings;
}

/// Gradients whose size differs by 10^6 within a block, zeros among them.
std::vector<float> wide_gradients(int64_t n, int64_t step) {
    std::vector<float> g = gaussian(n, static_cast<uint32_t>(1000 + step), 0.1f);
    for (std::size_t i = 0; i < g.size(); ++i) {
        g[i] *= std::pow(10.0f, -static_cast<float>(i % 7));
        if (i % 11 == 3) g[i] = i % 2 == 0 ? 0.0f : -0.0f;
    }
    return g;
}

float decoded_m(const Moments8bit& state, std::size_t i) {
    return kSignedDynamicMap.value[state.m_codes[i]] * state.m_absmax[i / kAdamwBlocksize];
}
float decoded_v(const Moments8bit& state, std::size_t i) {
    return kUnsignedDynamicMap.value[state.v_codes[i]] * state.v_absmax[i / kAdamwBlocksize];
}

/// Distance of the two entries around `x`.
float gap(const DynamicMap& map, float x) {
    const float* above = std::upper_bound(map.value + 1, map.value + 255, x);
    return *above - *(above - 1);
}

class Adamw8bit : public testing::TestWithParam<InstructionSet> {
  protected:
    UseInstructionSet set_{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Sets, Adamw8bit, testing::ValuesIn(supported_sets()), set_name);

TEST_P(Adamw8bit, FollowsTheFormulaInDoubleFromTheMomentsItKeeps) {
    const int64_t n = 700;
    Moments8bit state(n);
    for (int64_t step = 1; step <= 20; ++step) {
        const Moments8bit before = state;
        AdamwSettings settings = plain_settings(step);
        settings.grad_scale = 0.5f;
        const std::vector<float> gradients = wide_gradients(n, step);
        state.step(gradients, settings);
        for (std::size_t i = 0; i < state.p.size(); ++i) {
            const double g = 0.5 * static_cast<double>(gradients[i]);
            const double m = settings.beta1 * decoded_m(before, i) + (1 - settings.beta1) * g;
            const double v = settings.beta2 * decoded_v(before, i) + (1 - settings.beta2) * g * g;
            const double m_hat = m / (1 - std::pow(settings.beta1, step));
            const double v_hat = v / (1 - std::pow(settings.beta2, step));
            const double move = settings.lr * m_hat / (std::sqrt(v_hat) + settings.eps);
            const double p = (before.p[i] - move) * (1 - settings.lr * settings.weight_decay);
            // A dozen fp32 roundings; where the two terms of m cancel, they are relative to the terms.
            const double terms = std::abs(settings.beta1 * decoded_m(before, i)) + std::abs(0.1 * g);
            const double cancelled = m == 0.0 ? 0.0 : std::abs(move) * terms / std::abs(m);
            EXPECT_NEAR(state.p[i], p, 1e-6 * (cancelled + std::abs(p)) + 1e-30) << step << " " << i;
            // What is kept is the nearest value of the map: at most half the distance of two entries away,
            // a whole one where a negative moment may not become 0.
            const float m_absmax = state.m_absmax[i / 256], v_absmax = state.v_absmax[i / 256];
            const float m_gap = gap(kSignedDynamicMap, static_cast<float>(m / m_absmax));
            const float v_gap = gap(kUnsignedDynamicMap, static_cast<float>(v / v_absmax));
            const double m_share = m < 0 && m > -1e-6 * m_absmax ? 1.0 : 0.50001;
            EXPECT_NEAR(decoded_m(state, i), m, m_share * m_gap * m_absmax + 1e-6 * terms) << step;
            EXPECT_NEAR(decoded_v(state, i), v, (0.50001 * v_gap + 1e-6) * v_absmax) << step;
        }
    }
}

TEST_P(Adamw8bit, EveryLengthAndRangeGivesTheBitsOfThePortableWhole) {
    for (int64_t n : {0, 1, 7, 8, 9, 31, 255, 256, 257, 263, 264, 511, 512, 513, 1000, 4096, 4099}) {
        Moments8bit expected(n), split(n);
        for (int64_t step = 1; step <= 4; ++step) {
            const std::vector<float> g = wide_gradients(n, step);
            {
                UseInstructionSet portable(InstructionSet::kPortable);
                expected.step(g, plain_settings(step));
            }
            const int64_t blocks = static_cast<int64_t>(split.m_absmax.size());
            const int64_t middle = std::min<int64_t>(blocks, step);
            adamw_8bit_step(split.params(g), middle, blocks, plain_settings(step));
            adamw_8bit_step(split.params(g), 0, middle, plain_settings(step));
            ASSERT_EQ(split, expected) << n << " " << step;
        }
    }
}

TEST_P(Adamw8bit, ScalesAreTheLargestMagnitudes) {
    for (std::size_t place = 0; place < 300; place += 7) {
        std::vector<float> g(300, 0.01f);
        g[place] = -3.0f;
        Moments8bit state(300);
        state.step(g, plain_settings());
        const std::size_t block = place / 256;
        EXPECT_EQ(state.m_absmax[block], 0.1f * 3.0f);
        EXPECT_NEAR(state.v_absmax[block], 0.001f * 9.0f, 1e-9);
        EXPECT_NEAR(state.m_absmax[1 - block], 0.001f, 1e-9);
        EXPECT_EQ(state.m_codes[place], 0) << "-1 is nearest to the lowest entry, -0.993";
        EXPECT_EQ(state.v_codes[place], 255);
    }
}

TEST_P(Adamw8bit, ABlockWithoutGradientsKeepsItsParametersAndHoldsZeros) {
    Moments8bit state(520);
    std::vector<float> g(520, 0.0f);
    g[300] = 1.0f;
    AdamwSettings settings = plain_settings();
    settings.weight_decay = 0.0;
    const std::vector<float> before = state.p;
    state.step(g, settings);
    for (std::size_t i = 0; i < 520; ++i) {
        EXPECT_EQ(state.p[i] == before[i], i != 300) << i;
        EXPECT_EQ(state.m_codes[i], i == 300 ? 255 : kSignedZeroCode) << i;
        EXPECT_EQ(state.v_codes[i], i == 300 ? 255 : 0) << i;
    }
    EXPECT_EQ(state.m_absmax[0], 0.0f);
    EXPECT_EQ(state.v_absmax[2], 0.0f);
}

TEST_P(Adamw8bit, ASmallNegativeMomentKeepsItsSign) {
    std::vector<float> g(16, 1e-9f);
    g[0] = 1.0f;
    g[5] = -1e-9f;
    g[12] = -1e-9f;
    g[3] = -0.0f;
    Moments8bit state(16);
    state.step(g, plain_settings());
    for (std::size_t i = 1; i < 16; ++i) {
        EXPECT_EQ(state.m_codes[i], g[i] < 0 ? kSignedZeroCode - 1 : kSignedZeroCode) << i;
    }
}

TEST_P(Adamw8bit, TinyAndHugeGradientsStayWithinTheirBlock) {
    for (float size : {1e-44f, 1e-38f, 1e-20f, 1e18f}) {
        Moments8bit state(512), expected(512);
        std::vector<float> g = wide_gradients(512, 1);
        for (std::size_t i = 0; i < 256; ++i) g[i] *= size;
        for (int64_t step = 1; step <= 3; ++step) {
            state.step(g, plain_settings(step));
            UseInstructionSet portable(InstructionSet::kPortable);
            expected.step(g, plain_settings(step));
        }
        ASSERT_EQ(state, expected) << size;
        for (float value : state.p) ASSERT_TRUE(is_finite(value)) << size;
    }
}

TEST_P(Adamw8bit, ASecondMomentThatOverflowsIsSeenInItsScale) {
    Moments8bit state(256);
    std::vector<float> g(256, 0.5f);
    g[77] = 3e38f;
    state.step(g, plain_settings());
    EXPECT_EQ(state.v_absmax[0], std::numeric_limits<float>::infinity());
}

TEST_P(Adamw8bit, ComesNearTheTrajectoryWithFp32Moments) {
    // lr * 40 steps bounds a path; eight bits of moment turn it by a few percent.
    const int64_t n = 2048;
    std::vector<float> p = Moments8bit(n).p, m(n), v(n);
    Moments8bit state(n);
    AdamwSettings settings;
    double difference = 0.0, path = 0.0;
    const std::vector<float> start = p;
    for (int64_t step = 1; step <= 40; ++step) {
        std::vector<float> g = gaussian(n, static_cast<uint32_t>(step), 0.1f);
        for (float& value : g) value += 0.1f;
        settings.step = step;
        state.step(g, settings);
        adamw_step(p.data(), g.data(), m.data(), v.data(), n, settings);
    }
    for (std::size_t i = 0; i < p.size(); ++i) {
        difference += std::abs(state.p[i] - p[i]);
        path += std::abs(p[i] - start[i]);
    }
    EXPECT_LT(difference, 0.03 * path);
    EXPECT_GT(difference, 0.0);
}

TEST(Adamw8bitArguments, ImpossibleOnesThrow) {
    Moments8bit state(300);
    const std::vector<float> g(300);
    AdamwSettings settings;
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{-1, 1}, {1, 0}, {0, 3}}) {
        EXPECT_THROW(adamw_8bit_step(state.params(g), begin, end, settings), std::invalid_argument);
    }
    settings.step = 0;
    EXPECT_THROW(adamw_8bit_step(state.params(g), settings), std::invalid_argument);
    Adamw8bitParams params = state.params(g);
    params.n = -1;
    EXPECT_THROW(adamw_8bit_step(params, AdamwSettings{}), std::invalid_argument);
}

}  // namespace
}  // namespace qlora::kernels::cpu
