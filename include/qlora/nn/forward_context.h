#pragma once

#include <cstdint>
#include <memory>

#include "qlora/core/field_types.h"

namespace qlora::ops {
class RouterBalance;
}

namespace qlora::nn {

/// What backward makes again instead of keeping it; each level includes the one before. The numbers are the
/// same bits on every level.
enum class Recomputation {
    kNone,   ///< norms and activation functions alone, which cost no product
    kMlp,    ///< also the MLP's inner values, by one more product with gate and up
    kLayers  ///< whole decoder layers but for their last product: only their inputs are kept
};
constexpr EnumTable<Recomputation, 3> enum_table(Recomputation) {
    return {
        {{"none", Recomputation::kNone}, {"mlp", Recomputation::kMlp}, {"layers", Recomputation::kLayers}}};
}

/// What a forward pass needs to know beside its input.
struct ForwardContext {
    bool training = false;  ///< dropout on
    Recomputation recomputation = Recomputation::kNone;
    std::uint64_t seed = 0;        ///< of the run, for dropout
    std::uint32_t micro_step = 0;  ///< micro-batch since the start of the run, for dropout
    /// Counts what routers choose, for a loss that wants them even; null: nothing does.
    std::shared_ptr<ops::RouterBalance> router_balance = nullptr;
};

}  // namespace qlora::nn
