#include "qlora/nn/move.h"

namespace qlora::nn {

void move_to(at::Tensor& tensor, at::Device device) {
    if (!tensor.defined() || tensor.device() == device) return;
    if (tensor.requires_grad()) {
        tensor.set_data(tensor.detach().to(device));
    } else {
        tensor = tensor.to(device);
    }
}

}  // namespace qlora::nn
