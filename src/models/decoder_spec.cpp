#include "qlora/models/decoder_spec.h"

#include <algorithm>
#include <set>

#include "architectures/refused.h"
#include "architectures/registry.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/io/model_folder.h"
#include "qlora/models/checkpoint_names.h"

namespace qlora::models {
namespace {

const Architecture& architecture_of(ConfigReader& config, const std::string& model_type,
                                    const std::string& name) {
    if (const Architecture* row = find_architecture(model_type)) return *row;
    std::string known;
    for (const std::string& type : supported_model_types()) known += (known.empty() ? "" : ", ") + type;
    const char* own_code =
        config.has("auto_map")
            ? "; it comes with Python code of its own (auto_map), and no code from a model "
              "folder is run"
            : "";
    const std::string_view why = why_refused(model_type);
    const std::string fault = config.has("model_type") ? "model_type '" + model_type + "' is not supported"
                                                       : std::string("model_type is missing");
    throw CheckpointError(name + ": " + fault + (why.empty() ? "" : ": " + std::string(why)) +
                          "; supported are " + known + own_code);
}

/// As transformers decides it: a head that differs from the embedding is a tensor of its own.
bool has_own_head(const std::filesystem::path& folder, const DecoderSpec& decoder) {
    const io::Checkpoint checkpoint(folder);
    const CheckpointNames names(checkpoint, decoder);
    if (!names.holds(decoder.head_weight()) || !names.holds(decoder.embedding_weight())) return false;
    const io::TensorView& head = checkpoint.at(names.in_file(decoder.head_weight()));
    const io::TensorView& table = checkpoint.at(names.in_file(decoder.embedding_weight()));
    const bool differs = head.dtype != table.dtype || !std::ranges::equal(head.bytes, table.bytes);
    checkpoint.release(head.name);
    checkpoint.release(table.name);
    return differs;
}

}  // namespace

bool DecoderSpec::ignores(const std::string& parameter) const {
    return std::any_of(ignored.begin(), ignored.end(), [&](const std::string& end) {
        return parameter == end || parameter.ends_with("." + end);
    });
}

bool DecoderSpec::has_experts() const {
    return std::any_of(layers.begin(), layers.end(), [](const spec::Layer& layer) {
        return std::any_of(layer.branches.begin(), layer.branches.end(), [](const spec::Branch& branch) {
            return std::holds_alternative<spec::Experts>(branch.block);
        });
    });
}

std::vector<const spec::Linear*> DecoderSpec::linears() const {
    std::vector<const spec::Linear*> out;
    const auto add = [&](const spec::Linear& linear) { out.push_back(&linear); };
    for (const spec::Layer& layer : layers) {
        for (const spec::Branch& branch : layer.branches) spec::for_each_linear(branch.block, add);
    }
    return out;
}

std::vector<std::size_t> DecoderSpec::used_ropes() const {
    std::set<std::size_t> out;
    for (const spec::Layer& layer : layers) {
        for (const spec::Branch& branch : layer.branches) {
            const auto* attention = std::get_if<spec::Attention>(&branch.block);
            if (attention != nullptr && attention->rope) out.insert(*attention->rope);
        }
    }
    return {out.begin(), out.end()};
}

std::vector<const spec::Norm*> DecoderSpec::norms() const {
    std::vector<const spec::Norm*> out;
    for (const spec::Layer& layer : layers) {
        const auto before = static_cast<std::ptrdiff_t>(out.size());
        for (const spec::Branch& branch : layer.branches) {
            const auto add = [&](const std::optional<spec::Norm>& norm) {
                const auto same = [&](const spec::Norm* known) { return known->path == norm->path; };
                if (norm && std::none_of(out.begin() + before, out.end(), same)) out.push_back(&*norm);
            };
            add(branch.pre);
            if (const auto* attention = std::get_if<spec::Attention>(&branch.block)) {
                add(attention->q_norm);
                add(attention->k_norm);
            }
            add(branch.post);
        }
    }
    out.push_back(&final_norm);
    return out;
}

std::vector<std::string> supported_model_types() {
    std::vector<std::string> out;
    for (const Architecture& row : architectures()) out.emplace_back(row.model_type);
    return out;
}

DecoderSpec parse_decoder_spec(const Json& json, const std::string& name) {
    if (!json.is_object()) throw CheckpointError(name + ": must hold a JSON object");
    FaultList faults;
    ConfigReader config(json, faults);
    const std::string model_type = config.text("model_type", "");
    faults.throw_if_any<CheckpointError>(name);
    const Architecture& architecture = architecture_of(config, model_type, name);
    DecoderSpec decoder = architecture.describe(config);
    decoder.model_type = model_type;
    const Json classes = json.value("architectures", Json::array());
    if (classes.is_array() && !classes.empty() && classes[0].is_string())
        decoder.model_class = classes[0].get<std::string>();
    for (const std::string_view target : architecture.lora_targets) {
        if (!target.empty()) decoder.lora_targets.emplace_back(target);
    }
    for (const std::string_view target : architecture.ia3_targets) {
        if (!target.empty()) decoder.ia3_targets.emplace_back(target);
    }
    decoder.dtype = config.text("dtype", config.text("torch_dtype", ""));
    read_end_ids(config, decoder);
    if (config.has("quantization_config")) {
        decoder.stored_in_4bit = quant::read_bnb_config(json.at("quantization_config"), faults);
    }
    if (config.has("auto_map")) {
        decoder.passed_over.push_back("auto_map is passed over: model_type '" + model_type +
                                      "' is built in, and no Python code from a model folder is run");
    }
    for (std::string& line : decoder.passed_over) line.insert(0, name + ": ");
    faults.throw_if_any<CheckpointError>(name);
    return decoder;
}

void log_passed_over(const DecoderSpec& decoder) {
    for (const std::string& line : decoder.passed_over) spdlog::info("{}", line);
}

std::int64_t trained_positions(const DecoderSpec& decoder) {
    std::int64_t out = decoder.max_position_embeddings;
    for (const std::size_t place : decoder.used_ropes()) {
        const RopeConfig& rope = decoder.ropes.at(place).frequencies;
        if (rope.type != RopeType::kLlama3 && rope.type != RopeType::kYarn &&
            rope.type != RopeType::kLongrope)
            continue;
        const double stretched = rope.factor * static_cast<double>(rope.original_max_position_embeddings);
        out =
            std::max(out, static_cast<std::int64_t>(std::min(stretched, static_cast<double>(kLargestSize))));
    }
    return out;
}

std::optional<PositionLimit> position_limit(const DecoderSpec& decoder) {
    std::optional<PositionLimit> out;
    if (!decoder.positions.empty()) {
        out = {decoder.max_position_embeddings,
               "its positions are learned, and it has none beyond max_position_embeddings"};
    }
    for (const std::size_t place : decoder.used_ropes()) {
        const RopeConfig& rope = decoder.ropes.at(place).frequencies;
        if (rope.most_positions > 0 && (!out || rope.most_positions < out->tokens))
            out = {rope.most_positions, rope.beyond};
    }
    return out;
}

LongropeEdges::LongropeEdges(const DecoderSpec& decoder) {
    for (const std::size_t place : decoder.used_ropes()) {
        const RopeConfig& rope = decoder.ropes.at(place).frequencies;
        if (rope.type == RopeType::kLongrope) edges_.push_back(rope.original_max_position_embeddings);
    }
}

std::size_t LongropeEdges::passed(std::int64_t tokens) const {
    return static_cast<std::size_t>(
        std::count_if(edges_.begin(), edges_.end(), [&](std::int64_t edge) { return tokens > edge; }));
}

DecoderSpec load_decoder_spec(const std::filesystem::path& folder) {
    const std::filesystem::path file = folder / "config.json";
    std::error_code error;
    if (!std::filesystem::exists(file, error)) io::require_model_folder(folder);
    DecoderSpec decoder = parse_decoder_spec(read_json_file(file), file.string());
    if (decoder.tied_by_default && has_own_head(folder, decoder)) decoder.tie_word_embeddings = false;
    return decoder;
}

}  // namespace qlora::models
