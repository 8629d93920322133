#include "block.h"

#include <c10/util/Exception.h>

namespace qlora::models {
namespace {

nn::Linear make_linear(const spec::Linear& linear) {
    return nn::Linear(linear.path, linear.in, linear.out, linear.bias);
}

std::vector<nn::Linear> make_linears(const std::vector<spec::Linear>& linears) {
    std::vector<nn::Linear> out;
    for (const spec::Linear& linear : linears) out.push_back(make_linear(linear));
    return out;
}

std::vector<nn::Linear*> pointers_to(std::vector<nn::Linear>& linears) {
    std::vector<nn::Linear*> out;
    for (nn::Linear& linear : linears) out.push_back(&linear);
    return out;
}

[[noreturn]] void never_runs_so(const char* part) {
    TORCH_CHECK(false, "a block of this kind has no ", part);
}

}  // namespace

ops::Projections Block::entry(const LayerPass& /*pass*/) const {
    never_runs_so("entry of its own");
}

at::Tensor Block::inner(const at::Tensor& /*entered*/, const LayerPass& /*pass*/) const {
    never_runs_so("inner part of its own");
}

at::Tensor Block::leave(const at::Tensor& /*inner*/, const at::Tensor& /*residual*/, double /*multiplier*/,
                        const LayerPass& /*pass*/) const {
    never_runs_so("output of its own");
}

at::Tensor Block::as_one(const at::Tensor& /*hidden*/, const at::Tensor& /*residual*/,
                         const nn::Norm* /*pre*/, double /*multiplier*/, ops::NodeOutput /*output*/,
                         const LayerPass& /*pass*/) const {
    never_runs_so("form as one node");
}

nn::Norm make_norm(const spec::Norm& norm) {
    return nn::Norm(norm.path, norm.size,
                    {.eps = norm.eps, .kind = norm.kind, .bias = norm.bias, .offset = norm.offset});
}

BlockLinears::BlockLinears(const std::vector<spec::Linear>& entry, const spec::Linear& output)
    : first_(make_linears(entry)),
      last_(make_linear(output)),
      entry_(pointers_to(first_)),
      output_({&last_}) {}

std::vector<nn::Linear*> BlockLinears::all() {
    std::vector<nn::Linear*> out = pointers_to(first_);
    out.push_back(&last_);
    return out;
}

}  // namespace qlora::models
