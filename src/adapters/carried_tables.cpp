#include "qlora/adapters/carried_tables.h"

#include <algorithm>
#include <map>

#include "merge_tensor.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/models/checkpoint_names.h"
#include "qlora/quant/tensor_bytes.h"

namespace qlora::adapters {
namespace {

/// Whether `view` holds the values of `other` once it has its dtype.
bool becomes(const io::TensorView& view, const io::TensorView& other) {
    if (view.dtype == other.dtype)
        return std::equal(view.bytes.begin(), view.bytes.end(), other.bytes.begin(), other.bytes.end());
    constexpr std::int64_t kValues = 1 << 20;
    for (std::int64_t first = 0; first < view.elements(); first += kValues) {
        const std::int64_t count = std::min(kValues, view.elements() - first);
        const at::Tensor values = quant::tensor_from_view(slice(view, first, count));
        const at::Tensor own = quant::tensor_from_view(slice(other, first, count));
        if (!values.to(own.scalar_type()).equal(own)) return false;
    }
    return true;
}

/// The same but for a rounding of either: a base may have been loaded in another dtype before training.
bool are_alike(const io::TensorView& view, const io::TensorView& other) {
    return becomes(view, other) || becomes(other, view);
}

bool is_saved(const Plan& plan, const std::string& key) {
    return std::any_of(plan.saved.begin(), plan.saved.end(),
                       [&](const TrainedTensor& tensor) { return tensor.key == key; });
}

}  // namespace

std::vector<CarriedTable> changed_tables(const AdapterFile& file, const Plan& plan,
                                         const io::Checkpoint& base, const models::DecoderSpec& decoder) {
    const models::CheckpointNames names(base, decoder);
    std::map<std::string, CarriedTable> found;
    FaultList faults;
    for (const auto& [key, view] : file.tensors()) {
        const io::TensorSpec* spec = file.carried(key);
        if (spec == nullptr || is_saved(plan, key)) continue;
        const bool is_tied_head = decoder.tie_word_embeddings && spec->name == decoder.head_weight();
        const std::string parameter = is_tied_head ? decoder.embedding_weight() : spec->name;
        const io::TensorView& own = base.at(names.in_file(parameter));
        const auto [place, is_new] = found.emplace(parameter, CarriedTable{parameter, view, own.dtype});
        if (!is_new && !are_alike(*view, *place->second.view))
            faults.add(view->name, "differs from " + place->second.view->name +
                                       ", which is the same tensor of this model, whose embedding and head "
                                       "are tied");
        if (!quant::all_finite(*view)) faults.add(view->name, "holds a value that is not a finite number");
    }
    faults.throw_if_any<CheckpointError>(file.path().string());
    std::vector<CarriedTable> out;
    for (const auto& [parameter, table] : found) {
        if (are_alike(*table.view, base.at(names.in_file(parameter)))) {
            spdlog::info("{}: {} is that of the base", file.path().string(), table.view->name);
        } else {
            spdlog::info("{}: {} takes the place of the base's {}", file.path().string(), table.view->name,
                         parameter);
            out.push_back(table);
        }
    }
    return out;
}

void take_carried_tables(const std::filesystem::path& adapter, const Plan& plan, const io::Checkpoint& base,
                         models::CausalLM& model, bool is_finished) {
    const models::DecoderSpec& decoder = model.spec();
    const AdapterFile file(adapter, decoder);
    for (const CarriedTable& table : changed_tables(file, plan, base, decoder)) {
        if (!is_finished) {
            throw CheckpointError(
                file.path().string() + ": " + table.view->name +
                " is another than the base's, which training cannot go on with; make a model "
                "of both with qlora-merge, and train a new adapter on that");
        }
        const at::Tensor value = quant::tensor_from_view(*table.view).to(quant::scalar_type_of(table.dtype));
        if (table.parameter == decoder.embedding_weight()) {
            model.set_embedding(nn::Weight(value, model.compute_dtype()), value);
        } else if (table.parameter == decoder.head_weight()) {
            model.head() = nn::Weight(value, model.compute_dtype());
        } else {
            model.set_head_bias(value);
        }
    }
}

}  // namespace qlora::adapters
