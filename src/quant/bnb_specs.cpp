#include "qlora/quant/bnb_specs.h"

#include <array>
#include <charconv>
#include <cmath>

#include "qlora/io/shape_text.h"
#include "qlora/kernels/block_layout.h"
#include "qlora/kernels/codebook.h"
#include "qlora/quant/bnb_matrix.h"

namespace qlora::quant {
namespace {

/// The shortest digits that read back the same, laid out as Python writes a float.
std::string number_text(double value) {
    const double size = std::abs(value);
    const bool fixed = value == 0 || (size >= 1e-4 && size < 1e16);
    std::array<char, 32> buffer;
    const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                   fixed ? std::chars_format::fixed : std::chars_format::scientific);
    std::string out(buffer.data(), end.ptr);
    if (fixed && out.find('.') == std::string::npos) out += ".0";
    return out;
}

}  // namespace

std::string bnb_state_text(std::int64_t rows, std::int64_t columns, const QuantConfig& config,
                           float nested_offset) {
    // Separators as Python's json module writes them.
    std::string out = R"({"quant_type": "nf4", "blocksize": )" + std::to_string(config.bnb_4bit_blocksize) +
                      R"(, "dtype": ")" + compute_dtype_name(config.bnb_4bit_compute_dtype) +
                      R"(", "shape": )" + io::shape_text({rows, columns});
    if (config.bnb_4bit_use_double_quant) {
        out += R"(, "nested_blocksize": )" + std::to_string(kernels::kNestedBlocksize) +
               R"(, "nested_dtype": "float32", "nested_offset": )" +
               number_text(static_cast<double>(nested_offset));
    }
    return out + "}";
}

std::vector<io::TensorSpec> bnb_specs(const std::string& weight, std::int64_t rows, std::int64_t columns,
                                      const QuantConfig& config, const std::string& state_text) {
    const bool nested = config.bnb_4bit_use_double_quant;
    const std::int64_t n = rows * columns;
    const std::int64_t blocks = kernels::block_count(n, config.bnb_4bit_blocksize);
    std::vector<io::TensorSpec> out = {
        {weight, io::DType::kU8, {kernels::packed_bytes(n), 1}},
        {weight + kBnbAbsmax, nested ? io::DType::kU8 : io::DType::kF32, {blocks}},
        {weight + kBnbMap, io::DType::kF32, {kernels::kNf4Codes}},
        {weight + kBnbState, io::DType::kU8, {static_cast<std::int64_t>(state_text.size())}}};
    if (nested) {
        out.push_back({weight + kBnbNestedAbsmax, io::DType::kF32, {kernels::nested_block_count(blocks)}});
        out.push_back({weight + kBnbNestedMap, io::DType::kF32, {256}});
    }
    return out;
}

}  // namespace qlora::quant
