#include "block.h"

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

}  // namespace

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
