#include "qlora/data/batch.h"

#include <cstddef>
#include <numeric>

namespace qlora::data {

std::int64_t Example::supervised_tokens() const {
    return std::accumulate(supervised.begin(), supervised.end(), std::int64_t{0});
}

Batch collate(std::span<const Example* const> examples) {
    Batch batch;
    std::size_t tokens = 0;
    for (const Example* example : examples) tokens += example->ids.size();
    batch.ids.reserve(tokens);
    batch.positions.reserve(tokens);
    batch.offsets.reserve(examples.size() + 1);
    batch.offsets.push_back(0);
    for (const Example* example : examples) {
        const std::int64_t begin = batch.tokens();
        for (std::size_t i = 0; i < example->ids.size(); ++i) {
            // A sequence's first token has nothing before it in its own sequence that could predict it.
            if (i > 0 && example->supervised[i] != 0) {
                batch.loss_rows.push_back(begin + static_cast<std::int64_t>(i) - 1);
                batch.targets.push_back(example->ids[i]);
            }
            batch.ids.push_back(example->ids[i]);
            batch.positions.push_back(static_cast<std::int64_t>(i));
        }
        batch.offsets.push_back(batch.tokens());
    }
    return batch;
}

}  // namespace qlora::data
