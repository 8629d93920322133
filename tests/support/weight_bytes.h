#pragma once

#include <cstdint>

#include "qlora/models/causal_lm.h"

namespace qlora::test {

/// Bytes of all weights as a model holds them (adapters and kept dense forms not counted).
inline std::int64_t weight_bytes(models::CausalLM& model) {
    std::int64_t total = model.embedding().bytes() + (model.head().defined() ? model.head().bytes() : 0);
    for (const nn::Linear* linear : model.linears()) {
        total += linear->weight().bytes();
        if (linear->bias().defined()) total += static_cast<std::int64_t>(linear->bias().nbytes());
    }
    for (const nn::Norm* norm : model.norms()) total += static_cast<std::int64_t>(norm->weight().nbytes());
    return total;
}

}  // namespace qlora::test
