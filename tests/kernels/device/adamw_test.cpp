#include <cmath>
#include <memory>
#include <stdexcept>

#include "kernels/device/device.h"
#include "kernels/moments_8bit.h"
#include "qlora/kernels/cuda_optimizer.h"
#include "qlora/kernels/fixed_order_sum.h"

namespace qlora::kernels {
namespace {

class DeviceAdamw : public OnDevice {};

/// A trained tensor on the host: fp32 moments, or 8-bit ones in `codes`.
struct Trained {
    Trained(int64_t n, bool has_codes_, bool decays_, int group_ = 0)
        : codes(n),
          has_codes(has_codes_),
          decays(decays_),
          group(group_),
          m(codes.p.size()),
          v(codes.p.size()) {}

    void step_on_cpu(const std::vector<float>& g, AdamwSettings settings) {
        if (!decays) settings.weight_decay = 0.0;
        settings.lr *= settings.rates[group];
        settings.rates[0] = 1.0;
        if (has_codes) return codes.step(g, settings);
        cpu::adamw_step(codes.p.data(), g.data(), m.data(), v.data(), static_cast<int64_t>(m.size()),
                        settings);
    }
    bool operator==(const Trained&) const = default;

    Moments8bit codes;
    bool has_codes, decays;
    int group;
    std::vector<float> m, v;
};

/// Elements by which arrays lie past an aligned place.
struct Shifts {
    Shifts(int all) : p(all), g(all), m(all), v(all) {}  // NOLINT: a number is the shift of all
    Shifts(int p_, int g_, int m_, int v_) : p(p_), g(g_), m(m_), v(v_) {}
    int p, g, m, v;
};

/// The same on the device. What a kernel must not touch is read-only.
class OnCard {
  public:
    OnCard(const Trained& trained, const std::vector<float>& gradients, const Shifts& shifts)
        : trained_(trained),
          p_(trained.codes.p, Access::kOutput, bytes(shifts.p)),
          g_(gradients, Access::kInput, bytes(shifts.g)),
          m_(trained.m, access(!trained.has_codes), bytes(shifts.m)),
          v_(trained.v, access(!trained.has_codes), bytes(shifts.v)),
          m_codes_(trained.codes.m_codes, access(trained.has_codes), static_cast<std::size_t>(shifts.m)),
          v_codes_(trained.codes.v_codes, access(trained.has_codes), static_cast<std::size_t>(shifts.v)),
          m_absmax_(trained.codes.m_absmax, access(trained.has_codes)),
          v_absmax_(trained.codes.v_absmax, access(trained.has_codes)) {}

    AdamwTensor tensor() const {
        AdamwTensor tensor{.p = p_.data(), .g = g_.data()};
        tensor.n = static_cast<int64_t>(trained_.codes.p.size());
        tensor.decays = trained_.decays ? 1 : 0;
        tensor.group = trained_.group;
        if (trained_.has_codes) {
            tensor.m_codes = m_codes_.data();
            tensor.v_codes = v_codes_.data();
            tensor.m_absmax = m_absmax_.data();
            tensor.v_absmax = v_absmax_.data();
        } else {
            tensor.m = m_.data();
            tensor.v = v_.data();
        }
        return tensor;
    }
    Trained download() const {
        Trained result = trained_;
        result.codes.p = p_.download();
        result.m = m_.download();
        result.v = v_.download();
        result.codes.m_codes = m_codes_.download();
        result.codes.v_codes = v_codes_.download();
        result.codes.m_absmax = m_absmax_.download();
        result.codes.v_absmax = v_absmax_.download();
        return result;
    }

  private:
    static std::size_t bytes(int shift) { return static_cast<std::size_t>(shift) * sizeof(float); }
    static Access access(bool is_written) { return is_written ? Access::kOutput : Access::kInput; }

