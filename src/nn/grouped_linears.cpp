#include "grouped_linears.h"

#include <algorithm>

namespace qlora::nn {

std::int64_t rows_of(const std::vector<Linear*>& linears) {
    std::int64_t rows = 0;
    for (const Linear* linear : linears) rows += linear->out_features();
    return rows;
}

bool trains_a_weight(const std::vector<Linear*>& linears) {
    return std::any_of(linears.begin(), linears.end(),
                       [](const Linear* linear) { return linear->trains_whole_module(); });
}

std::vector<std::int64_t> adapter_versions(const std::vector<Linear*>& linears) {
    std::vector<std::int64_t> out;
    for (const Linear* linear : linears) {
        if (linear->used_adapter() == nullptr) continue;
        for (const at::Tensor& tensor : linear->used_adapter()->matrices()) out.push_back(tensor._version());
    }
    return out;
}

}  // namespace qlora::nn
