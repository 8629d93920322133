#include <c10/util/Exception.h>

#include <optional>

#include "block.h"
#include "qlora/ops/decoder_nodes.h"

namespace qlora::models {
namespace {

std::optional<nn::Norm> make_head_norm(const std::optional<spec::Norm>& norm) {
    if (!norm) return std::nullopt;
    return make_norm(*norm);
}

class AttentionBlock final : public Block {
  public:
    explicit AttentionBlock(const spec::Attention& attention)
        : linears_(attention.entry, attention.output),
          q_norm_(make_head_norm(attention.q_norm)),
          k_norm_(make_head_norm(attention.k_norm)),
          span_(attention.norm_span),
          rope_(attention.rope),
          shape_{.heads = attention.heads,
                 .kv_heads = attention.kv_heads,
                 .head_dim = attention.head_dim,
                 .window = attention.window,
                 .scale = attention.scale,
                 .softcap = attention.softcap,
                 .per_head = attention.layout == spec::Attention::Layout::kPerHead} {
        TORCH_CHECK(q_norm_.has_value() == k_norm_.has_value(), attention.output.path,
                    ": norms of q and k go together");
    }

    bool attends() const override { return true; }
    ops::Projections entry(const LayerPass& pass) const override { return linears_.entry(pass.context); }
    at::Tensor inner(const at::Tensor& entered, const LayerPass& pass) const override {
        std::optional<ops::HeadNorms> head_norms;
        if (q_norm_) {
            head_norms = {q_norm_->used(), k_norm_->used(), span_ == spec::Attention::NormSpan::kRow};
            if (span_ == spec::Attention::NormSpan::kOwnWeightsPerHead) {
                for (ops::Norm* norm : {&head_norms->q, &head_norms->k})
                    norm->weight = norm->weight.view({-1, shape_.head_dim});
            }
        }
        const ops::HeadNorms* norms = head_norms ? &*head_norms : nullptr;
        const ops::RopeTable table = rope_ ? pass.ropes.at(*rope_) : ops::RopeTable{};
        const at::Tensor attended =
            pass.caches.empty()
                ? ops::rotary_attention(entered, table, pass.offsets, shape_, norms, pass.prefix)
                : attend_to_caches(ops::rotated(entered, table, shape_, norms), pass);
        return pass.rows.defined() ? attended.index_select(0, pass.rows) : attended;
    }
    at::Tensor leave(const at::Tensor& inner, const at::Tensor& residual, double multiplier,
                     const LayerPass& pass) const override {
        return ops::project_residual(inner, residual, linears_.output(pass.context), multiplier);
    }

    std::vector<nn::Linear*> linears() override { return linears_.all(); }
    std::vector<nn::Norm*> norms() override {
        if (!q_norm_) return {};
        return {&*q_norm_, &*k_norm_};
    }
    std::vector<nn::LinearGroup*> groups() override { return linears_.groups(); }

  private:
    at::Tensor attend_to_caches(const at::Tensor& qkv, const LayerPass& pass) const {
        const ops::HeadsOfRows heads(qkv, shape_);
        std::vector<ops::KeysValues> cached;
        for (std::size_t s = 0; s < pass.caches.size(); ++s) {
            const std::int64_t begin = pass.offsets.host[s], n = pass.offsets.host[s + 1] - begin;
            cached.push_back(pass.caches[s]->append(pass.layer, heads.k.narrow(0, begin, n),
                                                    heads.v.narrow(0, begin, n), shape_.window));
        }
        return ops::cached_attention(heads.q, pass.offsets, cached, shape_);
    }

    BlockLinears linears_;
    std::optional<nn::Norm> q_norm_, k_norm_;
    spec::Attention::NormSpan span_;
    std::optional<std::size_t> rope_;  ///< in LayerPass::ropes; none: no token turns
    ops::AttentionShape shape_;
};

}  // namespace

std::unique_ptr<Block> make_block(const spec::Attention& attention) {
    return std::make_unique<AttentionBlock>(attention);
}

}  // namespace qlora::models
