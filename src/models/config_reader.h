#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "qlora/core/error.h"
#include "qlora/core/json.h"
#include "qlora/kernels/layer_kinds.h"

namespace qlora::models {

// Beyond any real model, and small enough that no product of two sizes overflows and no table fills the
// memory.
inline constexpr std::int64_t kLargestSize = 1'000'000'000;

/// Typed reads from config.json, or from a section of it, that collect faults instead of stopping at the
/// first. A null counts as missing. Holds references: the JSON and the faults outlive it.
class ConfigReader {
  public:
    ConfigReader(const Json& json, FaultList& faults) : json_(json), faults_(faults) {}

    bool has(const char* key) const { return json_.contains(key) && !json_.at(key).is_null(); }

    /// Without a fallback the key must be there. After a fault the value is `low`.
    std::int64_t integer(const char* key, std::optional<std::int64_t> fallback, std::int64_t low = 1,
                         std::int64_t high = kLargestSize);
    /// Above zero.
    double number(const char* key, double fallback);
    bool boolean(const char* key, bool fallback);
    std::string text(const char* key, const std::string& fallback);
    /// Above zero; 0 where the key is null, `fallback` where it is missing.
    double number_or_off(const char* key, double fallback);
    /// By the names that transformers gives them.
    kernels::Activation activation(const char* key, const std::string& fallback);

    const Json& json() const { return json_; }
    FaultList& faults() { return faults_; }

  private:
    const Json& json_;
    FaultList& faults_;
};

}  // namespace qlora::models
