#pragma once

#include "qlora/adapters/peft_types.h"
#include "qlora/core/fields.h"

namespace qlora::adapters {

/// The fields that the configuration of every method has.
template <class Self, class Visitor>
void method_fields(Self& self, Visitor& visit) {
    visit("peft_type", self.peft_type, {}, "the method");
    visit("task_type", self.task_type, {}, "the kind of model");
    visit("base_model_name_or_path", self.base_model_name_or_path, {.free_on_resume = true},
          "name of the base in adapter_config.json, such as its name on a hub; null: model.path");
    visit.ignored("inference_mode", "frozen or not is decided by the program");
    visit.ignored("peft_version", "who wrote the file");
    visit.ignored("auto_mapping", "class names of Python models");
    visit.ignored("revision", "a version on a hub");
}

}  // namespace qlora::adapters
