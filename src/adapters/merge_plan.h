#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "merge_tensor.h"
#include "qlora/adapters/adapter_file.h"
#include "qlora/adapters/plan.h"
#include "qlora/io/checkpoint.h"
#include "qlora/models/base_loader.h"
#include "qlora/models/checkpoint_names.h"
#include "qlora/models/decoder_spec.h"
#include "weight_update.h"

namespace qlora::adapters {

/// One tensor of the merged model and where it comes from.
struct PlannedTensor {
    io::TensorSpec spec;
    TensorSource source;  ///< in the base, or in the adapter where it is replaced
    bool from_adapter = false;
    bool is_foreign = false;   ///< of another model in the same file: copied as it is
    bool quantizable = false;  ///< a matrix that training sees in NF4 where the base is quantized
    const PlannedUpdate* update = nullptr;                               ///< of an adapted layer
    const std::function<at::Tensor(const at::Tensor&)>* bias = nullptr;  ///< what becomes of a bias
};

/// One file of the merged model; tensors in the order they are written.
struct PlannedShard {
    std::string file;
    std::vector<PlannedTensor> tensors;
};

/// Base and adapter opened and checked against each other; nothing read yet but headers.
struct MergeInputs {
    explicit MergeInputs(const MergeRequest& request);
    MergeInputs(const MergeInputs&) = delete;  // its parts point at each other
    MergeInputs& operator=(const MergeInputs&) = delete;

    models::DecoderSpec config;
    io::Checkpoint base;
    models::CheckpointNames names;      ///< of `base`
    models::StoredQuantization stored;  ///< of a base stored in 4 bits
    AdapterFile adapter;
    Plan plan;
    std::optional<quant::QuantConfig> trained_on;
    // By the names of the base's parameters:
    std::map<std::string, const models::spec::Linear*> linears;      ///< all matrices
    std::map<std::string, const models::spec::Linear*> quantizable;  ///< those that training may see in NF4
    std::map<std::string, TensorSource> replacements;
    std::map<std::string, TensorSource> carried;  ///< in the place of the base's, before any update
    PlannedUpdates updates;
};

struct MergePlan {
    std::vector<PlannedShard> shards;
    bool untied = false;
};

MergePlan plan_merge(const MergeInputs& inputs, const MergeRequest& request);

}  // namespace qlora::adapters
