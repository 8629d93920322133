#include <set>

#include "qlora/adapters/plan.h"
#include "target_parameters.h"

namespace qlora::adapters {
namespace {

constexpr const char* kColumnsStay =
    "training a weight that is stored in columns (Conv1D) whole is not built yet; adapt it through "
    "target_modules";
constexpr const char* kParametersStay =
    "training experts or a router whole is not built yet; adapt them through target_parameters";
constexpr const char* kBiasStays = "training an output head that has a bias whole is not built yet";

}  // namespace

AdaptableModel adaptable_model(const models::DecoderSpec& decoder) {
    AdaptableModel model{.model_type = decoder.model_type,
                         .modules = {},
                         .default_targets = decoder.lora_targets,
                         .is_part = !decoder.foreign.empty(),
                         .tied = decoder.tie_word_embeddings};
    std::vector<ModuleInfo>& out = model.modules;
    std::vector<const models::spec::Linear*> linears = decoder.linears();
    std::erase_if(linears, [](const models::spec::Linear* linear) {
        return linear->kind != models::spec::MatrixKind::kLinear;
    });
    std::set<std::string> containers;
    for (RawParameter& parameter : raw_parameters(decoder)) {
        if (containers.insert(parameter.module).second)
            out.push_back({.path = parameter.module, .not_whole = kParametersStay});
        model.parameters.push_back(std::move(parameter.info));
    }
    model.former_linears = former_linears(decoder);
    for (const models::spec::Linear* linear : linears) {
        for (std::size_t dot = linear->path.find('.'); dot != std::string::npos;
             dot = linear->path.find('.', dot + 1)) {
            const std::string container = linear->path.substr(0, dot);
            if (containers.insert(container).second) out.push_back({.path = container});
        }
    }
    out.push_back({.path = decoder.embedding,
                   .is_embedding = true,
                   .in_features = decoder.vocab_size,
                   .out_features = decoder.hidden_size});
    if (!decoder.positions.empty()) {
        out.push_back({.path = decoder.positions,
                       .is_embedding = true,
                       .in_features = decoder.max_position_embeddings,
                       .out_features = decoder.hidden_size,
                       .not_whole = "training learned positions is not built yet"});
    }
    for (const models::spec::Linear* linear : linears) {
        out.push_back({.path = linear->path,
                       .is_linear = true,
                       .in_features = linear->in,
                       .out_features = linear->out,
                       .not_whole = linear->stored_in_columns ? kColumnsStay : ""});
    }
    for (const models::spec::Norm* norm : decoder.norms()) {
        if (norm->apart) continue;  // a module a head
        out.push_back(
            {.path = norm->path, .is_norm = true, .in_features = norm->size, .out_features = norm->size});
    }
    out.push_back({.path = decoder.head.path,
                   .is_linear = true,
                   .is_output_embedding = true,
                   .in_features = decoder.head.in,
                   .out_features = decoder.head.out,
                   .not_whole = decoder.head.bias ? kBiasStays : ""});
    return model;
}

}  // namespace qlora::adapters
