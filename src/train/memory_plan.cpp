#include "qlora/train/memory_plan.h"

#include <algorithm>

#include "qlora/core/available_memory.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/ops/cross_entropy.h"
#include "qlora/ops/device.h"
#include "qlora/ops/score_rows.h"

namespace qlora::train {
namespace {

/// LibTorch, its thread pool and the tokenizer, measured on an empty program.
constexpr std::int64_t kBaselineBytes = 180LL << 20;
/// The driver's context and cuBLAS's workspace, as others report them; not yet measured here.
constexpr std::int64_t kGpuBaselineBytes = 600LL << 20;

/// Elements of a layer's tensors for one token.
struct LayerSizes {
    LayerSizes(const models::spec::Layer& layer, std::int64_t hidden_size)
        : hidden(hidden_size), parallel(layer.parallel) {
        for (const models::spec::Branch& branch : layer.branches) {
            std::visit([&](const auto& block) { add(block, branch); }, branch.block);
        }
    }

    std::int64_t hidden;
    bool parallel;             ///< the MLP reads what attention reads
    std::int64_t inner = 0;    ///< of the MLP
    std::int64_t entered = 0;  ///< columns of the MLP's first product
    std::int64_t q = 0, qkv = 0, heads = 0;
    bool has_head_norms = false, has_softcap = false;
    std::int64_t attention_post = 0, mlp_post = 0;  ///< what a norm behind the block reads
    std::int64_t attention_statistics = 0, mlp_statistics = 0, post_statistics = 0;  ///< of norms
    std::int64_t experts_of_token = 0, experts_of_layer = 0;
    std::int64_t expert_inner = 0, expert_entered = 0;  ///< as inner and entered, of one expert
    std::int64_t weights = 0;
    std::int64_t dense_weights = 0;  ///< besides, of routers, which stay dense
    std::int64_t largest_group = 0;  ///< of the linears that run as one product
    std::int64_t largest_matrix = 0;

  private:
    static std::int64_t statistics_of(const std::optional<models::spec::Norm>& norm) {
        if (!norm) return 0;
        return norm->kind == models::spec::NormKind::kLayer ? 2 : 1;
    }

    void add(const models::spec::Attention& attention, const models::spec::Branch& branch) {
        const bool whole_rows = attention.norm_span == models::spec::Attention::NormSpan::kRow;
        q += attention.output.in;
        qkv += add_linears(attention.entry, attention.output);
        heads += attention.heads;
        has_head_norms |= attention.q_norm.has_value();
        has_softcap |= attention.softcap != 0.0;
        attention_statistics += statistics_of(branch.pre) +
                                statistics_of(attention.q_norm) * (whole_rows ? 1 : attention.heads) +
                                statistics_of(attention.k_norm) * (whole_rows ? 1 : attention.kv_heads);
        if (branch.post) attention_post += hidden;
        post_statistics += statistics_of(branch.post);
    }

    void add(const models::spec::Experts& experts, const models::spec::Branch& branch) {
        const models::spec::Mlp& expert = experts.experts.front();
        experts_of_token = experts.chosen;
        experts_of_layer = static_cast<std::int64_t>(experts.experts.size());
        expert_inner = expert.output.in;
        for (const models::spec::Mlp& each : experts.experts)
            expert_entered = add_linears(each.entry, each.output);
        dense_weights += experts.router.in * experts.router.out;
        add_norms_around_mlp(branch);
        if (experts.shared) add_mlp(*experts.shared);
        weights += experts.shared_gate.in * experts.shared_gate.out;
    }

    void add(const models::spec::Mlp& mlp, const models::spec::Branch& branch) {
        add_norms_around_mlp(branch);
        add_mlp(mlp);
    }

    void add_mlp(const models::spec::Mlp& mlp) {
        inner += mlp.output.in;
        entered += add_linears(mlp.entry, mlp.output);
    }

    void add_norms_around_mlp(const models::spec::Branch& branch) {
        mlp_statistics += statistics_of(branch.pre);
        if (branch.post) mlp_post += hidden;
        post_statistics += statistics_of(branch.post);
    }

