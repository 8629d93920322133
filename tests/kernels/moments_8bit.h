#pragma once

#include <vector>

#include "kernels/test_values.h"
#include "qlora/kernels/adamw_8bit_math.h"
#include "qlora/kernels/block_layout.h"
#include "qlora/kernels/kernels.h"

namespace qlora::kernels {

/// A trained tensor with 8-bit moments, at first of zero.
struct Moments8bit {
    explicit Moments8bit(int64_t n)
        : p(gaussian(n, 1, 0.02f)),
          m_codes(p.size()),
          v_codes(p.size()),
          m_absmax(static_cast<std::size_t>(block_count(n, kAdamwBlocksize))),
          v_absmax(m_absmax.size()) {}

    Adamw8bitParams params(const std::vector<float>& g) {
        return {p.data(),
                g.data(),
                m_codes.data(),
                v_codes.data(),
                m_absmax.data(),
                v_absmax.data(),
                static_cast<int64_t>(p.size())};
    }
    void step(const std::vector<float>& g, const AdamwSettings& settings) {
        cpu::adamw_8bit_step(params(g), settings);
    }
    bool operator==(const Moments8bit&) const = default;

    std::vector<float> p;
    std::vector<uint8_t> m_codes, v_codes;
    std::vector<float> m_absmax, v_absmax;
};

}  // namespace qlora::kernels
