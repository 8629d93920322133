#include "qlora/quant/bnb_config.h"

#include <algorithm>
#include <array>
#include <map>

namespace qlora::quant {
namespace {

constexpr const char* kSection = "quantization_config";
constexpr const char* kUseOriginal = "use the original model";

/// Keys that say nothing about 4-bit weights (8-bit settings, the dtype transformers computes in).
constexpr std::array kWithoutEffect = {
    "bnb_4bit_compute_dtype",   "llm_int8_threshold", "llm_int8_enable_fp32_cpu_offload",
    "llm_int8_has_fp16_weight", "_load_in_4bit",      "_load_in_8bit"};
constexpr std::array kKnown = {"quant_method",
                               "load_in_4bit",
                               "load_in_8bit",
                               "bnb_4bit_quant_type",
                               "bnb_4bit_use_double_quant",
                               "bnb_4bit_quant_storage",
                               "llm_int8_skip_modules"};

const std::map<std::string, io::DType>& storage_dtypes() {
    static const std::map<std::string, io::DType> table = {
        {"uint8", io::DType::kU8},    {"int8", io::DType::kI8},     {"float16", io::DType::kF16},
        {"float32", io::DType::kF32}, {"float64", io::DType::kF64}, {"bfloat16", io::DType::kBF16}};
    return table;
}

/// Typed reads of the section that collect faults.
class Section {
  public:
    Section(const Json& json, FaultList& faults) : json_(json), faults_(faults) {}

    bool flag(const char* key, bool fallback) { return value<bool>(key, fallback, "true or false"); }
    std::string text(const char* key, const std::string& fallback) {
        return value<std::string>(key, fallback, "a string");
    }
    void fault(const std::string& key, const std::string& message) {
        faults_.add(std::string(kSection) + "." + key, message);
    }

    std::vector<std::string> names(const char* key) {
        std::vector<std::string> out;
        if (!json_.contains(key) || json_.at(key).is_null()) return out;
        if (!json_.at(key).is_array()) fault(key, "must be null or a list of names");
        for (const Json& name : json_.at(key)) {
            if (!name.is_string()) {
                fault(key, "must be null or a list of names");
                break;
            }
            out.push_back(name.get<std::string>());
            if (out.back().find_first_of("\\*+?[](){}|^$") != std::string::npos) {
                fault(key, "\"" + out.back() + "\" is a pattern; only names are supported");
            }
        }
        return out;
    }

    void refuse_unknown_keys() {
        const auto in = [](const auto& table, const std::string& key) {
            return std::find(table.begin(), table.end(), key) != table.end();
        };
        for (const auto& [key, entry] : json_.items()) {
            if (in(kKnown, key) || in(kWithoutEffect, key) || is_empty_value(entry)) continue;
            fault(key, "is not known, so what it changes is not either; " + std::string(kUseOriginal));
        }
    }

  private:
    template <class T>
    T value(const char* key, const T& fallback, const char* kind) {
        if (!json_.contains(key)) return fallback;
        const Json& entry = json_.at(key);
        const bool fits = std::is_same_v<T, bool> ? entry.is_boolean() : entry.is_string();
        if (!fits) {
            fault(key, std::string("must be ") + kind + ", not " + entry.dump());
            return fallback;
        }
        return entry.template get<T>();
    }

    const Json& json_;
    FaultList& faults_;
};

}  // namespace

bool BnbConfig::skips(const std::string& path) const {
    return std::any_of(skip_modules.begin(), skip_modules.end(), [&](const std::string& name) {
        if (path.ends_with(name)) return true;
        return path.starts_with(name) && (name.ends_with('.') || path[name.size()] == '.');
    });
}

BnbConfig read_bnb_config(const Json& json, FaultList& faults) {
    BnbConfig out;
    if (!json.is_object()) {
        faults.add(kSection, "must be an object");
        return out;
    }
    Section section(json, faults);
    const std::string method = section.text("quant_method", "bitsandbytes");
    if (method != "bitsandbytes") {
        section.fault(
            "quant_method",
            "'" + method + "' is not supported, only 4-bit checkpoints of bitsandbytes are; " + kUseOriginal);
        return out;
    }
    if (section.flag("load_in_8bit", section.flag("_load_in_8bit", false))) {
        section.fault("load_in_8bit",
                      std::string("8-bit weights are not supported, only 4-bit ones; ") + kUseOriginal);
        return out;
    }
    if (!section.flag("load_in_4bit", section.flag("_load_in_4bit", false))) {
        section.fault("load_in_4bit", "must be true: only 4-bit checkpoints of bitsandbytes are supported");
        return out;
    }
    const std::string type = section.text("bnb_4bit_quant_type", "fp4");
    if (type != "nf4") {
        section.fault("bnb_4bit_quant_type", "'" + type + "' is not supported, only nf4 is; " + kUseOriginal);
    }
    out.double_quant = section.flag("bnb_4bit_use_double_quant", false);
    const std::string storage = section.text("bnb_4bit_quant_storage", "uint8");
    const auto dtype = storage_dtypes().find(storage);
    if (dtype == storage_dtypes().end()) {
        section.fault("bnb_4bit_quant_storage", "'" + storage + "' is not a dtype that can be stored");
    } else {
        out.storage = dtype->second;
    }
    out.skip_modules = section.names("llm_int8_skip_modules");
    section.refuse_unknown_keys();
    return out;
}

std::string compute_dtype_name(ComputeDtype dtype) {
    if (dtype == ComputeDtype::kAuto) dtype = ComputeDtype::kFloat32;
    return FieldType<ComputeDtype>::write(dtype).get<std::string>();
}

Json bnb_config_json(const QuantConfig& config) {
    return {{"_load_in_4bit", true},
            {"_load_in_8bit", false},
            {"bnb_4bit_compute_dtype", compute_dtype_name(config.bnb_4bit_compute_dtype)},
            {"bnb_4bit_quant_storage", "uint8"},
            {"bnb_4bit_quant_type", FieldType<QuantType>::write(config.bnb_4bit_quant_type)},
            {"bnb_4bit_use_double_quant", config.bnb_4bit_use_double_quant},
            {"llm_int8_enable_fp32_cpu_offload", false},
            {"llm_int8_has_fp16_weight", false},
            {"llm_int8_skip_modules", nullptr},
            {"llm_int8_threshold", 6.0},
            {"load_in_4bit", true},
            {"load_in_8bit", false},
            {"quant_method", "bitsandbytes"}};
}

std::vector<std::string> contradictions(const QuantConfig& wanted, const QuantConfig& stored) {
    const Json before = write_fields(wanted), after = write_fields(stored);
    std::vector<std::string> out;
    for (const auto& [name, value] : before.items()) {
        if (name == "bnb_4bit_compute_dtype" || value == after.at(name)) continue;
        out.push_back(name + ": " + value.dump() + ", stored is " + after.at(name).dump());
        if (name == "load_in_4bit") break;  // the others have no meaning then
    }
    return out;
}

}  // namespace qlora::quant
