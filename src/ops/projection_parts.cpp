#include "projection_parts.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "column_scale.h"

namespace qlora::ops {

at::Tensor stored_product(const Projections& projections, const at::Tensor& x) {
    if (!projections.from_storage || x.size(0) > kFewRows) return {};
    std::vector<at::Tensor> products;
    for (const Projection& part : projections.parts) {
        if (part.trained_weight.defined()) return {};
        products.push_back(part.weight->multiply_few(x));
        if (!products.back().defined()) return {};
    }
    return products.size() == 1 ? products.front() : at::cat(products, 1);
}

Projections with_weights_made(Projections projections) {
    if (auto* stacked = std::get_if<Stacked>(&projections.weights)) {
        stacked->matrix = [made = stacked->matrix()] { return made; };
    }
    return projections;
}

bool is_folded(const Projections& projections) {
    const auto* stacked = std::get_if<Stacked>(&projections.weights);
    return stacked != nullptr && stacked->folded;
}

at::Tensor matrix_of(const Projections& projections, const Projection& part, std::int64_t first) {
    if (const auto* stacked = std::get_if<Stacked>(&projections.weights))
        return stacked->matrix().narrow(0, first, part.out_features());
    return part.trained_weight.defined() ? part.trained_weight.detach() : part.weight->dense();
}

bool drops_base(const Projections& projections) {
    const auto drops = [](const Projection& part) { return part.update.drops_base(); };
    if (std::none_of(projections.parts.begin(), projections.parts.end(), drops)) return false;
    for (const Projection& part : projections.parts) {
        TORCH_CHECK(drops(part) || (!part.update.low_rank && !part.update.output_scale),
                    "linears of one input drop their input alike");
    }
    return true;
}

at::Tensor scaled_input(const Projections& projections, const at::Tensor& x) {
    const LinearUpdate& update = projections.parts.front().update;
    if (!update.input_scale.defined()) return x;
    TORCH_CHECK(projections.parts.size() == 1 && !update.low_rank,
                "a scale of the input belongs to a linear that has it alone");
    return scale_columns(x, update.input_scale.detach());
}

at::Tensor output_factors(const Projections& projections) {
    std::vector<at::Tensor> factors;
    at::TensorOptions options;
    for (const Projection& part : projections.parts) {
        if (part.update.output_scale) options = part.update.output_scale->value.options();
    }
    for (const Projection& part : projections.parts) {
        factors.push_back(part.update.output_scale ? part.update.output_scale->factor()
                                                   : at::ones({part.out_features()}, options));
    }
    return factors.size() == 1 ? factors.front() : at::cat(factors, 0);
}

at::Tensor joint_biases(const Projections& projections, const std::function<bool(const Projection&)>& which) {
    at::Tensor out;
    for_each_part(projections, [&](const Projection& part, std::int64_t first, std::int64_t columns) {
        if (!part.bias.defined() || !which(part)) return;
        if (!out.defined())
            out = at::zeros({projections.out_features()}, part.bias.options().dtype(at::kFloat));
        out.narrow(0, first, columns).copy_(part.bias.detach());
    });
    return out;
}

bool scales_bias(const Projection& part) {
    return part.update.output_scale && part.update.output_scale->scales_bias();
}

at::Tensor constant_of(const Projections& projections) {
    at::Tensor out = joint_biases(projections, [](const Projection&) { return true; });
    for_each_part(projections, [&](const Projection& part, std::int64_t first, std::int64_t columns) {
        const LinearUpdate& update = part.update;
        const bool has_bias = update.low_rank && update.low_rank->bias.defined();
        if (!has_bias && !scales_bias(part)) return;
        if (!out.defined()) {
            if (!has_bias) return;
            out = at::zeros({projections.out_features()}, update.low_rank->bias.options());
        }
        at::Tensor of_part = out.narrow(0, first, columns);
        if (has_bias && !update.output_scale)
            of_part.add_(update.low_rank->bias.detach(), update.low_rank->scaling);
        if (has_bias && update.output_scale)
            of_part.add_(update.output_scale->factor() * update.low_rank->bias.detach(),
                         update.low_rank->scaling);
        if (scales_bias(part)) of_part.mul_(update.output_scale->factor());
    });
    return out;
}

at::Tensor kept_product(const Projections& projections, const at::Tensor& sums, at::ScalarType dtype) {
    std::vector<at::Tensor> kept;
    for_each_part(projections, [&](const Projection& part, std::int64_t first, std::int64_t columns) {
        if (part.update.output_scale && part.update.output_scale->value.requires_grad())
            kept.push_back(sums.narrow(1, first, columns));
    });
    if (kept.size() == projections.parts.size()) return sums.to(dtype);
    return at::cat(kept, 1).to(dtype);
}

SharedInput adapters_of_x(const Projections& projections) {
    SharedInput shared;
    std::vector<at::Tensor> a;
    std::int64_t rank = 0;
    for (const Projection& part : projections.parts) {
        const bool joins = part.update.low_rank && part.update.low_rank->dropout.p <= 0;
        shared.begins.push_back(joins ? rank : -1);
        if (!joins) continue;
        a.push_back(part.update.low_rank->a.detach());
        rank += a.back().size(0);
    }
    if (a.size() == 1) shared.a = a.front();
    if (a.size() > 1) shared.a = at::cat(a, 0);
    return shared;
}

}  // namespace qlora::ops
