#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "qlora/core/json.h"
#include "qlora/kernels/layer_kinds.h"
#include "qlora/quant/bnb_config.h"

namespace qlora::models {

enum class RopeType { kDefault, kLinear, kDynamic, kLlama3, kYarn, kLongrope };

/// Rotary embedding as `rope_scaling` (transformers 4) or `rope_parameters` (transformers 5) spell it; the
/// type's defaults stand where they leave a value out.
struct RopeConfig {
    RopeType type = RopeType::kDefault;
    double theta = 10000.0;
    double factor = 1.0;                                   ///< all types but default
    double low_freq_factor = 1.0, high_freq_factor = 4.0;  ///< llama3
    double beta_fast = 32.0, beta_slow = 1.0;              ///< yarn
    bool truncate = true;                                  ///< yarn
    std::vector<double> short_factor, long_factor;         ///< longrope: a divisor for each angle
    double attention_factor = 1.0;                         ///< of cos and sin
    std::int64_t original_max_position_embeddings = 8192;  ///< llama3, yarn, longrope

    /// What transformers does to rows of more tokens than `most_positions` (0: to none anything else) is not
    /// built; `beyond` says in words what it does.
    std::int64_t most_positions = 0;
    std::string beyond;

    /// Whether longrope turns a sequence of so many tokens by `long_factor`, all its tokens alike.
    bool turns_long(std::int64_t tokens) const {
        return type == RopeType::kLongrope && tokens > original_max_position_embeddings;
    }
};

/// The parts of a decoder. Paths are those of transformers' modules, which are the names of their tensors in
/// a checkpoint, but for DecoderSpec::renames; sizes count elements.
namespace spec {

using kernels::Activation;
using kernels::NormKind;

/// What transformers makes of a matrix; PEFT and bitsandbytes go by it.
enum class MatrixKind {
    kLinear,  ///< a module of its own: nn.Linear or Conv1D
    kRouter,  ///< a parameter of a module of another kind, which stays dense
    kExpert   ///< a part of a parameter that holds all experts: bitsandbytes leaves it dense, a run does not
};

struct Linear {
    std::string path;
    std::int64_t in = 0, out = 0;
    bool bias = false;
    bool stored_in_columns = false;  ///< [in, out] on disk (transformers' Conv1D)
    MatrixKind kind = MatrixKind::kLinear;

    std::string weight() const { return path + ".weight"; }
};

/// A norm of the last dimension.
struct Norm {
    std::string path;
    std::int64_t size = 0;
    double eps = 1e-6;
    NormKind kind = NormKind::kRms;
    bool bias = false;
    bool offset = false;  ///< it multiplies with 1 + the stored weight
    /// Of heads that have weights of their own, which `size` counts all; 0: one weight serves whatever is
    /// normed.
    std::int64_t heads = 0;
    bool apart = false;  ///< each head's weight is a tensor, path.norms.H; else one tensor [heads, ..]

