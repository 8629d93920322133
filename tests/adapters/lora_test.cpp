#include "qlora/adapters/lora.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "qlora/adapters/inject.h"
#include "qlora/models/base_loader.h"
#include "support/tiny_model.h"

namespace qlora::adapters {
namespace {

constexpr std::int64_t kIn = 2000, kOut = 1500, kRank = 16;

LoraLayer layer_with(InitLoraWeights start, std::uint64_t seed = 7, std::uint32_t site = 3) {
    LoraLayer layer(kIn, kOut, kRank, 2.0, 0.0, site);
    layer.initialize(start, seed);
    return layer;
}

double deviation(const at::Tensor& values) {
    return values.detach().to(at::kDouble).std().item<double>();
}

// Of n draws the deviation is off by about 1 / sqrt(2 n); 24,000 draws or more: 2 % is four times that.
constexpr double kTolerance = 0.02;

TEST(LoraLayer, AStartsUniformByItsInputsAndBAtZero) {
    const LoraLayer layer = layer_with(InitLoraWeights::kDefault);
    const double bound = 1 / std::sqrt(static_cast<double>(kIn));
    EXPECT_NEAR(deviation(layer.a()) / (bound / std::sqrt(3.0)), 1, kTolerance);
    EXPECT_LE(layer.a().abs().max().item<double>(), bound * (1 + 1e-6));
    EXPECT_GT(layer.a().abs().max().item<double>(), 0.99 * bound);
    EXPECT_EQ(layer.b().abs().max().item<double>(), 0);
}

TEST(LoraLayer, GaussianHasTheDeviationOfOneOverTheRank) {
    const LoraLayer layer = layer_with(InitLoraWeights::kGaussian);
    EXPECT_NEAR(deviation(layer.a()) * kRank, 1, kTolerance);
    EXPECT_NEAR(layer.a().mean().item<double>() * kRank, 0, kTolerance);
    EXPECT_GT(layer.a().abs().max().item<double>() * kRank, 3.0) << "not a uniform one";
    EXPECT_EQ(layer.b().abs().max().item<double>(), 0);
}

TEST(LoraLayer, ARandomStartHasABToo) {
    const LoraLayer layer = layer_with(InitLoraWeights::kRandom);
    const double bound = 1 / std::sqrt(static_cast<double>(kRank));
    EXPECT_NEAR(deviation(layer.b()) / (bound / std::sqrt(3.0)), 1, kTolerance);
    EXPECT_LE(layer.b().abs().max().item<double>(), bound * (1 + 1e-6));
    EXPECT_TRUE(at::equal(layer.a(), layer_with(InitLoraWeights::kDefault).a()));
}

TEST(LoraLayer, SeedAndSiteDecideTheStart) {
    const at::Tensor a = layer_with(InitLoraWeights::kDefault).a();
    EXPECT_TRUE(at::equal(a, layer_with(InitLoraWeights::kDefault).a()));
    EXPECT_FALSE(at::equal(a, layer_with(InitLoraWeights::kDefault, 8).a()));
    EXPECT_FALSE(at::equal(a, layer_with(InitLoraWeights::kDefault, 7, 4).a()));
}

/// The dropout of every adapter of a tiny model.
std::vector<ops::DropoutSite> dropouts(const nn::ForwardContext& context) {
    const test::TempDir dir;
    const test::TinyModel tiny;
    tiny.write(dir.path());
    const auto model =
        models::load_base(io::Checkpoint(dir.path()), models::load_decoder_spec(dir.path()), {});
    LoraConfig config;
    config.target_modules = "all-linear";
    config.lora_dropout = 0.25;
    inject(*model, config, 1);
    std::vector<ops::DropoutSite> out;
    for (const nn::Linear* linear : model->linears())
        out.push_back(linear->adapter()->update(context).low_rank->dropout);
    return out;
}

TEST(LoraLayer, EachLayerDropsWithAMaskOfItsOwn) {
    const nn::ForwardContext context{.training = true, .seed = 11, .micro_step = 5};
    const auto sites = dropouts(context), again = dropouts(context);
    ASSERT_EQ(sites.size(), 14U);
    std::set<std::uint32_t> numbers;
    for (std::size_t i = 0; i < sites.size(); ++i) {
        numbers.insert(sites[i].site);
        EXPECT_EQ(sites[i].site, again[i].site);
        EXPECT_EQ(sites[i].p, 0.25);
        EXPECT_EQ(sites[i].seed, 11U);
        EXPECT_EQ(sites[i].step, 5U);
    }
    EXPECT_EQ(numbers.size(), sites.size());
    for (const ops::DropoutSite& site : dropouts({.training = false})) EXPECT_EQ(site.p, 0.0);
}

}  // namespace
}  // namespace qlora::adapters
