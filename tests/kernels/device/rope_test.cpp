#include <stdexcept>

#include "kernels/device/device_rows.h"
#include "qlora/kernels/cuda_layer.h"

namespace qlora::kernels {
namespace {

class DeviceRope : public OnDevice {};

struct Case {
    int64_t tokens, heads, head_dim;
    FloatType type = FloatType::kF32;
    int64_t gap = 0;
    int x_shift = 0, cos_shift = 0, sin_shift = 0;
    int direction = 1;
    int64_t passing = 0;  // dimensions of a head that do not turn
    bool pairs = false;
    int64_t groups = 1, between = 0;  // between: values from one group of heads to the next
    bool wide_angles = false;         // fp32, whatever the type

    int64_t dims() const { return head_dim - passing; }
    int64_t half() const { return dims() / 2; }
    int64_t group() const { return heads * head_dim + between; }
    int64_t width() const { return groups * group(); }
    FloatType angle_type() const { return wide_angles ? FloatType::kF32 : type; }
};

/// `shape` as it turns in models other than llama.
Case with(Case shape, int64_t passing, bool pairs, int64_t groups, int64_t between, bool wide_angles) {
    shape.passing = passing;
    shape.pairs = pairs;
    shape.groups = groups;
    shape.between = between;
    shape.wide_angles = wide_angles;
    return shape;
}

struct Tensors {
    std::vector<float> x, cos, sin;

