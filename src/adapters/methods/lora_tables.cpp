#include <optional>

#include "../embedding_lora.h"
#include "lora.h"
#include "qlora/adapters/lora.h"

// LoRA on the embedding and on the output head.
namespace qlora::adapters {
namespace {

const Target* target_where(const Plan& plan, bool Target::*is_kind) {
    for (const Target& target : plan.targets) {
        if (target.*is_kind) return &target;
    }
    return nullptr;
}

/// Of a tied embedding and head the embedding's matrices train; the file has both modules', as PEFT's.
class SharedTables final : public Adapter {
  public:
    /// `parameters` begin with A and B of the embedding.
    SharedTables(std::vector<nn::Parameter> parameters, std::string head_a, std::string head_b)
        : parameters_(std::move(parameters)), head_a_(std::move(head_a)), head_b_(std::move(head_b)) {}

    std::vector<nn::Parameter> parameters() const override { return parameters_; }
    std::vector<nn::Parameter> saved() const override {
        std::vector<nn::Parameter> out = parameters_;
        out.push_back({head_a_, parameters_[1].tensor.detach().t()});
        out.push_back({head_b_, parameters_[0].tensor.detach().t()});
        return out;
    }

  private:
    std::vector<nn::Parameter> parameters_;
    std::string head_a_, head_b_;
};

}  // namespace

bool shares_tables(const Plan& plan, const InjectOptions& options) {
    // A finished adapter is as its file says, whose matrices PEFT may have trained apart.
    return plan.saved.size() > plan.trained.size() && !options.finished;
}

void attach_tables(models::CausalLM& model, const Plan& plan, const InjectOptions& options,
                   LoraTensors& out) {
    const Target *embedding = target_where(plan, &Target::is_embedding),
                 *head = target_where(plan, &Target::is_head);
    const auto& config = std::get<LoraConfig>(plan.config);
    const models::DecoderSpec& decoder = model.spec();
    const auto site = static_cast<std::uint32_t>(model.linears().size());
    const bool is_shared = shares_tables(plan, options);
    ops::EmbeddingLowRank update;
    if (embedding != nullptr) {
        update =
            make_embedding_lora(decoder.vocab_size, decoder.hidden_size, embedding->r, embedding->scaling);
        initialize_embedding_lora(update, config.init_lora_weights, is_shared, options.seed, site + 1);
        out[embedding->path] = {{kEmbeddingA, update.a}, {kEmbeddingB, update.b}};
        model.set_embedding_update(update);
    }
    if (head == nullptr) return;
    if (is_shared) {
        model.set_head_adapter(
            std::make_unique<SharedHeadLora>(update, head->scaling, config.lora_dropout, site));
        return;
    }
    auto layer = std::make_unique<LoraLayer>(decoder.head.in, decoder.head.out, head->r, head->scaling,
                                             config.lora_dropout, site, LoraExtras{.bias = config.lora_bias});
    layer->initialize(config.init_lora_weights, options.seed);
    for (auto& [name, tensor] : layer->parameters()) out[head->path][name] = tensor;
    model.set_head_adapter(std::move(layer));
}

std::unique_ptr<Adapter> shared_tables_adapter(const Plan& plan, std::vector<nn::Parameter> parameters) {
    const std::size_t last = plan.saved.size() - 1;
    return std::make_unique<SharedTables>(std::move(parameters), plan.saved[last - 1].key,
                                          plan.saved[last].key);
}

}  // namespace qlora::adapters
