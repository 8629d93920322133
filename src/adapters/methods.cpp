#include "method.h"
#include "methods/bottleneck.h"
#include "methods/ia3.h"
#include "methods/lora.h"
#include "methods/prompt_learning.h"
#include "qlora/core/error.h"

namespace qlora::adapters {
namespace {

const Method* const kMethods[] = {&kLora, &kIa3, &kPromptTuning, &kPTuning, &kPrefixTuning, &kBottleneck};

}  // namespace

const Method& method_of(PeftType type) {
    for (const Method* method : kMethods) {
        if (method->type == type) return *method;
    }
    throw Error(ExitCode::kInternal, "a peft_type without a method");
}

Plan plan_adapter(const PeftConfig& config, const models::DecoderSpec& decoder) {
    return method_of(config).plan(config, decoder);
}

std::vector<SmallerSetting> smaller_settings(const PeftConfig& config, const models::DecoderSpec& decoder) {
    const auto smaller = method_of(config).smaller;
    std::vector<SmallerSetting> out;
    if (smaller != nullptr) out = smaller(config, decoder);
    PeftConfig without = config;
    if (auto* whole = modules_to_save(without); whole != nullptr && *whole) {
        whole->reset();
        out.push_back({"peft.modules_to_save: null", without});
    }
    return out;
}

std::int64_t trained_elements(const std::vector<TrainedTensor>& tensors) {
    std::int64_t total = 0;
    for (const TrainedTensor& tensor : tensors) {
        std::int64_t elements = 1;
        for (const std::int64_t size : tensor.shape) elements *= size;
        total += elements;
    }
    return total;
}

std::int64_t Adaptation::trainable_elements() const {
    std::int64_t total = 0;
    for (const nn::Parameter& parameter : parameters) total += parameter.tensor.numel();
    return total;
}

Adaptation inject(models::CausalLM& model, const PeftConfig& config, const InjectOptions& options) {
    Adaptation out{.plan = plan_adapter(config, model.spec()), .adapter = nullptr, .parameters = {}};
    out.adapter = method_of(config).attach(model, out.plan, options);
    out.parameters = out.adapter->parameters();
    return out;
}

Adaptation inject(models::CausalLM& model, const PeftConfig& config, std::uint64_t seed) {
    return inject(model, config, InjectOptions{.seed = seed});
}

}  // namespace qlora::adapters
