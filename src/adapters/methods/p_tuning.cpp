#include "prompt_learning.h"
#include "qlora/core/log.h"

namespace qlora::adapters {
namespace {

PromptEncoderShape shape_of(const PromptEncoderConfig& config, const models::DecoderSpec& decoder) {
    const std::int64_t tokens = config.tokens.num_virtual_tokens, width = decoder.hidden_size;
    const std::int64_t inner = config.encoder_hidden_size.value_or(width);
    if (config.encoder_reparameterization_type == EncoderType::kMlp)
        return p_tuning_mlp(tokens, width, inner);
    return p_tuning_lstm(tokens, width, inner, config.encoder_num_layers, config.encoder_dropout);
}

Plan plan_p_tuning(const PeftConfig& given, const models::DecoderSpec& decoder) {
    auto config = std::get<PromptEncoderConfig>(given);
    fill_in(config.tokens, {decoder.hidden_size, attention_heads(decoder)}, decoder);
    config.encoder_hidden_size = config.encoder_hidden_size.value_or(decoder.hidden_size);
    Plan plan;
    set_encoder(plan, shape_of(config, decoder));
    plan.virtual_tokens = config.tokens.num_virtual_tokens;
    plan.text = {fmt::format("{} tokens before each text, made by an {} of width {}", plan.virtual_tokens,
                             enum_name(config.encoder_reparameterization_type), *config.encoder_hidden_size)};
    if (config.encoder_reparameterization_type == EncoderType::kMlp &&
        config.encoder_num_layers != PromptEncoderConfig{}.encoder_num_layers)
        plan.warnings.push_back("encoder_num_layers has no effect on an MLP, which has two layers");
    plan.config = config;
    return plan;
}

std::unique_ptr<Adapter> attach_p_tuning(models::CausalLM& model, Plan& plan, const InjectOptions& options) {
    const auto& config = std::get<PromptEncoderConfig>(plan.config);
    const auto encoder = make_encoder(shape_of(config, model.spec()), options, {});
    return attach_prompt(model, encoder, plan);
}

}  // namespace

const Method kPTuning = {.type = PeftType::kPTuning,
                         .plan = plan_p_tuning,
                         .attach = attach_p_tuning,
                         .merge = nullptr,
                         .why_not = "P_TUNING adds tokens to the input, which no weight can hold",
                         .finished = nullptr,
                         .smaller = nullptr};

}  // namespace qlora::adapters
