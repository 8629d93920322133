#include <ATen/ops/empty.h>

#include <c10/util/Exception.h>

#include <optional>

#include "block.h"
#include "qlora/ops/decoder_nodes.h"
#include "qlora/ops/device.h"

namespace qlora::models {
namespace {

std::optional<nn::Norm> make_head_norm(const std::optional<spec::Norm>& norm) {
    if (!norm) return std::nullopt;
    return make_norm(*norm);
}

class AttentionBlock final : public Block {
  public:
    AttentionBlock(const spec::Norm& pre, const spec::Attention& attention)
        : pre_(make_norm(pre)),
          first_(make_linears(attention.entry)),
          last_(make_linear(attention.output)),
          q_norm_(make_head_norm(attention.q_norm)),
          k_norm_(make_head_norm(attention.k_norm)),
          rope_(attention.rope),
          shape_{.heads = attention.heads,
                 .kv_heads = attention.kv_heads,
                 .head_dim = attention.head_dim,
                 .window = attention.window},
          entry_(pointers_to(first_)),
          output_({&last_}) {
        TORCH_CHECK(q_norm_.has_value() == k_norm_.has_value(), pre.path, ": norms of q and k go together");
    }

    Stream forward(const Stream& stream, const LayerPass& pass) const override {
        std::optional<ops::HeadNorms> head_norms;
        if (q_norm_) head_norms = {q_norm_->used().weight, k_norm_->used().weight, q_norm_->used().eps};
        const ops::HeadNorms* norms = head_norms ? &*head_norms : nullptr;
        const ops::RopeTable table = rope_ ? pass.ropes.at(*rope_) : ops::RopeTable{};
        auto [qkv, residual] =
            ops::norm_project(stream.value, pre_.used(), entry_.projections(pass.context), stream.pending);
        at::Tensor attended = pass.caches.empty()
                                  ? ops::rotary_attention(qkv, table, pass.offsets, shape_, norms)
                                  : attend_to_caches(ops::rotated(qkv, table, shape_, norms), pass);
        if (pass.rows.defined()) {
            attended = attended.index_select(0, pass.rows);
            residual = residual.index_select(0, pass.rows);
        }
        // On a device the next norm's kernel adds the residual; on the CPU the product's sums start from it.
        const bool adds_in_norm = ops::device_kernels(stream.value) != nullptr;
        const at::Tensor output = ops::project_residual(attended, adds_in_norm ? at::Tensor() : residual,
                                                        output_.projections(pass.context));
        if (adds_in_norm) return {.value = residual, .pending = output};
        return {.value = output, .pending = {}};
    }

    std::vector<nn::Linear*> linears() override {
        std::vector<nn::Linear*> out = pointers_to(first_);
        out.push_back(&last_);
        return out;
    }
    std::vector<nn::Norm*> norms() override {
        std::vector<nn::Norm*> out{&pre_};
        if (q_norm_) out.push_back(&*q_norm_);
        if (k_norm_) out.push_back(&*k_norm_);
        return out;
    }
    std::vector<nn::LinearGroup*> groups() override { return {&entry_, &output_}; }

  private:
    at::Tensor attend_to_caches(const at::Tensor& qkv, const LayerPass& pass) const {
        at::Tensor attended = at::empty({qkv.size(0), shape_.q_size()}, qkv.options());
        for (std::size_t s = 0; s < pass.caches.size(); ++s) {
            const std::int64_t begin = pass.offsets.host[s], n = pass.offsets.host[s + 1] - begin;
            const at::Tensor new_rows = qkv.narrow(0, begin, n);
            const auto heads = [&](std::int64_t column) {
                return new_rows.narrow(1, column, shape_.kv_size())
                    .view({n, shape_.kv_heads, shape_.head_dim});
            };
            const auto [keys, values] = pass.caches[s]->append(pass.layer, heads(shape_.q_size()),
                                                               heads(shape_.q_size() + shape_.kv_size()));
            attended.narrow(0, begin, n)
                .copy_(ops::cached_attention(new_rows.narrow(1, 0, shape_.q_size()), keys, values, shape_));
        }
        return attended;
    }

    nn::Norm pre_;
    std::vector<nn::Linear> first_;
    nn::Linear last_;
    std::optional<nn::Norm> q_norm_, k_norm_;
    std::optional<std::size_t> rope_;  ///< in LayerPass::ropes; none: no token turns
    ops::AttentionShape shape_;
    nn::LinearGroup entry_, output_;  ///< they point to the linears
};

}  // namespace

std::unique_ptr<Block> make_attention_block(const spec::Norm& pre, const spec::Attention& attention) {
    return std::make_unique<AttentionBlock>(pre, attention);
}

}  // namespace qlora::models
