#include "qlora/models/model_config.h"

#include <algorithm>

#include "qlora/core/error.h"
#include "qlora/io/model_folder.h"

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

// Beyond any real model, and small enough that no product of two sizes overflows and no table fills the
// memory.
constexpr std::int64_t kLargestSize = 1'000'000'000;
constexpr std::int64_t kMostHeads = 65536;  // and the largest head_dim
constexpr std::int64_t kMostLayers = 10000;

/// Typed reads from config.json that collect faults instead of stopping at the first.
class Reader {
  public:
    Reader(const Json& json, FaultList& faults) : json_(json), faults_(faults) {}

    bool has(const char* key) const { return json_.contains(key) && !json_.at(key).is_null(); }

    std::int64_t integer(const char* key, std::optional<std::int64_t> fallback, std::int64_t low = 1,
                         std::int64_t high = kLargestSize) {
        if (!has(key)) {
            if (!fallback) faults_.add(key, "is missing");
            return fallback.value_or(low);
        }
        const Json& value = json_.at(key);
        if (!value.is_number_integer() || value.get<double>() < static_cast<double>(low) ||
            value.get<double>() > static_cast<double>(high)) {
            faults_.add(key, "must be a whole number from " + std::to_string(low) + " to " +
                                 std::to_string(high) + ", not " + value.dump());
            return low;
        }
        return value.get<std::int64_t>();
    }

    double number(const char* key, double fallback) {
        if (!has(key)) return fallback;
        const Json& value = json_.at(key);
        if (!value.is_number() || !(value.get<double>() > 0)) {
            faults_.add(key, "must be a positive number, not " + value.dump());
            return fallback;
        }
        return value.get<double>();
    }

    bool boolean(const char* key, bool fallback) {
        if (!has(key)) return fallback;
        const Json& value = json_.at(key);
        if (!value.is_boolean()) {
            faults_.add(key, "must be true or false, not " + value.dump());
            return fallback;
        }
        return value.get<bool>();
    }

    std::string text(const char* key, const std::string& fallback) {
        if (!has(key)) return fallback;
        const Json& value = json_.at(key);
        if (!value.is_string()) {
            faults_.add(key, "must be a string, not " + value.dump());
            return fallback;
        }
        return value.get<std::string>();
    }

    const Json& json() const { return json_; }
    FaultList& faults() { return faults_; }

  private:
    const Json& json_;
    FaultList& faults_;
};

RopeConfig read_rope(Reader& reader, std::int64_t max_positions) {
    RopeConfig rope;
    rope.theta = reader.number("rope_theta", 10000.0);
    // As transformers reads them: a rope_scaling that says anything replaces rope_parameters whole, its theta
    // too.
    const bool is_scaled = reader.has("rope_scaling") && reader.json().at("rope_scaling") != Json::object();
    const char* key = is_scaled ? "rope_scaling" : "rope_parameters";
    if (!reader.has(key)) return rope;
    const Json& section = reader.json().at(key);
    if (!section.is_object()) {
        reader.faults().add(key, "must be an object or null");
        return rope;
    }
    FaultList inner;
    Reader values(section, inner);
    rope.theta = values.number("rope_theta", rope.theta);
    const std::string type = values.text("rope_type", values.text("type", "default"));
    if (type == "default") {
        rope.type = RopeType::kDefault;
    } else if (type == "linear") {
        rope.type = RopeType::kLinear;
        if (!values.has("factor")) inner.add("factor", "is missing");
        rope.factor = values.number("factor", 1.0);
    } else if (type == "llama3") {
        rope.type = RopeType::kLlama3;
        for (const char* name : {"factor", "low_freq_factor", "high_freq_factor"}) {
            if (!values.has(name)) inner.add(name, "is missing");
        }
        rope.factor = values.number("factor", 1.0);
        rope.low_freq_factor = values.number("low_freq_factor", 1.0);
        rope.high_freq_factor = values.number("high_freq_factor", 4.0);
        // Beside the section it wins over the one inside.
        Reader& place = reader.has("original_max_position_embeddings") ? reader : values;
        rope.original_max_position_embeddings =
            place.integer("original_max_position_embeddings", max_positions);
        if (inner.empty() && rope.high_freq_factor <= rope.low_freq_factor) {
            inner.add("high_freq_factor", "must be greater than low_freq_factor");
        }
    } else {
        inner.add("rope_type", "'" + type + "' is not supported; supported are default, linear and llama3");
    }
    if (values.number("partial_rotary_factor", 1.0) != 1.0) {
        inner.add("partial_rotary_factor", "only 1.0 is supported");
    }
    for (const auto& [name, value] : section.items()) {
        if (value.is_object())
            inner.add(name, "a rotary embedding of its own for some layers is not supported");
    }
    for (const std::string& fault : inner.faults()) reader.faults().add("", std::string(key) + "." + fault);
    return rope;
}

