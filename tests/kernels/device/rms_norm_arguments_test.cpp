#include <stdexcept>

#include "kernels/device/norm_case.h"

namespace qlora::kernels {
namespace {

TEST(DeviceRmsNormArguments, ImpossibleOnesThrow) {
    alignas(16) uint8_t bytes[64] = {};
    float* const floats = reinterpret_cast<float*>(bytes);
    float* const misaligned = reinterpret_cast<float*>(bytes + 2);
    const RmsNormParams good{bytes, bytes, bytes, floats, kNormEps, 0, 4, bytes, 4, floats, FloatType::kF32};
    EXPECT_NO_THROW(device::rms_norm(good, nullptr));
    const auto refused = [&](auto change) {
        RmsNormParams params = good;
        change(params);
        EXPECT_THROW(device::rms_norm(params, nullptr), std::invalid_argument);
    };
    refused([](RmsNormParams& params) { params.rows = -1; });
    refused([](RmsNormParams& params) { params.size = 0; });
    refused([](RmsNormParams& params) { params.eps = -1e-9; });
    refused([](RmsNormParams& params) { params.eps = kNan; });
    refused([](RmsNormParams& params) { params.eps = kInfinity; });
    refused([](RmsNormParams& params) { params.sum = nullptr; });
    refused([](RmsNormParams& params) { params.residual = nullptr; });
    refused([](RmsNormParams& params) { params.y_stride = 3; });
    refused([&](RmsNormParams& params) { params.x = bytes + 2; });
    refused([&](RmsNormParams& params) { params.residual = bytes + 2; });
    refused([&](RmsNormParams& params) { params.sum = bytes + 2; });
    refused([&](RmsNormParams& params) { params.y = bytes + 2; });
    refused([&](RmsNormParams& params) { params.added = bytes + 2; });
    refused([](RmsNormParams& params) { params.kind = NormKind::kLayer; });
    refused([&](RmsNormParams& params) { params.weight = misaligned; });
    refused([&](RmsNormParams& params) { params.inverse = misaligned; });
    refused([](RmsNormParams& params) { params.rows = int64_t{1} << 34; });
    refused([](RmsNormParams& params) {
        params.rows = 1;
        params.type = static_cast<FloatType>(9);
    });
    RmsNormParams exact = good;
    exact.eps = 0.0;
    EXPECT_NO_THROW(device::rms_norm(exact, nullptr));
}

TEST(DeviceRmsNormArguments, ImpossibleOnesOfTheSecondTimeThrow) {
    alignas(16) uint8_t bytes[64] = {};
    float* const floats = reinterpret_cast<float*>(bytes);
    float* const misaligned = reinterpret_cast<float*>(bytes + 2);
    const RmsNormRecomputeParams good{bytes, floats, floats, 0, 4, bytes, 4, FloatType::kF32};
    EXPECT_NO_THROW(device::rms_norm_recompute(good, nullptr));
    const auto refused = [&](auto change) {
        RmsNormRecomputeParams params = good;
        change(params);
        EXPECT_THROW(device::rms_norm_recompute(params, nullptr), std::invalid_argument);
    };
    refused([](RmsNormRecomputeParams& params) { params.kind = NormKind::kLayer; });
    refused([](RmsNormRecomputeParams& params) { params.rows = -1; });
    refused([](RmsNormRecomputeParams& params) { params.size = 0; });
    refused([](RmsNormRecomputeParams& params) { params.y_stride = 3; });
    refused([&](RmsNormRecomputeParams& params) { params.x = bytes + 2; });
    refused([&](RmsNormRecomputeParams& params) { params.y = bytes + 2; });
    refused([&](RmsNormRecomputeParams& params) { params.weight = misaligned; });
    refused([&](RmsNormRecomputeParams& params) { params.inverse = misaligned; });
    refused([](RmsNormRecomputeParams& params) { params.rows = int64_t{1} << 31; });
}

}  // namespace
}  // namespace qlora::kernels
