#pragma once

#include "../method.h"

namespace qlora::adapters {

/// Small networks between the blocks of each layer and the residual stream (Houlsby et al. 2019), in
/// AdapterHub's files.
extern const Method kBottleneck;

}  // namespace qlora::adapters
