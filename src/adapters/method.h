#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "qlora/adapters/adapter_file.h"
#include "qlora/adapters/inject.h"
#include "qlora/adapters/plan.h"
#include "weight_update.h"

namespace qlora::adapters {

/// What trains is what is saved.
class TrainedTensors final : public Adapter {
  public:
    explicit TrainedTensors(std::vector<nn::Parameter> parameters) : parameters_(std::move(parameters)) {}
    std::vector<nn::Parameter> parameters() const override { return parameters_; }

  private:
    std::vector<nn::Parameter> parameters_;
};

/// A parameter-efficient method: one row of methods.cpp. A configuration that it is given is its own.
struct Method {
    PeftType type;
    Plan (*plan)(const PeftConfig& config, const models::DecoderSpec& decoder);
    std::unique_ptr<Adapter> (*attach)(models::CausalLM& model, Plan& plan, const InjectOptions& options);
    /// Null: no weight can hold it.
    PlannedUpdates (*merge)(const Plan& plan, const models::DecoderSpec& decoder, const AdapterFile& file);
    std::string_view why_not;  ///< it cannot be merged: "P_TUNING adds tokens to the input, ..."
    /// The configuration of an adapter that is not trained on, whose tensors count more than what its file
    /// says of how they came about; null: the file's as it is.
    PeftConfig (*finished)(Json json, const AdapterFile& file, const models::DecoderSpec& decoder);
    /// Changes that take less memory; null: none.
    std::vector<SmallerSetting> (*smaller)(const PeftConfig& config, const models::DecoderSpec& decoder);
};

const Method& method_of(PeftType type);
inline const Method& method_of(const PeftConfig& config) {
    return method_of(type_of(config));
}

}  // namespace qlora::adapters
