#include "rope_config.h"

#include <array>
#include <cmath>
#include <string_view>

namespace qlora::models {
namespace {

struct TypeName {
    std::string_view name;
    RopeType type;
};
constexpr std::array kTypes{
    TypeName{"default", RopeType::kDefault}, TypeName{"linear", RopeType::kLinear},
    TypeName{"dynamic", RopeType::kDynamic}, TypeName{"llama3", RopeType::kLlama3},
    TypeName{"yarn", RopeType::kYarn},       TypeName{"longrope", RopeType::kLongrope}};

/// One section, and what counts beside it.
struct Source {
    ConfigReader& section;
    ConfigReader& beside;
    const RopeSizes& sizes;
    const RopeDefaults& defaults;
    bool is_nested = false;  ///< the section of one layer type among others
    bool truncate = true;
};

RopeType read_type(const Source& source) {
    const std::string name = source.section.text("rope_type", source.section.text("type", "default"));
    if (source.defaults.only_longrope) {
        if (name == "longrope" || name == "su" || name == "yarn") return RopeType::kLongrope;
        if (name != "default")
            source.section.faults().add("rope_type", "'" + name +
                                                         "' is not supported for this model_type; supported "
                                                         "are default and longrope");
        return RopeType::kDefault;
    }
    std::string known;
    for (const TypeName& row : kTypes) {
        if (name == row.name) return row.type;
        known += (known.empty() ? "" : ", ") + std::string(row.name);
    }
    source.section.faults().add("rope_type", "'" + name + "' is not supported; supported are " + known);
    return RopeType::kDefault;
}

/// Zero, or a null, is as if the key were missing.
double number_or_zero(ConfigReader& section, const char* key) {
    if (!section.has(key) || section.json().at(key) == 0) return 0.0;
    return section.number(key, 0.0);
}

void require(ConfigReader& section, const char* key) {
    if (!section.has(key)) section.faults().add(key, "is missing");
}

std::int64_t original_positions(const Source& source) {
    constexpr const char* kKey = "original_max_position_embeddings";
    if (!source.is_nested && source.beside.has(kKey)) return source.beside.integer(kKey, std::nullopt);
    if (!source.is_nested && source.defaults.original_positions) return *source.defaults.original_positions;
    return source.section.integer(kKey, source.sizes.max_positions);
}

void read_llama3(ConfigReader& section, RopeConfig& rope) {
    for (const char* key : {"factor", "low_freq_factor", "high_freq_factor"}) require(section, key);
    rope.factor = section.number("factor", 1.0);
    rope.low_freq_factor = section.number("low_freq_factor", 1.0);
    rope.high_freq_factor = section.number("high_freq_factor", 4.0);
    if (section.faults().empty() && rope.high_freq_factor <= rope.low_freq_factor)
        section.faults().add("high_freq_factor", "must be greater than low_freq_factor");
}

double yarn_scale(double factor, double weight) {
    return factor <= 1.0 ? 1.0 : 0.1 * weight * std::log(factor) + 1.0;
}

/// The context's growth, for a factor that is left out.
double growth(const Source& source, const RopeConfig& rope) {
    return static_cast<double>(source.sizes.max_positions) /
           static_cast<double>(rope.original_max_position_embeddings);
}

void read_yarn(const Source& source, RopeConfig& rope) {
    ConfigReader& section = source.section;
    if (!section.json().contains("factor"))
        section.faults().add("factor",
                             "is missing (null stands for max_position_embeddings / "
                             "original_max_position_embeddings)");
    rope.factor = section.number("factor", growth(source, rope));
    const double mscale = number_or_zero(section, "mscale");
    const double mscale_all_dim = number_or_zero(section, "mscale_all_dim");
    const bool has_both = mscale > 0 && mscale_all_dim > 0;
    rope.attention_factor =
        section.number("attention_factor",
                       has_both ? yarn_scale(rope.factor, mscale) / yarn_scale(rope.factor, mscale_all_dim)
                                : yarn_scale(rope.factor, 1.0));
    const double fast = number_or_zero(section, "beta_fast"), slow = number_or_zero(section, "beta_slow");
    if (fast > 0) rope.beta_fast = fast;
    if (slow > 0) rope.beta_slow = slow;
    if (rope.beta_fast < rope.beta_slow) section.faults().add("beta_fast", "must not be less than beta_slow");
    rope.truncate = source.truncate;
    if (rope.theta <= 1.0) section.faults().add("rope_theta", "must be greater than 1 for yarn");
}

/// `count` 0: it is not known.
std::vector<double> read_divisors(ConfigReader& section, const char* key, std::int64_t count) {
    std::vector<double> out;
    require(section, key);
    if (!section.has(key)) return out;
    const Json& list = section.json().at(key);
    if (count == 0) count = static_cast<std::int64_t>(list.size());
    if (list.is_array()) {
        for (const Json& value : list) {
            if (value.is_number() && value.get<double>() > 0) out.push_back(value.get<double>());
        }
    }
    const auto wanted = static_cast<std::size_t>(count);
    if (!list.is_array() || out.size() != list.size() || out.size() != wanted) {
        std::string but;
        if (list.is_array() && list.size() != wanted) but = ", not " + std::to_string(list.size());
        if (list.is_array() && list.size() == wanted)
            but = "; " + std::to_string(wanted - out.size()) + " of them are not positive numbers";
        section.faults().add(key, "must list " + std::to_string(count) +
                                      " positive numbers, one for each angle of a head" + but);
        out.assign(static_cast<std::size_t>(count), 1.0);
    }
    return out;
}

void read_longrope(const Source& source, std::int64_t dims, RopeConfig& rope) {
    ConfigReader& section = source.section;
    rope.short_factor = read_divisors(section, "short_factor", dims / 2);
    rope.long_factor = read_divisors(section, "long_factor", dims / 2);
    rope.factor = section.number("factor", growth(source, rope));
    const double original = static_cast<double>(rope.original_max_position_embeddings);
    rope.attention_factor = section.number(
        "attention_factor",
        rope.factor <= 1.0 ? 1.0 : std::sqrt(1.0 + std::log(rope.factor) / std::log(original)));
}

/// 0 after a fault.
std::int64_t read_dims(const Source& source) {
    constexpr const char* kKey = "partial_rotary_factor";
    const RopeDefaults& defaults = source.defaults;
    const double share = source.section.number(
        kKey, source.beside.number(defaults.partial_key, defaults.partial.value_or(1.0)));
    ConfigReader& place = source.section.has(kKey) ? source.section : source.beside;
    const char* key = source.section.has(kKey) ? kKey : defaults.partial_key;
    if (share == 1.0) return source.sizes.head_dim;
    if (!defaults.partial) {
        place.faults().add(key, "only 1.0 is supported");
        return 0;
    }
    const auto dims =
        static_cast<std::int64_t>(static_cast<double>(source.sizes.head_dim) * std::min(share, 1.0));
    if (share > 1.0 || dims < 2 || dims % 2 != 0) {
        place.faults().add(key, "must leave an even number of the " + std::to_string(source.sizes.head_dim) +
                                    " dimensions of a head to turn, not " +
                                    Json(share * static_cast<double>(source.sizes.head_dim)).dump());
        return 0;
    }
    return dims;
}

void read_limit(const Source& source, RopeConfig& rope) {
    if (rope.type == RopeType::kDynamic) {
        rope.most_positions = source.sizes.max_positions;
        rope.beyond =
            "a rope of type dynamic changes with the longest row beyond max_position_embeddings, which is "
            "not "
            "built";
    }
    if (!source.defaults.scales_queries || number_or_zero(source.section, "llama_4_scaling_beta") == 0)
        return;
    const bool has_original =
        rope.type == RopeType::kLlama3 || rope.type == RopeType::kYarn || rope.type == RopeType::kLongrope;
    rope.most_positions = has_original ? rope.original_max_position_embeddings : original_positions(source);
    rope.beyond =
        "llama_4_scaling_beta scales the queries beyond original_max_position_embeddings, which is not built";
}

spec::Rope read(const Source& source) {
    ConfigReader& section = source.section;
    const std::int64_t dims = read_dims(source);
    spec::Rope out{.dims = dims > 0 ? dims : source.sizes.head_dim,
                   .pairs = source.defaults.pairs,
                   .rounding = source.defaults.rounding};
    RopeConfig& rope = out.frequencies;
    const char* theta_key = source.defaults.theta_key;
    rope.theta = section.number("rope_theta", theta_key == nullptr
                                                  ? source.defaults.theta
                                                  : source.beside.number(theta_key, source.defaults.theta));
    rope.type = read_type(source);
    for (const auto& [name, value] : section.json().items()) {
        if (value.is_object())
            section.faults().add(name, "a rotary embedding of its own for some layers is not supported");
    }
    switch (rope.type) {
        case RopeType::kDefault:
            break;
        case RopeType::kLinear:
        case RopeType::kDynamic:
            require(section, "factor");
            rope.factor = section.number("factor", 1.0);
            break;
        case RopeType::kLlama3:
            rope.original_max_position_embeddings = original_positions(source);
            read_llama3(section, rope);
            break;
        case RopeType::kYarn:
            rope.original_max_position_embeddings = original_positions(source);
            read_yarn(source, rope);
            break;
        case RopeType::kLongrope:
            rope.original_max_position_embeddings = original_positions(source);
            read_longrope(source, dims, rope);
            break;
    }
    read_limit(source, rope);
    return out;
}

/// With the section's faults under its name. What is no object is one fault and counts as empty.
spec::Rope read_section(ConfigReader& config, const std::string& name, const Json& json,
                        const RopeSizes& sizes, const RopeDefaults& defaults,
                        std::optional<bool> nested_truncate = {}) {
    if (!json.is_object()) config.faults().add(name, "must be an object or null");
    const Json values = json.is_object() ? json : Json::object();
    FaultList inner;
    ConfigReader section(values, inner);
    const bool truncate = nested_truncate ? *nested_truncate : section.boolean("truncate", true);
    const spec::Rope out = read({.section = section,
                                 .beside = config,
                                 .sizes = sizes,
                                 .defaults = defaults,
                                 .is_nested = nested_truncate.has_value(),
                                 .truncate = truncate});
    for (const std::string& fault : inner.faults()) config.faults().add("", name + "." + fault);
    return out;
}

}  // namespace

spec::Rope read_rope(ConfigReader& config, const RopeSizes& sizes, const RopeDefaults& defaults) {
    // A rope_scaling that says anything replaces rope_parameters whole, its theta too.
    const bool is_scaled = config.has("rope_scaling") && config.json().at("rope_scaling") != Json::object();
    const char* name = is_scaled ? "rope_scaling" : "rope_parameters";
    if (config.has(name)) return read_section(config, name, config.json().at(name), sizes, defaults);
    return read_section(config, name, defaults.section.is_null() ? Json::object() : defaults.section, sizes,
                        defaults);
}

RopesByLayerType read_ropes_by_layer_type(ConfigReader& config, const RopeSizes& sizes,
                                          const LayerTypeDefaults& defaults) {
    constexpr const char* kFull = "full_attention";
    constexpr const char* kSliding = "sliding_attention";
    const Json sections =
        config.has("rope_parameters") ? config.json().at("rope_parameters") : Json::object();
    if (!sections.is_object()) config.faults().add("rope_parameters", "must be an object or null");
    FaultList inner;
    ConfigReader outer(sections, inner);
    if (sections.is_object()) {
        for (const auto& [key, value] : sections.items()) {
            if (key != kFull && key != kSliding && key != "truncate")
                inner.add(key,
                          "must stand in full_attention or sliding_attention: transformers passes it over "
                          "here");
        }
    }
    const auto section = [&](const char* key) { return outer.has(key) ? sections.at(key) : Json::object(); };
    Json full = section(kFull);
    std::string full_name = std::string("rope_parameters.") + kFull;
    if (config.has("rope_scaling")) {
        full_name = "rope_scaling";
        const Json& scaling = config.json().at(full_name);
        if (scaling.is_object() && scaling.contains("type") && !scaling.contains("rope_type"))
            config.faults().add("rope_scaling.type",
                                "must be named rope_type: transformers passes it over here");
        if (scaling.is_object() && full.is_object()) {
            full.update(scaling);
        } else {
            full = scaling;
        }
    }
    // transformers reads it beside the sections alone.
    const bool truncate = outer.boolean("truncate", true);
    for (const std::string& fault : inner.faults()) config.faults().add("", "rope_parameters." + fault);
    return {.full = read_section(config, full_name, full, sizes, {.theta = defaults.full_theta}, truncate),
            .sliding = read_section(
                config, std::string("rope_parameters.") + kSliding, section(kSliding), sizes,
                {.theta = defaults.sliding_theta, .theta_key = defaults.sliding_theta_key}, truncate)};
}

}  // namespace qlora::models