    std::vector<std::int64_t> shape() const {
        if (heads == 0) return {size};
        return {heads, size / heads};
    }
};

/// A rotary embedding that layers share.
struct Rope {
    RopeConfig frequencies;
    std::int64_t dims = 0;  ///< of each head that turn: the first ones
    bool pairs = false;     ///< dimension 2i turns with 2i + 1; else i with i + dims / 2
    /// What is rounded to a 16-bit compute dtype besides what has turned.
    enum class Rounding { kAnglesAndProducts, kAngles, kNothing };
    Rounding rounding = Rounding::kAnglesAndProducts;
};

/// Causal attention.
struct Attention {
    std::vector<Linear> entry;  ///< q, k, v, or one that holds all three
    Linear output;
    std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
    enum class Layout {
        kBlocks,  ///< the columns of `entry` are all of q, then of k, then of v
        kPerHead  ///< q, k and v of one head after the other
    };
    Layout layout = Layout::kBlocks;
    std::optional<Norm> q_norm = {}, k_norm = {};  ///< before the rotation
    enum class NormSpan { kHead, kOwnWeightsPerHead, kRow };
    NormSpan norm_span = NormSpan::kHead;  ///< what one norm of q or k goes over
    /// In DecoderSpec::ropes; none: positions do not matter here.
    std::optional<std::size_t> rope = 0;
    double scale = 1.0;       ///< of the scores
    double softcap = 0.0;     ///< scores become softcap * tanh(score / softcap); 0: they stay
    std::int64_t window = 0;  ///< tokens that one sees, itself among them; 0: all before it
};

/// output(activation(gate) * up), or output(activation(up)) where it is not gated.
struct Mlp {
    std::vector<Linear> entry;  ///< gate and up, one that holds both, or up alone
    Linear output;
    Activation activation = Activation::kSilu;
    bool gated = true;
};

/// Some of many MLPs for each token: sum over the chosen experts of weight * expert(x), where the weights are
/// the largest of a softmax over the router's logits.
struct Experts {
    std::string path;  ///< of the module whose parameters gate_up_proj and down_proj hold all experts
    Linear router;
    std::vector<Mlp> experts;        ///< of equal shapes; gate and up apart
    std::int64_t chosen = 0;         ///< experts of a token
    bool renormalises = false;       ///< the weights are divided by their sum
    bool rounds_weights = true;      ///< then rounded to the compute dtype
    std::optional<Mlp> shared = {};  ///< that sees every token, times sigmoid(shared_gate(x))
    Linear shared_gate = {};
    /// PEFT takes the names that the linears had in transformers 4 for the parameters, and "all-linear" for
    /// all of them.
    bool known_by_linears = true;
};

using Block = std::variant<Attention, Mlp, Experts>;

/// Calls f with each linear of an attention or an MLP: those of the entry, then the output.
void for_each_linear_of(auto& block, auto& f) {
    for (auto& linear : block.entry) f(linear);
    f(block.output);
}
/// Of experts the router, the experts one after the other, the shared one and its gate.
void for_each_linear_of(auto& experts, auto& f) requires requires {
    experts.router;
}
{
    f(experts.router);
    for (auto& expert : experts.experts) for_each_linear_of(expert, f);
    if (!experts.shared) return;
    for_each_linear_of(*experts.shared, f);
    f(experts.shared_gate);
}
/// Of a block, in the order of the checkpoint.
void for_each_linear(auto& block, auto&& f) {
    std::visit([&](auto& of_kind) { for_each_linear_of(of_kind, f); }, block);
}

/// A way from the residual stream and back to it: stream += multiplier * post(block(pre(stream))).
struct Branch {
    std::optional<Norm> pre = {};
    Block block;
    std::optional<Norm> post = {};
    double multiplier = 1.0;
};

struct Layer {
    std::vector<Branch> branches;
    bool parallel = false;  ///< all branches read the layer's input
};

/// Prefixes of names: `module` in transformers' model, `disk` in its files.
struct Rename {
    std::string module, disk;
};

}  // namespace spec

/// What a checkpoint's decoder is: made once from its `config.json` by the file of its architecture
/// (src/models/architectures), read by everything else. No tensor and no forward pass.
struct DecoderSpec {
    std::string model_type;
    std::string model_class;  ///< of transformers, "LlamaForCausalLM"; empty where config.json names none
    std::vector<std::string> lora_targets;  ///< PEFT's choice for the type; empty: it has none
    std::vector<std::string> ia3_targets;   ///< likewise; the last one is scaled at its input
    std::int64_t vocab_size = 0;
    std::int64_t hidden_size = 0;
    std::int64_t max_position_embeddings = 0;
    std::string embedding;  ///< path of the embedding [vocab_size, hidden_size]
    double embedding_scale = 1.0;
    /// The embedding's own module scales its rows: the scale is rounded to the compute dtype first, and what
    /// stands beside the rows in an input is not scaled.
    bool rounds_embedding_scale = false;
    std::string positions;  ///< path of learned positions [max_position_embeddings, hidden_size], or empty
    std::vector<spec::Rope> ropes;
    std::vector<spec::Layer> layers;
    spec::Norm final_norm;
    spec::Linear head;  ///< has no weight of its own when tied
    bool tie_word_embeddings = false;
    bool tied_by_default = false;  ///< config.json does not say it: a file with a head of its own is not tied
    double logit_scale = 1.0;
    double logit_softcap = 0.0;  ///< logits become softcap * tanh(logit / softcap); 0: they stay
    std::vector<spec::Rename> renames;
    /// Beginnings of names, on disk, of tensors of other models in the same file (a vision tower's): passed
    /// over, and copied as they are into what is written.
    std::vector<std::string> foreign;
    /// Ends of the names of tensors that a checkpoint may hold and the model makes itself.
    std::vector<std::string> ignored;
    std::string dtype;  ///< as on disk, "bfloat16" say; may be empty
    std::vector<std::int64_t> eos_token_ids;
    /// transformers' nn.Embedding has it as padding_idx: its row gets no gradient when the embedding is
    /// trained.
    std::optional<std::int64_t> pad_token_id;
    /// The checkpoint holds its linears in 4 bits.
    std::optional<quant::BnbConfig> stored_in_4bit;
    /// transformers adds router_aux_loss_coef times the loss of ops::RouterBalance to a training loss.
    bool output_router_logits = false;
    double router_aux_loss_coef = 0.0;
    /// A sentence for each key that transformers might act on and that changes nothing here.
    std::vector<std::string> passed_over;

