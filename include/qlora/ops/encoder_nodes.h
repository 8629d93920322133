#pragma once

#include <ATen/core/Tensor.h>

#include "qlora/ops/projection.h"

/// The layers of the small networks that make virtual tokens. All is fp32 and trains, whatever the model
/// computes in.
namespace qlora::ops {

/// x [n, in] times weight [out, in], plus bias [out].
at::Tensor affine(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

/// One direction of one layer of torch.nn.LSTM over a sequence, from states of zero: entered [n, 4 h] is what
/// W_ih makes of it, gates in torch's order (input, forget, cell, output); weight_hh [4 h, h]. Result [n, h].
at::Tensor lstm_direction(const at::Tensor& entered, const at::Tensor& weight_hh, const at::Tensor& bias_hh,
                          bool from_the_end);

/// apply_dropout with its gradient.
at::Tensor dropped_out(const at::Tensor& x, const DropoutSite& site);

}  // namespace qlora::ops
