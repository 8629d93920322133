#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "qlora/ops/activation.h"
#include "qlora/ops/mlp_node.h"
#include "qlora/ops/norm.h"
#include "qlora/ops/projection.h"
#include "qlora/ops/routing.h"

namespace qlora::ops {

/// The two products of an MLP.
struct MlpProjections {
    Projections entry, output;
};

/// Adapters of one product of all experts in PEFT's layout: A [E * r, in], the rows of expert e one after the
/// other; B [out, r * E], column i * E + e belonging to rank i of expert e.
struct ExpertAdapters {
    at::Tensor a, b;  ///< both undefined: none
};

/// An MLP that every token goes through besides: sigmoid(gate(x)) * mlp(x).
struct SharedExpert {
    Projections gate;  ///< [T, 1]
    MlpProjections mlp;
};

/// A layer's experts and what chooses among them. Everything that projections point to must outlive backward.
struct Experts {
    std::int64_t count = 0;
    Projections router;  ///< logits [T, count]
    RoutingRule routing;
    ActivationRule activation;
    /// Of one expert; asked once in forward and once in backward, for experts that have rows alone. Adapters
    /// in its parts are parts of those below.
    std::function<MlpProjections(std::int64_t)> expert;
    ExpertAdapters entry, output;
    std::optional<SharedExpert> shared;
    std::shared_ptr<RouterBalance> balance;  ///< counts what is chosen; may be null

    std::vector<at::Tensor> parameters() const;
};

/// What backward finds.
enum class ExpertsMemory {
    kInput,  ///< `hidden` alone; routing and the entries' products are made again
    kInner   ///< also routing and the entries' products [T * chosen, entry's columns]
};

/// hidden + sum over a token's experts of weight * expert(x) + shared(x), x = norm(hidden), hidden [T, d], as
/// one autograd node. The rows of an expert are gathered, so that each of its matrices is made dense once in
/// forward and once in backward. Every `memory` gives the same bits.
at::Tensor experts_residual(const at::Tensor& hidden, const Norm& norm, Experts experts, ExpertsMemory memory,
                            NodeOutput output = NodeOutput::kUsed);

}  // namespace qlora::ops
