#include <stdexcept>

#include "kernels/device/norm_case.h"

namespace qlora::kernels {
namespace {

class DeviceLayerNorm : public OnDevice {};

struct LayerNormed {
    std::vector<float> y, mean, inverse, sum;
};

LayerNormed layer_on_device(const NormCase& test, const NormTensors& host, double eps = kNormEps) {
    const RowsLayout y_layout{test.rows, test.size, test.type, test.y_shift, test.y_gap};
    const DeviceRows x({test.rows, test.size, test.type, test.x_shift}, host.x);
    const DeviceRows residual({test.rows, test.size, test.type, test.residual_shift}, host.residual);
    const DeviceRows weight({1, test.size, FloatType::kF32, test.weight_shift}, host.weight);
    const DeviceRows bias({1, test.size, FloatType::kF32, test.bias_shift}, host.bias);
    const DeviceRows sum({test.rows, test.size, test.type, test.sum_shift}), y(y_layout);
    const DeviceRows mean({1, test.rows, FloatType::kF32, test.y_shift});
    const DeviceRows inverse({1, test.rows, FloatType::kF32, test.y_shift});
    device::layer_norm(
        {x.data(), test.residual ? residual.data() : nullptr, test.residual ? sum.data() : nullptr,
         static_cast<const float*>(weight.data()),
         test.bias ? static_cast<const float*>(bias.data()) : nullptr, eps, test.rows, test.size, y.data(),
         y_layout.stride(), static_cast<float*>(mean.data()), static_cast<float*>(inverse.data()), test.type},
        nullptr);
    return {y.download(), mean.download(), inverse.download(), sum.download()};
}

std::vector<float> layer_again_on_device(const NormCase& test, const std::vector<float>& x,
                                         const NormTensors& host, const LayerNormed& normed) {
    const RowsLayout y_layout{test.rows, test.size, test.type, test.y_shift, test.y_gap};
    const DeviceRows from({test.rows, test.size, test.type, test.x_shift}, x), y(y_layout);
    const DeviceRows weight({1, test.size, FloatType::kF32, test.weight_shift}, host.weight);
    const DeviceRows bias({1, test.size, FloatType::kF32, test.bias_shift}, host.bias);
    const DeviceRows mean({1, test.rows, FloatType::kF32, test.y_shift}, normed.mean);
    const DeviceRows inverse({1, test.rows, FloatType::kF32, test.y_shift}, normed.inverse);
    device::layer_norm_recompute(
        {from.data(), static_cast<const float*>(weight.data()),
         test.bias ? static_cast<const float*>(bias.data()) : nullptr, static_cast<const float*>(mean.data()),
         static_cast<const float*>(inverse.data()), test.rows, test.size, y.data(), y_layout.stride(),
         test.type},
        nullptr);
    return y.download();
}

/// One value at a time, rounded once; the sums in the kernel's order.
LayerNormed layer_reference(const NormCase& test, const NormTensors& host, double eps = kNormEps) {
    const auto rounded = [&](float value) { return round_element(value, test.type); };
    LayerNormed result;
    result.sum = host.x;
    for (std::size_t i = 0; test.residual && i < host.x.size(); ++i) {
        result.sum[i] = rounded(host.x[i] + host.residual[i]);
    }
    for (int64_t row = 0; row < test.rows; ++row) {
        const float* x = result.sum.data() + row * test.size;
        const float size = static_cast<float>(test.size);
        const float mean = norm_sum(
                               test.size, [x](int64_t i) { return x[i]; }, [](int64_t) { return 1.0f; }) /
                           size;
        const auto difference = [&](int64_t i) { return x[i] - mean; };
        const float variance = norm_sum(test.size, difference, difference) / size;
        const float inverse = 1.0f / std::sqrt(variance + static_cast<float>(eps));
        result.mean.push_back(mean);
        result.inverse.push_back(inverse);
        for (int64_t i = 0; i < test.size; ++i) {
            const auto at = static_cast<std::size_t>(i);
            const float scaled = host.weight[at] * (difference(i) * inverse);
            result.y.push_back(rounded(test.bias ? scaled + host.bias[at] : scaled));
        }
    }
    if (!test.residual) result.sum.assign(host.x.size(), -7.0f);  // not written
    return result;
}

void expect_layer_reference(const NormCase& test, const NormTensors& host) {
    const LayerNormed expected = layer_reference(test, host), found = layer_on_device(test, host);
    ASSERT_EQ(bits_of(found.mean), bits_of(expected.mean)) << test.rows << " of " << test.size;
    ASSERT_EQ(bits_of(found.inverse), bits_of(expected.inverse)) << test.rows << " of " << test.size;
    ASSERT_EQ(bits_of(found.y), bits_of(expected.y)) << test.rows << " of " << test.size;
    ASSERT_EQ(bits_of(found.sum), bits_of(expected.sum)) << test.rows << " of " << test.size;
    ASSERT_EQ(bits_of(layer_again_on_device(test, test.residual ? found.sum : host.x, host, found)),
              bits_of(expected.y))
        << test.rows << " of " << test.size;
}

void expect_layer_reference(const NormCase& test) {
    expect_layer_reference(test, NormTensors(test));
}

TEST_F(DeviceLayerNorm, EverySizeFollowsTheRoundingPointsAndTheOrder) {
    for (FloatType type : kFloatTypes) {
        for (int64_t size : kPieceSizes) {
            const bool odd = size % 2 == 1;
            with_some_schedule(size, [&] {
                expect_layer_reference({.rows = 3,
                                        .size = size,
                                        .type = type,
                                        .residual = odd,
                                        .y_gap = size % 3,
                                        .bias = size % 4 < 2});
            });
            expect_layer_reference(
                {.rows = 2, .size = size, .type = type, .residual = !odd, .bias = size % 4 > 1});
        }
        // The ends of what one warp, 128 and 512 threads keep, by vectors and one by one.
        for (int64_t size : {1016, 1024, 1025, 1032, 4096, 4104, 16384, 16385, 16392, 20480}) {
            for (bool residual : {false, true}) {
                expect_layer_reference(
                    {.rows = 1, .size = size, .type = type, .residual = residual, .bias = residual});
            }
        }
        expect_layer_reference({67, 64, type});
        expect_layer_reference({67, 33, type, true, 3});
        // By vectors into rows that lie apart.
        expect_layer_reference(
            {.rows = 5, .size = 128, .type = type, .residual = true, .y_gap = 32, .bias = true});
    }
}

TEST_F(DeviceLayerNorm, TheFp32BitsAreThoseOfTheCpuForTheSameStatistics) {
    for (int64_t size : {1, 17, 64, 576, 1536, 5000}) {
        const NormCase test{.rows = 3, .size = size, .bias = true};
        NormTensors host(test);
        for (float& value : host.x) value += 3.0f;
        const LayerNormed found = layer_on_device(test, host);
        std::vector<float> y(host.x.size()), mean(3), inverse(3);
        cpu::layer_norm_recompute(host.x.data(), host.weight.data(), host.bias.data(), found.mean.data(),
                                  found.inverse.data(), 3, size, y.data());
        EXPECT_EQ(bits_of(found.y), bits_of(y)) << size;
        cpu::layer_norm(host.x.data(), host.weight.data(), host.bias.data(), kNormEps, 3, size, y.data(),
                        mean.data(), inverse.data());
        for (std::size_t row = 0; row < 3; ++row) {
            // Terms of one sign but for the few below -3: the sum's roundings, then the quotient's.
            EXPECT_NEAR(found.mean[row], mean[row], (norm_roundings(size) + 2) * kRounding * 4.0);
            if (size == 1) continue;  // the variance is 0, and eps alone is left
            // Besides, each difference is moved by the mean's error, which is of the order of its value.
            EXPECT_NEAR(found.inverse[row], inverse[row],
                        (3 * norm_roundings(size) + 8) * kRounding * inverse[row]);
        }
    }
}

TEST_F(DeviceLayerNorm, AMeanFarAwayDoesNotSwallowTheVariance) {
    for (int64_t size : {64, 62, 2048}) {
        const NormCase test{1, size};
        NormTensors host(test);
        for (std::size_t i = 0; i < host.x.size(); ++i) host.x[i] = i % 2 == 0 ? 4096.25f : 4095.75f;
        EXPECT_NEAR(layer_on_device(test, host).inverse[0], 1.0 / std::sqrt(0.0625 + kNormEps), 1e-6);
    }
}

TEST_F(DeviceLayerNorm, EveryMisalignmentAndStrideGivesTheSameBits) {
    for (FloatType type : kFloatTypes) {
        for (int shift : {1, 2, 4, 8}) {
            for (const NormCase& test :
                 {NormCase{2, 64, type, true, shift}, NormCase{2, 64, type, true, 0, shift},
                  NormCase{2, 64, type, true, 0, 0, shift}, NormCase{2, 64, type, true, 0, 0, 0, shift},
                  NormCase{2, 64, type, true, 0, 0, 0, 0, shift},
                  NormCase{2, 64, type, true, 0, 0, 0, 0, 0, shift},
                  NormCase{.rows = 2, .size = 64, .type = type, .bias = true, .bias_shift = shift}}) {
                expect_layer_reference(test);
            }
        }
    }
}

TEST_F(DeviceLayerNorm, TheBitsAreTheSameUnderEverySchedule) {
    for (const NormCase& test :
         {NormCase{9, 576, FloatType::kBF16, true}, NormCase{3, 300}, NormCase{2, 1536, FloatType::kF16},
          NormCase{2, 4100, FloatType::kF32}, NormCase{1, 16400, FloatType::kBF16, true},
          NormCase{.rows = 2, .size = 1536, .type = FloatType::kBF16, .bias = true}}) {
        const NormTensors host(test);
        for_each_schedule([&] { expect_layer_reference(test, host); });
    }
}

TEST_F(DeviceLayerNorm, EpsKeepsARowOfEqualValuesFinite) {
    for (int64_t size : {3, 64, 2048}) {
        const NormCase test{.rows = 2, .size = size, .bias = true};
        NormTensors host(test);
        std::fill(host.x.begin(), host.x.begin() + size, 2.0f);
        const LayerNormed found = layer_on_device(test, host, 0.25);
        EXPECT_EQ(found.inverse[0], 2.0f);
        EXPECT_EQ(part(found.y, 0, size), host.bias);
        EXPECT_EQ(layer_on_device(test, host, 0.0).inverse[0], kInfinity);
    }
}

TEST_F(DeviceLayerNorm, NonFiniteValuesReachExactlyTheirRow) {
    for (int64_t size : {40, 41, 1536}) {
        for (float bad : {kNan, kInfinity}) {
            const NormCase test{3, size};
            NormTensors host(test);
            host.x[static_cast<std::size_t>(2 * size - 1)] = bad;
            const LayerNormed found = layer_on_device(test, host);
            for (int64_t i = 0; i < 3 * size; ++i) {
                EXPECT_EQ(std::isnan(found.y[static_cast<std::size_t>(i)]), i / size == 1);
            }
        }
    }
}

TEST_F(DeviceLayerNorm, NonFiniteBiasesReachTheirColumnOnly) {
    for (int64_t size : {40, 41}) {
        const NormCase test{.rows = 3, .size = size, .bias = true};
        NormTensors host(test);
        host.bias[5] = kNan;
        host.bias[static_cast<std::size_t>(size - 1)] = -kInfinity;
        const LayerNormed found = layer_on_device(test, host);
        EXPECT_EQ(bits_of(found.y), bits_of(layer_reference(test, host).y));
        for (int64_t i = 0; i < 3 * size; ++i) {
            const bool hit = i % size == 5 || i % size == size - 1;
            EXPECT_EQ(std::isfinite(found.y[static_cast<std::size_t>(i)]), !hit) << i;
        }
    }
}

TEST_F(DeviceLayerNorm, AlignedRowsAreReadOnceByWideAccesses) {
    if (device_vector_accesses() < 0)
        GTEST_SKIP() << "nobody counts the accesses of a " << device_name() << " device";
    const auto accesses = [](const NormCase& test) {
        return vector_accesses_of([&] { layer_on_device(test, NormTensors(test)); });
    };
    // A piece of x and of y, two accesses to the weight; residual and sum; the bias.
    for (int64_t size : {8, 256, 576, 1024, 1536, 4096, 16384}) {
        const int64_t pieces = size / 8;
        EXPECT_EQ(accesses({3, size, FloatType::kBF16}), 3 * pieces * (1 + 1 + 2)) << size;
        EXPECT_EQ(accesses({1, size, FloatType::kF16, true, 8}), pieces * (1 + 1 + 2 + 2)) << size;
        EXPECT_EQ(accesses({.rows = 1, .size = size, .bias = true}), pieces * (2 + 2 + 2 + 2)) << size;
    }
    // More than the registers of a CUDA block hold: x is read three times.
    EXPECT_EQ(accesses({1, 16392, FloatType::kBF16}), 16392 / 8 * (3 + 1 + 2));
    for (const NormCase& test :
         {NormCase{2, 576, FloatType::kBF16, true, 4}, NormCase{2, 576, FloatType::kBF16, true, 0, 4},
          NormCase{2, 576, FloatType::kBF16, true, 0, 0, 4},
          NormCase{2, 576, FloatType::kBF16, true, 0, 0, 0, 2},
          NormCase{2, 576, FloatType::kBF16, true, 0, 0, 0, 0, 4},
          NormCase{2, 576, FloatType::kBF16, true, 0, 0, 0, 0, 0, 4},
          NormCase{.rows = 2, .size = 576, .type = FloatType::kBF16, .bias = true, .bias_shift = 2},
          NormCase{1, 577, FloatType::kBF16}}) {
        EXPECT_EQ(accesses(test), 0);
    }
    const auto again = [](const NormCase& test) {
        const NormTensors host(test);
        const std::vector<float> ones(static_cast<std::size_t>(test.rows), 1.0f);
        const LayerNormed normed{.y = {}, .mean = ones, .inverse = ones, .sum = {}};
        return vector_accesses_of([&] { layer_again_on_device(test, host.x, host, normed); });
    };
    EXPECT_EQ(again({3, 576, FloatType::kBF16}), 3 * 72 * (1 + 1 + 2));
    EXPECT_EQ(again({.rows = 3, .size = 576, .bias = true}), 3 * 72 * (2 + 2 + 2 + 2));
    for (const NormCase& test :
         {NormCase{2, 576, FloatType::kBF16, false, 4}, NormCase{2, 576, FloatType::kBF16, false, 0, 4},
          NormCase{2, 576, FloatType::kBF16, false, 0, 0, 0, 2},
          NormCase{2, 576, FloatType::kBF16, false, 0, 0, 0, 0, 4},
          NormCase{.rows = 2, .size = 576, .type = FloatType::kBF16, .bias = true, .bias_shift = 2},
          NormCase{1, 577, FloatType::kBF16}}) {
        EXPECT_EQ(again(test), 0);
    }
}

TEST_F(DeviceLayerNorm, EachTakesOneLaunchAndNoneForNoRows) {
    const int64_t before = device_launches();
    if (before < 0) GTEST_SKIP() << "nobody counts the launches of a " << device_name() << " device";
    const NormCase test{3, 1536, FloatType::kBF16, true};
    const NormTensors host(test);
    const LayerNormed found = layer_on_device(test, host);
    EXPECT_EQ(device_launches(), before + 1);
    layer_again_on_device(test, host.x, host, found);
    EXPECT_EQ(device_launches(), before + 2);
    const NormCase none{0, 64};
    layer_on_device(none, NormTensors(none));
    layer_again_on_device(none, {}, NormTensors(none), {});
    EXPECT_EQ(device_launches(), before + 2);
}

TEST(DeviceLayerNormArguments, ImpossibleOnesThrow) {
    alignas(16) uint8_t bytes[64] = {};
    float* const floats = reinterpret_cast<float*>(bytes);
    float* const misaligned = reinterpret_cast<float*>(bytes + 2);
    const LayerNormParams good{bytes, bytes, bytes, floats, floats, kNormEps,       0,
                               4,     bytes, 4,     floats, floats, FloatType::kF32};
    EXPECT_NO_THROW(device::layer_norm(good, nullptr));
    const auto refused = [&](auto change) {
        LayerNormParams params = good;
        change(params);
        EXPECT_THROW(device::layer_norm(params, nullptr), std::invalid_argument);
    };
    refused([](LayerNormParams& params) { params.rows = -1; });
    refused([](LayerNormParams& params) { params.size = 0; });
    refused([](LayerNormParams& params) { params.eps = -1e-9; });
    refused([](LayerNormParams& params) { params.eps = kNan; });
    refused([](LayerNormParams& params) { params.eps = kInfinity; });
    refused([](LayerNormParams& params) { params.sum = nullptr; });
    refused([](LayerNormParams& params) { params.residual = nullptr; });
    refused([](LayerNormParams& params) { params.y_stride = 3; });
    refused([&](LayerNormParams& params) { params.x = bytes + 2; });
    refused([&](LayerNormParams& params) { params.residual = bytes + 2; });
    refused([&](LayerNormParams& params) { params.sum = bytes + 2; });
    refused([&](LayerNormParams& params) { params.y = bytes + 2; });
    refused([&](LayerNormParams& params) { params.weight = misaligned; });
    refused([&](LayerNormParams& params) { params.bias = misaligned; });
    refused([&](LayerNormParams& params) { params.mean = misaligned; });
    refused([&](LayerNormParams& params) { params.inverse = misaligned; });
    refused([](LayerNormParams& params) { params.rows = int64_t{1} << 34; });
}

TEST(DeviceLayerNormArguments, ImpossibleOnesOfTheSecondTimeThrow) {
    alignas(16) uint8_t bytes[64] = {};
    float* const floats = reinterpret_cast<float*>(bytes);
    float* const misaligned = reinterpret_cast<float*>(bytes + 2);
    const LayerNormRecomputeParams good{bytes, floats, floats, floats, floats,
                                        0,     4,      bytes,  4,      FloatType::kF32};
    EXPECT_NO_THROW(device::layer_norm_recompute(good, nullptr));
    const auto refused = [&](auto change) {
        LayerNormRecomputeParams params = good;
        change(params);
        EXPECT_THROW(device::layer_norm_recompute(params, nullptr), std::invalid_argument);
    };
    refused([](LayerNormRecomputeParams& params) { params.rows = -1; });
    refused([](LayerNormRecomputeParams& params) { params.size = 0; });
    refused([](LayerNormRecomputeParams& params) { params.y_stride = 3; });
    refused([&](LayerNormRecomputeParams& params) { params.x = bytes + 2; });
    refused([&](LayerNormRecomputeParams& params) { params.y = bytes + 2; });
    refused([&](LayerNormRecomputeParams& params) { params.weight = misaligned; });
    refused([&](LayerNormRecomputeParams& params) { params.bias = misaligned; });
    refused([&](LayerNormRecomputeParams& params) { params.mean = misaligned; });
    refused([&](LayerNormRecomputeParams& params) { params.inverse = misaligned; });
    refused([](LayerNormRecomputeParams& params) { params.rows = int64_t{1} << 31; });
}

}  // namespace
}  // namespace qlora::kernels
