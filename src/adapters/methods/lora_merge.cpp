#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <map>
#include <memory>

#include "../embedding_lora.h"
#include "../expert_lora.h"
#include "../merge_tensor.h"
#include "../target_parameters.h"
#include "lora.h"
#include "qlora/adapters/lora.h"
#include "qlora/core/error.h"
#include "qlora/models/base_loader.h"

namespace qlora::adapters {
namespace {

class LowRankUpdate final : public WeightUpdate {
  public:
    /// `magnitude` [out]: DoRA's norms of the rows, or undefined.
    LowRankUpdate(at::Tensor a, at::Tensor b, double scaling, at::Tensor magnitude = {})
        : a_(std::move(a)), b_(std::move(b)), magnitude_(std::move(magnitude)), scaling_(scaling) {}

    at::Tensor delta(const at::Tensor& rows, std::int64_t first) const override {
        const std::int64_t count = rows.size(0);
        const at::Tensor low_rank = LoraLayer::delta(b_.narrow(0, first, count), a_, scaling_);
        if (!magnitude_.defined()) return low_rank;
        const at::Tensor turned = rows + low_rank;
        const at::Tensor norms = at::linalg_vector_norm(turned, 2, at::IntArrayRef{1}, true);
        return turned * (magnitude_.narrow(0, first, count).unsqueeze(1) / norms) - rows;
    }

  private:
    at::Tensor a_, b_, magnitude_;
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

/// Of a module or parameter, its tensors in the adapter's file by their names.
using Sources = std::map<std::string, TensorSource>;

/// PEFT refuses a bias where the base has none, too.
void merge_bias(const models::spec::Linear& linear, const TensorSource& source, double scaling,
                PlannedUpdates& out) {
    if (!linear.bias) {
        throw ConfigError("lora_bias: " + linear.path +
                          " of the base has no bias that the adapter's could be added to, so the adapter "
                          "cannot be merged; qlora-eval runs it on its base");
    }
    out.biases[linear.path + ".bias"] = [source, scaling](const at::Tensor& bias) {
        return bias + scaling * load_fp32(source);
    };
}

/// A of an embedding are the columns of what it adds to the table, so A^T stands where B does of a linear.
PlannedUpdate embedding_update(const Target& target, const Sources& from) {
    return {.module = target.path, .load = [from, scaling = target.scaling]() {
                return std::make_unique<LowRankUpdate>(load_fp32(from.at(kEmbeddingB)).t().contiguous(),
                                                       load_fp32(from.at(kEmbeddingA)).t().contiguous(),
                                                       scaling);
            }};
}

/// Whether the adapters of embedding and head, if both are there, add the same to both.
bool change_alike(const std::vector<Target>& targets, const std::map<std::string, Sources>& sources) {
    const Target *embedding = nullptr, *head = nullptr;
    for (const Target& target : targets) {
        if (target.is_embedding) embedding = &target;
        if (target.is_head) head = &target;
    }
    if (embedding == nullptr || head == nullptr || embedding->scaling != head->scaling) return false;
    const Sources &of_embedding = sources.at(embedding->path), &of_head = sources.at(head->path);
    return !of_head.contains(LoraLayer::kBias) &&
           load_fp32(of_embedding.at(kEmbeddingA)).t().equal(load_fp32(of_head.at(LoraLayer::kB))) &&
           load_fp32(of_embedding.at(kEmbeddingB)).t().equal(load_fp32(of_head.at(LoraLayer::kA)));
}

}  // namespace

PlannedUpdates merge_lora(const Plan& plan, const models::DecoderSpec& decoder, const AdapterFile& file) {
    std::map<std::string, Sources> sources;
    for (const TrainedTensor& tensor : plan.saved) {
        if (tensor.part != TrainedPart::kAdapter) continue;
        sources[tensor.module][tensor.name] = {&file.file(), &file.at(tensor.key)};
    }
    PlannedUpdates out;
    std::map<std::string, const models::spec::Linear*> linears;
    for (const models::spec::Linear* linear : decoder.linears()) linears[linear->path] = linear;
    linears[decoder.head.path] = &decoder.head;
    out.keeps_tie = change_alike(plan.targets, sources);
    std::map<std::string, double> scalings;
    for (const Target& target : plan.targets) {
        scalings[target.path] = target.scaling;
        if (target.is_parameter) continue;
        if (target.is_embedding) {
            out.weights[target.path + ".weight"] = embedding_update(target, sources.at(target.path));
            continue;
        }
        out.weights[target.path + ".weight"] = {
            .module = target.path, .load = [from = sources.at(target.path), scaling = target.scaling]() {
                const auto magnitude = from.find(LoraLayer::kMagnitude);
                return std::make_unique<LowRankUpdate>(
                    load_fp32(from.at(LoraLayer::kA)), load_fp32(from.at(LoraLayer::kB)), scaling,
                    magnitude == from.end() ? at::Tensor() : load_fp32(magnitude->second));
            }};
        const auto bias = sources.at(target.path).find(LoraLayer::kBias);
        if (bias != sources.at(target.path).end())
            merge_bias(*linears.at(target.path), bias->second, target.scaling, out);
    }
    const auto shared = std::make_shared<SharedMatrices>();
    for (const RawParameter& parameter : raw_parameters(decoder)) {
        const auto scaling = scalings.find(parameter.info.path);
        if (scaling == scalings.end()) continue;
        for (const ParameterPart& part : parameter.parts) {
            out.weights[part.linear->weight()] = {
                .module = part.linear->path,
                .load = [shared, from = sources.at(parameter.info.path), experts = parameter.info.experts,
                         expert = part.expert, first_row = part.first_row, rows = part.linear->out,
                         scaling = scaling->second]() {
                    return std::make_unique<LowRankUpdate>(
                        expert_a(shared->read(from.at(LoraLayer::kA)), experts, expert),
                        expert_b(shared->read(from.at(LoraLayer::kB)), experts, expert)
                            .narrow(0, first_row, rows)
                            .contiguous(),
                        scaling);
                }};
        }
    }
    return out;
}

}  // namespace qlora::adapters
