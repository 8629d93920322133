#include "qlora/train/router_loss.h"

#include "qlora/core/error.h"

namespace qlora::train {

double router_loss_share(const TrainingConfig& config, const models::DecoderSpec& model) {
    check_router_loss(config, model);
    return config.router_aux_loss_coef.value_or(model.output_router_logits ? model.router_aux_loss_coef
                                                                           : 0.0);
}

void check_router_loss(const TrainingConfig& config, const models::DecoderSpec& model) {
    if (config.router_aux_loss_coef.value_or(0.0) > 0 && !model.has_experts()) {
        throw ConfigError("training.router_aux_loss_coef: a " + model.model_type +
                          " model has no experts whose router it could make even; leave it out");
    }
}

}  // namespace qlora::train
