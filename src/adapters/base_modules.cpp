#include "base_modules.h"

#include <algorithm>
#include <set>

namespace qlora::adapters {

BaseModules::BaseModules(models::CausalLM& model) : model_(model) {
    for (nn::Linear* linear : model.linears()) linears_[linear->path()] = linear;
    for (nn::Norm* norm : model.norms()) norms_[norm->path()] = norm;
}

bool BaseModules::any_dense_in_columns(const std::vector<Target>& targets) const {
    std::set<std::string> in_columns;
    for (const models::spec::Linear* linear : model_.spec().linears()) {
        if (linear->stored_in_columns && !linears_.at(linear->path)->weight().is_quantized())
            in_columns.insert(linear->path);
    }
    return std::any_of(targets.begin(), targets.end(),
                       [&](const Target& target) { return in_columns.contains(target.path); });
}

at::Tensor BaseModules::train(const TrainedTensor& tensor) {
    return tensor.part == TrainedPart::kBias ? train_bias(tensor.module) : train_weight(tensor.module);
}

at::Tensor BaseModules::train_weight(const std::string& path) {
    if (path == model_.spec().embedding) {
        model_.train_embedding();
        return model_.trained_embedding();
    }
    if (path == model_.spec().head.path) {
        model_.train_head();
        return model_.trained_head();
    }
    if (const auto norm = norms_.find(path); norm != norms_.end()) {
        norm->second->train_whole_module();
        return norm->second->weight();
    }
    linear(path).train_whole_module();
    return linear(path).trained_weight();
}

at::Tensor BaseModules::train_bias(const std::string& path) {
    if (const auto norm = norms_.find(path); norm != norms_.end()) {
        norm->second->train_bias();
        return norm->second->bias();
    }
    if (!linear(path).trains_whole_module()) linear(path).train_bias();
    return linear(path).bias();
}

}  // namespace qlora::adapters
