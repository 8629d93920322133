#include <cmath>
#include <limits>
#include <stdexcept>

#include "kernels/device/device.h"
#include "kernels/test_values.h"
#include "qlora/kernels/cuda_layer.h"
#include "qlora/kernels/philox.h"

namespace qlora::kernels {
namespace {

class DeviceDropout : public OnDevice {};

/// A key of 64 bits whose halves differ.
constexpr uint64_t kSeed = 0x9e3779b97f4a7c15u;

struct Site {
    float p = 0.1f;
    uint64_t seed = kSeed;
    uint32_t step = 7, site = 3;
};

/// Element by element, `values` as the type holds them.
std::vector<uint8_t> reference(const std::vector<float>& values, const Site& site, FloatType type) {
    std::vector<float> kept = round_elements(values, type);
    for (std::size_t i = 0; i < kept.size(); ++i) {
        const bool keeps = dropout_keep(site.seed, site.step, site.site, i, site.p);
        kept[i] = keeps ? kept[i] * (1.0f / (1.0f - site.p)) : 0.0f;
    }
    return encode_elements(kept, type);
}

DropoutParams params_of(const Site& site, const void* x, std::size_t n, void* y, FloatType type) {
    return {x, static_cast<int64_t>(n), site.seed, site.step, site.site, site.p, y, type};
}

/// x and y start that many elements past an aligned place.
struct Shifts {
    int x = 0, y = 0;
};

std::vector<uint8_t> on_device(const std::vector<float>& values, const Site& site, FloatType type,
                               Shifts shifts = {}) {
    const std::vector<uint8_t> bytes = encode_elements(values, type);
    const auto shift = [type](int elements) {
        return static_cast<std::size_t>(elements * float_bytes(type));
    };
    const DeviceArray<uint8_t> x(bytes, Access::kInput, shift(shifts.x));
    const DeviceArray<uint8_t> y(std::vector<uint8_t>(bytes.size(), 0xee), Access::kOutput, shift(shifts.y));
    device::dropout(params_of(site, x.data(), values.size(), y.data(), type), nullptr);
    EXPECT_EQ(x.download(), bytes);
    return y.download();
}

std::vector<uint8_t> in_place(const std::vector<float>& values, const Site& site, FloatType type) {
    const DeviceArray<uint8_t> x(encode_elements(values, type), Access::kOutput);
    device::dropout(params_of(site, x.data(), values.size(), x.data(), type), nullptr);
    return x.download();
}

TEST_F(DeviceDropout, EveryLengthAndTypeGivesTheBitsOfTheLoop) {
    for (FloatType type : kFloatTypes) {
        for (int64_t n = 1; n <= 130; ++n) {
            const std::vector<float> values = gaussian(n, static_cast<uint32_t>(n), 3.0f);
            const Site site{0.02f * static_cast<float>(n % 50)};
            const std::vector<uint8_t> expected = reference(values, site, type);
            with_some_schedule(n, [&] {
                ASSERT_EQ(on_device(values, site, type), expected) << n;
                ASSERT_EQ(in_place(values, site, type), expected) << n;
            });
        }
    }
}

TEST_F(DeviceDropout, EveryMisalignmentGivesTheSameBits) {
    const std::vector<float> values = gaussian(75, 1);
    for (FloatType type : kFloatTypes) {
        const std::vector<uint8_t> expected = reference(values, {}, type);
        for (int x = 0; x <= 9; ++x) {
            for (int y : {0, 1, 4, 8})
                ASSERT_EQ(on_device(values, {}, type, {x, y}), expected) << x << " " << y;
        }
    }
}

TEST_F(DeviceDropout, SeveralCudaBlocksGiveTheBitsOfTheLoopUnderEverySchedule) {
    // 256 threads of 16 values.
    for (int64_t n : {4095, 4096, 4097, 12305}) {
        const std::vector<float> values = gaussian(n, 5);
        const std::vector<uint8_t> expected = reference(values, {}, FloatType::kBF16);
        for_each_schedule([&] {
            ASSERT_EQ(on_device(values, {}, FloatType::kBF16), expected) << n;
            ASSERT_EQ(in_place(values, {}, FloatType::kBF16), expected) << n;
        });
    }
}

TEST_F(DeviceDropout, EveryPartOfThePlaceDrawsAnotherMask) {
    const std::vector<float> values = gaussian(200, 2);
    const Site base{0.5f};
    const auto mask = [&](const Site& site) {
        const std::vector<uint8_t> found = on_device(values, site, FloatType::kF32);
        EXPECT_EQ(found, reference(values, site, FloatType::kF32));
        return found;
    };
    Site seed_low = base, seed_high = base, step = base, site = base;
    seed_low.seed ^= 1;
    seed_high.seed ^= uint64_t{1} << 63;
    step.step = 0xffffffffu;
    site.site = 0xffffffffu;
    for (const Site& other : {seed_low, seed_high, step, site}) EXPECT_NE(mask(other), mask(base));
    EXPECT_EQ(mask(base), mask(base));
}

TEST_F(DeviceDropout, ZeroCopiesAndOneClears) {
    for (FloatType type : kFloatTypes) {
        for (int64_t n : {37, 64}) {
            const std::vector<float> values = gaussian(n, 3);
            EXPECT_EQ(on_device(values, {0.0f}, type), encode_elements(values, type));
            // Not even -0: what is dropped is 0.
            EXPECT_EQ(on_device(values, {1.0f}, type),
                      encode_elements(std::vector<float>(values.size(), 0.0f), type));
        }
    }
}

TEST_F(DeviceDropout, KeepsTheShareItSaysAndTheMean) {
    const int64_t n = 40000;
    const float p = 0.3f;
    const std::vector<float> ones(static_cast<std::size_t>(n), 1.0f);
    const DeviceArray<float> x(ones), y(ones, Access::kOutput);
    device::dropout({x.data(), n, kSeed, 1, 1, p, y.data(), FloatType::kF32}, nullptr);
    double sum = 0.0;
    for (float value : y.download()) sum += value;
    // Five deviations of the mean of n draws that are 0 or 1 / (1 - p).
    EXPECT_NEAR(sum / n, 1.0, 5 * std::sqrt(p / (1 - p) / n));
}

TEST_F(DeviceDropout, NanAndInfinityPassWhereKeptOnly) {
    for (float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
        const std::vector<float> values(64, bad);
        const Site site{0.5f};
        const DeviceArray<float> x(values), y(values, Access::kOutput);
        device::dropout(params_of(site, x.data(), 64, y.data(), FloatType::kF32), nullptr);
        const std::vector<float> found = y.download();
        for (std::size_t i = 0; i < 64; ++i) {
            if (!dropout_keep(site.seed, site.step, site.site, i, site.p)) {
                EXPECT_EQ(float_bits(found[i]), 0u) << i;
            } else {
                EXPECT_TRUE(found[i] == bad || (std::isnan(bad) && std::isnan(found[i]))) << i;
            }
        }
    }
}

TEST_F(DeviceDropout, AlignedGroupsTakeWideAccesses) {
    if (device_vector_accesses() < 0)
        GTEST_SKIP() << "nobody counts the accesses of a " << device_name() << " device";
    const auto accesses = [](int64_t n, FloatType type, Shifts shifts = {}) {
        const int64_t before = device_vector_accesses();
        on_device(gaussian(n, 1), {}, type, shifts);
        return device_vector_accesses() - before;
    };
    // Six groups of 16 are whole, the last four values are not.
    EXPECT_EQ(accesses(100, FloatType::kBF16), 6 * (2 + 2));
    EXPECT_EQ(accesses(100, FloatType::kF16, {8, 16}), 6 * (2 + 2));
    EXPECT_EQ(accesses(96, FloatType::kF32, {4, 0}), 6 * (4 + 4));
    EXPECT_EQ(accesses(96, FloatType::kF32, {1, 0}), 0);
    EXPECT_EQ(accesses(96, FloatType::kF32, {0, 2}), 0);
}

TEST_F(DeviceDropout, NothingIsNoLaunch) {
    const int64_t launches = device_launches();
    EXPECT_TRUE(on_device({}, {}, FloatType::kF32).empty());
    EXPECT_EQ(device_launches(), launches);
}

TEST(DeviceDropoutArguments, ImpossibleOnesThrow) {
    alignas(16) uint8_t bytes[64] = {};
    const DropoutParams good{bytes, 4, 0, 0, 0, 0.5f, bytes, FloatType::kF32};
    const auto refused = [&](auto change) {
        DropoutParams params = good;
        change(params);
        EXPECT_THROW(device::dropout(params, nullptr), std::invalid_argument);
    };
    refused([](DropoutParams& params) { params.n = -1; });
    refused([](DropoutParams& params) { params.p = -0.01f; });
    refused([](DropoutParams& params) { params.p = 1.01f; });
    refused([](DropoutParams& params) { params.p = NAN; });
    refused([&](DropoutParams& params) { params.x = bytes + 2; });
    refused([&](DropoutParams& params) { params.y = bytes + 1; });
}

}  // namespace
}  // namespace qlora::kernels
