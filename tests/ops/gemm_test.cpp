#include "qlora/ops/gemm.h"

#include <ATen/Parallel.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <vector>

#include "qlora/kernels/instruction_set.h"

namespace qlora::ops {
namespace {

namespace cpu = kernels::cpu;

/// Each path until the end of the scope: sgemm of the kernels, and BLAS where these have none.
class OnPath : public testing::TestWithParam<cpu::InstructionSet> {
  protected:
    OnPath() { cpu::set_instruction_set(GetParam()); }
    ~OnPath() override { cpu::set_instruction_set(before_); }

  private:
    cpu::InstructionSet before_ = cpu::instruction_set();
};
std::vector<cpu::InstructionSet> paths() {
    std::vector<cpu::InstructionSet> sets;
    for (cpu::InstructionSet set : cpu::kInstructionSets) {
        if (cpu::supports(set)) sets.push_back(set);
    }
    return sets;
}
INSTANTIATE_TEST_SUITE_P(Sets, OnPath, testing::ValuesIn(paths()),
                         [](const auto& set) { return to_string(set.param); });

at::Tensor random(at::IntArrayRef sizes, std::uint64_t seed) {
    return at::randn(sizes, at::make_generator<at::CPUGeneratorImpl>(seed), at::kFloat);
}

/// fp32 sums of up to 700 terms of size 1.
constexpr double kRounding = 1e-4;

void expect_close(const at::Tensor& a, const at::Tensor& b) {
    EXPECT_LE((a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>(), kRounding);
}

at::Tensor exact(const at::Tensor& a, const at::Tensor& b) {
    return at::mm(a.to(at::kDouble), b.to(at::kDouble));
}

TEST_P(OnPath, ProductTakesAnyStrides) {
    for (const std::int64_t m : {1, 3, 4, 90}) {
        const at::Tensor a = random({m, 140}, 1), b = random({140, 70}, 2);
        expect_close(product(a, b), exact(a, b));
        expect_close(product(a.t().contiguous().t(), b.t().contiguous().t()), exact(a, b));
        expect_close(product(a.narrow(1, 10, 50), b.narrow(0, 20, 50), -2.0),
                     exact(a.narrow(1, 10, 50), b.narrow(0, 20, 50)) * -2.0);
        // Neither rows nor columns are adjacent values; one row many times.
        const at::Tensor every_second = random({m, 2 * 140}, 3).slice(1, 0, 280, 2);
        expect_close(product(every_second, b), exact(every_second, b));
        const at::Tensor repeated = random({1, 140}, 4).expand({m, 140});
        expect_close(product(repeated, b), exact(repeated, b));
    }
}

TEST_P(OnPath, ProductsWriteColumnsOfAResultAndStartWhereToldTo) {
    const at::Tensor a = random({20, 64}, 1), b = random({64, 30}, 2), c = random({64, 5}, 3);
    const at::Tensor start = random({20, 30}, 4), whole = at::zeros({20, 40});
    const at::Tensor added = random({20, 5}, 5), sum = added.clone();
    products(a,
             std::vector<RightFactor>{{.b = b, .out = whole.narrow(1, 2, 30), .start = start, .alpha = 0.5},
                                      {.b = c, .out = sum, .start = sum}});
    expect_close(whole.narrow(1, 2, 30), exact(a, b) * 0.5 + start);
    expect_close(sum, exact(a, c) + added);
    EXPECT_EQ(whole.narrow(1, 0, 2).abs().sum().item<float>(), 0.0F);
    EXPECT_EQ(whole.narrow(1, 32, 8).abs().sum().item<float>(), 0.0F);
}

TEST_P(OnPath, BlocksEqualProducts) {
    for (const std::int64_t m : {1, 48}) {
        const at::Tensor a = random({m, 64}, 1), b = random({30, 64}, 2);
        at::Tensor c = at::ones({m, 30});
        const MatrixView left{.data = a.const_data_ptr<float>(), .stride = 64};
        const MatrixView right{.data = b.const_data_ptr<float>(), .stride = 64, .transposed = true};
        block_product(m, 30, 64, left, right, true, c.mutable_data_ptr<float>(), 30);
        expect_close(c, exact(a, b.t()) + 1.0);
        block_product(m, 30, 64, left, right, false, c.mutable_data_ptr<float>(), 30);
        expect_close(c, exact(a, b.t()));
    }
}

TEST_P(OnPath, PartsOfABlockFactorEqualProducts) {
    const at::Tensor b = random({130, 64}, 2);
    const MatrixView values{.data = b.const_data_ptr<float>(), .stride = 64};
    const MatrixView transposed{.data = b.const_data_ptr<float>(), .stride = 64, .transposed = true};
    for (const std::int64_t m : {1, 48}) {
        const BlockFactor keys(m, 130, 64, transposed), sums(m, 64, 130, values);
        const at::Tensor a = random({m, 64}, 1), p = random({m, 30}, 3);
        at::Tensor scores = at::zeros({m, 82}), out = at::ones({m, 64});
        keys.multiply(m, {.data = a.const_data_ptr<float>(), .stride = 64},
                      {.first_row = 0, .rows = 64, .first_column = 48, .columns = 82}, false,
                      scores.mutable_data_ptr<float>(), 82);
        expect_close(scores, exact(a, b.narrow(0, 48, 82).t()));
        sums.multiply(m, {.data = p.const_data_ptr<float>(), .stride = 30},
                      {.first_row = 48, .rows = 30, .first_column = 0, .columns = 64}, true,
                      out.mutable_data_ptr<float>(), 64);
        expect_close(out, exact(p, b.narrow(0, 48, 30)) + 1.0);
    }
}

TEST(LeftFactor, HasNoRowsAPowerOfTwoApart) {
    for (const std::int64_t columns : {1, 576, 1024, 1536, 49152}) {
        const at::Tensor factor = empty_left_factor(3, columns);
        EXPECT_EQ(factor.sizes(), (std::vector<std::int64_t>{3, columns}));
        EXPECT_EQ(factor.stride(1), 1);
        EXPECT_NE(factor.stride(0) % 512, 0);
    }
    EXPECT_EQ(empty_left_factor(0, 512).size(0), 0);
    EXPECT_EQ(empty_left_factor(2, 0).size(1), 0);
}

TEST(Product, RefusesWhatDoesNotFit) {
    const at::Tensor a = random({4, 6}, 1), b = random({6, 5}, 2);
    EXPECT_THROW(product(a, {.b = b, .out = at::zeros({4, 6})}), std::invalid_argument);
    EXPECT_THROW(product(a, {.b = b.t(), .out = at::zeros({4, 5})}), std::invalid_argument);
    EXPECT_THROW(product(a, {.b = b, .out = at::zeros({5, 4}).t()}), std::invalid_argument);
    EXPECT_THROW(product(a, {.b = b, .out = at::zeros({4, 5}), .start = at::zeros({1, 5})}),
                 std::invalid_argument);
}

TEST(Product, HasTheSameBitsWithAnyNumberOfThreads) {
    if (!cpu::supports(cpu::InstructionSet::kAvx2)) GTEST_SKIP() << "BLAS promises no such thing";
    const at::Tensor a = random({300, 700}, 1), b = random({900, 700}, 2);
    const int before = at::get_num_threads();
    at::set_num_threads(1);
    const at::Tensor alone = product(a, b.t());
    for (const int threads : {2, 3, 7}) {
        at::set_num_threads(threads);
        EXPECT_TRUE(at::equal(product(a, b.t()), alone)) << threads;
    }
    at::set_num_threads(before);
}

}  // namespace
}  // namespace qlora::ops
