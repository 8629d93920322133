#include "prompt_learning.h"
#include "qlora/core/log.h"

namespace qlora::adapters {
namespace {

PromptEncoderShape shape_of(const PromptTuningConfig& config, const models::DecoderSpec& decoder) {
    return prompt_embedding(config.tokens.num_virtual_tokens, decoder.hidden_size);
}

Plan plan_prompt_tuning(const PeftConfig& given, const models::DecoderSpec& decoder) {
    auto config = std::get<PromptTuningConfig>(given);
    fill_in(config.tokens, {decoder.hidden_size, attention_heads(decoder)}, decoder);
    Plan plan;
    set_encoder(plan, shape_of(config, decoder));
    plan.virtual_tokens = config.tokens.num_virtual_tokens;
    plan.text = {fmt::format("{} trained tokens before each text ({})", plan.virtual_tokens,
                             enum_name(config.prompt_tuning_init))};
    plan.config = config;
    return plan;
}

std::unique_ptr<Adapter> attach_prompt_tuning(models::CausalLM& model, Plan& plan,
                                              const InjectOptions& options) {
    const auto& config = std::get<PromptTuningConfig>(plan.config);
    const std::int64_t tokens = config.tokens.num_virtual_tokens;
    const auto encoder = make_encoder(shape_of(config, model.spec()), options, [&](PromptEncoder& start) {
        switch (config.prompt_tuning_init) {
            case PromptTuningInit::kSampleVocab:
                return start.set_embedding(
                    rows_of_tokens(model, sampled_tokens(model.spec().vocab_size, tokens, options.seed)));
            case PromptTuningInit::kText:
                return start.set_embedding(rows_of_tokens(
                    model, text_tokens(options, config.prompt_tuning_init_text.value_or(""), tokens)));
            case PromptTuningInit::kRandom:
                return;
        }
    });
    return attach_prompt(model, encoder, plan);
}

}  // namespace

const Method kPromptTuning = {.type = PeftType::kPromptTuning,
                              .plan = plan_prompt_tuning,
                              .attach = attach_prompt_tuning,
                              .merge = nullptr,
                              .why_not = "PROMPT_TUNING adds tokens to the input, which no weight can hold",
                              .finished = nullptr,
                              .smaller = nullptr};

}  // namespace qlora::adapters
