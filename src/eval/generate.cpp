#include "qlora/eval/generate.h"

#include <algorithm>

#include "qlora/eval/token_batch.h"

namespace qlora::eval {
namespace {

using tokenizer::TokenId;

/// One prompt in progress.
struct Sequence {
    std::size_t place;             // in the result
    std::vector<TokenId> pending;  // ids that the model has not seen yet
    models::KvCache cache;
};

models::TokenBatch pending_batch(const std::vector<Sequence*>& sequences) {
    std::vector<std::int64_t> ids, positions;
    models::TokenBatch batch;
    batch.offsets.push_back(0);
    for (const Sequence* sequence : sequences) {
        std::int64_t position = sequence->cache.length();
        for (const TokenId id : sequence->pending) {
            ids.push_back(id);
            positions.push_back(position++);
        }
        batch.offsets.push_back(static_cast<std::int64_t>(ids.size()));
    }
    batch.ids = index_tensor(ids);
    batch.positions = index_tensor(positions);
    return batch;
}

/// The most likely next token of every sequence; their caches advance.
std::vector<TokenId> step(const models::CausalLM& model, const std::vector<Sequence*>& sequences) {
    std::vector<models::KvCache*> caches;
    for (Sequence* sequence : sequences) caches.push_back(&sequence->cache);
    const models::TokenBatch batch = pending_batch(sequences);
    std::vector<std::int64_t> last;
    for (std::size_t s = 1; s < batch.offsets.size(); ++s) last.push_back(batch.offsets[s] - 1);
    const at::Tensor hidden = model.forward(batch, nn::ForwardContext{}, index_tensor(last), caches);
    const at::Tensor best = model.logits(hidden).argmax(1).cpu();
    std::vector<TokenId> out;
    for (std::size_t s = 0; s < sequences.size(); ++s) {
        sequences[s]->cache.advance(static_cast<std::int64_t>(sequences[s]->pending.size()));
        out.push_back(static_cast<TokenId>(best.const_data_ptr<std::int64_t>()[s]));
    }
    return out;
}

}  // namespace

std::vector<std::vector<TokenId>> generate(const models::CausalLM& model,
                                           std::span<const std::vector<TokenId>> prompts,
                                           const GenerateOptions& options) {
    const at::AutoGradMode no_gradients(false);
    std::vector<std::vector<TokenId>> out(prompts.size());
    const auto group_size = static_cast<std::size_t>(std::max<std::int64_t>(1, options.batch_rows));
    for (std::size_t begin = 0; begin < prompts.size(); begin += group_size) {
        const std::size_t end = std::min(prompts.size(), begin + group_size);
        std::vector<Sequence> group;
        for (std::size_t i = begin; i < end; ++i) {
            group.push_back({i, prompts[i], models::KvCache(model.config().num_hidden_layers)});
        }
        std::vector<Sequence*> active;
        for (Sequence& sequence : group) active.push_back(&sequence);
        for (std::int64_t produced = 0; produced < options.max_new_tokens && !active.empty(); ++produced) {
            if (options.should_stop && options.should_stop()) return out;
            const std::vector<TokenId> next = step(model, active);
            std::vector<Sequence*> going;
            for (std::size_t s = 0; s < active.size(); ++s) {
                if (std::find(options.stop_ids.begin(), options.stop_ids.end(), next[s]) !=
                    options.stop_ids.end()) {
                    continue;
                }
                out[active[s]->place].push_back(next[s]);
                active[s]->pending = {next[s]};
                going.push_back(active[s]);
            }
            active = std::move(going);
        }
        if (options.progress) options.progress(static_cast<std::int64_t>(end));
    }
    return out;
}

}  // namespace qlora::eval
