#include "ia3.h"

#include <ATen/TensorOperators.h>
#include <algorithm>
#include <map>
#include <set>

#include "../base_modules.h"
#include "../base_tensors.h"
#include "../ia3_layer.h"
#include "../merge_tensor.h"
#include "../name_pattern.h"
#include "qlora/adapters/peft_format.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/models/base_loader.h"

namespace qlora::adapters {
namespace {

/// PEFT's rule: a pattern for the whole path, or any ending of it.
bool is_feedforward(const Ia3Config& config, const std::string& path) {
    if (const auto* regex = std::get_if<std::string>(&config.feedforward_modules))
        return NamePattern(*regex).matches_whole(path);
    const auto* names = std::get_if<NameList>(&config.feedforward_modules);
    return names != nullptr && std::any_of(names->begin(), names->end(),
                                           [&](const std::string& name) { return path.ends_with(name); });
}

/// The linears that read their input together with others.
std::set<std::string> sharing_linears(const models::DecoderSpec& decoder) {
    std::set<std::string> out;
    const auto add = [&](const std::vector<models::spec::Linear>& entry) {
        if (entry.size() < 2) return;
        for (const models::spec::Linear& linear : entry) out.insert(linear.path);
    };
    for (const models::spec::Layer& layer : decoder.layers) {
        for (const models::spec::Branch& branch : layer.branches) {
            if (const auto* attention = std::get_if<models::spec::Attention>(&branch.block))
                add(attention->entry);
            if (const auto* mlp = std::get_if<models::spec::Mlp>(&branch.block)) add(mlp->entry);
        }
    }
    return out;
}

/// The names as PEFT completes and we check them.
MatchResult match(Ia3Config& config, const models::DecoderSpec& decoder) {
    AdaptableModel model = adaptable_model(decoder);
    model.default_targets = decoder.ia3_targets;
    model.former_linears.clear();
    LoraConfig names;
    names.target_modules = config.target_modules;
    names.exclude_modules = config.exclude_modules;
    names.modules_to_save = config.modules_to_save;
    MatchResult result = match_targets(names, model);
    config.target_modules = result.expanded.target_modules;
    if (std::holds_alternative<std::monostate>(config.feedforward_modules)) {
        if (decoder.ia3_targets.empty()) {
            throw ConfigError(
                "feedforward_modules is missing, and PEFT has no default for the architecture \"" +
                decoder.model_type +
                "\"; name those of target_modules whose input is scaled, or [] for none");
        }
        config.feedforward_modules = NameList{decoder.ia3_targets.back()};
    }
    return result;
}

Plan plan_ia3(const PeftConfig& given, const models::DecoderSpec& decoder) {
    auto config = std::get<Ia3Config>(given);
    MatchResult matched = match(config, decoder);
    const std::set<std::string> sharing = sharing_linears(decoder);
    std::set<std::string> adapted;
    for (const Target& target : matched.targets) adapted.insert(target.path);
    Plan plan;
    std::map<std::string, std::int64_t> kinds;
    std::map<std::string, std::string> refused;  // kind -> the first one
    for (const models::spec::Linear* linear : decoder.linears()) {
        if (!adapted.contains(linear->path)) continue;
        const bool inner = is_feedforward(config, linear->path);
        const std::string kind = linear->path.substr(linear->path.rfind('.') + 1);
        if (inner && sharing.contains(linear->path)) refused.emplace(kind, linear->path);
        ++kinds[fmt::format("{} ({})", kind, inner ? "inputs" : "outputs")];
        plan.trained.push_back({.key = peft_key(linear->path, Ia3Layer::kVector),
                                .module = linear->path,
                                .name = Ia3Layer::kVector,
                                .shape = inner ? std::vector<std::int64_t>{1, linear->in}
                                               : std::vector<std::int64_t>{linear->out, 1}});
    }
    FaultList faults;
    for (const auto& [kind, path] : refused) {
        faults.add("feedforward_modules",
                   kind + " reads its input together with other layers (" + path +
                       " is the first one), so a factor on it is not built; leave it out there, or out of "
                       "target_modules");
    }
    faults.throw_if_any<ConfigError>("the peft section does not fit the model");
    add_whole_modules(plan.trained, {matched.modules_to_save.begin(), matched.modules_to_save.end()},
                      decoder);
    for (const auto& [kind, count] : kinds) plan.text.push_back(fmt::format("{} x {}", count, kind));
    std::set<std::string> scaled;
    for (const TrainedTensor& tensor : plan.trained) {
        if (tensor.part == TrainedPart::kAdapter && tensor.shape[1] == 1) scaled.insert(tensor.module);
    }
    add_kept_products(plan, scaled, decoder);
    plan.saved = plan.trained;
    plan.config = config;
    plan.targets = std::move(matched.targets);
    plan.modules_to_save = std::move(matched.modules_to_save);
    plan.warnings = std::move(matched.warnings);
    return plan;
}

std::unique_ptr<Adapter> attach_ia3(models::CausalLM& model, Plan& plan, const InjectOptions& options) {
    auto& config = std::get<Ia3Config>(plan.config);
    BaseModules modules(model);
    config.fan_in_fan_out = modules.any_dense_in_columns(plan.targets);
    std::uint32_t site = 0;
    std::vector<nn::Parameter> parameters;
    for (const TrainedTensor& tensor : plan.trained) {
        if (tensor.part != TrainedPart::kAdapter) {
            parameters.push_back({tensor.key, modules.train(tensor), tensor.decays});
            continue;
        }
        nn::Linear& linear = modules.linear(tensor.module);
        auto layer = std::make_unique<Ia3Layer>(linear.in_features(), linear.out_features(),
                                                is_feedforward(config, tensor.module));
        if (!config.init_ia3_weights) layer->draw(options.seed, site);
        ++site;
        parameters.push_back({tensor.key, layer->vector(), tensor.decays});
        linear.set_adapter(std::move(layer));
    }
    return std::make_unique<TrainedTensors>(std::move(parameters));
}

/// Rows of the matrix times factors [out, 1] or [1, in].
class ScaledUpdate final : public WeightUpdate {
  public:
    explicit ScaledUpdate(at::Tensor factors) : factors_(std::move(factors)) {}

