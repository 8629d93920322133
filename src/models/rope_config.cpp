#include "rope_config.h"

namespace qlora::models {
namespace {

void read_llama3(ConfigReader& section, RopeConfig& rope) {
    FaultList& faults = section.faults();
    for (const char* name : {"factor", "low_freq_factor", "high_freq_factor"}) {
        if (!section.has(name)) faults.add(name, "is missing");
    }
    rope.factor = section.number("factor", 1.0);
    rope.low_freq_factor = section.number("low_freq_factor", 1.0);
    rope.high_freq_factor = section.number("high_freq_factor", 4.0);
    if (faults.empty() && rope.high_freq_factor <= rope.low_freq_factor) {
        faults.add("high_freq_factor", "must be greater than low_freq_factor");
    }
}

}  // namespace

RopeConfig read_rope(ConfigReader& reader, std::int64_t max_positions, double default_theta) {
    RopeConfig rope;
    rope.theta = reader.number("rope_theta", default_theta);
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
    ConfigReader values(section, inner);
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
        // Beside the section it wins over the one inside.
        ConfigReader& place = reader.has("original_max_position_embeddings") ? reader : values;
        rope.original_max_position_embeddings =
            place.integer("original_max_position_embeddings", max_positions);
        read_llama3(values, rope);
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

}  // namespace qlora::models