    /// Returns what the entry's product has of columns.
    std::int64_t add_linears(const std::vector<models::spec::Linear>& entry,
                             const models::spec::Linear& output) {
        std::int64_t columns = 0, group = 0;
        for (const models::spec::Linear& linear : entry) {
            columns += linear.out;
            group += linear.in * linear.out;
            largest_matrix = std::max(largest_matrix, linear.in * linear.out);
        }
        const std::int64_t last = output.in * output.out;
        weights += group + last;
        largest_group = std::max({largest_group, group, last});
        largest_matrix = std::max(largest_matrix, last);
        return columns;
    }
};

/// Scores under a softcap exist in blocks, and only where they are not made in fp32.
bool makes_scores(const MemoryRequest& request, const LayerSizes& sizes) {
    return sizes.has_softcap && (request.bytes_per_element == 2 || request.on_gpu);
}

/// Bytes for each token that enters a layer, and for each that leaves attention: in the last layer only the
/// supervised ones do.
struct LayerBytes {
    std::int64_t attention = 0, mlp = 0;
};

/// What backward reads of experts for a token: the first product of each that it chose, and how it chose.
std::int64_t read_of_experts(const LayerSizes& sizes, std::int64_t width) {
    return sizes.experts_of_token * (sizes.expert_entered * width + 8 + width) + sizes.experts_of_layer * 4;
}

/// What backward reads of a layer: the inputs of its norms, rotated q and k with v, attention's result, gate
/// and up; besides fp32 statistics of norms and softmax.
LayerBytes read_by_backward(const MemoryRequest& request, const LayerSizes& sizes) {
    const std::int64_t before_head_norms = sizes.has_head_norms ? sizes.qkv : 0;
    const std::int64_t mlp_input = sizes.parallel ? 0 : sizes.hidden;
    const std::int64_t logsumexp = makes_scores(request, sizes) ? 0 : sizes.heads;
    return {
        .attention = (sizes.hidden + sizes.qkv + before_head_norms + sizes.q) * request.bytes_per_element +
                     (sizes.attention_statistics + logsumexp) * 4,
        .mlp =
            (sizes.attention_post + mlp_input + sizes.entered + sizes.mlp_post) * request.bytes_per_element +
            (sizes.mlp_statistics + sizes.post_statistics) * 4 +
            read_of_experts(sizes, request.bytes_per_element)};
}

/// Of that, what is there when the MLP is made again: its input, and what norms behind blocks read.
std::int64_t read_beside_mlp(const MemoryRequest& request, const LayerSizes& sizes) {
    return ((sizes.parallel ? 0 : sizes.hidden) + sizes.attention_post + sizes.mlp_post) *
               request.bytes_per_element +
           sizes.post_statistics * 4;
}

LayerBytes kept_by_layer(const MemoryRequest& request, const LayerSizes& sizes) {
    if (request.recomputation == nn::Recomputation::kLayers)
        return {.attention = sizes.hidden * request.bytes_per_element};
    LayerBytes out = read_by_backward(request, sizes);
    if (request.recomputation == nn::Recomputation::kMlp) out.mlp = read_beside_mlp(request, sizes);
    return out;
}

/// A matrix that is not kept in fp32 is made for each product, in bf16 by way of copies of its own. (A GPU
/// has buffers for it.)
std::int64_t temporary_weights(const MemoryRequest& request, const LayerSizes& sizes) {
    if (request.keep_dense || request.on_gpu) return 0;
    std::int64_t copies = 0;
    if (request.bytes_per_element == 2)
        copies = 6;
    else if (!request.quantization.load_in_4bit && request.stored_bytes_per_weight != 4)
        copies = 4;
    return sizes.largest_group * 4 + sizes.largest_matrix * copies;
}

/// Temporaries of an MLP's backward pass, the layer's largest: for each token the gradients of the layer's
/// result, of the first product (gate and up, say) and of what the last linear reads, and that itself; the
/// first product too where it is made again. In bf16 each product goes through fp32.
std::int64_t mlp_backward_bytes(const MemoryRequest& request, const LayerSizes& sizes, std::int64_t tokens) {
    const std::int64_t weights = temporary_weights(request, sizes);
    const bool is_fp32 = request.bytes_per_element == 4;
    const std::int64_t inner = sizes.inner, entered = sizes.entered, hidden = sizes.hidden;
    if (request.on_gpu) {
        // The gradient of what the last linear reads, before and after the adapters' share is added, that
        // itself, the gradient of the first product; the product again where it is made again, with its
        // normed input.
        const bool remakes = request.recomputation != nn::Recomputation::kNone;
        return weights + tokens * request.bytes_per_element *
                             (3 * inner + entered + 2 * hidden + (remakes ? entered + hidden : 0));
    }
    if (request.recomputation != nn::Recomputation::kNone) {
        return weights + tokens * (is_fp32 ? 8 * inner + 8 * entered + 8 * hidden
                                           : 2 * inner + 10 * entered + 8 * hidden);
    }
    // The weights of the first product are made when what the last linear reads and its gradient are gone.
    const std::int64_t in_activation =
        tokens * (is_fp32 ? 8 * inner + 4 * entered + 4 * hidden : 6 * inner + 4 * entered + 2 * hidden);
    const std::int64_t in_product = tokens * (is_fp32 ? 4 * entered + 16 * hidden : 6 * entered + 8 * hidden);
    return std::max(in_activation, weights + in_product);
}

/// Temporaries of the backward pass of a layer's experts: for each token the gradient of the layer's result
/// and the normed input, and a row for each of its choices. Beside them stand the rows of one expert in the
/// forms that an MLP's backward pass has, or the sum over the choices. How evenly a router chooses is not
/// known: the expert with most rows is taken to have the mean, and the same share of the tokens that are
/// left.
std::int64_t experts_backward_bytes(const MemoryRequest& request, const LayerSizes& sizes,
                                    std::int64_t tokens) {
    const std::int64_t width = request.bytes_per_element, hidden = sizes.hidden;
    const std::int64_t mean = tokens * sizes.experts_of_token / sizes.experts_of_layer;
    const std::int64_t rows = mean + (tokens - mean) * sizes.experts_of_token / sizes.experts_of_layer + 1;
    const bool remakes = request.recomputation != nn::Recomputation::kNone;
    // On the CPU each product goes through fp32.
    const std::int64_t of_rows =
        rows * (request.on_gpu ? width : 4) *
        (3 * sizes.expert_inner + (remakes ? 2 : 1) * sizes.expert_entered + 4 * hidden);
    return temporary_weights(request, sizes) + tokens * (2 + sizes.experts_of_token) * hidden * width +
           std::max(of_rows, tokens * hidden * (4 + width));
}

/// Temporaries of the backward pass of what stands behind attention. A shared expert runs behind the others,
/// beside their result and with its own gradient weighted.
std::int64_t second_backward_bytes(const MemoryRequest& request, const LayerSizes& sizes,
                                   std::int64_t tokens) {
    if (sizes.experts_of_layer == 0) return mlp_backward_bytes(request, sizes, tokens);
    const std::int64_t of_experts = experts_backward_bytes(request, sizes, tokens);
    if (sizes.inner == 0) return of_experts;
    return std::max(of_experts, mlp_backward_bytes(request, sizes, tokens) +
                                    2 * tokens * sizes.hidden * request.bytes_per_element);
}

/// fp32 bytes of the output matrix; 0 when it is stored and used in fp32.
std::int64_t head_bytes(const MemoryRequest& request) {
    const bool is_stored_so = request.stored_bytes_per_weight == 4 && request.bytes_per_element == 4;
    return is_stored_so ? 0 : request.config.vocab_size * request.config.hidden_size * 4;
}

/// Of one logit and its copies. In bf16 on the CPU each operation after the product has a rounded result.
std::int64_t logit_bytes(const MemoryRequest& request) {
    if (request.bytes_per_element == 4 || request.on_gpu) return request.bytes_per_element;
    if (request.config.logit_softcap != 0.0) return 4 + 5 * 2;
    return request.config.logit_scale != 1.0 ? 4 + 2 * 2 : 4 + 2;
}

/// What an adapter of the head adds to that: the dropped rows and their gradient, and the gradient of B,
/// which backward multiplies with that of the loss.
std::int64_t head_adapter_bytes(const MemoryRequest& request) {
    if (request.head_rank == 0) return 0;
    return (2 * request.supervised_tokens * request.config.hidden_size +
            2 * request.head_rank * request.config.vocab_size) *
           4;
}

/// Temporaries of the backward pass of an adapter on the embedding, the last of all.
std::int64_t embedding_adapter_bytes(const MemoryRequest& request) {
    if (request.embedding_rank == 0) return 0;
    return (2 * request.tokens * request.config.hidden_size +
            request.embedding_rank * request.config.vocab_size) *
           4;
}

/// A chunk of logits and what the head's product needs.
std::int64_t loss_bytes(const MemoryRequest& request) {
    const std::int64_t at_once =
        request.on_gpu ? ops::kDeviceLogitsRows : ops::logits_rows(request.config.vocab_size);
    const std::int64_t rows = std::min(at_once, request.supervised_tokens);
    const std::int64_t width = logit_bytes(request);
    const bool is_stored_so = request.on_gpu && request.stored_bytes_per_weight == request.bytes_per_element;
    std::int64_t panel =
        request.keep_dense || is_stored_so ? 0 : std::min(head_bytes(request), ops::kHeadPanelBytes);
    // Stored in fp32 it is rounded by way of bf16.
    if (!request.on_gpu && request.stored_bytes_per_weight > request.bytes_per_element) panel += panel / 2;
    // The final norm's input and the gradient of its result.
    const std::int64_t final_rows =
        2 * request.supervised_tokens * request.config.hidden_size * request.bytes_per_element;
    // Copies of logits are made when no panel is there.
    const std::int64_t values = rows * request.config.vocab_size, first = std::min<std::int64_t>(width, 4);
    return values * first + std::max(panel, values * (width - first)) +
           rows * request.config.hidden_size * 4 + final_rows + head_adapter_bytes(request);
}

/// Temporaries of attention's backward pass under a softcap: its blocks of scores in both precisions, and
/// gradients of its result and of q, k and v.
std::int64_t scores_bytes(const MemoryRequest& request, const LayerSizes& sizes, std::int64_t tokens) {
    if (!makes_scores(request, sizes)) return 0;
    const std::int64_t keys = request.longest_row;
    const std::int64_t at_once = sizes.heads * keys * std::min(keys, ops::score_rows(sizes.heads, keys));
    return at_once * (12 + 4 * request.bytes_per_element) +
           tokens * (sizes.hidden + sizes.q + sizes.qkv) * request.bytes_per_element;
}

void plan_activations(const MemoryRequest& request, const std::vector<LayerSizes>& layers, MemoryPlan& plan) {
    const std::int64_t width = request.bytes_per_element;
    const std::int64_t tokens = request.tokens, supervised = request.supervised_tokens;
    const bool remakes_layers = request.recomputation == nn::Recomputation::kLayers;
    // Temporaries of a layer of which so many tokens leave attention, and what is made again for it.
    const auto working = [&](const LayerSizes& sizes, std::int64_t leaving) {
        const std::int64_t remade = remakes_layers ? read_by_backward(request, sizes).attention * tokens +
                                                         read_beside_mlp(request, sizes) * leaving
                                                   : 0;
        const std::int64_t mlp_kept = kept_by_layer(request, sizes).mlp * leaving;
        return remade + std::max(second_backward_bytes(request, sizes, leaving),
                                 scores_bytes(request, sizes, tokens) - mlp_kept);
    };
    const LayerSizes& last = layers.back();
    const LayerBytes kept = kept_by_layer(request, last);
    // Supervised rows of attention's result are a copy; of the layer's input too where the MLP reads it.
    const std::int64_t gathered = remakes_layers ? 0 : last.q + (last.parallel ? last.hidden : 0);
    const std::int64_t last_layer = kept.attention * tokens + (kept.mlp + gathered * width) * supervised;
    plan.activations = last_layer + last.hidden * width * supervised;

    // When the layer before it runs backward, what the last one kept is gone.
    std::int64_t before_last = 0;
    for (std::size_t i = 0; i + 1 < layers.size(); ++i) {
        const LayerBytes bytes = kept_by_layer(request, layers[i]);
        plan.activations += (bytes.attention + bytes.mlp) * tokens;
        before_last = std::max(before_last, working(layers[i], tokens) - last_layer);
    }
    if (!remakes_layers) plan.activations += request.kept_of_attention * width * tokens;
    if (request.recomputation == nn::Recomputation::kNone)
        plan.activations += request.kept_of_mlp * width * tokens;
    plan.working = std::max({loss_bytes(request), working(last, supervised), before_last,
                             embedding_adapter_bytes(request) - plan.activations});
    // What a layer makes again: of its MLP alone the gradients before the scale besides.
    const auto count = static_cast<std::int64_t>(layers.size());
    if (remakes_layers) {
        plan.working += (request.kept_of_attention + request.kept_of_mlp) / count * width * tokens;
    } else if (request.recomputation == nn::Recomputation::kMlp) {
        plan.working += 2 * request.kept_of_mlp / count * width * tokens;
    }
}

}  // namespace

MemoryPlan plan_memory(const MemoryRequest& request) {
    const models::DecoderSpec& c = request.config;
    std::vector<LayerSizes> layers;
    for (const models::spec::Layer& layer : c.layers) layers.emplace_back(layer, c.hidden_size);
    std::int64_t linears = 0, routers = 0, largest_group = 0;
    for (const LayerSizes& sizes : layers) {
        linears += sizes.weights;
        routers += sizes.dense_weights;
        largest_group = std::max(largest_group, sizes.largest_group);
    }
    MemoryPlan plan{.baseline = kBaselineBytes};
    std::int64_t embedding = c.vocab_size * c.hidden_size * (c.tie_word_embeddings ? 1 : 2);
    if (!c.positions.empty()) embedding += c.max_position_embeddings * c.hidden_size;
    plan.weights = (embedding + routers) * request.stored_bytes_per_weight;
    if (request.quantization.load_in_4bit) {
        const double bits = request.quantization.bnb_4bit_use_double_quant
                                ? 4.0 + 8.0 / static_cast<double>(request.quantization.bnb_4bit_blocksize)
                                : 4.0 + 32.0 / static_cast<double>(request.quantization.bnb_4bit_blocksize);
        plan.weights += static_cast<std::int64_t>(static_cast<double>(linears) * bits / 8.0);
    } else {
        plan.weights += linears * request.stored_bytes_per_weight;
    }
    if (request.on_gpu) {
        plan.baseline = kGpuBaselineBytes;
        plan.dense_copies = request.bytes_per_element * (request.keep_dense ? linears : 2 * largest_group);
        // A in the compute dtype; B in fp32, in a group of three with zeros beside it.
        plan.dense_copies += request.trained_elements / 2 * (request.bytes_per_element + 3 * 4);
    } else if (request.keep_dense) {
        plan.dense_copies = (linears + routers) * 4 + head_bytes(request);
    }
    if (!request.on_gpu) plan.data = request.data_bytes;                  // it stays on the CPU
    plan.adapters = request.trained_elements * 8 + request.moment_bytes;  // value, gradient, two moments
    plan_activations(request, layers, plan);
    return plan;
}

std::string gigabytes(std::int64_t bytes) {
    return fmt::format("{:.2f} GB", static_cast<double>(bytes) / 1e9);
}

std::string MemoryPlan::text() const {
    return fmt::format(
        "planned peak memory {}: weights {}, dense forms {}, adapters with gradients and moments {}, "
        "activations {}, working space {}, data {}, LibTorch {}",
        gigabytes(total()), gigabytes(weights), gigabytes(dense_copies), gigabytes(adapters),
        gigabytes(activations), gigabytes(working), gigabytes(data), gigabytes(baseline));
}

std::int64_t available_memory_bytes(at::Device device) {
    if (device.is_cuda()) return ops::free_device_bytes(device);
    return available_memory();
}

void require_memory(const MemoryPlan& plan, std::int64_t available, const std::string& advice) {
    constexpr double kUncertainty = 0.1;
    if (static_cast<double>(plan.needed()) <= (1 + kUncertainty) * static_cast<double>(available)) return;
    throw ResourceError(fmt::format("the run needs about {} of memory and {} are available; {}",
                                    gigabytes(plan.needed()), gigabytes(available), advice));
}

std::int64_t dense_limit(std::int64_t available) {
    return available / 4;
}

}  // namespace qlora::train
