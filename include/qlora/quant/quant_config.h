#pragma once

#include <cstdint>

#include "qlora/core/fields.h"

namespace qlora::quant {

enum class QuantType { kNf4 };
constexpr EnumTable<QuantType, 1> enum_table(QuantType) {
    return {{{"nf4", QuantType::kNf4}}};
}

/// The dtype products are computed in; `kAuto` is float32 on the CPU, bfloat16 on a GPU
/// (float16 on one below compute capability 8.0).
enum class ComputeDtype { kAuto, kFloat32, kBfloat16, kFloat16 };
constexpr EnumTable<ComputeDtype, 4> enum_table(ComputeDtype) {
    return {{{"auto", ComputeDtype::kAuto},
             {"float32", ComputeDtype::kFloat32},
             {"bfloat16", ComputeDtype::kBfloat16},
             {"float16", ComputeDtype::kFloat16}}};
}

/// The `quantization` section, named as in transformers' BitsAndBytesConfig.
struct QuantConfig {
    bool load_in_4bit = true;
    QuantType bnb_4bit_quant_type = QuantType::kNf4;
    bool bnb_4bit_use_double_quant = true;
    ComputeDtype bnb_4bit_compute_dtype = ComputeDtype::kAuto;
    std::int64_t bnb_4bit_blocksize = 64;

    bool operator==(const QuantConfig&) const = default;

    template <class Self, class Visitor>
    static void fields(Self& self, Visitor& visit) {
        visit("load_in_4bit", self.load_in_4bit, {},
              "quantize the linear layers while loading; false: weights stay as on disk (plain LoRA)");
        visit("bnb_4bit_quant_type", self.bnb_4bit_quant_type, {},
              "code of the 4-bit values (transformers' own default is fp4)");
        visit("bnb_4bit_use_double_quant", self.bnb_4bit_use_double_quant, {},
              "quantize the block scales too: 4.13 instead of 4.5 bits a weight");
        visit("bnb_4bit_compute_dtype", self.bnb_4bit_compute_dtype, {},
              "dtype of products; auto: float32 on the CPU, bfloat16 on a GPU, float16 on one below compute "
              "capability 8.0");
        visit("bnb_4bit_blocksize", self.bnb_4bit_blocksize, {.min = 32, .max = 4096, .power_of_two = true},
              "weights that share one scale; not a setting of transformers, where it is 64");
    }
};

}  // namespace qlora::quant
