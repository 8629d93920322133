#include "launch.cuh"

#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

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

constexpr const char* kSignature =
    "void qlora::kernels::cuda::launch(const LaunchConfig&, Stream, Arguments ...) [with auto kKernel = "
    "qlora::kernels::cuda::{anonymous}::adamw_kernel<float>; Arguments = {int}]";

template <class Call>
std::string message_of(Call call) {
    try {
        call();
    } catch (const std::runtime_error& error) {
        return error.what();
    }
    return "";
}

class LaunchFaults : public testing::Test {
  protected:
    void TearDown() override { emulation::runtime_errors = {}; }
};

TEST_F(LaunchFaults, TheKernelIsNamedAsTheSourceNamesIt) {
    EXPECT_STREQ(launched_kernel(kSignature).text, "adamw_kernel");
    EXPECT_STREQ(launched_kernel("[kKernel = &a::(anonymous namespace)::rope_kernel<int>]").text,
                 "rope_kernel");
    EXPECT_STREQ(launched_kernel("[with auto kKernel = plain_kernel]").text, "plain_kernel");
    EXPECT_STREQ(launched_kernel("another signature").text, "another signature");
}

TEST_F(LaunchFaults, WithoutAFaultNothingIsSaid) {
    EXPECT_NO_THROW(require_no_earlier_fault(kSignature));
    EXPECT_NO_THROW(require_launched(kSignature, nullptr, true));
}

TEST_F(LaunchFaults, AnEarlierFaultIsNotThisKernels) {
    emulation::runtime_errors.last = cudaErrorIllegalAddress;
    const std::string before = message_of([] { require_no_earlier_fault(kSignature); });
    EXPECT_NE(before.find("before the kernel adamw_kernel failed: an illegal memory access"),
              std::string::npos)
        << before;
    EXPECT_NE(before.find("CUDA_LAUNCH_BLOCKING=1"), std::string::npos) << before;
    // It may come to light between the two questions.
    EXPECT_EQ(message_of([] { require_launched(kSignature, nullptr, false); }), before);
}

TEST_F(LaunchFaults, ALaunchThatIsRefusedIsThisKernels) {
    emulation::runtime_errors.last = cudaErrorInvalidConfiguration;
    EXPECT_EQ(message_of([] { require_launched(kSignature, nullptr, false); }),
              "CUDA refused to launch the kernel adamw_kernel: invalid configuration argument");
}

TEST_F(LaunchFaults, AKernelThatIsWaitedForIsNamed) {
    emulation::runtime_errors.of_running_work = cudaErrorIllegalAddress;
    EXPECT_NO_THROW(require_launched(kSignature, nullptr, false));
    EXPECT_EQ(message_of([] { require_launched(kSignature, nullptr, true); }),
              "the kernel adamw_kernel failed: an illegal memory access was encountered");
}

}  // namespace
}  // namespace qlora::kernels::emulated
