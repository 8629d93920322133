#include "qlora/nn/linear.h"

#include "qlora/nn/move.h"

namespace qlora::nn {

Linear::Linear(std::string path, std::int64_t in_features, std::int64_t out_features, bool has_bias)
    : path_(std::move(path)), in_features_(in_features), out_features_(out_features), has_bias_(has_bias) {}

void Linear::train_whole_module() {
    trained_weight_ = weight_.dense().clone().requires_grad_();
    train_bias();
}

void Linear::train_bias() {
    if (bias_.defined()) bias_ = bias_.to(at::kFloat).clone().requires_grad_();
}

void Linear::to(at::Device device) {
    weight_.to(device);
    move_to(bias_, device);
    move_to(trained_weight_, device);
    if (!adapter_) return;
    for (auto& [name, tensor] : adapter_->parameters()) move_to(tensor, device);
}

}  // namespace qlora::nn