    Trained trained_;
    DeviceArray<float> p_, g_, m_, v_;
    DeviceArray<uint8_t> m_codes_, v_codes_;
    DeviceArray<float> m_absmax_, v_absmax_;
};

/// Calls action(tables) with tables on the device.
template <class Action>
void with_tables(const std::vector<AdamwTensor>& tensors, const Action& action) {
    const std::vector<AdamwChunk> chunks = adamw_chunks(tensors);
    const DeviceArray<AdamwTensor> device_tensors(tensors);
    const DeviceArray<AdamwChunk> device_chunks(chunks);
    action(AdamwTables{device_tensors.data(), device_chunks.data(), static_cast<int64_t>(chunks.size())});
}

std::vector<Trained> step_on_device(const std::vector<Trained>& trained,
                                    const std::vector<std::vector<float>>& gradients,
                                    const AdamwSettings& settings, const Shifts& shifts = 0) {
    std::vector<std::unique_ptr<OnCard>> cards;
    std::vector<AdamwTensor> tensors;
    for (std::size_t i = 0; i < trained.size(); ++i) {
        cards.push_back(std::make_unique<OnCard>(trained[i], gradients[i], shifts));
        tensors.push_back(cards.back()->tensor());
    }
    with_tables(tensors, [&](const AdamwTables& tables) { device::adamw_step(tables, settings, nullptr); });
    std::vector<Trained> result;
    for (const auto& card : cards) result.push_back(card->download());
    return result;
}

/// Gradients of widely differing size, zeros among them.
std::vector<float> wide_gradients(int64_t n, int64_t step) {
    std::vector<float> g = gaussian(n, static_cast<uint32_t>(77 * n + step), 0.1f);
    for (std::size_t i = 0; i < g.size(); ++i) {
        g[i] *= std::pow(10.0f, -static_cast<float>(i % 7));
        if (i % 13 == 3) g[i] = i % 2 == 0 ? 0.0f : -0.0f;
    }
    return g;
}

AdamwSettings some_settings(int64_t step) {
    AdamwSettings settings;
    settings.lr = 3e-3;
    settings.weight_decay = 0.1;
    settings.grad_scale = 0.7f;
    settings.step = step;
    settings.rates[1] = 16.0;
    settings.rates[2] = 0.3;
    settings.rates[3] = 0.0;
    return settings;
}

/// Both devices go `steps` steps from the same start; each is compared.
void compare_steps(std::vector<Trained> expected, int64_t steps, const Shifts& shifts) {
    std::vector<Trained> found = expected;
    for (int64_t step = 1; step <= steps; ++step) {
        std::vector<std::vector<float>> gradients;
        for (Trained& trained : expected) {
            gradients.push_back(wide_gradients(static_cast<int64_t>(trained.m.size()), step));
            trained.step_on_cpu(gradients.back(), some_settings(step));
        }
        found = step_on_device(found, gradients, some_settings(step), shifts);
        for (std::size_t i = 0; i < found.size(); ++i) {
            ASSERT_TRUE(found[i] == expected[i])
                << "tensor " << i << " of " << found[i].m.size() << " values, step " << step;
        }
    }
}

TEST_F(DeviceAdamw, OneLaunchTakesFp32And8BitTensorsTogetherUnderEverySchedule) {
    const std::vector<Trained> mixed = {{1, false, true, 1},    {4100, true, true}, {2048, false, false, 2},
                                        {2049, true, false, 1}, {0, false, true},   {300, true, true, 3},
                                        {2047, false, true, 3}, {0, true, true, 1}, {6144, true, false, 2}};
    const int64_t launches = device_launches();
    compare_steps(mixed, 1, 0);
    if (device_name() == "emulated") {
        EXPECT_EQ(device_launches(), launches + 1);
    }
    for_each_schedule([&] { compare_steps(mixed, 2, 0); });
}

TEST_F(DeviceAdamw, EveryLengthAndMisalignmentGivesTheBytesOfTheCpu) {
    for (int64_t n = 1; n <= 560; n += n < 40 || n % 256 > 248 || n % 256 < 12 ? 1 : 9) {
        with_some_schedule(n, [&] {
            for (const bool has_codes : {false, true}) {
                compare_steps({{n, has_codes, true}, {n, has_codes, false}}, 3, static_cast<int>(n % 5));
            }
        });
    }
}

TEST_F(DeviceAdamw, ManyStepsKeepTheBytesOfTheCpu) {
    with_some_schedule(3, [] { compare_steps({{4099, true, true}, {515, false, true}}, 12, 0); });
}

TEST_F(DeviceAdamw, AlignedTensorsAreReadInVectors) {
    if (device_vector_accesses() < 0) GTEST_SKIP() << "nobody counts";
    for (const bool has_codes : {false, true}) {
        for (int shift : {0, 1}) {
            const int64_t before = device_vector_accesses();
            compare_steps({{2048, has_codes, true}}, 1, shift);
            // A thread takes eight values: p, g, m and v in two loads each, or the codes in one; what is
            // written likewise.
            const int64_t expected = 256 * (has_codes ? 4 + 2 + 2 + 2 : 8 + 6);
            EXPECT_EQ(device_vector_accesses() - before, shift == 0 ? expected : 0) << has_codes;
        }
    }
}

TEST_F(DeviceAdamw, OneMisalignedArrayIsEnoughToReadValuesOneByOne) {
    for (const bool has_codes : {false, true}) {
        for (const Shifts& shifts :
             {Shifts(1, 0, 0, 0), Shifts(0, 1, 0, 0), Shifts(0, 0, 1, 0), Shifts(0, 0, 0, 1)}) {
            const int64_t before = device_vector_accesses();
            compare_steps({{2048, has_codes, true}}, 1, shifts);
            if (before >= 0) {
                EXPECT_EQ(device_vector_accesses(), before) << has_codes;
            }
        }
    }
}

TEST_F(DeviceAdamw, ZeroTinyAndHugeGradientsGiveTheBytesOfTheCpu) {
    for (float size : {0.0f, -0.0f, 1e-44f, 1e-38f, 1e-20f, 1e18f, 3e38f}) {
        std::vector<Trained> expected = {{600, true, true}, {600, false, true}}, found = expected;
        for (int64_t step = 1; step <= 2; ++step) {
            std::vector<float> g = wide_gradients(600, step);
            for (std::size_t i = 0; i < 300; ++i) g[i] = std::fmin(std::fmax(g[i], -1.0f), 1.0f) * size;
            for (Trained& trained : expected) trained.step_on_cpu(g, some_settings(step));
            found = step_on_device(found, {g, g}, some_settings(step));
            // Squares of the largest overflow: then the second step makes NaN of them, whose bits are free.
            if (size > 1e30f && step == 2) break;
            ASSERT_TRUE(found == expected) << size << " " << step;
        }
    }
}

TEST_F(DeviceAdamw, TiesOfTheSignedMapFollowTheSearch) {
    // At beta1 = 0.5 the first m is half the gradient; divided by half the largest, 1, it is the midpoint.
    std::vector<float> g;
    for (int i = 0; i + 1 < 256; ++i)
        g.push_back((kSignedDynamicMap.value[i] + kSignedDynamicMap.value[i + 1]) * 0.5f);
    g.push_back(1.0f);
    AdamwSettings settings;
    settings.beta1 = 0.5;
    std::vector<Trained> expected = {{256, true, true}};
    expected[0].step_on_cpu(g, settings);
    EXPECT_EQ(expected[0].codes.m_absmax[0], 0.5f);
    EXPECT_EQ(expected[0].codes.m_codes[200], encode_dynamic(kSignedDynamicMap.value, g[200]));
    EXPECT_TRUE(step_on_device({{256, true, true}}, {g}, settings) == expected);
}

double expected_sum(const std::vector<std::vector<float>>& gradients) {
    std::vector<double> partial;
    for (const std::vector<float>& g : gradients) {
        for (int64_t begin = 0; begin < static_cast<int64_t>(g.size()); begin += kAdamwChunk) {
            const int64_t count = std::min(kAdamwChunk, static_cast<int64_t>(g.size()) - begin);
            partial.push_back(cpu::sum_of_squares(g.data() + begin, count));
        }
    }
    return fixed_order_sum(static_cast<int64_t>(partial.size()),
                           [&](int64_t i) { return partial[static_cast<std::size_t>(i)]; });
}

double sum_on_device(const std::vector<std::vector<float>>& gradients, int shift) {
    std::vector<std::unique_ptr<DeviceArray<float>>> arrays;
    std::vector<AdamwTensor> tensors;
    for (const std::vector<float>& g : gradients) {
        arrays.push_back(std::make_unique<DeviceArray<float>>(g, Access::kInput, 4 * shift));
        tensors.push_back({.g = arrays.back()->data(), .n = static_cast<int64_t>(g.size())});
    }
    const std::vector<double> scratch(adamw_chunks(tensors).size(), -7.0);
    const DeviceArray<double> partial(scratch, Access::kOutput);
    const DeviceArray<double> sum(std::vector<double>{-7.0}, Access::kOutput);
    with_tables(tensors, [&](const AdamwTables& tables) {
        device::gradient_sum_of_squares(tables, partial.data(), sum.data(), nullptr);
    });
    partial.download();
    return sum.download()[0];
}

TEST_F(DeviceAdamw, TheSumOfSquaresHasTheOrderOfTheCpuInTwoLaunches) {
    // Gradients of widely differing size: another order rounds to another sum.
    std::vector<std::vector<float>> gradients;
    for (int64_t n : {1, 2047, 2048, 0, 2049, 5000, 7}) gradients.push_back(wide_gradients(n, 9));
    const double expected = expected_sum(gradients);
    const int64_t launches = device_launches();
    EXPECT_EQ(sum_on_device(gradients, 0), expected);
    if (device_name() == "emulated") {
        EXPECT_EQ(device_launches(), launches + 2);
    }
    for_each_schedule([&] { ASSERT_EQ(sum_on_device(gradients, 1), expected); });
}

TEST_F(DeviceAdamw, MoreChunksThanTheLastSumHasThreadsGiveTheSum) {
    std::vector<std::vector<float>> gradients;
    for (int i = 0; i < 300; ++i) gradients.push_back(gaussian(1 + i % 3, static_cast<uint32_t>(i)));
    EXPECT_EQ(sum_on_device(gradients, 0), expected_sum(gradients));
}

TEST_F(DeviceAdamw, TheSumOfSquaresIsFiniteExactlyWhenEveryGradientIs) {
    std::vector<std::vector<float>> gradients = {std::vector<float>(3000, 3.4e38f), std::vector<float>(5)};
    EXPECT_TRUE(std::isfinite(sum_on_device(gradients, 0)));
    for (float bad : {NAN, INFINITY, -INFINITY}) {
        for (std::size_t place : {0, 2047, 2048, 2999}) {
            std::vector<std::vector<float>> broken = gradients;
            broken[0][place] = bad;
            EXPECT_FALSE(std::isfinite(sum_on_device(broken, 0))) << place;
        }
    }
}

TEST_F(DeviceAdamw, NoTensorsAreNoStepAndASumOfZero) {
    const int64_t launches = device_launches();
    device::adamw_step({nullptr, nullptr, 0}, AdamwSettings{}, nullptr);
    EXPECT_EQ(device_launches(), launches);
    EXPECT_EQ(sum_on_device({}, 0), 0.0);
}

TEST(DeviceAdamwArguments, ImpossibleOnesThrow) {
    AdamwSettings settings;
    const AdamwTables negative{nullptr, nullptr, -1};
    EXPECT_THROW(device::adamw_step(negative, settings, nullptr), std::invalid_argument);
    EXPECT_THROW(device::gradient_sum_of_squares(negative, nullptr, nullptr, nullptr), std::invalid_argument);
    const AdamwTables too_many{nullptr, nullptr, int64_t{1} << 32};
    EXPECT_THROW(device::adamw_step(too_many, settings, nullptr), std::invalid_argument);
    settings.step = 0;
    EXPECT_THROW(device::adamw_step({nullptr, nullptr, 0}, settings, nullptr), std::invalid_argument);
}

}  // namespace
}  // namespace qlora::kernels
