#include "config_reader.h"

#include <algorithm>
#include <string_view>

namespace qlora::models {
namespace {

using kernels::Activation;

struct ActivationName {
    std::string_view name;
    Activation kind;
};
constexpr ActivationName kActivations[] = {
    {"silu", Activation::kSilu},         {"swish", Activation::kSilu},
    {"gelu", Activation::kGelu},         {"gelu_pytorch_tanh", Activation::kGeluTanh},
    {"gelu_new", Activation::kGeluTanh}, {"gelu_fast", Activation::kGeluTanh}};

}  // namespace

std::int64_t ConfigReader::integer(const char* key, std::optional<std::int64_t> fallback, std::int64_t low,
                                   std::int64_t high) {
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

double ConfigReader::number(const char* key, double fallback) {
    if (!has(key)) return fallback;
    const Json& value = json_.at(key);
    if (!value.is_number() || !(value.get<double>() > 0)) {
        faults_.add(key, "must be a positive number, not " + value.dump());
        return fallback;
    }
    return value.get<double>();
}

bool ConfigReader::boolean(const char* key, bool fallback) {
    if (!has(key)) return fallback;
    const Json& value = json_.at(key);
    if (!value.is_boolean()) {
        faults_.add(key, "must be true or false, not " + value.dump());
        return fallback;
    }
    return value.get<bool>();
}

double ConfigReader::number_or_off(const char* key, double fallback) {
    return json_.contains(key) && !has(key) ? 0.0 : number(key, fallback);
}

Activation ConfigReader::activation(const char* key, const std::string& fallback) {
    const std::string name = text(key, fallback);
    const auto* found = std::find_if(std::begin(kActivations), std::end(kActivations),
                                     [&](const ActivationName& row) { return row.name == name; });
    if (found != std::end(kActivations)) return found->kind;
    std::string known;
    for (const ActivationName& row : kActivations)
        known += (known.empty() ? "" : ", ") + std::string(row.name);
    faults_.add(key, "'" + name + "' is not supported; supported are " + known);
    return Activation::kSilu;
}

std::string ConfigReader::text(const char* key, const std::string& fallback) {
    if (!has(key)) return fallback;
    const Json& value = json_.at(key);
    if (!value.is_string()) {
        faults_.add(key, "must be a string, not " + value.dump());
        return fallback;
    }
    return value.get<std::string>();
}

}  // namespace qlora::models