    std::string embedding_weight() const { return embedding + ".weight"; }
    std::string head_weight() const { return head.weight(); }
    /// Whether a tensor under the name of this parameter is passed over.
    bool ignores(const std::string& parameter) const;
    bool has_experts() const;
    /// All linears of the layers, in the order of the checkpoint.
    std::vector<const spec::Linear*> linears() const;
    /// Of `ropes`, those that some layer turns by.
    std::vector<std::size_t> used_ropes() const;
    /// All norms: of each branch the one before it, those within and the one after it, then the last.
    std::vector<const spec::Norm*> norms() const;
};

/// Throws CheckpointError with all faults: unknown `model_type`, missing or impossible sizes, any setting
/// that would change numbers and is not built (never guessed). `name` stands before them.
DecoderSpec parse_decoder_spec(const Json& json, const std::string& name);
/// Of the folder's config.json; also of its tensors, where `tied_by_default`.
DecoderSpec load_decoder_spec(const std::filesystem::path& folder);

/// A log line for each sentence of `passed_over`; once a program.
void log_passed_over(const DecoderSpec& decoder);

/// The tokens a row may have before its last ones stand where the model has never seen any.
/// `max_position_embeddings` counts what `rope_scaling` adds, except where it was left as it was before a
/// llama3, yarn or longrope scaling was put in. (Of linear scaling a file does not tell; it is taken as
/// counted.)
std::int64_t trained_positions(const DecoderSpec& decoder);

struct PositionLimit {
    std::int64_t tokens = 0;
    std::string reason;  ///< what lies beyond, for a message
};
/// The tokens that a row may have at all; none: any number.
std::optional<PositionLimit> position_limit(const DecoderSpec& decoder);

/// The lengths beyond which longrope turns a sequence by its long factors, one for each rotary embedding that
/// does so.
class LongropeEdges {
  public:
    explicit LongropeEdges(const DecoderSpec& decoder);

    /// How many of them a sequence of so many tokens has passed. Where that grows, keys that a shorter
    /// sequence has cached are of no use.
    std::size_t passed(std::int64_t tokens) const;

  private:
    std::vector<std::int64_t> edges_;
};

/// `model_type`s that can be loaded.
std::vector<std::string> supported_model_types();

}  // namespace qlora::models
