#pragma once

#include "qlora/models/decoder_spec.h"
#include "qlora/train/training_config.h"

namespace qlora::train {

/// The share of the routers' loss in a run, 0 where there is none; checked.
double router_loss_share(const TrainingConfig& config, const models::DecoderSpec& model);

/// ConfigError where the configuration asks for the routers' loss and the model has no experts.
void check_router_loss(const TrainingConfig& config, const models::DecoderSpec& model);

}  // namespace qlora::train
