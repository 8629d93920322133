#include "prompt_learning.h"
#include "qlora/core/log.h"

namespace qlora::adapters {
namespace {

PromptEncoderShape shape_of(const PrefixTuningConfig& config, const models::DecoderSpec& decoder) {
    const std::int64_t tokens = config.tokens.num_virtual_tokens,
                       layers = static_cast<std::int64_t>(decoder.layers.size()),
                       width = key_value_heads(decoder).kv_size();
    if (!config.prefix_projection) return prefix_embedding(tokens, layers, width);
    return prefix_projection(tokens, layers, width, config.encoder_hidden_size.value_or(width));
}

Plan plan_prefix_tuning(const PeftConfig& given, const models::DecoderSpec& decoder) {
    auto config = std::get<PrefixTuningConfig>(given);
    const KeyValueHeads heads = key_value_heads(decoder);
    fill_in(config.tokens, {heads.kv_size(), heads.heads}, decoder);
    config.encoder_hidden_size = config.encoder_hidden_size.value_or(heads.kv_size());
    Plan plan;
    set_encoder(plan, shape_of(config, decoder));
    plan.prefix_tokens = config.tokens.num_virtual_tokens;
    plan.text = {fmt::format("keys and values of {} tokens before each text in {} layers{}",
                             plan.prefix_tokens, decoder.layers.size(),
                             config.prefix_projection ? ", made by two linears" : "")};
    plan.config = config;
    return plan;
}

std::unique_ptr<Adapter> attach_prefix_tuning(models::CausalLM& model, Plan& plan,
                                              const InjectOptions& options) {
    const auto& config = std::get<PrefixTuningConfig>(plan.config);
    const std::int64_t tokens = config.tokens.num_virtual_tokens;
    const auto encoder = make_encoder(shape_of(config, model.spec()), options, [&](PromptEncoder& start) {
        if (config.init_weights) start.set_results_to_zero();
        if (config.prefix_init_text) {
            start.set_embedding(
                keys_values_of_tokens(model, text_tokens(options, *config.prefix_init_text, tokens)));
        }
    });
    models::Hooks hooks;
    hooks.prefix =
        std::make_shared<EncodedPrefix>(encoder, static_cast<std::int64_t>(model.spec().layers.size()));
    model.set_hooks(std::move(hooks));
    return adapter_of(encoder, plan);
}

}  // namespace

const Method kPrefixTuning = {
    .type = PeftType::kPrefixTuning,
    .plan = plan_prefix_tuning,
    .attach = attach_prefix_tuning,
    .merge = nullptr,
    .why_not = "PREFIX_TUNING adds keys and values to each layer, which no weight can hold",
    .finished = nullptr,
    .smaller = nullptr};

}  // namespace qlora::adapters
