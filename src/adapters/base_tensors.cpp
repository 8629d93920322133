#include "base_tensors.h"

#include "qlora/adapters/peft_format.h"

namespace qlora::adapters {
namespace {

constexpr const char* kWeight = "weight";

TrainedTensor base_tensor(const std::string& module, const char* suffix, TrainedPart part,
                          std::vector<std::int64_t> shape, bool decays) {
    // LoRA+ raises what has one dimension too, as PEFT's create_loraplus_optimizer does.
    const bool raised = shape.size() == 1;
    return {.key = peft_key(module, suffix),
            .module = module,
            .name = suffix,
            .part = part,
            .shape = std::move(shape),
            .decays = decays,
            .raised = raised};
}

}  // namespace

TrainedTensor base_bias(const std::string& module, std::int64_t size, const char* suffix) {
    return base_tensor(module, suffix, TrainedPart::kBias, {size}, false);
}

void add_whole_modules(std::vector<TrainedTensor>& out, const std::set<std::string>& modules,
                       const models::DecoderSpec& decoder) {
    const std::vector<std::int64_t> table{decoder.vocab_size, decoder.hidden_size};
    const auto add_weight = [&](const std::string& path, std::vector<std::int64_t> shape, bool decays) {
        out.push_back(base_tensor(path, kWeight, TrainedPart::kWeight, std::move(shape), decays));
    };
    if (modules.contains(decoder.embedding)) add_weight(decoder.embedding, table, true);
    for (const models::spec::Linear* linear : decoder.linears()) {
        if (!modules.contains(linear->path)) continue;
        add_weight(linear->path, {linear->out, linear->in}, true);
        if (linear->bias) out.push_back(base_bias(linear->path, linear->out));
    }
    for (const models::spec::Norm* norm : decoder.norms()) {
        if (!modules.contains(norm->path)) continue;
        add_weight(norm->path, norm->shape(), false);
        if (norm->bias) out.push_back(base_bias(norm->path, norm->size));
    }
    if (modules.contains(decoder.head.path)) add_weight(decoder.head.path, table, true);
}

void add_kept_products(Plan& plan, const std::set<std::string>& scaled, const models::DecoderSpec& decoder) {
    std::set<std::string> of_attention;
    for (const models::spec::Layer& layer : decoder.layers) {
        for (const models::spec::Branch& branch : layer.branches) {
            const auto* attention = std::get_if<models::spec::Attention>(&branch.block);
            if (attention == nullptr) continue;
            for (const models::spec::Linear& linear : attention->entry) of_attention.insert(linear.path);
            of_attention.insert(attention->output.path);
        }
    }
    for (const models::spec::Linear* linear : decoder.linears()) {
        if (!scaled.contains(linear->path)) continue;
        (of_attention.contains(linear->path) ? plan.kept_of_attention : plan.kept_of_mlp) += linear->out;
    }
}

}  // namespace qlora::adapters
