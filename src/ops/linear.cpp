#include "qlora/ops/linear.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>

#include "qlora/kernels/philox.h"

namespace qlora::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

at::Tensor fp32(const at::Tensor& x) {
    return x.scalar_type() == at::kFloat ? x : x.to(at::kFloat);
}

/// Undefined tensors cannot be arguments of a node; absent ones can.
std::optional<at::Tensor> present(const at::Tensor& tensor) {
    return tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt;
}

/// Sum over tokens, for the gradient of a bias.
at::Tensor sum_rows(const at::Tensor& gradient, const at::Tensor& bias) {
    return fp32(gradient).sum(0).to(bias.scalar_type());
}

at::Tensor base_product(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
    at::Tensor y = at::mm(fp32(x), weight.t());
    if (bias.defined()) y.add_(fp32(bias));
    return y;
}

struct FrozenLinear : Function<FrozenLinear> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x,
                              const std::optional<at::Tensor>& maybe_bias, const FrozenWeight* weight) {
        const at::Tensor bias = maybe_bias.value_or(at::Tensor());
        ctx->saved_data["weight"] = reinterpret_cast<std::int64_t>(weight);
        ctx->saved_data["has_bias"] = bias.defined();
        if (bias.defined()) ctx->save_for_backward({bias});
        return base_product(x, weight->dense(), bias).to(x.scalar_type());
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const auto* weight = reinterpret_cast<const FrozenWeight*>(ctx->saved_data["weight"].toInt());
        const at::Tensor& g = grads[0];
        at::Tensor gx, gb;
        if (ctx->needs_input_grad(0)) gx = matmul_fp32(g, weight->dense(), g.scalar_type());
        if (ctx->saved_data["has_bias"].toBool() && ctx->needs_input_grad(1)) {
            gb = sum_rows(g, ctx->get_saved_variables()[0]);
        }
        return {gx, gb, at::Tensor()};
    }
};

struct TrainableLinear : Function<TrainableLinear> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                              const std::optional<at::Tensor>& maybe_bias) {
        const at::Tensor bias = maybe_bias.value_or(at::Tensor());
        ctx->save_for_backward({x, weight, bias});
        return base_product(x, weight, bias).to(x.scalar_type());
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const variable_list saved = ctx->get_saved_variables();
        const at::Tensor& g = grads[0];
        at::Tensor gx, gw, gb;
        if (ctx->needs_input_grad(0)) gx = matmul_fp32(g, saved[1], g.scalar_type());
        if (ctx->needs_input_grad(1)) gw = at::mm(fp32(g).t(), fp32(saved[0]));
        if (saved[2].defined() && ctx->needs_input_grad(2)) gb = sum_rows(g, saved[2]);
        return {gx, gw, gb};
    }
};

struct LoraLinear : Function<LoraLinear> {
    static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x,
                              const std::optional<at::Tensor>& maybe_bias, const at::Tensor& a,
                              const at::Tensor& b, const FrozenWeight* weight, double scaling,
                              const DropoutSite* dropout) {
        const at::Tensor bias = maybe_bias.value_or(at::Tensor());
        const at::Tensor dropped = apply_dropout(fp32(x), *dropout);
        const at::Tensor h = at::mm(dropped, a.t());  // [T, r]
        at::Tensor y = base_product(x, weight->dense(), bias);
        // The base's result is rounded to the compute dtype before the adapter's is added, as peft does.
        if (x.scalar_type() != at::kFloat) y = y.to(x.scalar_type()).to(at::kFloat);
        y.addmm_(h, b.t(), 1.0, scaling);
        ctx->save_for_backward({x, h, a, b, bias});
        ctx->saved_data["weight"] = reinterpret_cast<std::int64_t>(weight);
        ctx->saved_data["scaling"] = scaling;
        ctx->saved_data["p"] = dropout->p;
        ctx->saved_data["seed"] = static_cast<std::int64_t>(dropout->seed);
        ctx->saved_data["step"] = static_cast<std::int64_t>(dropout->step);
        ctx->saved_data["site"] = static_cast<std::int64_t>(dropout->site);
        return y.to(x.scalar_type());
    }
    static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
        const auto* weight = reinterpret_cast<const FrozenWeight*>(ctx->saved_data["weight"].toInt());
        const double scaling = ctx->saved_data["scaling"].toDouble();
        const DropoutSite dropout{.p = ctx->saved_data["p"].toDouble(),
                                  .seed = static_cast<std::uint64_t>(ctx->saved_data["seed"].toInt()),
                                  .step = static_cast<std::uint32_t>(ctx->saved_data["step"].toInt()),
                                  .site = static_cast<std::uint32_t>(ctx->saved_data["site"].toInt())};
        const variable_list saved = ctx->get_saved_variables();
        const at::Tensor &x = saved[0], &h = saved[1], &a = saved[2], &b = saved[3], &bias = saved[4];
        const at::Tensor g = fp32(grads[0]);
        at::Tensor gh = at::mm(g, b);  // [T, r]
        gh.mul_(scaling);
        at::Tensor gx, gbias;
        if (ctx->needs_input_grad(0)) {
            gx = at::mm(g, weight->dense());
            if (dropout.p > 0) {
                gx.add_(apply_dropout(at::mm(gh, a), dropout));
            } else {
                gx.addmm_(gh, a);
            }
            gx = gx.to(grads[0].scalar_type());
        }
        if (bias.defined() && ctx->needs_input_grad(1)) gbias = sum_rows(g, bias);
        const at::Tensor ga = at::mm(gh.t(), apply_dropout(fp32(x), dropout));
        const at::Tensor gb = at::mm(g.t(), h).mul_(scaling);
        return {gx, gbias, ga, gb, at::Tensor(), at::Tensor(), at::Tensor()};
    }
};

}  // namespace

at::Tensor matmul_fp32(const at::Tensor& a, const at::Tensor& b, at::ScalarType dtype) {
    return at::mm(fp32(a), fp32(b)).to(dtype);
}

at::Tensor apply_dropout(const at::Tensor& x, const DropoutSite& site) {
    if (site.p <= 0) return x;
    const at::Tensor source = x.contiguous();
    at::Tensor out = at::empty_like(source);
    const float* in = source.const_data_ptr<float>();
    float* to = out.mutable_data_ptr<float>();
    const float scale = 1.0F / (1.0F - static_cast<float>(site.p));
    const auto p = static_cast<float>(site.p);
    const std::int64_t n = source.numel();
    at::parallel_for(0, (n + 3) / 4, 1 << 12, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t quad = begin; quad < end; ++quad) {
            const auto words =
                kernels::dropout_words(site.seed, site.step, site.site, static_cast<std::uint64_t>(quad));
            for (std::int64_t i = 4 * quad; i < std::min(n, 4 * quad + 4); ++i) {
                to[i] = kernels::dropout_keeps(words.word[i % 4], p) ? in[i] * scale : 0.0F;
            }
        }
    });
    return out;
}

at::Tensor frozen_linear(const at::Tensor& x, const FrozenWeight& weight, const at::Tensor& bias) {
    return FrozenLinear::apply(x, present(bias), &weight);
}

at::Tensor lora_linear(const at::Tensor& x, const FrozenWeight& weight, const at::Tensor& bias,
                       const at::Tensor& lora_a, const at::Tensor& lora_b, double scaling,
                       const DropoutSite& dropout) {
    return LoraLinear::apply(x, present(bias), lora_a, lora_b, &weight, scaling, &dropout);
}

at::Tensor trainable_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
    return TrainableLinear::apply(x, weight, present(bias));
}

}  // namespace qlora::ops
