#include "qlora/train/memory_plan.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/ops/cross_entropy.h"

namespace qlora::train {
namespace {

/// LibTorch, its thread pool and the tokenizer, measured on an empty program.
constexpr std::int64_t kBaselineBytes = 180LL << 20;

struct LinearSizes {
    std::int64_t total = 0;          ///< weights of all layers
    std::int64_t largest_group = 0;  ///< weights of the linears that run as one product
};

LinearSizes linear_sizes(const models::ModelConfig& c) {
    const std::int64_t q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
    const std::int64_t layer = c.hidden_size * (2 * q + 2 * kv + 3 * c.intermediate_size);
    return {.total = layer * c.num_hidden_layers,
            .largest_group = c.hidden_size * std::max(q + 2 * kv, 2 * c.intermediate_size)};
}

/// Elements that one decoder layer keeps for backward, per token: the inputs of both norms, rotated q and k
/// with v, attention's result, gate and up. What the adapters see is made again.
std::int64_t saved_elements_per_token(const models::ModelConfig& c) {
    const std::int64_t q = c.num_attention_heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;
    const std::int64_t before_head_norms = c.query_key_norm ? q + 2 * kv : 0;
    return 2 * c.hidden_size + (q + 2 * kv) + before_head_norms + q + 2 * c.intermediate_size;
}

}  // namespace

MemoryPlan plan_memory(const MemoryRequest& request) {
    const models::ModelConfig& c = request.config;
    const LinearSizes sizes = linear_sizes(c);
    MemoryPlan plan{.baseline = kBaselineBytes};
    const std::int64_t embedding = c.vocab_size * c.hidden_size * (c.tie_word_embeddings ? 1 : 2);
    plan.weights = embedding * request.stored_bytes_per_weight;
    if (request.quantization.load_in_4bit) {
        const double bits = request.quantization.bnb_4bit_use_double_quant
                                ? 4.0 + 8.0 / static_cast<double>(request.quantization.bnb_4bit_blocksize)
                                : 4.0 + 32.0 / static_cast<double>(request.quantization.bnb_4bit_blocksize);
        plan.weights += static_cast<std::int64_t>(static_cast<double>(sizes.total) * bits / 8.0);
    } else {
        plan.weights += sizes.total * request.stored_bytes_per_weight;
    }
    const std::int64_t head = c.vocab_size * c.hidden_size * 4;
    plan.dense_copies = request.keep_dense
                            ? sizes.total * 4 + head
                            : std::max(sizes.largest_group * 4, std::min(head, ops::kHeadPanelBytes));
    plan.adapters = request.trained_elements * 8 + request.moment_bytes;  // value, gradient, two moments
    const std::int64_t width = request.bytes_per_element;
    const std::int64_t layer_bytes = saved_elements_per_token(c) * width * request.tokens;
    // While one layer runs, its temporaries (fp32) come on top: gate, up, their product and two gradients.
    const std::int64_t working = request.tokens * (4 * c.intermediate_size + 4 * c.hidden_size) * 4;
    plan.activations =
        request.gradient_checkpointing
            ? c.num_hidden_layers * c.hidden_size * width * request.tokens + layer_bytes + working
            : c.num_hidden_layers * layer_bytes + working;
    plan.logits = std::min(ops::kLogitsChunkRows, request.supervised_tokens) * c.vocab_size * 4;
    return plan;
}

std::string gigabytes(std::int64_t bytes) {
    return fmt::format("{:.2f} GB", static_cast<double>(bytes) / 1e9);
}

std::string MemoryPlan::text() const {
    return fmt::format(
        "planned peak memory {}: weights {}, fp32 forms {}, adapters with gradients and moments {}, "
        "activations {}, "
        "logits {}, LibTorch {}",
        gigabytes(total()), gigabytes(weights), gigabytes(dense_copies), gigabytes(adapters),
        gigabytes(activations), gigabytes(logits), gigabytes(baseline));
}

std::int64_t available_memory_bytes() {
    std::int64_t available = 0;
    std::ifstream info("/proc/meminfo");
    std::string name, unit;
    std::int64_t value = 0;
    while (info >> name >> value) {
        std::getline(info, unit);
        if (name == "MemAvailable:") available = value * 1024;
    }
    std::ifstream limit("/sys/fs/cgroup/memory.max"), used("/sys/fs/cgroup/memory.current");
    std::int64_t limit_bytes = 0, used_bytes = 0;
    if (limit >> limit_bytes && used >> used_bytes) available = std::min(available, limit_bytes - used_bytes);
    rlimit address_space{};
    std::ifstream pages("/proc/self/statm");
    std::int64_t used_pages = 0;
    if (getrlimit(RLIMIT_AS, &address_space) == 0 && address_space.rlim_cur != RLIM_INFINITY &&
        pages >> used_pages) {
        available = std::min(available, static_cast<std::int64_t>(address_space.rlim_cur) -
                                            used_pages * sysconf(_SC_PAGESIZE));
    }
    return std::max<std::int64_t>(0, available);
}

void require_memory(const MemoryPlan& plan) {
    constexpr double kUncertainty = 0.1;
    // The baseline is in use already.
    const std::int64_t wanted = plan.total() - plan.baseline;
    const std::int64_t available = available_memory_bytes();
    if (static_cast<double>(wanted) <= (1 + kUncertainty) * static_cast<double>(available)) return;
    throw ResourceError(fmt::format("the run needs about {} of memory and {} are available; {}",
                                    gigabytes(wanted), gigabytes(available), kMemoryAdvice));
}

namespace {

bool fits_dense(std::int64_t bytes) {
    return bytes <= available_memory_bytes() / 4;
}

}  // namespace

bool keeps_dense(const models::CausalLM& model) {
    return fits_dense(model.dense_bytes());
}

bool keeps_dense(const models::ModelConfig& config) {
    return fits_dense((linear_sizes(config).total + config.vocab_size * config.hidden_size) * 4);
}

}  // namespace qlora::train