/// The window of each layer without a look at `layer_types`, and 0 where there is none.
std::vector<std::int64_t> default_windows(Reader& reader, const Architecture& architecture,
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

std::vector<std::int64_t> read_windows(Reader& reader, const Architecture& architecture,
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
void refuse_unbuilt_settings(Reader& reader) {
    const std::string act = reader.text("hidden_act", "silu");
    if (act != "silu") reader.faults().add("hidden_act", "'" + act + "' is not supported; only silu is");
    if (reader.has("attention_dropout") && reader.json().at("attention_dropout") != 0 &&
        reader.json().at("attention_dropout") != 0.0) {
        reader.faults().add("attention_dropout", "only 0 is supported");
    }
    if (reader.has("partial_rotary_factor") && reader.json().at("partial_rotary_factor") != 1.0) {
        reader.faults().add("partial_rotary_factor", "only 1.0 is supported");
    }
    if (reader.has("auto_map")) {
        reader.faults().add("auto_map",
                            "the model needs Python code of its own; no code from a model folder is run");
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
    Reader reader(json, faults);
    ModelConfig config;
    config.model_type = reader.text("model_type", "");
    const auto row = std::find_if(
        architectures().begin(), architectures().end(),
        [&](const Architecture& candidate) { return candidate.model_type == config.model_type; });
    if (row == architectures().end()) {
        std::string known;
        for (const std::string& type : supported_model_types()) known += (known.empty() ? "" : ", ") + type;
        throw CheckpointError(name + ": model_type '" + config.model_type +
                              "' is not supported; supported are " + known);
    }
    config.vocab_size = reader.integer("vocab_size", std::nullopt);
    config.hidden_size = reader.integer("hidden_size", std::nullopt);
    config.intermediate_size = reader.integer("intermediate_size", std::nullopt);
    config.num_hidden_layers = reader.integer("num_hidden_layers", std::nullopt, 1, kMostLayers);
    config.num_attention_heads = reader.integer("num_attention_heads", std::nullopt, 1, kMostHeads);
    // A null means as many as there are query heads; a missing key, the architecture's own default.
    const bool kv_by_default = !json.contains("num_key_value_heads") && row->default_kv_heads > 0;
    config.num_key_value_heads =
        reader.integer("num_key_value_heads",
                       kv_by_default ? row->default_kv_heads : config.num_attention_heads, 1, kMostHeads);
    const bool head_dim_by_division = !reader.has("head_dim") && row->default_head_dim == 0;
    if (head_dim_by_division && config.hidden_size % config.num_attention_heads != 0) {
        faults.add("hidden_size", std::to_string(config.hidden_size) +
                                      " is not a multiple of num_attention_heads " +
                                      std::to_string(config.num_attention_heads));
    }
    config.head_dim = reader.integer(
        "head_dim",
        head_dim_by_division ? std::max<std::int64_t>(1, config.hidden_size / config.num_attention_heads)
                             : row->default_head_dim,
        1, kMostHeads);
    config.max_position_embeddings = reader.integer("max_position_embeddings", row->max_positions);
    config.rms_norm_eps = reader.number("rms_norm_eps", row->rms_norm_eps);
    config.tie_word_embeddings = reader.boolean("tie_word_embeddings", false);
    const bool attention_bias =
        row->bias == Architecture::Bias::kAttentionBias && reader.boolean("attention_bias", false);
    config.query_key_value_bias = attention_bias || row->bias == Architecture::Bias::kQueryKeyValue;
    config.output_bias = attention_bias;
    config.mlp_bias = row->has_mlp_bias && reader.boolean("mlp_bias", false);
    config.query_key_norm = row->query_key_norm;
    config.rope = read_rope(reader, config.max_position_embeddings);
    config.sliding_window = read_windows(reader, *row, config.num_hidden_layers);
    config.dtype = reader.text("dtype", reader.text("torch_dtype", ""));
    if (reader.has("eos_token_id")) {
        const Json& eos = json.at("eos_token_id");
        for (const Json& id : eos.is_array() ? eos : Json::array({eos})) {
            if (id.is_number_integer()) config.eos_token_ids.push_back(id.get<std::int64_t>());
        }
    }
    if (reader.has("pad_token_id") && json.at("pad_token_id").is_number_integer()) {
        const std::int64_t id = json.at("pad_token_id").get<std::int64_t>();
        if (id >= 0 && id < config.vocab_size) config.pad_token_id = id;
    }
    if (reader.has("quantization_config")) {
        config.stored_in_4bit = quant::read_bnb_config(json.at("quantization_config"), faults);
    }
    refuse_unbuilt_settings(reader);
    if (config.num_attention_heads % config.num_key_value_heads != 0) {
        faults.add("num_key_value_heads", std::to_string(config.num_key_value_heads) +
                                              " does not divide num_attention_heads " +
                                              std::to_string(config.num_attention_heads));
    }
    if (config.head_dim % 2 != 0) faults.add("head_dim", "must be even for rotary embeddings");
    faults.throw_if_any<CheckpointError>(name);
    return config;
}

ModelConfig load_model_config(const std::filesystem::path& folder) {
    const std::filesystem::path file = folder / "config.json";
    std::error_code error;
    if (!std::filesystem::exists(file, error)) io::require_model_folder(folder);
    return parse_model_config(read_json_file(file), file.string());
}

}  // namespace qlora::models
