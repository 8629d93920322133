#include "prompt_learning.h"

#include "qlora/core/error.h"
#include "qlora/core/log.h"

namespace qlora::adapters {
namespace {

class EncoderAdapter final : public Adapter {
  public:
    explicit EncoderAdapter(std::shared_ptr<PromptEncoder> encoder) : encoder_(std::move(encoder)) {}

    std::vector<nn::Parameter> parameters() const override { return encoder_->parameters(); }
    std::vector<nn::Parameter> saved() const override {
        if (is_source()) return {{PromptEncoder::kSavedKey, encoder_->parameters().front().tensor}};
        return {encoder_->saved()};
    }
    bool is_source() const override { return encoder_->shape().is_embedding(); }

  private:
    std::shared_ptr<PromptEncoder> encoder_;
};

}  // namespace

std::int64_t attention_heads(const models::DecoderSpec& decoder) {
    for (const models::spec::Layer& layer : decoder.layers) {
        for (const models::spec::Branch& branch : layer.branches) {
            if (const auto* attention = std::get_if<models::spec::Attention>(&branch.block))
                return attention->heads;
        }
    }
    return 0;
}

void fill_in(VirtualTokens& tokens, const BaseNumbers& base, const models::DecoderSpec& decoder) {
    FaultList faults;
    const auto fill = [&](const char* name, std::optional<std::int64_t>& given, std::int64_t own) {
        if (given && *given != own) {
            faults.add(name, fmt::format("is {}, and {} of this base; leave it out", *given, own));
        }
        given = own;
    };
    fill("token_dim", tokens.token_dim, base.token_dim);
    fill("num_attention_heads", tokens.num_attention_heads, base.num_attention_heads);
    fill("num_layers", tokens.num_layers, static_cast<std::int64_t>(decoder.layers.size()));
    fill("num_transformer_submodules", tokens.num_transformer_submodules, 1);
    faults.throw_if_any<ConfigError>("the peft section does not fit the model");
}

void set_encoder(Plan& plan, const PromptEncoderShape& shape) {
    for (const PromptEncoderShape::Tensor& tensor : shape.tensors()) {
        plan.trained.push_back(
            {.key = tensor.key,
             .module = "prompt_encoder",
             .name = tensor.key.substr(tensor.key.rfind('.', tensor.key.rfind('.') - 1) + 1),
             .shape = tensor.sizes,
             .decays = tensor.decays});
    }
    plan.saved = {{.key = PromptEncoder::kSavedKey,
                   .module = "prompt_encoder",
                   .name = PromptEncoder::kSavedKey,
                   .shape = shape.saved_sizes()}};
}

std::shared_ptr<PromptEncoder> make_encoder(const PromptEncoderShape& shape, const InjectOptions& options,
                                            const std::function<void(PromptEncoder&)>& set_start) {
    if (options.finished) {
        return std::make_shared<PromptEncoder>(
            PromptEncoderShape{.tokens = shape.tokens, .width = shape.columns()}, options.seed);
    }
    auto encoder = std::make_shared<PromptEncoder>(shape, options.seed);
    if (set_start) set_start(*encoder);
    return encoder;
}

std::unique_ptr<Adapter> adapter_of(std::shared_ptr<PromptEncoder> encoder, Plan& plan) {
    plan.trained.clear();
    set_encoder(plan, encoder->shape());
    return std::make_unique<EncoderAdapter>(std::move(encoder));
}

std::unique_ptr<Adapter> attach_prompt(models::CausalLM& model, std::shared_ptr<PromptEncoder> encoder,
                                       Plan& plan) {
    models::Hooks hooks;
    hooks.prompt = std::make_shared<EncodedPrompt>(encoder);
    model.set_hooks(std::move(hooks));
    return adapter_of(std::move(encoder), plan);
}

std::vector<std::int64_t> text_tokens(const InjectOptions& options, const std::string& text,
                                      std::int64_t tokens) {
    const std::vector<std::int64_t> ids = options.encode(text);
    if (ids.empty())
        throw ConfigError("the text that virtual tokens start from has no token: \"" + text + "\"");
    return repeated_tokens(ids, tokens);
}

}  // namespace qlora::adapters
