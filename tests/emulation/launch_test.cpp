#include "launch.cuh"

#include <gtest/gtest.h>

namespace qlora::kernels::emulated {
namespace {

TEST(DeviceGridSize, CountsBlocksRoundedUp) {
    EXPECT_EQ(grid_size(1, 256), 1u);
    EXPECT_EQ(grid_size(256, 256), 1u);
    EXPECT_EQ(grid_size(257, 256), 2u);
    EXPECT_EQ(grid_size(int64_t{0x7fffffff} * 8, 8), 0x7fffffffu);
}

TEST(DeviceGridSize, RefusesMoreBlocksThanAGridHas) {
    EXPECT_THROW(grid_size(int64_t{0x7fffffff} * 8 + 1, 8), std::invalid_argument);
}

}  // namespace
}  // namespace qlora::kernels::emulated
