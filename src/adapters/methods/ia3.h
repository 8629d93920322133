#pragma once

#include "../method.h"

namespace qlora::adapters {

/// Factors on outputs of linears, or on inputs of feedforward ones (Liu et al. 2022), and whole modules.
extern const Method kIa3;

}  // namespace qlora::adapters
