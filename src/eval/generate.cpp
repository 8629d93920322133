#include "qlora/eval/generate.h"

#include <ATen/core/grad_mode.h>
#include <algorithm>

#include "qlora/models/token_batch.h"

namespace qlora::eval {
namespace {

using tokenizer::TokenId;

/// One prompt in progress.
struct Sequence {
    std::size_t place;             // in the result
    std::vector<TokenId> pending;  // ids that the model has not seen yet
    models::KvCache cache;
    std::int64_t seen = 0;  // ids that it has

    /// Its positions, `before` virtual ones among them.
    std::int64_t length(std::int64_t before) const {
        return before + seen + static_cast<std::int64_t>(pending.size());
    }
};

using Sequences = std::span<Sequence* const>;

/// Where longrope turns a sequence of its new length otherwise than one of its old, what is cached of it is
/// of no use: all its ids are seen again, as in a whole pass. (transformers does the same.)
void forget_what_turns_otherwise(const models::LongropeEdges& edges, std::int64_t before,
                                 std::span<const TokenId> prompt, std::span<const TokenId> answer,
                                 Sequence& sequence) {
    if (sequence.seen == 0 || edges.passed(before + sequence.seen) == edges.passed(sequence.length(before)))
        return;
    sequence.cache.clear();
    sequence.seen = 0;
    sequence.pending.assign(prompt.begin(), prompt.end());
    sequence.pending.insert(sequence.pending.end(), answer.begin(), answer.end());
}

/// The ids that the model has not seen yet; the wanted rows are the last of each sequence.
models::TokenBatch pending_batch(Sequences sequences, at::Device device) {
    std::vector<std::int64_t> ids, positions, offsets{0}, last;
    for (const Sequence* sequence : sequences) {
        std::int64_t position = sequence->seen;
        for (const TokenId id : sequence->pending) {
            ids.push_back(id);
            positions.push_back(position++);
        }
        offsets.push_back(static_cast<std::int64_t>(ids.size()));
        last.push_back(offsets.back() - 1);
    }
    return models::upload(
        {.ids = ids, .positions = positions, .offsets = offsets, .rows = last, .targets = {}}, device);
}

/// Appends the most likely next token of every sequence.
void step(const models::CausalLM& model, Sequences sequences, std::vector<TokenId>& next) {
    std::vector<models::KvCache*> caches;
    for (Sequence* sequence : sequences) caches.push_back(&sequence->cache);
    const models::TokenBatch batch = pending_batch(sequences, model.device());
    const at::Tensor hidden = model.forward(batch, nn::ForwardContext{}, batch.rows, caches);
    const at::Tensor best = model.logits(hidden).argmax(1).cpu();
    for (std::size_t s = 0; s < sequences.size(); ++s) {
        sequences[s]->seen += static_cast<std::int64_t>(sequences[s]->pending.size());
        next.push_back(static_cast<TokenId>(best.const_data_ptr<std::int64_t>()[s]));
    }
}

/// The next token of every sequence, by passes over at most `at_once` of them.
std::vector<TokenId> step_in_groups(const models::CausalLM& model, Sequences sequences, std::size_t at_once) {
    std::vector<TokenId> next;
    for (std::size_t begin = 0; begin < sequences.size(); begin += at_once) {
        step(model, sequences.subspan(begin, std::min(at_once, sequences.size() - begin)), next);
    }
    return next;
}

}  // namespace

std::vector<std::vector<TokenId>> generate(const models::CausalLM& model,
                                           std::span<const std::vector<TokenId>> prompts,
                                           const GenerateOptions& options) {
    const at::AutoGradMode no_gradients(false);
    std::vector<std::vector<TokenId>> out(prompts.size());
    const std::optional<models::PositionLimit> limit = models::position_limit(model.spec());
    const models::LongropeEdges edges(model.spec());
    const std::int64_t before = model.hooks().tokens();
    const auto group_size = static_cast<std::size_t>(std::max<std::int64_t>(1, options.batch_rows));
    for (std::size_t begin = 0; begin < prompts.size(); begin += group_size) {
        const std::size_t end = std::min(prompts.size(), begin + group_size);
        std::vector<Sequence> group;
        for (std::size_t i = begin; i < end; ++i) {
            group.push_back({i, prompts[i], models::KvCache(model.spec().layers.size())});
        }
        std::vector<Sequence*> active;
        for (Sequence& sequence : group) active.push_back(&sequence);
        for (std::int64_t produced = 0; produced < options.max_new_tokens && !active.empty(); ++produced) {
            if (options.should_stop && options.should_stop()) return out;
            // Prompts run together; of later tokens no more than can be multiplied with stored weights.
            const bool splits = produced > 0 && model.few_rows_pay();
            const std::size_t at_once = splits ? static_cast<std::size_t>(ops::kFewRows) : active.size();
            const std::vector<TokenId> next = step_in_groups(model, active, at_once);
            std::vector<Sequence*> going;
            for (std::size_t s = 0; s < active.size(); ++s) {
                if (std::find(options.stop_ids.begin(), options.stop_ids.end(), next[s]) !=
                    options.stop_ids.end()) {
                    continue;
                }
                out[active[s]->place].push_back(next[s]);
                active[s]->pending = {next[s]};
                forget_what_turns_otherwise(edges, before, prompts[active[s]->place], out[active[s]->place],
                                            *active[s]);
                if (!limit || active[s]->length(before) <= limit->tokens) going.push_back(active[s]);
            }
            active = std::move(going);
        }
        if (options.progress) options.progress(static_cast<std::int64_t>(end));
    }
    return out;
}

}  // namespace qlora::eval
