#pragma once

#include "qlora/kernels/codebook.h"

namespace qlora::kernels::cpu {

/// decode_nf4 of each code, aligned for the widest register.
struct Nf4Table {
    alignas(64) float value[kNf4Codes];
};
inline constexpr Nf4Table kNf4Table = [] {
    Nf4Table table{};
    for (int code = 0; code < kNf4Codes; ++code) table.value[code] = decode_nf4(code);
    return table;
}();

}  // namespace qlora::kernels::cpu
