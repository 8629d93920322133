#pragma once

#include <cstdint>
#include <vector>

#include "qlora/nn/linear.h"

/// What the forms of a group ask of its linears.
namespace qlora::nn {

std::int64_t rows_of(const std::vector<Linear*>& linears);
bool trains_a_weight(const std::vector<Linear*>& linears);
/// Changes of what adapters add to weights, as counted by the tensors themselves; empty without adapters.
std::vector<std::int64_t> adapter_versions(const std::vector<Linear*>& linears);

}  // namespace qlora::nn
