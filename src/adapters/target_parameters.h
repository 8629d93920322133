#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "qlora/adapters/target_matching.h"
#include "qlora/models/decoder_spec.h"

/// Matrices that are parameters in transformers, not modules: PEFT adapts them through `target_parameters`. A
/// router has one; a layer's experts have two, of which one holds gate and up of all experts, the other down.
namespace qlora::adapters {

/// A linear of ours that is a part of such a parameter.
struct ParameterPart {
    const models::spec::Linear* linear = nullptr;
    std::int64_t expert = 0;
    std::int64_t first_row = 0;  ///< of the linear in the expert's matrix
};

struct RawParameter {
    ParameterInfo info;
    std::string module;  ///< that has it
    std::string outer;   ///< path of the parameter that PEFT wraps around it; empty: none
    std::vector<ParameterPart> parts;

    /// Shapes of the adapter's matrices for a rank.
    std::vector<std::int64_t> a_shape(std::int64_t r) const { return {info.experts * r, info.in_features}; }
    std::vector<std::int64_t> b_shape(std::int64_t r) const { return {info.out_features, info.experts * r}; }
};

/// In the order of the layers. Holds pointers into `decoder`.
std::vector<RawParameter> raw_parameters(const models::DecoderSpec& decoder);

/// The names that the linears of experts and routers had as modules, where PEFT knows them.
std::vector<FormerLinears> former_linears(const models::DecoderSpec& decoder);

}  // namespace qlora::adapters
