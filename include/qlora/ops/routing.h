#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

/// Which experts a token goes to. T tokens, E experts, each token chooses `chosen` of them.
namespace qlora::ops {

/// Softmax over the logits of all experts, then the largest.
struct RoutingRule {
    std::int64_t chosen = 1;
    bool renormalises = false;  ///< the chosen probabilities are divided by their sum
    bool rounds = true;         ///< then rounded to the logits' dtype
};

struct Routing {
    at::Tensor probabilities;  ///< fp32 [T, E]
    at::Tensor experts;        ///< int64 [T, chosen], the most likely first; equal ones in torch.topk's order
    at::Tensor weights;        ///< [T, chosen]: what the experts' results are multiplied with
};
Routing route(const at::Tensor& logits, const RoutingRule& rule);

/// Gradient of the logits, fp32 [T, E], for those of the weights [T, chosen]. `of_probabilities`, fp32 [E] or
/// undefined, is one that reaches the probabilities of every token directly.
at::Tensor route_backward(const at::Tensor& of_weights, const Routing& routing, const RoutingRule& rule,
                          const at::Tensor& of_probabilities = {});

/// The choices of all tokens, sorted by expert, those of one expert in the order of the tokens.
struct ExpertRows {
    at::Tensor tokens;                ///< int64 [T * chosen]: whose row it is
    at::Tensor choices;               ///< int64 [T * chosen]: token * chosen + place among its experts
    at::Tensor places;                ///< int64 [T, chosen]: the row of each choice
    std::vector<std::int64_t> begin;  ///< [E + 1]: rows of expert e are begin[e] .. begin[e + 1]
};
ExpertRows rows_by_expert(const at::Tensor& experts, std::int64_t count);

/// [T, columns] of rows [T * chosen, columns]: the sum of each token's rows in the order in which it chose,
/// each times its weight where `weights` [T, chosen] is defined, in fp32 and rounded once. A weighted row is
/// rounded to the wider of the two dtypes first.
at::Tensor sum_of_choices(const at::Tensor& rows, const ExpertRows& by_expert,
                          const at::Tensor& weights = {});

/// How even routing is, over all layers of a pass (Fedus et al. 2021, equations 4 to 6, with transformers'
/// factors): E * sum over experts of (choices of it / rows) * (its mean probability), where a row is one
/// token in one layer. 1 * chosen when each expert is chosen alike. Its gradient treats the choices as
/// given.
class RouterBalance {
  public:
    /// A layer's routing, in forward.
    void add(const Routing& routing);
    /// fp32 scalar; undefined when nothing was added.
    at::Tensor loss() const;
    /// Before backward: what the loss's gradient is multiplied with.
    void set_scale(double scale);
    /// Of the probabilities of each row, fp32 [E]; undefined before `set_scale`.
    const at::Tensor& probability_gradient() const { return probability_gradient_; }

  private:
    at::Tensor choices_, probabilities_;  ///< sums over rows, fp32 [E]
    std::int64_t rows_ = 0;
    at::Tensor probability_gradient_;
};

}  // namespace qlora::ops
