#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "qlora/adapters/plan.h"

// What of a base itself may train, as tensors of a plan.
namespace qlora::adapters {

inline constexpr const char* kBias = "bias";

/// `suffix`: of its key, which differs where PEFT wraps the module.
TrainedTensor base_bias(const std::string& module, std::int64_t size, const char* suffix = kBias);

/// Weights and biases of the modules that train whole, in the order of the optimizer.
void add_whole_modules(std::vector<TrainedTensor>& out, const std::set<std::string>& modules,
                       const models::DecoderSpec& decoder);

/// Counts what is kept where the outputs of these linears are scaled.
void add_kept_products(Plan& plan, const std::set<std::string>& scaled, const models::DecoderSpec& decoder);

}  // namespace qlora::adapters
