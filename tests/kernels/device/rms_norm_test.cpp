#include "kernels/device/norm_case.h"

namespace qlora::kernels {
namespace {

class DeviceRmsNorm : public OnDevice {};

struct Normed {
    std::vector<float> y, inverse, sum;
    std::vector<float> norm;  ///< of the reference: y before anything was added
};

Normed on_device(const NormCase& test, const NormTensors& host, double eps = kNormEps) {
    const RowsLayout y_layout{test.rows, test.size, test.type, test.y_shift, test.y_gap};
    const DeviceRows x({test.rows, test.size, test.type, test.x_shift}, host.x);
    const DeviceRows residual({test.rows, test.size, test.type, test.residual_shift}, host.residual);
    const DeviceRows weight({1, test.size, FloatType::kF32, test.weight_shift}, host.weight);
    const DeviceRows sum({test.rows, test.size, test.type, test.sum_shift}), y(y_layout);
    const DeviceRows inverse({1, test.rows, FloatType::kF32, test.y_shift});
    const DeviceRows added({test.rows, test.size, test.type, test.added_shift}, host.added);
    device::rms_norm({x.data(), test.residual ? residual.data() : nullptr,
                      test.residual ? sum.data() : nullptr, static_cast<const float*>(weight.data()), eps,
                      test.rows, test.size, y.data(), y_layout.stride(), static_cast<float*>(inverse.data()),
                      test.type, test.kind, test.added ? added.data() : nullptr, test.multiplier},
                     nullptr);
    return {y.download(), inverse.download(), sum.download()};
}

std::vector<float> again_on_device(const NormCase& test, const std::vector<float>& x,
                                   const std::vector<float>& weight, const std::vector<float>& inverse) {
    const RowsLayout y_layout{test.rows, test.size, test.type, test.y_shift, test.y_gap};
    const DeviceRows from({test.rows, test.size, test.type, test.x_shift}, x), y(y_layout);
    const DeviceRows scale({1, test.size, FloatType::kF32, test.weight_shift}, weight);
    const DeviceRows saved({1, test.rows, FloatType::kF32, test.y_shift}, inverse);
    device::rms_norm_recompute(
        {from.data(), static_cast<const float*>(scale.data()), static_cast<const float*>(saved.data()),
         test.rows, test.size, y.data(), y_layout.stride(), test.type, test.kind},
        nullptr);
    return y.download();
}

/// One value at a time, rounded where transformers rounds; the sum in the kernel's order.
Normed reference(const NormCase& test, const NormTensors& host, double eps = kNormEps) {
    const auto rounded = [&](float value) { return round_element(value, test.type); };
    Normed result;
    result.sum = host.x;
    for (std::size_t i = 0; test.residual && i < host.x.size(); ++i) {
        result.sum[i] = rounded(host.x[i] + host.residual[i]);
    }
    for (int64_t row = 0; row < test.rows; ++row) {
        const float* x = result.sum.data() + row * test.size;
        const auto value = [x](int64_t i) { return x[i]; };
        const float mean = norm_sum(test.size, value, value) / static_cast<float>(test.size);
        const float inverse = 1.0f / std::sqrt(mean + static_cast<float>(eps));
        result.inverse.push_back(inverse);
        for (int64_t i = 0; i < test.size; ++i) {
            const float weight = host.weight[static_cast<std::size_t>(i)], n = x[i] * inverse;
            const bool late = test.kind == NormKind::kRmsLate;
            const float norm = rounded(late ? weight * n : rounded(weight) * rounded(n));
            const float added = host.added[static_cast<std::size_t>(row * test.size + i)];
            result.norm.push_back(norm);
            result.y.push_back(test.added ? rounded(added + rounded(test.multiplier * norm)) : norm);
        }
    }
    if (!test.residual) result.sum.assign(host.x.size(), -7.0f);  // not written
    return result;
}

void expect_reference(const NormCase& test, const NormTensors& host) {
    const Normed expected = reference(test, host), found = on_device(test, host);
    ASSERT_EQ(bits_of(found.inverse), bits_of(expected.inverse)) << test.rows << " of " << test.size;
    ASSERT_EQ(bits_of(found.y), bits_of(expected.y)) << test.rows << " of " << test.size;
    ASSERT_EQ(bits_of(found.sum), bits_of(expected.sum)) << test.rows << " of " << test.size;
    ASSERT_EQ(bits_of(again_on_device(test, test.residual ? found.sum : host.x, host.weight, found.inverse)),
              bits_of(expected.norm))
        << test.rows << " of " << test.size;
}

TEST_F(DeviceRmsNorm, EverySizeFollowsTheRoundingPointsAndTheOrder) {
    for (FloatType type : kFloatTypes) {
        for (int64_t size : kPieceSizes) {
            const NormCase test{3, size, type, size % 2 == 1, size % 3};
            with_some_schedule(size, [&] { expect_reference(test, NormTensors(test)); });
            const NormCase other{2, size, type, size % 2 == 0};
            expect_reference(other, NormTensors(other));
        }
        // The ends of what one warp, 128 and 512 threads keep, by vectors and one by one.
        for (int64_t size : {1016, 1024, 1025, 1032, 4096, 4104, 16384, 16385, 16392, 20480}) {
            for (bool residual : {false, true}) {
                const NormCase test{1, size, type, residual};
                expect_reference(test, NormTensors(test));
            }
        }
        for (const NormCase& test :
             {NormCase{67, 64, type}, NormCase{67, 33, type, true, 3}, NormCase{5, 128, type, true, 32}}) {
            expect_reference(test, NormTensors(test));
        }
    }
}

TEST_F(DeviceRmsNorm, ALateRoundingAndASumBehindTheNormFollowTheirRoundingPoints) {
    for (FloatType type : kFloatTypes) {
        for (int64_t size : {1, 7, 64, 65, 576, 1025, 4104, 16392}) {
            const bool odd = size % 2 == 1;
            for (const float multiplier : {1.0f, 0.22f}) {
                NormCase test{2, size, type, odd, size % 3};
                test.kind = odd ? NormKind::kRms : NormKind::kRmsLate;
                test.added = true;
                test.multiplier = multiplier;
                with_some_schedule(size, [&] { expect_reference(test, NormTensors(test)); });
            }
            NormCase late{3, size, type, !odd};
            late.kind = NormKind::kRmsLate;
            expect_reference(late, NormTensors(late));
        }
    }
}

TEST_F(DeviceRmsNorm, ASumBeforeAndOneBehindTheNormGoTogether) {
    for (FloatType type : kFloatTypes) {
        for (NormKind kind : {NormKind::kRms, NormKind::kRmsLate}) {
            // Each team, by vectors into rows that lie apart; the last is read again.
            for (const auto& [rows, size] : {std::pair<int64_t, int64_t>{5, 128}, {2, 1536}, {1, 16400}}) {
                const NormCase test{.rows = rows,
                                    .size = size,
                                    .type = type,
                                    .residual = true,
                                    .y_gap = 32,
                                    .kind = kind,
                                    .added = true,
                                    .multiplier = -0.22f};
                const NormTensors host(test);
                if (type == FloatType::kBF16) {
                    for_each_schedule([&] { expect_reference(test, host); });
                } else {
                    expect_reference(test, host);
                }
            }
        }
    }
}

TEST_F(DeviceRmsNorm, WhatIsAddedBehindReachesItsOwnPlaceOnly) {
    for (int64_t size : {40, 41, 1536}) {
        for (float bad : {kNan, kInfinity, -kInfinity}) {
            const NormCase test{.rows = 3, .size = size, .added = true, .multiplier = 0.5f};
            NormTensors host(test);
            const std::size_t at = static_cast<std::size_t>(2 * size - 1);
            host.added[at] = bad;
            const Normed found = on_device(test, host);
            EXPECT_EQ(bits_of(found.y), bits_of(reference(test, host).y));
            EXPECT_EQ(bits_of({found.y[at]}), bits_of({bad}));
            for (std::size_t i = 0; i < found.y.size(); ++i) {
                EXPECT_EQ(std::isfinite(found.y[i]), i != at) << i;
            }
        }
        // Of zeros the sum is the negative one where both are.
        const NormCase test{.rows = 1, .size = size, .added = true, .multiplier = 1.0f};
        NormTensors host(test);
        std::fill(host.x.begin(), host.x.end(), 0.0f);
        std::fill(host.added.begin(), host.added.end(), -0.0f);
        std::fill(host.weight.begin(), host.weight.end(), 1.0f);
        host.weight.back() = -1.0f;
        std::vector<float> expected(host.x.size(), 0.0f);
        expected.back() = -0.0f;
        EXPECT_EQ(bits_of(on_device(test, host).y), bits_of(expected));
    }
}

TEST_F(DeviceRmsNorm, TheFp32BitsAreThoseOfTheCpuForTheSameInverse) {
    for (int64_t size : {1, 17, 64, 576, 1536, 5000}) {
        const NormCase test{3, size};
        const NormTensors host(test);
        const Normed found = on_device(test, host);
        std::vector<float> y(host.x.size()), inverse(3);
        cpu::rms_norm_recompute(host.x.data(), host.weight.data(), found.inverse.data(), 3, size, y.data());
        EXPECT_EQ(bits_of(found.y), bits_of(y)) << size;
        cpu::rms_norm(host.x.data(), host.weight.data(), kNormEps, 3, size, y.data(), inverse.data());
        for (std::size_t row = 0; row < 3; ++row) {
            // The root halves the error of the sum; mean, eps, root and quotient add one rounding each, and
            // the CPU, which sums in double, rounds once.
            EXPECT_NEAR(found.inverse[row], inverse[row],
                        (norm_roundings(size) / 2 + 4) * kRounding * inverse[row]);
        }
    }
}

TEST_F(DeviceRmsNorm, TheInverseIsTheFormulaInDoubleForEveryType) {
    for (FloatType type : kFloatTypes) {
        for (int64_t size : {64, 576, 4096, 16392}) {
            const NormCase test{2, size, type};
            const NormTensors host(test);
            const Normed found = on_device(test, host);
            for (int64_t row = 0; row < 2; ++row) {
                double squares = 0.0;
                for (float value : part(host.x, row * size, size)) squares += double{value} * value;
                const double exact = 1.0 / std::sqrt(squares / static_cast<double>(size) + kNormEps);
                EXPECT_NEAR(found.inverse[static_cast<std::size_t>(row)], exact,
                            (norm_roundings(size) / 2 + 4) * kRounding * exact);
            }
        }
    }
}

TEST_F(DeviceRmsNorm, TheInverseDependsOnNeitherTypeNorAlignment) {
    for (int64_t size : {200, 2048, 6000}) {
        const NormCase wide{2, size};
        NormTensors host(wide);
        // Values that every type holds.
        host.x = round_elements(round_elements(host.x, FloatType::kBF16), FloatType::kF16);
        const std::vector<float> expected = on_device(wide, host).inverse;
        for (FloatType type : kFloatTypes) {
            for (int shift : {0, 1}) {
                const NormCase test{2, size, type, false, 0, shift};
                EXPECT_EQ(bits_of(on_device(test, host).inverse), bits_of(expected)) << size;
            }
        }
    }
}

TEST_F(DeviceRmsNorm, EveryMisalignmentAndStrideGivesTheSameBits) {
    for (FloatType type : kFloatTypes) {
        for (int shift : {1, 2, 4, 8}) {
            for (const NormCase& test :
                 {NormCase{2, 64, type, true, shift}, NormCase{2, 64, type, true, 0, shift},
                  NormCase{2, 64, type, true, 0, 0, shift}, NormCase{2, 64, type, true, 0, 0, 0, shift},
                  NormCase{2, 64, type, true, 0, 0, 0, 0, shift},
                  NormCase{2, 64, type, true, 0, 0, 0, 0, 0, shift},
                  NormCase{.rows = 2, .size = 64, .type = type, .added = true, .added_shift = shift}}) {
                expect_reference(test, NormTensors(test));
            }
        }
    }
}

TEST_F(DeviceRmsNorm, TheBitsAreTheSameUnderEverySchedule) {
    for (const NormCase& test :
         {NormCase{9, 576, FloatType::kBF16, true}, NormCase{3, 300}, NormCase{2, 1536, FloatType::kF16},
          NormCase{2, 4100, FloatType::kF32}, NormCase{1, 16400, FloatType::kBF16, true}}) {
        const NormTensors host(test);
        for_each_schedule([&] { expect_reference(test, host); });
    }
}

TEST_F(DeviceRmsNorm, EpsKeepsARowOfZerosFinite) {
    for (int64_t size : {3, 64, 2048}) {
        const NormCase test{2, size};
        NormTensors host(test);
        std::fill(host.x.begin(), host.x.begin() + size, 0.0f);
        const Normed found = on_device(test, host, 0.25);
        EXPECT_EQ(found.inverse[0], 2.0f);
        EXPECT_EQ(bits_of(found.inverse), bits_of(reference(test, host, 0.25).inverse));
        EXPECT_EQ(bits_of(found.y), bits_of(reference(test, host, 0.25).y)) << "negative zeros too";
        for (float value : part(found.y, 0, size)) EXPECT_EQ(value, 0.0f);
        EXPECT_EQ(on_device(test, host, 0.0).inverse[0], kInfinity);
    }
}

TEST_F(DeviceRmsNorm, NonFiniteValuesReachExactlyTheirRow) {
    for (int64_t size : {40, 41, 1536}) {
        for (float bad : {kNan, kInfinity, -kInfinity}) {
            const NormCase test{3, size};
            NormTensors host(test);
            host.x[static_cast<std::size_t>(2 * size - 1)] = bad;
            const Normed found = on_device(test, host);
            EXPECT_EQ(bits_of(found.y), bits_of(reference(test, host).y));
            EXPECT_TRUE(std::isnan(found.y[static_cast<std::size_t>(2 * size - 1)]));
            EXPECT_TRUE(std::isfinite(found.inverse[0]) && std::isfinite(found.inverse[2]));
            EXPECT_EQ(std::isnan(found.inverse[1]), std::isnan(bad));
            EXPECT_EQ(found.inverse[1] == 0.0f, std::isinf(bad));
        }
    }
}

TEST_F(DeviceRmsNorm, ARowWhoseSquaresOverflowBecomesZero) {
    for (int64_t size : {16, 19, 1536}) {
        const NormCase test{2, size, FloatType::kBF16};
        NormTensors host(test);
        host.x[1] = 0x1p64f;  // its square is beyond fp32
        const Normed found = on_device(test, host);
        EXPECT_EQ(found.inverse[0], 0.0f);
        EXPECT_NE(found.inverse[1], 0.0f);
        for (float value : part(found.y, 0, size)) EXPECT_EQ(value, 0.0f);
    }
}

TEST_F(DeviceRmsNorm, AlignedRowsAreReadOnceByWideAccesses) {
    if (device_vector_accesses() < 0)
        GTEST_SKIP() << "nobody counts the accesses of a " << device_name() << " device";
    const auto accesses = [](const NormCase& test) {
        return vector_accesses_of([&] { on_device(test, NormTensors(test)); });
    };
    // A piece of x and of y, two accesses to the weight; residual and sum.
    for (int64_t size : {8, 256, 576, 1024, 1536, 4096, 16384}) {
        const int64_t pieces = size / 8;
        EXPECT_EQ(accesses({3, size, FloatType::kBF16}), 3 * pieces * (1 + 1 + 2)) << size;
        EXPECT_EQ(accesses({1, size, FloatType::kF16, true, 8}), pieces * (1 + 1 + 2 + 2)) << size;
        EXPECT_EQ(accesses({1, size, FloatType::kF32}), pieces * (2 + 2 + 2)) << size;
    }
    EXPECT_EQ(accesses({.rows = 3, .size = 576, .type = FloatType::kBF16, .added = true}),
              3 * 72 * (1 + 1 + 2 + 1));
    // More than the registers of a CUDA block hold: x is read twice.
    EXPECT_EQ(accesses({1, 16392, FloatType::kBF16}), 16392 / 8 * (2 + 1 + 2));
    for (const NormCase& test :
         {NormCase{2, 576, FloatType::kBF16, true, 4}, NormCase{2, 576, FloatType::kBF16, true, 0, 4},
          NormCase{2, 576, FloatType::kBF16, true, 0, 0, 4},
          NormCase{2, 576, FloatType::kBF16, true, 0, 0, 0, 2},
          NormCase{2, 576, FloatType::kBF16, true, 0, 0, 0, 0, 4},
          NormCase{2, 576, FloatType::kBF16, true, 0, 0, 0, 0, 0, 4},
          NormCase{.rows = 2, .size = 576, .type = FloatType::kBF16, .added = true, .added_shift = 4},
          NormCase{1, 577, FloatType::kBF16}}) {
        EXPECT_EQ(accesses(test), 0);
    }
    const auto again = [](const NormCase& test) {
        const NormTensors host(test);
        const std::vector<float> inverse(static_cast<std::size_t>(test.rows), 1.0f);
        return vector_accesses_of([&] { again_on_device(test, host.x, host.weight, inverse); });
    };
    EXPECT_EQ(again({3, 576, FloatType::kBF16}), 3 * 72 * (1 + 1 + 2));
    EXPECT_EQ(again({3, 576, FloatType::kF32, false, 4}), 3 * 72 * (2 + 2 + 2));
    for (const NormCase& test :
         {NormCase{2, 576, FloatType::kBF16, false, 4}, NormCase{2, 576, FloatType::kBF16, false, 0, 4},
          NormCase{2, 576, FloatType::kBF16, false, 0, 0, 0, 2},
          NormCase{2, 576, FloatType::kBF16, false, 0, 0, 0, 0, 4}, NormCase{1, 577, FloatType::kBF16}}) {
        EXPECT_EQ(again(test), 0);
    }
}

TEST_F(DeviceRmsNorm, EachTakesOneLaunchAndNoneForNoRows) {
    const int64_t before = device_launches();
    if (before < 0) GTEST_SKIP() << "nobody counts the launches of a " << device_name() << " device";
    const NormCase test{3, 1536, FloatType::kBF16, true};
    on_device(test, NormTensors(test));
    EXPECT_EQ(device_launches(), before + 1);
    const NormTensors host(test);
    again_on_device(test, host.x, host.weight, {1.0f, 1.0f, 1.0f});
    EXPECT_EQ(device_launches(), before + 2);
    const NormCase none{0, 64};
    on_device(none, NormTensors(none));
    again_on_device(none, {}, NormTensors(none).weight, {});
    EXPECT_EQ(device_launches(), before + 2);
}

}  // namespace
}  // namespace qlora::kernels
