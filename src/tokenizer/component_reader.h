#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "qlora/core/error.h"
#include "qlora/core/json.h"
#include "regex.h"

namespace qlora::tokenizer {

/// A whole number from 0, however it was stored.
std::optional<std::uint64_t> whole_number(const Json& value);

/// Reads the fields of one component of a tokenizer.json. Wrong and missing fields go to the fault list and a
/// harmless value is returned, so that the user sees every fault of the file at once.
class ComponentReader {
  public:
    /// `path` as in "pre_tokenizer.pretokenizers[1]"; empty for the whole file.
    ComponentReader(const Json& value, std::string path, FaultList& faults);
    /// Reports the fields that nothing asked for, unless they hold null, false, 0, "" or an empty list.
    ~ComponentReader();
    ComponentReader(const ComponentReader&) = delete;
    ComponentReader& operator=(const ComponentReader&) = delete;

    const std::string& path() const { return path_; }
    FaultList& faults() { return faults_; }
    void fault(std::string_view field, const std::string& message);

    /// The component's "type"; empty (and a fault) when it has none.
    std::string type();
    /// "<path> type 'X' is not supported ...". Also stops the check for unknown fields.
    void refuse_type(std::string_view type, std::string_view supported);

    /// Null when the field is missing.
    const Json* find(std::string_view field);
    /// Without a default, a missing field is a fault.
    bool boolean(std::string_view field, std::optional<bool> fallback = std::nullopt);
    std::string string(std::string_view field, std::optional<std::string> fallback = std::nullopt);
    std::size_t count(std::string_view field);
    /// Exactly one code point, in UTF-8.
    std::string character(std::string_view field);
    /// Empty (and a fault) when it is missing or not a list.
    const Json::array_t& list(std::string_view field);
    /// {"String": ..} or {"Regex": ..}.
    std::optional<Regex> pattern(std::string_view field);
    void ignore_rest() { checks_unknown_ = false; }

  private:
    std::optional<Regex> compile(const Json& pattern, std::string_view field);

    const Json& value_;
    std::string path_;
    FaultList& faults_;
    bool checks_unknown_ = true;
    std::vector<std::string> asked_;
};

}  // namespace qlora::tokenizer
