#pragma once

#include "kernels/device/device.h"
#include "kernels/elementwise_rows.h"

namespace qlora::kernels {

using cpu::bits_of;
using cpu::kInfinity;
using cpu::kNan;
using cpu::kRounding;
using cpu::part;
using cpu::wild_values;

struct RowsLayout {
    int64_t rows, size;
    FloatType type = FloatType::kF32;
    int shift = 0;    ///< elements past an aligned place
    int64_t gap = 0;  ///< elements between the end of a row and the next one

    int64_t stride() const { return size + gap; }
};

/// A tensor [rows, size] on the device. What lies between its rows must stay as it was.
class DeviceRows {
  public:
    DeviceRows(const RowsLayout& layout, const std::vector<float>& values, Access access = Access::kInput)
        : layout_(layout),
          memory_(spread(layout, values), access,
                  static_cast<std::size_t>(layout.shift * float_bytes(layout.type))) {}
    /// To be written.
    explicit DeviceRows(const RowsLayout& layout)
        : DeviceRows(layout, std::vector<float>(static_cast<std::size_t>(layout.rows * layout.size), -7.0f),
                     Access::kOutput) {}

    void* data() const { return memory_.data(); }

    std::vector<float> download() const {
        const std::vector<uint8_t> bytes = memory_.download();
        std::vector<float> values;
        for (int64_t row = 0; row < layout_.rows; ++row) {
            for (int64_t i = 0; i < layout_.stride(); ++i) {
                const float value = element(bytes, layout_.type, row * layout_.stride() + i);
                if (i < layout_.size) {
                    values.push_back(value);
                } else {
                    EXPECT_EQ(value, kGap) << "written behind row " << row;
                }
            }
        }
        return values;
    }

  private:
    static constexpr float kGap = 1216.0f;  // every type holds it

    static std::vector<uint8_t> spread(const RowsLayout& layout, const std::vector<float>& values) {
        std::vector<float> all;
        for (int64_t row = 0; row < layout.rows; ++row) {
            for (int64_t i = 0; i < layout.stride(); ++i) {
                all.push_back(i < layout.size ? values[static_cast<std::size_t>(row * layout.size + i)]
                                              : kGap);
            }
        }
        return encode_elements(all, layout.type);
    }

    RowsLayout layout_;
    DeviceArray<uint8_t> memory_;
};

/// Random values as `type` holds them.
inline std::vector<float> gaussian_of(FloatType type, int64_t n, uint32_t seed, float deviation = 1.0f) {
    return round_elements(gaussian(n, seed, deviation), type);
}

/// Sizes around the pieces of eight values, vectors and warps.
inline const std::vector<int64_t> kPieceSizes = {1,  2,  7,  8,  9,   12,  15,  16,  17,   31,   32,
                                                 33, 63, 64, 65, 255, 256, 257, 576, 1000, 1536, 4097};

/// Vector accesses while body() runs, where they are counted.
template <class Body>
int64_t vector_accesses_of(const Body& body) {
    const int64_t before = device_vector_accesses();
    body();
    return device_vector_accesses() - before;
}

}  // namespace qlora::kernels
