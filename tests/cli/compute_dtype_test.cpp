#include "cli/compute_dtype.h"

#include <gtest/gtest.h>

#include "qlora/core/error.h"

namespace qlora::cli {
namespace {

using quant::ComputeDtype;

constexpr Gpu kCpu = std::nullopt;
constexpr Gpu kTuring = ops::ComputeCapability{7, 5};
constexpr Gpu kAmpere = ops::ComputeCapability{8, 0};
constexpr Gpu kHopper = ops::ComputeCapability{9, 0};

at::ScalarType computed(ComputeDtype dtype, const Gpu& gpu) {
    return compute_dtype({.bnb_4bit_compute_dtype = dtype}, gpu);
}

std::string refusal(ComputeDtype dtype, const Gpu& gpu) {
    try {
        resolve_compute_dtype(dtype, gpu);
    } catch (const ConfigError& error) {
        return error.what();
    }
    return {};
}

TEST(ComputeDtype, auto_is_what_the_device_has) {
    EXPECT_EQ(resolve_compute_dtype(ComputeDtype::kAuto, kCpu), ComputeDtype::kFloat32);
    EXPECT_EQ(resolve_compute_dtype(ComputeDtype::kAuto, kTuring), ComputeDtype::kFloat16);
    EXPECT_EQ(resolve_compute_dtype(ComputeDtype::kAuto, kAmpere), ComputeDtype::kBfloat16);
    EXPECT_EQ(resolve_compute_dtype(ComputeDtype::kAuto, kHopper), ComputeDtype::kBfloat16);
    for (const ComputeDtype asked : {ComputeDtype::kFloat32, ComputeDtype::kFloat16}) {
        EXPECT_EQ(resolve_compute_dtype(asked, kTuring), asked);
    }
    for (const Gpu& gpu : {kCpu, kAmpere}) {
        EXPECT_EQ(resolve_compute_dtype(ComputeDtype::kBfloat16, gpu), ComputeDtype::kBfloat16);
    }
}

TEST(ComputeDtype, one_that_the_device_has_not_is_refused_by_name) {
    const std::string old = refusal(ComputeDtype::kBfloat16, kTuring);
    EXPECT_EQ(old.find("quantization.bnb_4bit_compute_dtype: bfloat16"), 0U) << old;
    EXPECT_NE(old.find("7.5"), std::string::npos) << old;
    EXPECT_NE(old.find("\"float16\""), std::string::npos) << old;
    EXPECT_NE(refusal(ComputeDtype::kFloat16, kCpu).find("float16"), std::string::npos);
}

TEST(ComputeDtype, an_adapter_from_another_machine_is_evaluated_in_float32) {
    EXPECT_EQ(computed(ComputeDtype::kFloat16, kCpu), at::kFloat);
    EXPECT_EQ(computed(ComputeDtype::kBfloat16, kTuring), at::kFloat);
    EXPECT_EQ(computed(ComputeDtype::kAuto, kTuring), at::kHalf);
    EXPECT_EQ(computed(ComputeDtype::kFloat16, kAmpere), at::kHalf);
    EXPECT_EQ(computed(ComputeDtype::kBfloat16, kCpu), at::kBFloat16);
    EXPECT_EQ(computed(ComputeDtype::kAuto, kCpu), at::kFloat);
}

}  // namespace
}  // namespace qlora::cli
