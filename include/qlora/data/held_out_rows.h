#pragma once

#include <cstdint>
#include <vector>

#include "qlora/data/sft_dataset.h"

namespace qlora::data {

/// Takes rows for evaluation out of training data: `part` of those that are kept, a share rounded up. Which
/// ones depends on `seed` and on their number alone. The statistics of `train` are then of the rows that are
/// left. Returns the rows' numbers (`Example::row`), rising, by which `load_dataset` reads them again, with
/// their texts. ConfigError when none would be left to train on.
std::vector<std::int64_t> hold_out(Dataset& train, const RowPart& part, std::uint64_t seed);

}  // namespace qlora::data