    /// Every pair of angle and head differs.
    explicit Tensors(const Case& test)
        : x(gaussian_of(test.type, test.tokens * test.width(), 1)),
          cos(gaussian_of(test.angle_type(), test.tokens * test.half(), 2)),
          sin(gaussian_of(test.angle_type(), test.tokens * test.half(), 3)) {}
};

std::vector<float> on_device(const Case& test, const Tensors& host) {
    const DeviceRows x({test.tokens, test.width(), test.type, test.x_shift, test.gap}, host.x,
                       Access::kOutput);
    const DeviceRows cos({test.tokens, test.half(), test.angle_type(), test.cos_shift}, host.cos);
    const DeviceRows sin({test.tokens, test.half(), test.angle_type(), test.sin_shift}, host.sin);
    device::rope({.x = x.data(),
                  .cos = cos.data(),
                  .sin = sin.data(),
                  .tokens = test.tokens,
                  .heads = test.heads,
                  .head_dim = test.head_dim,
                  .dims = test.dims(),
                  .row_stride = test.width() + test.gap,
                  .direction = test.direction,
                  .type = test.type,
                  .angle_type = test.angle_type(),
                  .pairs = test.pairs,
                  .groups = test.groups,
                  .group_stride = test.group()},
                 nullptr);
    return x.download();
}

/// rotate_half as it is written in transformers: products rounded (in fp32 not), then their sum.
std::vector<float> reference(const Case& test, const Tensors& host) {
    const auto product = [&](float a, float b) { return round_element(a * b, test.angle_type()); };
    std::vector<float> y = host.x;
    for (int64_t token = 0; token < test.tokens; ++token) {
        for (int64_t head = 0; head < test.groups * test.heads; ++head) {
            const int64_t begin =
                token * test.width() + head / test.heads * test.group() + head % test.heads * test.head_dim;
            for (int64_t i = 0; i < test.half(); ++i) {
                const std::size_t at = static_cast<std::size_t>(begin + (test.pairs ? 2 * i : i));
                const std::size_t paired = at + static_cast<std::size_t>(test.pairs ? 1 : test.half());
                const std::size_t angle = static_cast<std::size_t>(token * test.half() + i);
                const float a = host.x[at], b = host.x[paired];
                const float c = host.cos[angle];
                const float s = test.direction == 1 ? host.sin[angle] : -host.sin[angle];
                y[at] = round_element(product(a, c) - product(b, s), test.type);
                y[paired] = round_element(product(b, c) + product(a, s), test.type);
            }
        }
    }
    return y;
}

void expect_reference(const Case& test, const Tensors& host) {
    ASSERT_EQ(bits_of(on_device(test, host)), bits_of(reference(test, host)))
        << test.tokens << " tokens, " << test.heads << " heads of " << test.head_dim;
}

void expect_reference(const Case& test) {
    expect_reference(test, Tensors(test));
}

TEST_F(DeviceRope, EveryHeadSizeFollowsTheRoundingPoints) {
    for (FloatType type : kFloatTypes) {
        for (int64_t half : kPieceSizes) {
            for (int direction : {1, -1}) {
                with_some_schedule(half, [&] {
                    expect_reference({2, 3, 2 * half, type, half % 3, 0, 0, 0, direction});
                });
            }
        }
        expect_reference({67, 12, 64, type, 192});
        expect_reference({3, 1, 128, type, 8});
    }
}

TEST_F(DeviceRope, PartsPairsAndGroupsFollowTheRoundingPoints) {
    for (FloatType type : kFloatTypes) {
        for (int64_t half : kPieceSizes) {
            for (bool pairs : {false, true}) {
                const int64_t passing = half % 4 * 4;
                with_some_schedule(half, [&] {
                    const int direction = half % 2 == 0 ? 1 : -1;
                    const Case whole{2, 3, 2 * half + passing, type, half % 3, 0, 0, 0, direction};
                    expect_reference(with(whole, passing, pairs, 1, 0, false));
                    expect_reference(with(whole, passing, pairs, 1 + half % 3, half % 5, true));
                });
            }
        }
        // As gpt_neox and glm4 have it.
        expect_reference(with({37, 2, 64, type}, 48, false, 4, 64, false));
        expect_reference(with({37, 6, 128, type}, 64, true, 1, 0, false));
    }
}

TEST_F(DeviceRope, TheBitsAreThoseOfTheCpu) {
    for (const Case& test :
         {Case{3, 5, 64}, Case{3, 5, 64, FloatType::kF32, 64}, Case{2, 3, 22},
          Case{67, 2, 18, FloatType::kF32, 5}, with({3, 5, 64}, 0, true, 1, 0, false),
          with({5, 2, 22}, 4, true, 3, 5, false), with({5, 2, 64}, 32, false, 3, 64, false)}) {
        for (int direction : {1, -1}) {
            Case turned = test;
            turned.direction = direction;
            const Tensors host(turned);
            std::vector<float> expected = host.x;
            cpu::rope(expected.data(), host.cos.data(), host.sin.data(),
                      {.tokens = test.tokens,
                       .heads = test.heads,
                       .head_dim = test.head_dim,
                       .dims = test.dims(),
                       .row_stride = test.width(),
                       .groups = test.groups,
                       .group_stride = test.group(),
                       .pairs = test.pairs},
                      direction);
            ASSERT_EQ(bits_of(on_device(turned, host)), bits_of(expected)) << test.head_dim;
        }
    }
}

TEST_F(DeviceRope, TheOtherDirectionTurnsBack) {
    Case test{2, 2, 32};
    Tensors host(test);
    for (std::size_t i = 0; i < host.cos.size(); ++i) {
        const double angle = 0.1 * static_cast<double>(i);
        host.cos[i] = static_cast<float>(std::cos(angle));
        host.sin[i] = static_cast<float>(std::sin(angle));
    }
    Tensors turned = host;
    turned.x = on_device(test, host);
    test.direction = -1;
    const std::vector<float> back = on_device(test, turned);
    for (std::size_t i = 0; i < back.size(); ++i) {
        // Six roundings of terms below the pair's length, of cosine and sine, and of both rotations.
        ASSERT_NEAR(back[i], host.x[i], 12 * kRounding * 4.0);
    }
}

TEST_F(DeviceRope, EveryMisalignmentAndStrideGivesTheSameBits) {
    for (FloatType type : kFloatTypes) {
        for (int64_t gap : {0, 1, 2, 4, 8, 64}) {
            for (int which = 0; which < 3; ++which) {
                for (int shift : {1, 2, 4, 8}) {
                    Case test{3, 2, 32, type, gap};
                    (which == 0 ? test.x_shift : which == 1 ? test.cos_shift : test.sin_shift) = shift;
                    expect_reference(test);
                    for (bool pairs : {false, true}) {
                        expect_reference(with(test, 16, pairs, 2, which == 0 ? gap : shift, pairs));
                    }
                }
            }
        }
    }
}

TEST_F(DeviceRope, TheBitsAreTheSameUnderEverySchedule) {
    for (const Case& test : {Case{5, 9, 64, FloatType::kBF16}, Case{3, 7, 30, FloatType::kF16, 3},
                             with({5, 2, 64, FloatType::kBF16}, 32, true, 3, 64, true)}) {
        for_each_schedule([&] { expect_reference(test); });
    }
}

TEST_F(DeviceRope, AlignedRowsTakeWideAccesses) {
    if (device_vector_accesses() < 0)
        GTEST_SKIP() << "nobody counts the accesses of a " << device_name() << " device";
    const auto accesses = [](const Case& test) {
        return vector_accesses_of([&] { on_device(test, Tensors(test)); });
    };
    // Four pieces a head: two halves of x read and written, cosine and sine read.
    EXPECT_EQ(accesses({3, 2, 64, FloatType::kBF16}), 3 * 2 * 4 * 6);
    EXPECT_EQ(accesses({3, 2, 64, FloatType::kBF16, 8}), 3 * 2 * 4 * 6);
    EXPECT_EQ(accesses({3, 2, 64, FloatType::kF32}), 3 * 2 * 4 * 6 * 2);
    EXPECT_EQ(accesses({3, 2, 64, FloatType::kF32, 4}), 3 * 2 * 4 * 6 * 2);
    EXPECT_EQ(accesses({3, 2, 64, FloatType::kBF16, 4}), 0);
    EXPECT_EQ(accesses({3, 2, 64, FloatType::kBF16, 0, 4}), 0);
    EXPECT_EQ(accesses({3, 2, 64, FloatType::kBF16, 0, 0, 4}), 0);
    EXPECT_EQ(accesses({3, 2, 64, FloatType::kBF16, 0, 0, 0, 4}), 0);
    EXPECT_EQ(accesses({3, 2, 24, FloatType::kBF16}), 0);
    const Case heads{3, 2, 64, FloatType::kBF16};
    EXPECT_EQ(accesses(with(heads, 0, true, 1, 0, false)), 3 * 2 * 4 * 6);
    // Two pieces of half of each head, whose angles are twice as long.
    EXPECT_EQ(accesses(with(heads, 32, true, 4, 64, true)), 3 * 4 * 2 * 2 * 8);
    EXPECT_EQ(accesses(with(heads, 32, false, 4, 4, false)), 0);
    // One group has no next one to begin anywhere.
    EXPECT_EQ(accesses(with({3, 2, 64, FloatType::kBF16, 4}, 0, false, 1, 4, false)), 3 * 2 * 4 * 6);
    EXPECT_EQ(accesses(with({3, 2, 68, FloatType::kBF16}, 36, false, 1, 0, false)), 0);
}

TEST_F(DeviceRope, NonFiniteValuesReachTheirPairs) {
    for (int64_t head_dim : {32, 34}) {
        for (bool pairs : {false, true}) {
            const Case test = with({2, 2, head_dim, FloatType::kF32}, 12, pairs, 2, 6, false);
            Tensors host(test);
            const std::size_t at = static_cast<std::size_t>(test.width() + 4);
            host.x[at] = kNan;
            host.x[at + 2] = kInfinity;
            // Neither dimensions that do not turn nor what lies between groups turn with anything.
            const std::size_t passing = static_cast<std::size_t>(test.width() + test.dims()),
                              between = static_cast<std::size_t>(test.group() - 1);
            host.x[passing] = kNan;
            host.x[between] = kInfinity;
            const std::vector<float> y = on_device(test, host);
            EXPECT_EQ(bits_of(y), bits_of(reference(test, host)));
            const std::size_t other = pairs ? 1 : static_cast<std::size_t>(test.half());
            for (std::size_t i = 0; i < y.size(); ++i) {
                const bool hit = i == at || i == at + other || i == at + 2 || i == at + 2 + other;
                EXPECT_EQ(std::isfinite(y[i]), !hit && i != passing && i != between) << i;
            }
        }
    }
}

TEST_F(DeviceRope, ExtremeValuesFollowTheRoundingPoints) {
    for (FloatType type : kFloatTypes) {
        for (bool pairs : {false, true}) {
            for (bool wide_angles : {false, true}) {
                for (int64_t head_dim : {40, 42}) {
                    const Case test = with({5, 3, head_dim, type}, 8, pairs, 2, 8, wide_angles);
                    Tensors host(test);
                    host.x = round_elements(wild_values(test.tokens * test.width(), 7), type);
                    expect_reference(test, host);
                }
            }
        }
    }
}

TEST_F(DeviceRope, EveryHeadIsTurnedInOneLaunch) {
    const int64_t before = device_launches();
    if (before < 0) GTEST_SKIP() << "nobody counts the launches of a " << device_name() << " device";
    const Case test{4, 12, 64, FloatType::kBF16};
    on_device(test, Tensors(test));
    EXPECT_EQ(device_launches(), before + 1);
    for (const Case& none : {Case{0, 3, 64}, Case{3, 0, 64}}) on_device(none, Tensors(none));
    EXPECT_EQ(device_launches(), before + 1);
}

TEST(DeviceRopeArguments, ImpossibleOnesThrow) {
    alignas(16) uint8_t bytes[64] = {};
    const RopeParams good{.x = bytes,
                          .cos = bytes,
                          .sin = bytes,
                          .tokens = 0,
                          .heads = 2,
                          .head_dim = 4,
                          .dims = 4,
                          .row_stride = 8,
                          .direction = 1,
                          .type = FloatType::kF32,
                          .angle_type = FloatType::kF32};
    EXPECT_NO_THROW(device::rope(good, nullptr));
    RopeParams empty = good;
    empty.heads = empty.row_stride = 0;
    EXPECT_NO_THROW(device::rope(empty, nullptr));
    empty = good;
    empty.groups = 0;
    EXPECT_NO_THROW(device::rope(empty, nullptr));
    const auto refused = [&](auto change) {
        RopeParams params = good;
        change(params);
        EXPECT_THROW(device::rope(params, nullptr), std::invalid_argument);
    };
    refused([](RopeParams& params) { params.tokens = -1; });
    refused([](RopeParams& params) { params.heads = -1; });
    refused([](RopeParams& params) { params.dims = 0; });
    refused([](RopeParams& params) { params.dims = -2; });
    refused([](RopeParams& params) { params.dims = 3; });
    refused([](RopeParams& params) { params.dims = 6; });
    refused([](RopeParams& params) { params.groups = -1; });
    refused([](RopeParams& params) { params.groups = 2, params.group_stride = 8; });
    refused([](RopeParams& params) { params.groups = 2, params.group_stride = 4; });
    refused([](RopeParams& params) { params.groups = 2, params.heads = params.group_stride = 0; });
    refused([](RopeParams& params) { params.angle_type = FloatType::kBF16; });
    refused([](RopeParams& params) { params.angle_type = FloatType::kBF16, params.type = FloatType::kF16; });
    refused([](RopeParams& params) { params.row_stride = 7; });
    refused([](RopeParams& params) {
        params.row_stride = -1;
        params.heads = 0;
    });
    refused([](RopeParams& params) { params.direction = 0; });
    refused([](RopeParams& params) { params.direction = 2; });
    refused([&](RopeParams& params) { params.x = bytes + 2; });
    refused([&](RopeParams& params) { params.cos = bytes + 2; });
    refused([&](RopeParams& params) { params.sin = bytes + 2; });
    refused([](RopeParams& params) {
        params.type = params.angle_type = static_cast<FloatType>(9);
        params.tokens = 1;
    });
    refused([](RopeParams& params) { params.tokens = int64_t{1} << 31; });
    refused([](RopeParams& params) {
        params.heads = int64_t{1} << 33;
        params.row_stride = int64_t{1} << 40;
        params.tokens = 1;
    });
}

}  // namespace
}  // namespace qlora::kernels
