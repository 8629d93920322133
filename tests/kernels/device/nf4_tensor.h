#pragma once

#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "kernels/device/device.h"
#include "qlora/kernels/block_layout.h"
#include "qlora/kernels/kernels.h"

namespace qlora::kernels {

/// A tensor of random codes with scales of differing size, plain and as 8-bit codes, on the host and on the
/// device. The device's codes start `shift` bytes past an aligned place.
class Nf4Tensor {
  public:
    Nf4Tensor(int64_t n, int blocksize, uint32_t seed, std::size_t shift = 0)
        : n_(n), blocksize_(blocksize), shift_(shift) {
        std::mt19937 engine(seed);
        packed_.resize(static_cast<std::size_t>(packed_bytes(n)));
        for (uint8_t& byte : packed_) byte = static_cast<uint8_t>(engine());
        const int64_t blocks = block_count(n, blocksize);
        for (int64_t block = 0; block < blocks; ++block) {
            absmax_.push_back(std::ldexp(1.0f + static_cast<float>(engine() % 1000) / 1000,
                                         static_cast<int>(engine() % 12) - 6));
            codes_.push_back(static_cast<uint8_t>(engine()));
        }
        for (int64_t i = 0; i < nested_block_count(blocks); ++i) {
            nested_absmax_.push_back(0.01f + 0.003f * static_cast<float>(i));
        }
        to_device();
    }

    /// Replaces every scale.
    void set_scale(float scale) {
        for (float& value : absmax_) value = scale;
        to_device();
    }

    Nf4View host(bool nested) const {
        return {packed_.data(), view(absmax_.data(), codes_.data(), nested_absmax_.data(), nested), n_,
                blocksize_};
    }
    Nf4View on_device(bool nested) const {
        const Device& device = *device_;
        return {device.packed.data(),
                view(device.absmax.data(), device.codes.data(), device.nested_absmax.data(), nested), n_,
                blocksize_};
    }

  private:
    struct Device {
        Device(const std::vector<uint8_t>& packed_codes, const std::vector<float>& scales,
               const std::vector<uint8_t>& scale_codes, const std::vector<float>& nested_scales,
               std::size_t shift)
            : packed(packed_codes, Access::kInput, shift),
              absmax(scales),
              codes(scale_codes),
              nested_absmax(nested_scales) {}
        DeviceArray<uint8_t> packed;
        DeviceArray<float> absmax;
        DeviceArray<uint8_t> codes;
        DeviceArray<float> nested_absmax;
    };

    static AbsmaxView view(const float* values, const uint8_t* codes, const float* nested_absmax,
                           bool nested) {
        return nested ? AbsmaxView{nullptr, codes, nested_absmax, 0.031f}
                      : AbsmaxView{values, nullptr, nullptr, 0.0f};
    }
    void to_device() { device_ = std::make_unique<Device>(packed_, absmax_, codes_, nested_absmax_, shift_); }

    int64_t n_;
    int blocksize_;
    std::size_t shift_;
    std::vector<uint8_t> packed_, codes_;
    std::vector<float> absmax_, nested_absmax_;
    std::unique_ptr<Device> device_;
};

}  // namespace qlora::kernels
