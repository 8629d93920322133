#include <stdexcept>

#include "kernels/device/device_rows.h"
#include "kernels/exact_activation.h"
#include "qlora/kernels/activation_math.h"
#include "qlora/kernels/cuda_layer.h"

namespace qlora::kernels {
namespace {

class DeviceActivation : public OnDevice {};

constexpr NamedActivation kSwiglu = kActivations[0];

struct Case {
    int64_t rows, size;
    FloatType type = FloatType::kF32;
    NamedActivation act = kSwiglu;
    int64_t y_gap = 0;
    int entered_shift = 0, dy_shift = 0, d_entered_shift = 0, y_shift = 0;

    int64_t entered_size() const { return (act.gated ? 2 : 1) * size; }
};

struct Tensors {
    std::vector<float> entered, dy;

    explicit Tensors(const Case& test)
        : entered(gaussian_of(test.type, test.rows * test.entered_size(), 1, 4.0f)),
          dy(gaussian_of(test.type, test.rows * test.size, 2)) {}
    Tensors(const Case& test, uint32_t wild_seed)
        : entered(round_elements(wild_values(test.rows * test.entered_size(), wild_seed), test.type)),
          dy(round_elements(wild_values(test.rows * test.size, wild_seed + 1), test.type)) {}
};

struct Gradient {
    std::vector<float> d_entered, y;
};

std::vector<float> forward_on_device(const Case& test, const Tensors& host) {
    const DeviceRows entered({test.rows, test.entered_size(), test.type, test.entered_shift}, host.entered);
    const DeviceRows y({test.rows, test.size, test.type, test.y_shift, test.y_gap});
    device::activate({test.act.kind, test.act.gated, entered.data(), test.rows, test.size, y.data(),
                      test.size + test.y_gap, test.type},
                     nullptr);
    return y.download();
}

enum class Place : uint8_t { kApart, kOverEntered };

Gradient backward_on_device(const Case& test, const Tensors& host, Place place = Place::kApart,
                            bool with_y = true) {
    const bool over = place == Place::kOverEntered;
    const DeviceRows entered({test.rows, test.entered_size(), test.type, test.entered_shift}, host.entered,
                             over ? Access::kOutput : Access::kInput);
    const DeviceRows dy({test.rows, test.size, test.type, test.dy_shift}, host.dy);
    const DeviceRows apart({test.rows, test.entered_size(), test.type, test.d_entered_shift});
    const DeviceRows y({test.rows, test.size, test.type, test.y_shift, test.y_gap});
    const DeviceRows& d_entered = over ? entered : apart;
    device::activate_backward(
        {test.act.kind, test.act.gated, dy.data(), entered.data(), test.rows, test.size, d_entered.data(),
         with_y ? y.data() : nullptr, with_y ? test.size + test.y_gap : 3, test.type},
        nullptr);
    return {d_entered.download(), y.download()};
}

/// One value at a time, rounded where transformers rounds.
struct Reference {
    std::vector<float> y, d_entered;

    Reference(const Case& test, const Tensors& host) : y(host.dy.size()), d_entered(host.entered.size()) {
        with_activation_form(test.act.kind, test.act.gated, [&](auto form) {
            for (std::size_t i = 0; i < y.size(); ++i) fill<decltype(form)::kKind>(test, host, i);
        });
    }

