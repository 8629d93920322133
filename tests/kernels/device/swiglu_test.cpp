#include <stdexcept>

#include "kernels/device/device_rows.h"
#include "qlora/kernels/cuda_layer.h"
#include "qlora/kernels/silu_math.h"

namespace qlora::kernels {
namespace {

class DeviceSwiglu : public OnDevice {};

struct Case {
    int64_t rows, size;
    FloatType type = FloatType::kF32;
    int64_t y_gap = 0;
    int gate_up_shift = 0, dy_shift = 0, d_gate_up_shift = 0, y_shift = 0;
};

struct Tensors {
    std::vector<float> gate_up, dy;

    explicit Tensors(const Case& test)
        : gate_up(gaussian_of(test.type, test.rows * 2 * test.size, 1, 4.0f)),
          dy(gaussian_of(test.type, test.rows * test.size, 2)) {}
    Tensors(const Case& test, uint32_t wild_seed)
        : gate_up(round_elements(wild_values(test.rows * 2 * test.size, wild_seed), test.type)),
          dy(round_elements(wild_values(test.rows * test.size, wild_seed + 1), test.type)) {}
};

struct Gradient {
    std::vector<float> d_gate_up, y;
};

std::vector<float> forward_on_device(const Case& test, const Tensors& host) {
    const DeviceRows gate_up({test.rows, 2 * test.size, test.type, test.gate_up_shift}, host.gate_up);
    const DeviceRows y({test.rows, test.size, test.type, test.y_shift, test.y_gap});
    device::swiglu({gate_up.data(), test.rows, test.size, y.data(), test.size + test.y_gap, test.type},
                   nullptr);
    return y.download();
}

enum class Place : uint8_t { kApart, kOverGateUp };

Gradient backward_on_device(const Case& test, const Tensors& host, Place place = Place::kApart,
                            bool with_y = true) {
    const bool over = place == Place::kOverGateUp;
    const DeviceRows gate_up({test.rows, 2 * test.size, test.type, test.gate_up_shift}, host.gate_up,
                             over ? Access::kOutput : Access::kInput);
    const DeviceRows dy({test.rows, test.size, test.type, test.dy_shift}, host.dy);
    const DeviceRows apart({test.rows, 2 * test.size, test.type, test.d_gate_up_shift});
    const DeviceRows y({test.rows, test.size, test.type, test.y_shift, test.y_gap});
    const DeviceRows& d_gate_up = over ? gate_up : apart;
    device::swiglu_backward({dy.data(), gate_up.data(), test.rows, test.size, d_gate_up.data(),
                             with_y ? y.data() : nullptr, with_y ? test.size + test.y_gap : 3, test.type},
                            nullptr);
    return {d_gate_up.download(), y.download()};
}

/// One value at a time, rounded where transformers rounds.
struct Reference {
    std::vector<float> y, d_gate_up;

