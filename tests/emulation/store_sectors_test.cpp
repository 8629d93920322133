// That the lanes of a warp store side by side: memory is written in sectors of 32 bytes, and one that is
// filled by two stores is paid for twice.
#include "grid.h"
#include "kernels/device/device.h"
#include "kernels/device/nf4_tensor.h"
#include "kernels/test_values.h"
#include "qlora/kernels/cuda_layer.h"
#include "qlora/kernels/cuda_loss.h"

namespace qlora::kernels {
namespace {

constexpr int64_t kWarpValues = 32 * 16;

std::vector<uint8_t> zeros(int64_t values, FloatType type) {
    return std::vector<uint8_t>(static_cast<std::size_t>(values * float_bytes(type)), 0);
}

/// Fails unless body() stores `values` values by vectors, and every store of a warp fills its sectors.
template <class Body>
void expect_full_sectors(int64_t values, FloatType type, const Body& body) {
    const emulation::StoreSectors sectors;
    body();
    EXPECT_EQ(sectors.bytes(), values * float_bytes(type));
    EXPECT_EQ(sectors.touched() * emulation::kSectorBytes, sectors.bytes());
}

class StoreSectors : public testing::TestWithParam<FloatType> {};
INSTANTIATE_TEST_SUITE_P(Types, StoreSectors, testing::ValuesIn(kFloatTypes));

TEST_P(StoreSectors, OfDequantizedValuesAreFull) {
    const int64_t n = 3 * kWarpValues;
    const Nf4Tensor weight(n, 64, 1);
    const DeviceArray<uint8_t> out(zeros(n, GetParam()), Access::kOutput);
    expect_full_sectors(n, GetParam(), [&] {
        device::dequantize_blockwise_nf4(weight.on_device(true), 0, n, out.data(), GetParam(), nullptr);
    });
}

TEST_P(StoreSectors, OfDequantizedRowsWithAdaptersColumnsAreFull) {
    const int64_t rows = 32, columns = 64, appended = 16, n = rows * (columns + appended);
    const Nf4Tensor weight(rows * columns, 64, 2);
    const DeviceArray<float> behind(gaussian(rows * appended, 3));
    const DeviceArray<uint8_t> out(zeros(n, GetParam()), Access::kOutput);
    expect_full_sectors(n, GetParam(), [&] {
        device::dequantize_rows_nf4(
            {weight.on_device(true), columns, 0, rows, behind.data(), appended, out.data(), GetParam()},
            nullptr);
    });
}

TEST_P(StoreSectors, OfDropoutInPlaceAreFull) {
    const int64_t n = 2 * kWarpValues;
    const DeviceArray<uint8_t> x(encode_elements(gaussian(n, 4), GetParam()), Access::kOutput);
    expect_full_sectors(n, GetParam(), [&] {
        device::dropout({x.data(), n, 5, 6, 7, 0.5f, x.data(), GetParam()}, nullptr);
    });
}

TEST_P(StoreSectors, OfTheGradientOfLogitsAreFull) {
    const int64_t columns = 17 * kWarpValues;  // a turn of all warps, and one of the first
    const DeviceArray<uint8_t> logits(encode_elements(gaussian(columns, 5), GetParam()), Access::kOutput);
    const DeviceArray<int64_t> targets({11});
    const DeviceArray<double> losses({0.0}, Access::kOutput);
    expect_full_sectors(columns, GetParam(), [&] {
        device::softmax_cross_entropy({.logits = logits.data(),
                                       .targets = targets.data(),
                                       .rows = 1,
                                       .columns = columns,
                                       .losses = losses.data(),
                                       .type = GetParam()},
                                      nullptr);
    });
}

// What the tests above would say of lanes that store apart.
TEST(StoreSectorsThemselves, HalvesCountTwice) {
    const int64_t n = kWarpValues - 16;  // one lane has no whole group: the others store alone
    const Nf4Tensor weight(kWarpValues, 64, 1);
    const DeviceArray<uint8_t> out(zeros(n, FloatType::kBF16), Access::kOutput);
    const emulation::StoreSectors sectors;
    device::dequantize_blockwise_nf4(weight.on_device(true), 0, n, out.data(), FloatType::kBF16, nullptr);
    EXPECT_EQ(sectors.bytes(), 2 * n);
    EXPECT_EQ(sectors.touched() * emulation::kSectorBytes, 2 * sectors.bytes());
}

}  // namespace
}  // namespace qlora::kernels
