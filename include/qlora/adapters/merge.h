#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "qlora/core/field_types.h"
#include "qlora/models/folder_writer.h"
#include "qlora/quant/quant_config.h"

namespace qlora::adapters {

/// The weights an adapter is added to: those on disk, or the NF4 values it was trained on.
enum class MergeBase { kOriginal, kDequantized };
constexpr EnumTable<MergeBase, 2> enum_table(MergeBase) {
    return {{{"original", MergeBase::kOriginal}, {"dequantized", MergeBase::kDequantized}}};
}

/// Of the merged model's floating tensors; `kAuto` leaves each as it is in the base.
enum class MergeDtype { kAuto, kFloat32, kBfloat16, kFloat16 };
constexpr EnumTable<MergeDtype, 4> enum_table(MergeDtype) {
    return {{{"auto", MergeDtype::kAuto},
             {"float32", MergeDtype::kFloat32},
             {"bfloat16", MergeDtype::kBfloat16},
             {"float16", MergeDtype::kFloat16}}};
}

struct MergeRequest {
    std::filesystem::path model;
    std::filesystem::path adapter;
    std::filesystem::path output;  ///< must be new or empty
    MergeBase base = MergeBase::kOriginal;
    MergeDtype dtype = MergeDtype::kAuto;
    bool allow_other_base = false;
    models::CompanionFiles companions;     ///< besides config.json: tokenizer, generation_config.json
    std::function<bool()> stop_requested;  ///< asked before each tensor; may be empty
};

/// One adapted layer, in Frobenius norms: its update, and what NF4 takes from its original weight.
struct LayerMeasure {
    std::string path;
    double delta = 0;
    double quantization_error = 0;
    std::int64_t changed = 0;       ///< weights whose update is not zero
    std::int64_t rounded_back = 0;  ///< of these, how many got the base's bits again in the output dtype

    /// The update against the error; nothing where NF4 holds the weight exactly.
    std::optional<double> ratio() const;
};

struct MergeReport {
    std::filesystem::path output;
    std::vector<LayerMeasure> layers;
    std::vector<std::string> replaced;  ///< tensors taken whole from the adapter (biases, modules_to_save)
    bool untied = false;                ///< the output head has become a tensor of its own
    std::int64_t tensors = 0;           ///< written in all
    std::optional<quant::QuantConfig> trained_on;  ///< as the adapter's metadata says
    quant::QuantConfig measured_with;              ///< what `quantization_error` is the error of
};

/// Adds an adapter to its base and writes the sum as a model folder of the same layout: W + scaling * B A in
/// fp32, rounded once. Streams a few rows at a time, so that memory stays at about one tensor of the base.
/// The output appears whole or not at all. Throws ConfigError, CheckpointError, ResourceError,
/// Stopped.
MergeReport merge(const MergeRequest& request);

}  // namespace qlora::adapters