    Reference(const Case& test, const Tensors& host) : y(host.dy.size()), d_gate_up(host.gate_up.size()) {
        const auto rounded = [&](float value) { return round_element(value, test.type); };
        for (std::size_t i = 0; i < y.size(); ++i) {
            const std::size_t size = static_cast<std::size_t>(test.size);
            const std::size_t gate_at = i / size * 2 * size + i % size, up_at = gate_at + size;
            const float gate = host.gate_up[gate_at], up = host.gate_up[up_at], dy = host.dy[i];
            const Sigmoid<OneLane> s = sigmoid<OneLane>(gate);
            const float activated = rounded(silu(gate, s));
            y[i] = rounded(activated * up);
            d_gate_up[up_at] = rounded(dy * activated);
            d_gate_up[gate_at] = rounded(rounded(dy * up) * silu_slope(gate, s));
        }
    }
};

void expect_reference(const Case& test, const Tensors& host) {
    const Reference expected(test, host);
    ASSERT_EQ(bits_of(forward_on_device(test, host)), bits_of(expected.y)) << test.size;
    const Gradient found = backward_on_device(test, host);
    ASSERT_EQ(bits_of(found.d_gate_up), bits_of(expected.d_gate_up)) << test.size;
    ASSERT_EQ(bits_of(found.y), bits_of(expected.y)) << test.size;
}

TEST_F(DeviceSwiglu, EverySizeFollowsTheRoundingPoints) {
    for (FloatType type : kFloatTypes) {
        for (int64_t size : kPieceSizes) {
            const Case test{3, size, type, size % 2};
            with_some_schedule(size, [&] {
                expect_reference(test, Tensors(test));
                expect_reference(test, Tensors(test, static_cast<uint32_t>(size)));
            });
        }
        for (const Case& test : {Case{67, 40, type}, Case{67, 33, type, 5}, Case{1, 512, type, 8}}) {
            expect_reference(test, Tensors(test));
        }
    }
}

TEST_F(DeviceSwiglu, TheBitsAreThoseOfTheCpu) {
    for (const Case& test : {Case{3, 64}, Case{5, 37}, Case{2, 1536}, Case{4, 8}}) {
        for (uint32_t seed : {0u, 7u}) {
            const Tensors host = seed == 0 ? Tensors(test) : Tensors(test, seed);
            std::vector<float> y(host.dy.size()), d_gate_up(host.gate_up.size());
            cpu::swiglu(host.gate_up.data(), test.rows, test.size, y.data());
            cpu::swiglu_backward(host.dy.data(), host.gate_up.data(), test.rows, test.size, d_gate_up.data(),
                                 nullptr);
            ASSERT_EQ(bits_of(forward_on_device(test, host)), bits_of(y)) << test.size;
            ASSERT_EQ(bits_of(backward_on_device(test, host).d_gate_up), bits_of(d_gate_up)) << test.size;
        }
    }
}

TEST_F(DeviceSwiglu, IsTheFormulaInDouble) {
    const Case test{4, 500};
    const Tensors host(test);
    const std::vector<float> y = forward_on_device(test, host);
    const std::vector<float> gradient = backward_on_device(test, host).d_gate_up;
    for (int64_t i = 0; i < test.rows * test.size; ++i) {
        const std::size_t at = static_cast<std::size_t>(i);
        const std::size_t gate_at = static_cast<std::size_t>(i / test.size * 2 * test.size + i % test.size);
        const std::size_t up_at = gate_at + static_cast<std::size_t>(test.size);
        const double x = host.gate_up[gate_at], up = host.gate_up[up_at], d = host.dy[at];
        const double s = 1.0 / (1.0 + std::exp(-x)), complement = 1.0 / (1.0 + std::exp(x));
        // The exponential is within 2 roundings; its sum with 1, the quotient and four products follow.
        const double silu = x * s;
        ASSERT_NEAR(y[at], silu * up, 9 * kRounding * std::abs(silu * up));
        ASSERT_NEAR(gradient[up_at], d * silu, 9 * kRounding * std::abs(d * silu));
        // Both terms of the slope carry such an error.
        const double terms = std::abs(d * up) * s * (1.0 + std::abs(x) * complement);
        ASSERT_NEAR(gradient[gate_at], d * up * s * (1.0 + x * complement), 18 * kRounding * terms);
    }
}

TEST_F(DeviceSwiglu, BackwardIsTheSlopeOfForward) {
    const auto objective = [](double gate, double up, double d) {
        return d * gate / (1 + std::exp(-gate)) * up;
    };
    const Case test{1, 33};
    Tensors host(test);
    for (std::size_t i = 0; i < 33; ++i) host.gate_up[i] = 0.75f * (static_cast<float>(i) - 16.0f);
    const std::vector<float> found = backward_on_device(test, host).d_gate_up;
    const double h = 1e-5;
    for (std::size_t i = 0; i < 33; ++i) {
        const double g = host.gate_up[i], u = host.gate_up[33 + i], d = host.dy[i];
        // Values up to 12 * |d| and |d * u| at 18 roundings; the quotient's own error is below 1e-8.
        const double scale = 1e-8 + 18 * kRounding * 12 * std::abs(d) * (1.0 + std::abs(u));
        EXPECT_NEAR(found[i], (objective(g + h, u, d) - objective(g - h, u, d)) / (2 * h), scale);
        EXPECT_NEAR(found[33 + i], (objective(g, u + h, d) - objective(g, u - h, d)) / (2 * h), scale);
    }
}

TEST_F(DeviceSwiglu, LargeGatesGiveTheLimits) {
    for (FloatType type : kFloatTypes) {
        for (int64_t size : {8, 11}) {  // by vectors and one by one
            const Case test{1, size, type};
            const auto at_gate = [&](float gate) {
                Tensors host(test);
                std::fill(host.gate_up.begin(), host.gate_up.end(), 1.0f);
                std::fill(host.dy.begin(), host.dy.end(), 1.0f);
                host.gate_up[0] = gate;
                const Gradient found = backward_on_device(test, host);
                EXPECT_EQ(bits_of(forward_on_device(test, host)), bits_of(found.y));
                return std::vector<float>{found.y[0], found.d_gate_up[0],
                                          found.d_gate_up[static_cast<std::size_t>(size)]};
            };
            using Three = std::vector<float>;  // y, slope by the gate, slope by up
            EXPECT_EQ(at_gate(kInfinity), (Three{kInfinity, 1.0f, kInfinity}));
            EXPECT_EQ(at_gate(120.0f), (Three{120.0f, 1.0f, 120.0f}));
            EXPECT_EQ(at_gate(57344.0f), (Three{57344.0f, 1.0f, 57344.0f}));
            for (float gate : {-120.0f, -57344.0f, -kInfinity}) {
                EXPECT_EQ(bits_of(at_gate(gate)), bits_of(Three{-0.0f, -0.0f, -0.0f})) << gate;
            }
            for (float value : at_gate(kNan)) EXPECT_TRUE(std::isnan(value));
        }
    }
}

TEST_F(DeviceSwiglu, GradientsMayTakeThePlaceOfGateAndUp) {
    for (FloatType type : kFloatTypes) {
        for (const Case& test : {Case{3, 576, type}, Case{3, 29, type}, Case{2, 64, type, 0, 1}}) {
            const Tensors host(test);
            const Reference expected(test, host);
            for_each_schedule([&] {
                const Gradient found = backward_on_device(test, host, Place::kOverGateUp);
                ASSERT_EQ(bits_of(found.d_gate_up), bits_of(expected.d_gate_up)) << test.size;
                ASSERT_EQ(bits_of(found.y), bits_of(expected.y)) << test.size;
            });
        }
    }
}

TEST_F(DeviceSwiglu, TheForwardResultIsLeftOutOnRequest) {
    for (int64_t size : {64, 13}) {
        const Case test{2, size, FloatType::kBF16};
        const Tensors host(test);
        const Gradient found = backward_on_device(test, host, Place::kApart, false);
        EXPECT_EQ(bits_of(found.d_gate_up), bits_of(Reference(test, host).d_gate_up));
        EXPECT_EQ(found.y, std::vector<float>(host.dy.size(), -7.0f));
    }
}

TEST_F(DeviceSwiglu, EveryMisalignmentAndStrideGivesTheSameBits) {
    for (FloatType type : kFloatTypes) {
        for (int shift : {1, 2, 4, 8}) {
            for (const Case& test :
                 {Case{2, 32, type, shift}, Case{2, 32, type, 0, shift}, Case{2, 32, type, 0, 0, shift},
                  Case{2, 32, type, 0, 0, 0, shift}, Case{2, 32, type, 0, 0, 0, 0, shift}}) {
                expect_reference(test, Tensors(test));
            }
        }
    }
}

TEST_F(DeviceSwiglu, TheBitsAreTheSameUnderEverySchedule) {
    for (const Case& test : {Case{5, 576, FloatType::kBF16}, Case{3, 300, FloatType::kF32, 3}}) {
        const Tensors host(test);
        for_each_schedule([&] { expect_reference(test, host); });
    }
}

TEST_F(DeviceSwiglu, AlignedRowsTakeWideAccesses) {
    if (device_vector_accesses() < 0)
        GTEST_SKIP() << "nobody counts the accesses of a " << device_name() << " device";
    const auto forward = [](const Case& test) {
        return vector_accesses_of([&] { forward_on_device(test, Tensors(test)); });
    };
    const auto backward = [](const Case& test, bool with_y) {
        return vector_accesses_of([&] { backward_on_device(test, Tensors(test), Place::kApart, with_y); });
    };
    // 72 pieces a row; a piece of gate, up and y, and of dy and both gradients.
    EXPECT_EQ(forward({2, 576, FloatType::kBF16}), 2 * 72 * 3);
    EXPECT_EQ(forward({2, 576, FloatType::kF16, 8}), 2 * 72 * 3);
    EXPECT_EQ(forward({2, 576, FloatType::kF32, 4}), 2 * 72 * 3 * 2);
    EXPECT_EQ(backward({2, 576, FloatType::kBF16}, true), 2 * 72 * 6);
    EXPECT_EQ(backward({2, 576, FloatType::kF32}, false), 2 * 72 * 5 * 2);
    EXPECT_EQ(backward({2, 576, FloatType::kBF16, 4}, false), 2 * 72 * 5);
    for (const Case& test : {Case{2, 576, FloatType::kBF16, 4}, Case{2, 576, FloatType::kBF16, 0, 4},
                             Case{2, 576, FloatType::kBF16, 0, 0, 0, 0, 4}, Case{2, 577, FloatType::kBF16}}) {
        EXPECT_EQ(forward(test), 0);
        EXPECT_EQ(backward(test, true), 0);
    }
    EXPECT_EQ(backward({2, 576, FloatType::kBF16, 0, 0, 4}, true), 0);
    EXPECT_EQ(backward({2, 576, FloatType::kBF16, 0, 0, 0, 4}, true), 0);
}

TEST_F(DeviceSwiglu, EachTakesOneLaunchAndNoneForNothing) {
    const int64_t before = device_launches();
    if (before < 0) GTEST_SKIP() << "nobody counts the launches of a " << device_name() << " device";
    const Case test{3, 576};
    forward_on_device(test, Tensors(test));
    EXPECT_EQ(device_launches(), before + 1);
    backward_on_device(test, Tensors(test));
    EXPECT_EQ(device_launches(), before + 2);
    for (const Case& none : {Case{0, 64}, Case{3, 0}}) {
        forward_on_device(none, Tensors(none));
        backward_on_device(none, Tensors(none));
    }
    EXPECT_EQ(device_launches(), before + 2);
}

TEST(DeviceSwigluArguments, ImpossibleOnesThrow) {
    alignas(16) uint8_t bytes[64] = {};
    const SwigluParams good{bytes, 0, 4, bytes, 4, FloatType::kF32};
    EXPECT_NO_THROW(device::swiglu(good, nullptr));
    const auto refused = [&](auto change) {
        SwigluParams params = good;
        change(params);
        EXPECT_THROW(device::swiglu(params, nullptr), std::invalid_argument);
    };
    refused([](SwigluParams& params) { params.rows = -1; });
    refused([](SwigluParams& params) { params.size = -1; });
    refused([](SwigluParams& params) { params.y_stride = 3; });
    refused([&](SwigluParams& params) { params.gate_up = bytes + 2; });
    refused([&](SwigluParams& params) { params.y = bytes + 2; });
    refused([](SwigluParams& params) { params.rows = int64_t{1} << 31; });
    refused([](SwigluParams& params) {
        params.rows = 1;
        params.type = static_cast<FloatType>(9);
    });
}

TEST(DeviceSwigluArguments, ImpossibleOnesOfTheGradientThrow) {
    alignas(16) uint8_t bytes[64] = {};
    const SwigluBackwardParams good{bytes, bytes, 0, 4, bytes, bytes, 4, FloatType::kF32};
    EXPECT_NO_THROW(device::swiglu_backward(good, nullptr));
    const auto refused = [&](auto change) {
        SwigluBackwardParams params = good;
        change(params);
        EXPECT_THROW(device::swiglu_backward(params, nullptr), std::invalid_argument);
    };
    refused([](SwigluBackwardParams& params) { params.rows = -1; });
    refused([](SwigluBackwardParams& params) { params.size = -1; });
    refused([](SwigluBackwardParams& params) { params.y_stride = 3; });
    refused([&](SwigluBackwardParams& params) { params.dy = bytes + 2; });
    refused([&](SwigluBackwardParams& params) { params.gate_up = bytes + 2; });
    refused([&](SwigluBackwardParams& params) { params.d_gate_up = bytes + 2; });
    refused([&](SwigluBackwardParams& params) { params.y = bytes + 2; });
    refused([](SwigluBackwardParams& params) { params.rows = int64_t{1} << 31; });
    SwigluBackwardParams without_y = good;
    without_y.y = nullptr;
    without_y.y_stride = 0;
    EXPECT_NO_THROW(device::swiglu_backward(without_y, nullptr));
}

}  // namespace
}  // namespace qlora::kernels
