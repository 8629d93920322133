#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "qlora/core/error.h"
#include "qlora/io/checkpoint.h"
#include "qlora/quant/bnb_config.h"

/// The tensors in which bitsandbytes keeps a 4-bit matrix (its `Linear4bit` and `QuantState.as_dict`): the
/// packed codes under the weight's own name, its scales and code-books beside it, and a JSON text with the
/// rest.
namespace qlora::quant {

/// A matrix in those tensors, checked against each other; it points into the checkpoint.
struct BnbMatrix {
    std::int64_t rows = 0;
    std::int64_t columns = 0;
    std::int64_t blocksize = 0;
    io::DType dtype = io::DType::kF32;              ///< what bitsandbytes' dequantize returns
    const io::TensorView* codes = nullptr;          ///< packed_bytes(rows * columns) bytes of any dtype
    const io::TensorView* absmax = nullptr;         ///< F32 [blocks]; U8 with double quantization
    const io::TensorView* nested_absmax = nullptr;  ///< F32 [nested blocks], with double quantization
    const io::TensorView* nested_map = nullptr;     ///< F32 [256], with double quantization
    float nested_offset = 0.0F;

    bool double_quantized() const { return nested_absmax != nullptr; }
};

/// Names of the tensors that may stand beside the weight (not the weight's own).
std::vector<std::string> bnb_state_names(const std::string& weight);

/// Reads one matrix of [rows, columns]. Whatever is missing, misshapen, of another dtype, code or blocksize
/// rule, or contradicts `config` is a fault by its tensor's name; nothing is returned then.
std::optional<BnbMatrix> read_bnb_matrix(const io::Checkpoint& checkpoint, const std::string& weight,
                                         std::int64_t rows, std::int64_t columns, const BnbConfig& config,
                                         FaultList& faults);

// Suffixes of the names.
inline constexpr const char* kBnbAbsmax = ".absmax";
inline constexpr const char* kBnbMap = ".quant_map";
inline constexpr const char* kBnbNestedAbsmax = ".nested_absmax";
inline constexpr const char* kBnbNestedMap = ".nested_quant_map";
inline constexpr const char* kBnbState = ".quant_state.bitsandbytes__nf4";

}  // namespace qlora::quant
