#pragma once

#include <string>

#include "qlora/core/json.h"

namespace qlora::cli {

/// For a well-known argument of the HF trainer, PEFT, trl or axolotl that is no setting of run.json: a
/// sentence that says which setting it is here, or why none is needed. Empty for any other key.
std::string meaning_of_foreign_setting(const std::string& key, const Json& value);

}  // namespace qlora::cli
