#include "qlora/models/model_config.h"

#include <algorithm>

#include "config_reader.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/io/model_folder.h"
#include "rope_config.h"

namespace qlora::models {
namespace {

/// What differs between the supported architectures; everything else is one decoder.
struct Architecture {
    std::string model_type;
    enum class Bias { kNone, kAttentionBias, kQueryKeyValue } bias;
    bool query_key_norm;
    bool has_mlp_bias;
    double rms_norm_eps;  // transformers' default when the key is missing
    std::int64_t max_positions;
    std::int64_t default_head_dim;  // 0: hidden_size / num_attention_heads
    std::int64_t default_kv_heads;  // 0: num_attention_heads
    enum class Window { kNone, kAlways, kUseFlag } window;
};

const std::vector<Architecture>& architectures() {
    using Bias = Architecture::Bias;
    using Window = Architecture::Window;
    static const std::vector<Architecture> table = {
        {"llama", Bias::kAttentionBias, false, true, 1e-6, 2048, 0, 0, Window::kNone},
        {"mistral", Bias::kNone, false, false, 1e-6, 4096 * 32, 0, 8, Window::kAlways},
        {"qwen2", Bias::kQueryKeyValue, false, false, 1e-6, 32768, 0, 32, Window::kUseFlag},
        {"qwen3", Bias::kAttentionBias, true, false, 1e-6, 32768, 128, 32, Window::kUseFlag},
    };
    return table;
}

constexpr std::int64_t kMostHeads = 65536;  // and the largest head_dim
constexpr std::int64_t kMostLayers = 10000;

/// The sliding window of each layer as it is where `layer_types` is absent; 0: the layer has none.
std::vector<std::int64_t> default_windows(ConfigReader& reader, const Architecture& architecture,
                                          std::int64_t layers, std::int64_t& window) {
    std::vector<std::int64_t> windows(static_cast<std::size_t>(layers), 0);
    const bool asked =
        architecture.window == Architecture::Window::kAlways || reader.boolean("use_sliding_window", false);
    const bool switched_off = reader.json().contains("sliding_window") && !reader.has("sliding_window");
    if (!asked || switched_off) return windows;
    window = reader.integer("sliding_window", 4096);  // transformers' default
    const std::int64_t first = architecture.window == Architecture::Window::kUseFlag
                                   ? reader.integer("max_window_layers", 28, 0)
                                   : 0;
    for (std::int64_t layer = first; layer < layers; ++layer)
        windows[static_cast<std::size_t>(layer)] = window;
    return windows;
}

std::vector<std::int64_t> read_windows(ConfigReader& reader, const Architecture& architecture,
                                       std::int64_t layers) {
    if (architecture.window == Architecture::Window::kNone) {
        return std::vector<std::int64_t>(static_cast<std::size_t>(layers), 0);
    }
    std::int64_t window = 0;
    std::vector<std::int64_t> windows = default_windows(reader, architecture, layers, window);
    if (!reader.has("layer_types")) return windows;
    const Json& types = reader.json().at("layer_types");
    if (!types.is_array() || static_cast<std::int64_t>(types.size()) != layers) {
        reader.faults().add("layer_types", "must list one entry for each of the layers");
        return windows;
    }
    for (std::size_t layer = 0; layer < windows.size(); ++layer) {
        const std::string place = "layer_types[" + std::to_string(layer) + "]";
        const bool full = types[layer] == "full_attention";
        if (!full && types[layer] != "sliding_attention") {
            reader.faults().add(
                place, types[layer].dump() + " is not supported; use full_attention or sliding_attention");
        } else if (!full && window == 0) {
            reader.faults().add(place, "is sliding_attention, but no sliding_window is switched on");
        } else if (full && windows[layer] > 0 && architecture.window == Architecture::Window::kAlways) {
            reader.faults().add(place, "is full_attention, but all layers of a " + architecture.model_type +
                                           " model have the sliding_window");
        } else {
            windows[layer] = full ? 0 : window;
        }
    }
    return windows;
}

/// Settings that would change numbers if they were anything but what is built.
void refuse_unbuilt_settings(ConfigReader& reader) {
    const std::string act = reader.text("hidden_act", "silu");
    if (act != "silu") reader.faults().add("hidden_act", "'" + act + "' is not supported; only silu is");
    if (reader.has("attention_dropout") && reader.json().at("attention_dropout") != 0 &&
        reader.json().at("attention_dropout") != 0.0) {
        reader.faults().add("attention_dropout", "only 0 is supported");
    }
    if (reader.has("partial_rotary_factor") && reader.json().at("partial_rotary_factor") != 1.0) {
        reader.faults().add("partial_rotary_factor", "only 1.0 is supported");
    }
}

const Architecture& architecture_of(ConfigReader& reader, const std::string& model_type,
                                    const std::string& name) {
    for (const Architecture& row : architectures()) {
        if (row.model_type == model_type) return row;
    }
    std::string known;
    for (const std::string& type : supported_model_types()) known += (known.empty() ? "" : ", ") + type;
    const char* own_code =
        reader.has("auto_map")
            ? "; it comes with Python code of its own (auto_map), and no code from a model "
              "folder is run"
            : "";
    throw CheckpointError(name + ": model_type '" + model_type + "' is not supported; supported are " +
                          known + own_code);
}

void read_sizes(ConfigReader& reader, const Architecture& architecture, ModelConfig& config) {
    config.vocab_size = reader.integer("vocab_size", std::nullopt);
    config.hidden_size = reader.integer("hidden_size", std::nullopt);
    config.intermediate_size = reader.integer("intermediate_size", std::nullopt);
    config.num_hidden_layers = reader.integer("num_hidden_layers", std::nullopt, 1, kMostLayers);
    config.max_position_embeddings = reader.integer("max_position_embeddings", architecture.max_positions);
}

void read_heads(ConfigReader& reader, const Architecture& architecture, ModelConfig& config) {
    config.num_attention_heads = reader.integer("num_attention_heads", std::nullopt, 1, kMostHeads);
    // A null means as many as there are query heads; a missing key, the architecture's own default.
    const bool kv_by_default =
        !reader.json().contains("num_key_value_heads") && architecture.default_kv_heads > 0;
    config.num_key_value_heads = reader.integer(
        "num_key_value_heads", kv_by_default ? architecture.default_kv_heads : config.num_attention_heads, 1,
        kMostHeads);
    if (config.num_attention_heads % config.num_key_value_heads != 0) {
        reader.faults().add("num_key_value_heads", std::to_string(config.num_key_value_heads) +
                                                       " does not divide num_attention_heads " +
                                                       std::to_string(config.num_attention_heads));
    }
    std::int64_t head_dim = architecture.default_head_dim;
    if (!reader.has("head_dim") && head_dim == 0) {
        if (config.hidden_size % config.num_attention_heads != 0) {
            reader.faults().add("hidden_size", std::to_string(config.hidden_size) +
                                                   " is not a multiple of num_attention_heads " +
                                                   std::to_string(config.num_attention_heads));
        }
        head_dim = std::max<std::int64_t>(1, config.hidden_size / config.num_attention_heads);
    }
    config.head_dim = reader.integer("head_dim", head_dim, 1, kMostHeads);
    if (config.head_dim % 2 != 0) reader.faults().add("head_dim", "must be even for rotary embeddings");
}

void read_biases_and_norms(ConfigReader& reader, const Architecture& architecture, ModelConfig& config) {
    const bool attention_bias =
        architecture.bias == Architecture::Bias::kAttentionBias && reader.boolean("attention_bias", false);
    config.query_key_value_bias = attention_bias || architecture.bias == Architecture::Bias::kQueryKeyValue;
    config.output_bias = attention_bias;
    config.mlp_bias = architecture.has_mlp_bias && reader.boolean("mlp_bias", false);
    config.query_key_norm = architecture.query_key_norm;
    config.rms_norm_eps = reader.number("rms_norm_eps", architecture.rms_norm_eps);
}

void read_token_ids(ConfigReader& reader, ModelConfig& config) {
    if (reader.has("eos_token_id")) {
        const Json& eos = reader.json().at("eos_token_id");
        for (const Json& id : eos.is_array() ? eos : Json::array({eos})) {
            if (id.is_number_integer()) config.eos_token_ids.push_back(id.get<std::int64_t>());
        }
    }
    if (reader.has("pad_token_id") && reader.json().at("pad_token_id").is_number_integer()) {
        const std::int64_t id = reader.json().at("pad_token_id").get<std::int64_t>();
        if (id >= 0 && id < config.vocab_size) config.pad_token_id = id;
    }
}

}  // namespace

const std::vector<std::string>& supported_model_types() {
    static const std::vector<std::string> names = [] {
        std::vector<std::string> out;
        for (const Architecture& row : architectures()) out.push_back(row.model_type);
        return out;
    }();
    return names;
}

ModelConfig parse_model_config(const Json& json, const std::string& name) {
    if (!json.is_object()) throw CheckpointError(name + ": must hold a JSON object");
    FaultList faults;
    ConfigReader reader(json, faults);
    ModelConfig config;
    config.model_type = reader.text("model_type", "");
    const Architecture& architecture = architecture_of(reader, config.model_type, name);
    read_sizes(reader, architecture, config);
    read_heads(reader, architecture, config);
    read_biases_and_norms(reader, architecture, config);
    config.tie_word_embeddings = reader.boolean("tie_word_embeddings", false);
    config.rope = read_rope(reader, config.max_position_embeddings);
    config.sliding_window = read_windows(reader, architecture, config.num_hidden_layers);
    config.dtype = reader.text("dtype", reader.text("torch_dtype", ""));
    read_token_ids(reader, config);
    if (reader.has("quantization_config")) {
        config.stored_in_4bit = quant::read_bnb_config(json.at("quantization_config"), faults);
    }
    refuse_unbuilt_settings(reader);
    if (reader.has("auto_map")) {
        config.passed_over.push_back(name + ": auto_map is passed over: model_type '" + config.model_type +
                                     "' is built in, and no Python code from a model folder is run");
    }
    faults.throw_if_any<CheckpointError>(name);
    return config;
}

void log_passed_over(const ModelConfig& config) {
    for (const std::string& line : config.passed_over) spdlog::info("{}", line);
}

std::int64_t trained_positions(const ModelConfig& config) {
    if (config.rope.type != RopeType::kLlama3) return config.max_position_embeddings;
    const double stretched =
        config.rope.factor * static_cast<double>(config.rope.original_max_position_embeddings);
    return std::max(config.max_position_embeddings,
                    static_cast<std::int64_t>(std::min(stretched, static_cast<double>(kLargestSize))));
}

ModelConfig load_model_config(const std::filesystem::path& folder) {
    const std::filesystem::path file = folder / "config.json";
    std::error_code error;
    if (!std::filesystem::exists(file, error)) io::require_model_folder(folder);
    return parse_model_config(read_json_file(file), file.string());
}

}  // namespace qlora::models
