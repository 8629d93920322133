#include <map>
#include <memory>

#include "../expert_lora.h"
#include "../merge_tensor.h"
#include "../target_parameters.h"
#include "lora.h"
#include "qlora/adapters/lora.h"
#include "qlora/models/base_loader.h"

namespace qlora::adapters {
namespace {

class LowRankUpdate final : public WeightUpdate {
  public:
    LowRankUpdate(at::Tensor a, at::Tensor b, double scaling)
        : a_(std::move(a)), b_(std::move(b)), scaling_(scaling) {}

    at::Tensor delta(const at::Tensor& rows, std::int64_t first) const override {
        return LoraLayer::delta(b_.narrow(0, first, rows.size(0)), a_, scaling_);
    }

  private:
    at::Tensor a_, b_;
    double scaling_;
};

/// Reads matrices of all experts, of which each serves many updates: the last ones are kept.
class SharedMatrices {
  public:
    const at::Tensor& read(const TensorSource& source) {
        constexpr std::size_t kOfALayer = 4;
        const auto found = kept_.find(source.view);
        if (found != kept_.end()) return found->second;
        if (kept_.size() == kOfALayer) kept_.clear();
        return kept_[source.view] = load_fp32(source);
    }

  private:
    std::map<const io::TensorView*, at::Tensor> kept_;
};

/// Of a module or parameter, A and B in the adapter's file.
struct Sources {
    TensorSource a, b;
};

}  // namespace

PlannedUpdates merge_lora(const Plan& plan, const models::DecoderSpec& decoder, const AdapterFile& file) {
    std::map<std::string, Sources> sources;
    for (const TrainedTensor& tensor : plan.trained) {
        if (tensor.part != TrainedPart::kAdapter) continue;
        Sources& of_module = sources[tensor.module];
        (tensor.name == LoraLayer::kA ? of_module.a : of_module.b) = {&file.file(), &file.at(tensor.key)};
    }
    PlannedUpdates out;
    std::map<std::string, double> scalings;
    for (const Target& target : plan.targets) {
        scalings[target.path] = target.scaling;
        if (target.is_parameter) continue;
        out[target.path + ".weight"] = {
            .module = target.path, .load = [from = sources.at(target.path), scaling = target.scaling]() {
                return std::make_unique<LowRankUpdate>(load_fp32(from.a), load_fp32(from.b), scaling);
            }};
    }
    const auto shared = std::make_shared<SharedMatrices>();
    for (const RawParameter& parameter : raw_parameters(decoder)) {
        const auto scaling = scalings.find(parameter.info.path);
        if (scaling == scalings.end()) continue;
        for (const ParameterPart& part : parameter.parts) {
            out[part.linear->weight()] = {
                .module = part.linear->path,
                .load = [shared, from = sources.at(parameter.info.path), experts = parameter.info.experts,
                         expert = part.expert, first_row = part.first_row, rows = part.linear->out,
                         scaling = scaling->second]() {
                    return std::make_unique<LowRankUpdate>(expert_a(shared->read(from.a), experts, expert),
                                                           expert_b(shared->read(from.b), experts, expert)
                                                               .narrow(0, first_row, rows)
                                                               .contiguous(),
                                                           scaling);
                }};
        }
    }
    return out;
}

}  // namespace qlora::adapters
