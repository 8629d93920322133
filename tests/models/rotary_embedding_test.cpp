#include "models/decoder/rotary_embedding.h"

#include <ATen/ops/arange.h>
#include <gtest/gtest.h>

namespace qlora::models {
namespace {

TEST(RotaryEmbedding, rounds_what_its_description_says) {
    TokenBatch batch;
    batch.positions = at::arange(9, at::kLong);
    batch.offsets = {0, 9};
    const auto table = [&](spec::Rope::Rounding rounding, at::ScalarType dtype) {
        const spec::Rope rope{.frequencies = {}, .dims = 8, .pairs = true, .rounding = rounding};
        return RotaryEmbedding(rope, dtype).table(batch, {});
    };
    using Rounding = spec::Rope::Rounding;
    const ops::RopeTable exact = table(Rounding::kNothing, at::kBFloat16);
    EXPECT_EQ(exact.cos.scalar_type(), at::kFloat);
    EXPECT_TRUE(exact.pairs);
    const ops::RopeTable angles = table(Rounding::kAngles, at::kBFloat16);
    EXPECT_TRUE(angles.pairs);
    const ops::RopeTable products = table(Rounding::kAnglesAndProducts, at::kBFloat16);
    for (const auto part : {&ops::RopeTable::cos, &ops::RopeTable::sin}) {
        EXPECT_TRUE((products.*part).equal((exact.*part).to(at::kBFloat16)));
        EXPECT_TRUE((angles.*part).equal((products.*part).to(at::kFloat)));
        EXPECT_FALSE((angles.*part).equal(exact.*part));
        for (const Rounding rounding : {Rounding::kNothing, Rounding::kAngles, Rounding::kAnglesAndProducts})
            EXPECT_TRUE((table(rounding, at::kFloat).*part).equal(exact.*part));
    }
}

}  // namespace
}  // namespace qlora::models
