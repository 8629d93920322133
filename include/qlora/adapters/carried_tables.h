#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "qlora/adapters/adapter_file.h"
#include "qlora/adapters/plan.h"
#include "qlora/io/checkpoint.h"
#include "qlora/models/causal_lm.h"

/// Weights of embedding and head that an adapter's file holds besides what was trained: PEFT's
/// save_pretrained writes them where target_modules names one of them, and where the vocabulary was resized.
namespace qlora::adapters {

struct CarriedTable {
    std::string parameter;  ///< "model.embed_tokens.weight"; of a tied pair the embedding's
    const io::TensorView* view = nullptr;
    io::DType dtype = io::DType::kF32;  ///< of the base's
};

/// Those that differ from the base's by more than a rounding to either dtype, so that they take its place; a
/// log line tells of the others. `file` was checked by check_adapter_tensors. CheckpointError where it holds
/// two values of one tensor.
std::vector<CarriedTable> changed_tables(const AdapterFile& file, const Plan& plan,
                                         const io::Checkpoint& base, const models::DecoderSpec& decoder);

/// Puts them into a model that `base` was loaded into. CheckpointError where it is to be trained: the new
/// adapter's file would not hold them.
void take_carried_tables(const std::filesystem::path& adapter, const Plan& plan, const io::Checkpoint& base,
                         models::CausalLM& model, bool is_finished);

}  // namespace qlora::adapters