  private:
    template <Activation kKind>
    void fill(const Case& test, const Tensors& host, std::size_t i) {
        const auto rounded = [&](float value) { return round_element(value, test.type); };
        const ActivationPlaces at(i, static_cast<std::size_t>(test.size), test.act.gated);
        const auto [value, slope] = activated<kKind, OneLane>(host.entered[at.gate]);
        const float up = test.act.gated ? host.entered[at.up] : 1.0f, dy = host.dy[i];
        y[i] = rounded(rounded(value) * up);
        if (test.act.gated) d_entered[at.up] = rounded(dy * rounded(value));
        d_entered[at.gate] = rounded(rounded(dy * up) * slope);
    }
};

void expect_reference(const Case& test, const Tensors& host) {
    const Reference expected(test, host);
    ASSERT_EQ(bits_of(forward_on_device(test, host)), bits_of(expected.y)) << test.act.name << test.size;
    const Gradient found = backward_on_device(test, host);
    ASSERT_EQ(bits_of(found.d_entered), bits_of(expected.d_entered)) << test.act.name << test.size;
    ASSERT_EQ(bits_of(found.y), bits_of(expected.y)) << test.act.name << test.size;
}

TEST_F(DeviceActivation, EverySizeFollowsTheRoundingPoints) {
    for (FloatType type : kFloatTypes) {
        for (int64_t size : kPieceSizes) {
            const Case test{3, size, type, kSwiglu, size % 2};
            with_some_schedule(size, [&] {
                expect_reference(test, Tensors(test));
                expect_reference(test, Tensors(test, static_cast<uint32_t>(size)));
            });
        }
        for (const Case& test :
             {Case{67, 40, type}, Case{67, 33, type, kSwiglu, 5}, Case{1, 512, type, kSwiglu, 8}}) {
            expect_reference(test, Tensors(test));
        }
    }
}

TEST_F(DeviceActivation, EveryKindGatedOrNotFollowsTheRoundingPoints) {
    for (FloatType type : kFloatTypes) {
        for (const NamedActivation& act : kActivations) {
            for (const Case& test : {Case{3, 64, type, act}, Case{3, 33, type, act, 3}, Case{2, 7, type, act},
                                     Case{67, 40, type, act}, Case{2, 32, type, act, 0, 1, 2, 4, 1}}) {
                expect_reference(test, Tensors(test));
                expect_reference(test, Tensors(test, static_cast<uint32_t>(test.size)));
            }
        }
    }
}

TEST_F(DeviceActivation, TheBitsAreThoseOfTheCpu) {
    for (const NamedActivation& act : kActivations) {
        for (const auto& [rows, size] : {std::pair<int64_t, int64_t>{3, 64}, {5, 37}, {2, 1536}, {4, 8}}) {
            const Case test{rows, size, FloatType::kF32, act};
            for (uint32_t seed : {0u, 7u}) {
                const Tensors host = seed == 0 ? Tensors(test) : Tensors(test, seed);
                std::vector<float> y(host.dy.size()), d_entered(host.entered.size());
                cpu::activate(act.kind, act.gated, host.entered.data(), rows, size, y.data());
                cpu::activate_backward(act.kind, act.gated, host.dy.data(), host.entered.data(), rows, size,
                                       d_entered.data(), nullptr);
                ASSERT_EQ(bits_of(forward_on_device(test, host)), bits_of(y)) << act.name << size;
                ASSERT_EQ(bits_of(backward_on_device(test, host).d_entered), bits_of(d_entered))
                    << act.name << size;
            }
        }
    }
}

TEST_F(DeviceActivation, IsTheFormulaInDouble) {
    for (const NamedActivation& act : kActivations) {
        const Case test{4, 125, FloatType::kF32, act};
        const Tensors host(test);
        const std::vector<float> y = forward_on_device(test, host);
        const std::vector<float> gradient = backward_on_device(test, host).d_entered;
        for (std::size_t i = 0; i < y.size(); ++i) {
            const ActivationPlaces at(i, static_cast<std::size_t>(test.size), act.gated);
            const ExactActivation exact(act.kind, host.entered[at.gate]);
            const double up = act.gated ? host.entered[at.up] : 1.0, d = host.dy[i];
            // One product more than the element has; small values are multiples of 2^-149.
            const double error = kRounding * (exact.value_error + 1) * std::abs(exact.value) + 0x1p-145;
            ASSERT_NEAR(y[i], exact.value * up, error * std::abs(up)) << act.name;
            if (act.gated) {
                ASSERT_NEAR(gradient[at.up], d * exact.value, error * std::abs(d)) << act.name;
            }
            ASSERT_NEAR(gradient[at.gate], d * up * exact.slope,
                        kRounding * (exact.slope_error + 2) * exact.slope_terms * std::abs(d * up) + 0x1p-140)
                << act.name;
        }
    }
}

TEST_F(DeviceActivation, LargeGatesGiveTheLimits) {
    for (FloatType type : kFloatTypes) {
        for (int64_t size : {8, 11}) {  // by vectors and one by one
            const Case test{1, size, type};
            const auto at_gate = [&](float gate) {
                Tensors host(test);
                std::fill(host.entered.begin(), host.entered.end(), 1.0f);
                std::fill(host.dy.begin(), host.dy.end(), 1.0f);
                host.entered[0] = gate;
                const Gradient found = backward_on_device(test, host);
                EXPECT_EQ(bits_of(forward_on_device(test, host)), bits_of(found.y));
                return std::vector<float>{found.y[0], found.d_entered[0],
                                          found.d_entered[static_cast<std::size_t>(size)]};
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

TEST_F(DeviceActivation, GradientsMayTakeThePlaceOfWhatEntered) {
    for (FloatType type : kFloatTypes) {
        for (const Case& test : {Case{3, 576, type}, Case{3, 29, type}, Case{2, 64, type, kSwiglu, 0, 1},
                                 Case{3, 64, type, kActivations[5]}, Case{3, 29, type, kActivations[4]}}) {
            const Tensors host(test);
            const Reference expected(test, host);
            for_each_schedule([&] {
                const Gradient found = backward_on_device(test, host, Place::kOverEntered);
                ASSERT_EQ(bits_of(found.d_entered), bits_of(expected.d_entered)) << test.size;
                ASSERT_EQ(bits_of(found.y), bits_of(expected.y)) << test.size;
            });
        }
    }
}

TEST_F(DeviceActivation, TheForwardResultIsLeftOutOnRequest) {
    for (int64_t size : {64, 13}) {
        const Case test{2, size, FloatType::kBF16};
        const Tensors host(test);
        const Gradient found = backward_on_device(test, host, Place::kApart, false);
        EXPECT_EQ(bits_of(found.d_entered), bits_of(Reference(test, host).d_entered));
        EXPECT_EQ(found.y, std::vector<float>(host.dy.size(), -7.0f));
    }
}

TEST_F(DeviceActivation, EveryMisalignmentAndStrideGivesTheSameBits) {
    for (FloatType type : kFloatTypes) {
        for (int shift : {1, 2, 4, 8}) {
            for (const Case& test :
                 {Case{2, 32, type, kSwiglu, shift}, Case{2, 32, type, kSwiglu, 0, shift},
                  Case{2, 32, type, kSwiglu, 0, 0, shift}, Case{2, 32, type, kSwiglu, 0, 0, 0, shift},
                  Case{2, 32, type, kSwiglu, 0, 0, 0, 0, shift}}) {
                expect_reference(test, Tensors(test));
            }
        }
    }
}

TEST_F(DeviceActivation, TheBitsAreTheSameUnderEverySchedule) {
    for (const Case& test : {Case{5, 576, FloatType::kBF16}, Case{3, 300, FloatType::kF32, kSwiglu, 3}}) {
        const Tensors host(test);
        for_each_schedule([&] { expect_reference(test, host); });
    }
}

TEST_F(DeviceActivation, AlignedRowsTakeWideAccesses) {
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
    EXPECT_EQ(forward({2, 576, FloatType::kF16, kSwiglu, 8}), 2 * 72 * 3);
    EXPECT_EQ(forward({2, 576, FloatType::kF32, kSwiglu, 4}), 2 * 72 * 3 * 2);
    EXPECT_EQ(backward({2, 576, FloatType::kBF16}, true), 2 * 72 * 6);
    EXPECT_EQ(backward({2, 576, FloatType::kF32}, false), 2 * 72 * 5 * 2);
    EXPECT_EQ(backward({2, 576, FloatType::kBF16, kSwiglu, 4}, false), 2 * 72 * 5);
    // Without a gate a piece of each.
    EXPECT_EQ(forward({2, 576, FloatType::kBF16, kActivations[4]}), 2 * 72 * 2);
    EXPECT_EQ(backward({2, 576, FloatType::kBF16, kActivations[4]}, true), 2 * 72 * 4);
    for (const Case& test :
         {Case{2, 576, FloatType::kBF16, kSwiglu, 4}, Case{2, 576, FloatType::kBF16, kSwiglu, 0, 4},
          Case{2, 576, FloatType::kBF16, kSwiglu, 0, 0, 0, 0, 4}, Case{2, 577, FloatType::kBF16}}) {
        EXPECT_EQ(forward(test), 0);
        EXPECT_EQ(backward(test, true), 0);
    }
    EXPECT_EQ(backward({2, 576, FloatType::kBF16, kSwiglu, 0, 0, 4}, true), 0);
    EXPECT_EQ(backward({2, 576, FloatType::kBF16, kSwiglu, 0, 0, 0, 4}, true), 0);
}

TEST_F(DeviceActivation, EachTakesOneLaunchAndNoneForNothing) {
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

TEST(DeviceActivationArguments, ImpossibleOnesThrow) {
    alignas(16) uint8_t bytes[64] = {};
    const ActivateParams good{Activation::kSilu, true, bytes, 0, 4, bytes, 4, FloatType::kF32};
    EXPECT_NO_THROW(device::activate(good, nullptr));
    const auto refused = [&](auto change) {
        ActivateParams params = good;
        change(params);
        EXPECT_THROW(device::activate(params, nullptr), std::invalid_argument);
    };
    refused([](ActivateParams& params) { params.rows = -1; });
    refused([](ActivateParams& params) { params.size = -1; });
    refused([](ActivateParams& params) { params.y_stride = 3; });
    refused([&](ActivateParams& params) { params.entered = bytes + 2; });
    refused([&](ActivateParams& params) { params.y = bytes + 2; });
    refused([](ActivateParams& params) { params.rows = int64_t{1} << 31; });
    refused([](ActivateParams& params) {
        params.rows = 1;
        params.type = static_cast<FloatType>(9);
    });
    refused([](ActivateParams& params) {
        params.rows = 1;
        params.kind = static_cast<Activation>(9);
    });
}

TEST(DeviceActivationArguments, ImpossibleOnesOfTheGradientThrow) {
    alignas(16) uint8_t bytes[64] = {};
    const ActivateBackwardParams good{Activation::kSilu, true, bytes, bytes, 0, 4, bytes, bytes, 4,
                                      FloatType::kF32};
    EXPECT_NO_THROW(device::activate_backward(good, nullptr));
    const auto refused = [&](auto change) {
        ActivateBackwardParams params = good;
        change(params);
        EXPECT_THROW(device::activate_backward(params, nullptr), std::invalid_argument);
    };
    refused([](ActivateBackwardParams& params) { params.rows = -1; });
    refused([](ActivateBackwardParams& params) { params.size = -1; });
    refused([](ActivateBackwardParams& params) { params.y_stride = 3; });
    refused([&](ActivateBackwardParams& params) { params.dy = bytes + 2; });
    refused([&](ActivateBackwardParams& params) { params.entered = bytes + 2; });
    refused([&](ActivateBackwardParams& params) { params.d_entered = bytes + 2; });
    refused([&](ActivateBackwardParams& params) { params.y = bytes + 2; });
    refused([](ActivateBackwardParams& params) { params.rows = int64_t{1} << 31; });
    ActivateBackwardParams without_y = good;
    without_y.y = nullptr;
    without_y.y_stride = 0;
    EXPECT_NO_THROW(device::activate_backward(without_y, nullptr));
}

}  // namespace
}  // namespace qlora::kernels
