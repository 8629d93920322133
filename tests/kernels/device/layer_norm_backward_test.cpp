#include <stdexcept>

#include "kernels/device/norm_case.h"

namespace qlora::kernels {
namespace {

class DeviceLayerNormBackward : public OnDevice {};

/// Where dx goes.
enum class LayerPlace : uint8_t { kApart, kOverDy, kOverResidual };

struct LayerStatistics {
    std::vector<float> mean, inverse;
};

LayerStatistics statistics_of(const NormCase& test, const NormTensors& host) {
    LayerStatistics out;
    std::vector<float> y(host.x.size());
    out.mean.resize(static_cast<std::size_t>(test.rows));
    out.inverse.resize(static_cast<std::size_t>(test.rows));
    cpu::layer_norm(host.x.data(), host.weight.data(), nullptr, kNormEps, test.rows, test.size, y.data(),
                    out.mean.data(), out.inverse.data());
    return out;
}

std::vector<float> layer_gradient_on_device(const NormCase& test, const NormTensors& host,
                                            const LayerStatistics& statistics,
                                            LayerPlace place = LayerPlace::kApart) {
    const auto access = [&](LayerPlace written) {
        return place == written ? Access::kOutput : Access::kInput;
    };
    const DeviceRows dy({test.rows, test.size, test.type, test.y_shift}, host.dy,
                        access(LayerPlace::kOverDy));
    const DeviceRows x({test.rows, test.size, test.type, test.x_shift}, host.x);
    const DeviceRows residual({test.rows, test.size, test.type, test.residual_shift}, host.residual,
                              access(LayerPlace::kOverResidual));
    const DeviceRows weight({1, test.size, FloatType::kF32, test.weight_shift}, host.weight);
    const DeviceRows mean({1, test.rows, FloatType::kF32, test.y_shift}, statistics.mean);
    const DeviceRows inverse({1, test.rows, FloatType::kF32, test.y_shift}, statistics.inverse);
    const DeviceRows apart({test.rows, test.size, test.type, test.sum_shift});
    const DeviceRows& dx = place == LayerPlace::kApart ? apart : place == LayerPlace::kOverDy ? dy : residual;
    device::layer_norm_backward(
        {dy.data(), x.data(), static_cast<const float*>(weight.data()),
         static_cast<const float*>(mean.data()), static_cast<const float*>(inverse.data()),
         test.residual ? residual.data() : nullptr, test.rows, test.size, dx.data(), test.type},
        nullptr);
    return dx.download();
}

/// One value at a time; the sums in the kernel's order.
std::vector<float> layer_gradient_reference(const NormCase& test, const NormTensors& host,
                                            const LayerStatistics& statistics) {
    const auto rounded = [&](float value) { return round_element(value, test.type); };
    std::vector<float> dx;
    for (int64_t row = 0; row < test.rows; ++row) {
        const float centre = statistics.mean[static_cast<std::size_t>(row)];
        const float scale = statistics.inverse[static_cast<std::size_t>(row)];
        const float size = static_cast<float>(test.size);
        const auto at = [&](int64_t i) { return static_cast<std::size_t>(row * test.size + i); };
        const auto n = [&](int64_t i) { return (host.x[at(i)] - centre) * scale; };
        const auto g = [&](int64_t i) { return host.dy[at(i)] * host.weight[static_cast<std::size_t>(i)]; };
        const float of_g = norm_sum(test.size, g, [](int64_t) { return 1.0f; }) / size;
        const float of_gn = norm_sum(test.size, g, n) / size;
        for (int64_t i = 0; i < test.size; ++i) {
            const float own = rounded(scale * (g(i) - of_g - n(i) * of_gn));
            dx.push_back(test.residual ? rounded(own + host.residual[at(i)]) : own);
        }
    }
    return dx;
}

void expect_layer_gradient(const NormCase& test, LayerPlace place = LayerPlace::kApart) {
    const NormTensors host(test);
    const LayerStatistics statistics = statistics_of(test, host);
    ASSERT_EQ(bits_of(layer_gradient_on_device(test, host, statistics, place)),
              bits_of(layer_gradient_reference(test, host, statistics)))
        << test.rows << " of " << test.size;
}

TEST_F(DeviceLayerNormBackward, EverySizeFollowsTheRoundingPointsAndTheOrder) {
    for (FloatType type : kFloatTypes) {
        for (int64_t size : kPieceSizes) {
            with_some_schedule(size, [&] { expect_layer_gradient({3, size, type, size % 2 == 1}); });
            expect_layer_gradient({2, size, type, size % 2 == 0});
        }
        // The ends of what one warp, 128 and 512 threads keep, by vectors and one by one.
        for (int64_t size : {1016, 1024, 1025, 1032, 4096, 4104, 16384, 16385, 16392, 20480}) {
            for (bool residual : {false, true}) expect_layer_gradient({1, size, type, residual});
        }
        expect_layer_gradient({67, 64, type});
        expect_layer_gradient({67, 33, type, true});
    }
}

TEST_F(DeviceLayerNormBackward, TheFp32ResultIsThatOfTheCpu) {
    for (int64_t size : {1, 17, 64, 576, 1536, 5000}) {
        for (bool residual : {false, true}) {
            const NormCase test{3, size, FloatType::kF32, residual};
            const NormTensors host(test);
            const LayerStatistics statistics = statistics_of(test, host);
            const std::vector<float> found = layer_gradient_on_device(test, host, statistics);
            std::vector<float> on_cpu(found.size());
            cpu::layer_norm_backward(host.dy.data(), host.x.data(), host.weight.data(),
                                     statistics.mean.data(), statistics.inverse.data(),
                                     residual ? host.residual.data() : nullptr, 3, size, on_cpu.data());
            for (std::size_t i = 0; i < found.size(); ++i) {
                const double scale = statistics.inverse[i / static_cast<std::size_t>(size)];
                // Both sums are of values near 1, and what they multiply is below 20.
                const double tolerance = (norm_roundings(size) + 7) * kRounding * (20.0 * scale + 5.0);
                ASSERT_NEAR(found[i], on_cpu[i], tolerance) << size;
            }
        }
    }
}

TEST_F(DeviceLayerNormBackward, IsTheSlopeOfForward) {
    for (int64_t size : {13, 64}) {
        const NormCase test{1, size};
        const NormTensors host(test);
        const std::vector<float> dx = layer_gradient_on_device(test, host, statistics_of(test, host));
        const auto objective = [&](const std::vector<double>& values) {
            double mean = 0.0, squares = 0.0, sum = 0.0;
            for (double value : values) mean += value / static_cast<double>(size);
            for (double value : values) squares += (value - mean) * (value - mean);
            const double inverse = 1.0 / std::sqrt(squares / static_cast<double>(size) + kNormEps);
            for (std::size_t i = 0; i < values.size(); ++i) {
                sum += double{host.dy[i]} * host.weight[i] * (values[i] - mean) * inverse;
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

TEST_F(DeviceLayerNormBackward, MayBeWrittenOverItsArguments) {
    for (FloatType type : kFloatTypes) {
        for (int64_t size : {64, 45, 2048, 16392}) {
            for (bool residual : {false, true}) {
                expect_layer_gradient({2, size, type, residual}, LayerPlace::kOverDy);
            }
            expect_layer_gradient({2, size, type, true}, LayerPlace::kOverResidual);
        }
    }
}

TEST_F(DeviceLayerNormBackward, ANegativeZeroStaysWithoutAResidual) {
    for (int64_t size : {8, 9}) {
        const NormCase test{1, size};
        NormTensors host(test);
        std::fill(host.dy.begin(), host.dy.end(), -0.0f);
        std::fill(host.x.begin(), host.x.end(), 2.0f);
        std::fill(host.weight.begin(), host.weight.end(), 1.0f);
        const std::vector<float> dx = layer_gradient_on_device(test, host, {{1.0f}, {1.0f}});
        // -0 - 0 - 1 * 0 is -0; the sums begin with +0.
        EXPECT_EQ(bits_of(dx), bits_of(std::vector<float>(static_cast<std::size_t>(size), -0.0f)));
    }
}

TEST_F(DeviceLayerNormBackward, NonFiniteValuesReachExactlyTheirRow) {
    for (int64_t size : {40, 41, 1536}) {
        const NormCase test{3, size, FloatType::kF32, true};
        NormTensors host(test);
        const LayerStatistics statistics = statistics_of(test, host);
        host.dy[static_cast<std::size_t>(2 * size - 1)] = kNan;
        const std::vector<float> dx = layer_gradient_on_device(test, host, statistics);
        for (int64_t i = 0; i < 3 * size; ++i) {
            EXPECT_EQ(std::isnan(dx[static_cast<std::size_t>(i)]), i / size == 1);
        }
    }
}

TEST_F(DeviceLayerNormBackward, AnEndlessInverseGivesTheLimit) {
    for (int64_t size : {40, 41, 1536}) {
        const NormCase test{1, size};
        NormTensors host(test);
        for (std::vector<float>* values : {&host.x, &host.dy, &host.weight}) {
            for (float& value : *values) value = std::abs(value) + 0.5f;
        }
        // g - mean(g) - n * mean(g * n) is -infinity everywhere, and NaN nowhere.
        EXPECT_EQ(layer_gradient_on_device(test, host, {{0.0f}, {kInfinity}}),
                  std::vector<float>(static_cast<std::size_t>(size), -kInfinity));
    }
}

TEST_F(DeviceLayerNormBackward, EveryMisalignmentGivesTheSameBits) {
    for (FloatType type : kFloatTypes) {
        for (int shift : {1, 2, 4, 8}) {
            expect_layer_gradient({2, 64, type, true, 0, shift});
            expect_layer_gradient({2, 64, type, true, 0, 0, shift});
            expect_layer_gradient({2, 64, type, true, 0, 0, 0, shift});
            expect_layer_gradient({2, 64, type, true, 0, 0, 0, 0, shift});
            expect_layer_gradient({2, 64, type, true, 0, 0, 0, 0, 0, shift});
        }
    }
}

TEST_F(DeviceLayerNormBackward, TheBitsAreTheSameUnderEverySchedule) {
    for (const NormCase& test :
         {NormCase{9, 576, FloatType::kBF16, true}, NormCase{3, 300}, NormCase{2, 1536, FloatType::kF16},
          NormCase{2, 4100, FloatType::kF32}, NormCase{1, 16400, FloatType::kBF16, true}}) {
        for_each_schedule([&] { expect_layer_gradient(test); });
        if (test.residual) for_each_schedule([&] { expect_layer_gradient(test, LayerPlace::kOverResidual); });
    }
}

TEST_F(DeviceLayerNormBackward, AlignedRowsAreReadOnceByWideAccesses) {
    if (device_vector_accesses() < 0)
        GTEST_SKIP() << "nobody counts the accesses of a " << device_name() << " device";
    const auto accesses = [](const NormCase& test) {
        const NormTensors host(test);
        const LayerStatistics statistics = statistics_of(test, host);
        return vector_accesses_of([&] { layer_gradient_on_device(test, host, statistics); });
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

TEST_F(DeviceLayerNormBackward, TakesOneLaunchAndNoneForNoRows) {
    const int64_t before = device_launches();
    if (before < 0) GTEST_SKIP() << "nobody counts the launches of a " << device_name() << " device";
    expect_layer_gradient({3, 1536, FloatType::kBF16, true});
    EXPECT_EQ(device_launches(), before + 1);
    expect_layer_gradient({0, 1536, FloatType::kBF16, true});
    EXPECT_EQ(device_launches(), before + 1);
}

TEST(DeviceLayerNormBackwardArguments, ImpossibleOnesThrow) {
    alignas(16) uint8_t bytes[64] = {};
    float* const floats = reinterpret_cast<float*>(bytes);
    float* const misaligned = reinterpret_cast<float*>(bytes + 2);
    const LayerNormBackwardParams good{bytes, bytes, floats, floats, floats,
                                       bytes, 0,     4,      bytes,  FloatType::kF32};
    EXPECT_NO_THROW(device::layer_norm_backward(good, nullptr));
    const auto refused = [&](auto change) {
        LayerNormBackwardParams params = good;
        change(params);
        EXPECT_THROW(device::layer_norm_backward(params, nullptr), std::invalid_argument);
    };
    refused([](LayerNormBackwardParams& params) { params.rows = -1; });
    refused([](LayerNormBackwardParams& params) { params.size = 0; });
    refused([&](LayerNormBackwardParams& params) { params.dy = bytes + 2; });
    refused([&](LayerNormBackwardParams& params) { params.x = bytes + 2; });
    refused([&](LayerNormBackwardParams& params) { params.residual = bytes + 2; });
    refused([&](LayerNormBackwardParams& params) { params.dx = bytes + 2; });
    refused([&](LayerNormBackwardParams& params) { params.weight = misaligned; });
    refused([&](LayerNormBackwardParams& params) { params.mean = misaligned; });
    refused([&](LayerNormBackwardParams& params) { params.inverse = misaligned; });
    refused([](LayerNormBackwardParams& params) { params.rows = int64_t{1} << 34; });
}

}  // namespace
}  // namespace qlora::kernels
