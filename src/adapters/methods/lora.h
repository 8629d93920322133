#pragma once

#include <map>
#include <string>

#include "../method.h"

namespace qlora::adapters {

/// Low-rank updates of linears and of experts' parameters (Hu et al. 2021), and whole modules and biases of
/// the base besides.
extern const Method kLora;

/// The tensors of each adapted module or parameter by their names.
using LoraTensors = std::map<std::string, std::map<std::string, at::Tensor>>;

/// Parts of kLora that have a file of their own.
Plan plan_lora(const PeftConfig& config, const models::DecoderSpec& decoder);
/// Sets the adapters of embedding and head; `out` gets their tensors.
void attach_tables(models::CausalLM& model, const Plan& plan, const InjectOptions& options, LoraTensors& out);
/// Whether `attach_tables` gives both one pair of matrices, those of the embedding.
bool shares_tables(const Plan& plan, const InjectOptions& options);
/// What trains, where that is so.
std::unique_ptr<Adapter> shared_tables_adapter(const Plan& plan, std::vector<nn::Parameter> parameters);
PlannedUpdates merge_lora(const Plan& plan, const models::DecoderSpec& decoder, const AdapterFile& file);
PeftConfig finished_lora(Json json, const AdapterFile& file, const models::DecoderSpec& decoder);

}  // namespace qlora::adapters
