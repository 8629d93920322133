#include "qlora/kernels/fixed_order_sum.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/test_values.h"
#include "qlora/kernels/kernels.h"

namespace qlora::kernels {
namespace {

/// The documented order, written as a recursion over the tree of lanes.
double tree(const std::vector<double>& terms, size_t lane, size_t width) {
    if (width == 256) {
        double sum = 0;
        for (size_t i = lane; i < terms.size(); i += 256) sum += terms[i];
        return sum;
    }
    return tree(terms, lane, 2 * width) + tree(terms, lane + width, 2 * width);
}

TEST(FixedOrderSum, FollowsTheDocumentedOrder) {
    for (size_t n : {0u, 1u, 100u, 255u, 256u, 257u, 4000u, 10007u}) {
        std::vector<double> terms;
        for (size_t i = 0; i < n; ++i) terms.push_back(1.0 / (static_cast<double>(i) + 1.0));
        const double sum = fixed_order_sum(static_cast<int64_t>(n),
                                           [&](int64_t i) { return terms[static_cast<size_t>(i)]; });
        EXPECT_EQ(sum, tree(terms, 0, 1)) << n;
    }
}

TEST(SumOfSquares, IsTheSumAndFiniteExactlyWhenEveryValueIs) {
    std::vector<float> values = gaussian(3001, 9);
    long double exact = 0;
    for (float value : values) exact += static_cast<long double>(value) * value;
    EXPECT_NEAR(cpu::sum_of_squares(values.data(), 3001), static_cast<double>(exact), 1e-10);
    values[17] = -3.4028235e38f;
    values[18] = 3.4028235e38f;
    EXPECT_TRUE(std::isfinite(cpu::sum_of_squares(values.data(), 3001)));
    for (float bad : {INFINITY, -INFINITY, NAN}) {
        for (size_t place : {size_t{0}, size_t{1500}, size_t{3000}}) {
            std::vector<float> broken = values;
            broken[place] = bad;
            EXPECT_FALSE(std::isfinite(cpu::sum_of_squares(broken.data(), 3001)));
        }
    }
    EXPECT_EQ(cpu::sum_of_squares(nullptr, 0), 0.0);
}

}  // namespace
}  // namespace qlora::kernels
