#include <stdexcept>

#include "kernels/device/norm_case.h"

namespace qlora::kernels {
namespace {

class DeviceRmsNormBackward : public OnDevice {};

/// Where dx goes.
enum class Place : uint8_t { kApart, kOverDy, kOverResidual };

/// 1 / sqrt(mean(x^2) + eps) of each row.
std::vector<float> inverse_of(const NormCase& test, const NormTensors& host) {
    std::vector<float> inverse;
    for (int64_t row = 0; row < test.rows; ++row) {
        double squares = 0.0;
        for (float value : part(host.x, row * test.size, test.size)) squares += double{value} * value;
        inverse.push_back(
            static_cast<float>(1.0 / std::sqrt(squares / static_cast<double>(test.size) + kNormEps)));
    }
    return inverse;
}

std::vector<float> on_device(const NormCase& test, const NormTensors& host, const std::vector<float>& inverse,
                             Place place = Place::kApart) {
    const auto access = [&](Place written) { return place == written ? Access::kOutput : Access::kInput; };
    const DeviceRows dy({test.rows, test.size, test.type, test.y_shift}, host.dy, access(Place::kOverDy));
    const DeviceRows x({test.rows, test.size, test.type, test.x_shift}, host.x);
    const DeviceRows residual({test.rows, test.size, test.type, test.residual_shift}, host.residual,
                              access(Place::kOverResidual));
    const DeviceRows weight({1, test.size, FloatType::kF32, test.weight_shift}, host.weight);
    const DeviceRows saved({1, test.rows, FloatType::kF32, test.y_shift}, inverse);
    const DeviceRows apart({test.rows, test.size, test.type, test.sum_shift});
    const DeviceRows& dx = place == Place::kApart ? apart : place == Place::kOverDy ? dy : residual;
    device::rms_norm_backward(
        {dy.data(), x.data(), static_cast<const float*>(weight.data()),
         static_cast<const float*>(saved.data()), test.residual ? residual.data() : nullptr, test.rows,
         test.size, dx.data(), test.type},
        nullptr);
    return dx.download();
}

/// One value at a time; the sum in the kernel's order.
std::vector<float> reference(const NormCase& test, const NormTensors& host,
                             const std::vector<float>& inverse) {
    const auto rounded = [&](float value) { return round_element(value, test.type); };
    std::vector<float> dx;
    for (int64_t row = 0; row < test.rows; ++row) {
        const float scale = inverse[static_cast<std::size_t>(row)];
        const auto at = [&](int64_t i) { return static_cast<std::size_t>(row * test.size + i); };
        const auto n = [&](int64_t i) { return host.x[at(i)] * scale; };
        const auto g = [&](int64_t i) { return host.dy[at(i)] * host.weight[static_cast<std::size_t>(i)]; };
        const float mean = norm_sum(test.size, g, n) / static_cast<float>(test.size);
        for (int64_t i = 0; i < test.size; ++i) {
            const float own = rounded(scale * (g(i) - n(i) * mean));
            dx.push_back(test.residual ? rounded(own + host.residual[at(i)]) : own);
        }
    }
    return dx;
}

void expect_reference(const NormCase& test, Place place = Place::kApart) {
    const NormTensors host(test);
    const std::vector<float> inverse = inverse_of(test, host);
    ASSERT_EQ(bits_of(on_device(test, host, inverse, place)), bits_of(reference(test, host, inverse)))
        << test.rows << " of " << test.size;
}

TEST_F(DeviceRmsNormBackward, EverySizeFollowsTheRoundingPointsAndTheOrder) {
    for (FloatType type : kFloatTypes) {
        for (int64_t size : kPieceSizes) {
            with_some_schedule(size, [&] { expect_reference({3, size, type, size % 2 == 1}); });
            expect_reference({2, size, type, size % 2 == 0});
        }
        // The ends of what one warp, 128 and 512 threads keep, by vectors and one by one.
        for (int64_t size : {1016, 1024, 1025, 1032, 4096, 4104, 16384, 16385, 16392, 20480}) {
            for (bool residual : {false, true}) expect_reference({1, size, type, residual});
        }
        expect_reference({67, 64, type});
        expect_reference({67, 33, type, true});
    }
}

TEST_F(DeviceRmsNormBackward, TheFp32ResultIsTheFormulaInDoubleAndThatOfTheCpu) {
    for (int64_t size : {1, 17, 64, 576, 1536, 5000}) {
        for (bool residual : {false, true}) {
            const NormCase test{3, size, FloatType::kF32, residual};
            const NormTensors host(test);
            const std::vector<float> inverse = inverse_of(test, host);
            const std::vector<float> found = on_device(test, host, inverse);
            std::vector<float> on_cpu(found.size());
            cpu::rms_norm_backward(host.dy.data(), host.x.data(), host.weight.data(), inverse.data(),
                                   residual ? host.residual.data() : nullptr, 3, size, on_cpu.data());
            for (int64_t row = 0; row < 3; ++row) {
                const double scale = inverse[static_cast<std::size_t>(row)];
                const auto at = [&](int64_t i) { return static_cast<std::size_t>(row * size + i); };
                const auto n = [&](int64_t i) { return host.x[at(i)] * scale; };
                const auto g = [&](int64_t i) {
                    return double{host.dy[at(i)]} * host.weight[static_cast<std::size_t>(i)];
                };
                double mean = 0.0, magnitude = 0.0;
                for (int64_t i = 0; i < size; ++i) {
                    mean += g(i) * n(i) / static_cast<double>(size);
                    magnitude += std::abs(g(i) * n(i)) / static_cast<double>(size);
                }
                for (int64_t i = 0; i < size; ++i) {
                    const double direct = residual ? double{host.residual[at(i)]} : 0.0;
                    // The factors of each product are rounded, then the sum, the quotient and four operations
                    // on the value itself.
                    const double terms =
                        scale * (std::abs(g(i)) + std::abs(n(i)) * magnitude) + std::abs(direct);
                    const double tolerance = (norm_roundings(size) + 7) * kRounding * terms;
                    ASSERT_NEAR(found[at(i)], scale * (g(i) - n(i) * mean) + direct, tolerance);
                    ASSERT_NEAR(found[at(i)], on_cpu[at(i)], 2 * tolerance);
                }
            }
        }
    }
}

TEST_F(DeviceRmsNormBackward, IsTheSlopeOfForward) {
    for (int64_t size : {13, 64}) {
        const NormCase test{1, size};
        const NormTensors host(test);
        const std::vector<float> dx = on_device(test, host, inverse_of(test, host));
        const auto objective = [&](const std::vector<double>& values) {
            double squares = 0.0, sum = 0.0;
            for (double value : values) squares += value * value;
            const double inverse = 1.0 / std::sqrt(squares / static_cast<double>(size) + kNormEps);
            for (std::size_t i = 0; i < values.size(); ++i) {
                sum += double{host.dy[i]} * host.weight[i] * values[i] * inverse;
            }
            return sum;
        };
        for (std::size_t i = 0; i < dx.size(); ++i) {
            std::vector<double> up(host.x.begin(), host.x.end()), down = up;
            up[i] += 1e-5;
            down[i] -= 1e-5;
            // fp32 leaves 1e-6 of values near 1, the difference quotient less.
            EXPECT_NEAR(dx[i], (objective(up) - objective(down)) / 2e-5, 3e-6);
        }
    }
}

TEST_F(DeviceRmsNormBackward, MayBeWrittenOverItsArguments) {
    for (FloatType type : kFloatTypes) {
        for (int64_t size : {64, 45, 2048, 16392}) {
            for (bool residual : {false, true}) expect_reference({2, size, type, residual}, Place::kOverDy);
            expect_reference({2, size, type, true}, Place::kOverResidual);
        }
    }
}

TEST_F(DeviceRmsNormBackward, ANegativeZeroStaysWithoutAResidual) {
    for (int64_t size : {8, 9}) {
        const NormCase test{1, size};
        NormTensors host(test);
        std::fill(host.dy.begin(), host.dy.end(), -0.0f);
        std::fill(host.x.begin(), host.x.end(), 1.0f);
        std::fill(host.weight.begin(), host.weight.end(), 1.0f);
        const std::vector<float> dx = on_device(test, host, {1.0f});
        // -0 - 1 * 0 is -0; the sum of the products begins with +0.
        EXPECT_EQ(bits_of(dx), bits_of(std::vector<float>(static_cast<std::size_t>(size), -0.0f)));
    }
}

TEST_F(DeviceRmsNormBackward, NonFiniteValuesReachExactlyTheirRow) {
    for (int64_t size : {40, 41, 1536}) {
        const NormCase test{3, size, FloatType::kF32, true};
        NormTensors host(test);
        const std::vector<float> inverse = inverse_of(test, host);
        host.dy[static_cast<std::size_t>(2 * size - 1)] = kNan;
        const std::vector<float> dx = on_device(test, host, inverse);
        for (int64_t i = 0; i < 3 * size; ++i) {
            EXPECT_EQ(std::isnan(dx[static_cast<std::size_t>(i)]), i / size == 1);
        }
    }
}

TEST_F(DeviceRmsNormBackward, AnEndlessInverseGivesTheLimit) {
    for (int64_t size : {40, 41, 1536}) {
        const NormCase test{1, size};
        NormTensors host(test);
        for (std::vector<float>* values : {&host.x, &host.dy, &host.weight}) {
            for (float& value : *values) value = std::abs(value) + 0.5f;
        }
        // g - n * mean is -infinity everywhere, and NaN nowhere.
        EXPECT_EQ(on_device(test, host, {kInfinity}),
                  std::vector<float>(static_cast<std::size_t>(size), -kInfinity));
    }
}

TEST_F(DeviceRmsNormBackward, EveryMisalignmentGivesTheSameBits) {
    for (FloatType type : kFloatTypes) {
        for (int shift : {1, 2, 4, 8}) {
            expect_reference({2, 64, type, true, 0, shift});
            expect_reference({2, 64, type, true, 0, 0, shift});
            expect_reference({2, 64, type, true, 0, 0, 0, shift});
            expect_reference({2, 64, type, true, 0, 0, 0, 0, shift});
            expect_reference({2, 64, type, true, 0, 0, 0, 0, 0, shift});
        }
    }
}

TEST_F(DeviceRmsNormBackward, TheBitsAreTheSameUnderEverySchedule) {
    for (const NormCase& test :
         {NormCase{9, 576, FloatType::kBF16, true}, NormCase{3, 300}, NormCase{2, 1536, FloatType::kF16},
          NormCase{2, 4100, FloatType::kF32}, NormCase{1, 16400, FloatType::kBF16, true}}) {
        for_each_schedule([&] { expect_reference(test); });
        if (test.residual) for_each_schedule([&] { expect_reference(test, Place::kOverResidual); });
    }
}

TEST_F(DeviceRmsNormBackward, AlignedRowsAreReadOnceByWideAccesses) {
    if (device_vector_accesses() < 0)
        GTEST_SKIP() << "nobody counts the accesses of a " << device_name() << " device";
    const auto accesses = [](const NormCase& test) {
        const NormTensors host(test);
        const std::vector<float> inverse = inverse_of(test, host);
        return vector_accesses_of([&] { on_device(test, host, inverse); });
    };
    // A piece of x, dy and dx, and of the residual; two accesses to the weight in both passes.
    for (int64_t size : {8, 256, 576, 1024, 1536, 4096, 16384}) {
        const int64_t pieces = size / 8;
        EXPECT_EQ(accesses({3, size, FloatType::kBF16}), 3 * pieces * (3 + 4)) << size;
        EXPECT_EQ(accesses({1, size, FloatType::kF16, true}), pieces * (4 + 4)) << size;
        EXPECT_EQ(accesses({1, size, FloatType::kF32}), pieces * (6 + 4)) << size;
    }
    // More than the registers of a CUDA block hold: x and dy are read twice.
    EXPECT_EQ(accesses({1, 16392, FloatType::kBF16, true}), 16392 / 8 * (6 + 4));
    for (const NormCase& test :
         {NormCase{2, 576, FloatType::kBF16, true, 0, 4}, NormCase{2, 576, FloatType::kBF16, true, 0, 0, 4},
          NormCase{2, 576, FloatType::kBF16, true, 0, 0, 0, 2},
          NormCase{2, 576, FloatType::kBF16, true, 0, 0, 0, 0, 4},
          NormCase{2, 576, FloatType::kBF16, true, 0, 0, 0, 0, 0, 4},
          NormCase{1, 577, FloatType::kBF16, true}}) {
        EXPECT_EQ(accesses(test), 0);
    }
}

TEST_F(DeviceRmsNormBackward, TakesOneLaunchAndNoneForNoRows) {
    const int64_t before = device_launches();
    if (before < 0) GTEST_SKIP() << "nobody counts the launches of a " << device_name() << " device";
    expect_reference({3, 1536, FloatType::kBF16, true});
    EXPECT_EQ(device_launches(), before + 1);
    expect_reference({0, 1536, FloatType::kBF16, true});
    EXPECT_EQ(device_launches(), before + 1);
}

TEST(DeviceRmsNormBackwardArguments, ImpossibleOnesThrow) {
    alignas(16) uint8_t bytes[64] = {};
    float* const floats = reinterpret_cast<float*>(bytes);
    float* const misaligned = reinterpret_cast<float*>(bytes + 2);
    const RmsNormBackwardParams good{bytes, bytes, floats, floats, bytes, 0, 4, bytes, FloatType::kF32};
    EXPECT_NO_THROW(device::rms_norm_backward(good, nullptr));
    const auto refused = [&](auto change) {
        RmsNormBackwardParams params = good;
        change(params);
        EXPECT_THROW(device::rms_norm_backward(params, nullptr), std::invalid_argument);
    };
    refused([](RmsNormBackwardParams& params) { params.rows = -1; });
    refused([](RmsNormBackwardParams& params) { params.size = 0; });
    refused([&](RmsNormBackwardParams& params) { params.dy = bytes + 2; });
    refused([&](RmsNormBackwardParams& params) { params.x = bytes + 2; });
    refused([&](RmsNormBackwardParams& params) { params.residual = bytes + 2; });
    refused([&](RmsNormBackwardParams& params) { params.dx = bytes + 2; });
    refused([&](RmsNormBackwardParams& params) { params.weight = misaligned; });
    refused([&](RmsNormBackwardParams& params) { params.inverse = misaligned; });
    refused([](RmsNormBackwardParams& params) { params.rows = int64_t{1} << 34; });
}

}  // namespace
}  // namespace qlora::kernels