    at::Tensor delta(const at::Tensor& rows, std::int64_t first) const override {
        const bool by_row = factors_.size(1) == 1;
        const at::Tensor own = by_row ? factors_.narrow(0, first, rows.size(0)) : factors_;
        return rows * own - rows;
    }

  private:
    at::Tensor factors_;
};

PlannedUpdates merge_ia3(const Plan& plan, const models::DecoderSpec& decoder, const AdapterFile& file) {
    std::map<std::string, const models::spec::Linear*> linears;
    for (const models::spec::Linear* linear : decoder.linears()) linears[linear->path] = linear;
    PlannedUpdates out;
    for (const TrainedTensor& tensor : plan.trained) {
        if (tensor.part != TrainedPart::kAdapter) continue;
        const TensorSource source{&file.file(), &file.at(tensor.key)};
        const models::spec::Linear& linear = *linears.at(tensor.module);
        out.weights[linear.weight()] = {.module = tensor.module, .load = [source]() {
                                            return std::make_unique<ScaledUpdate>(load_fp32(source));
                                        }};
        if (!linear.bias || tensor.shape[1] != 1) continue;
        out.biases[tensor.module + ".bias"] = [source](const at::Tensor& bias) {
            return bias * load_fp32(source).flatten();
        };
    }
    return out;
}

}  // namespace

const Method kIa3 = {.type = PeftType::kIa3,
                     .plan = plan_ia3,
                     .attach = attach_ia3,
                     .merge = merge_ia3,
                     .why_not = {},
                     .finished = nullptr,
                     .smaller = nullptr};

}  // namespace qlora::adapters
