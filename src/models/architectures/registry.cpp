#include "registry.h"

namespace qlora::models {

// Each in its own file, <model_type>.cpp.
DecoderSpec llama(ConfigReader& config);
DecoderSpec mistral(ConfigReader& config);
DecoderSpec qwen2(ConfigReader& config);
DecoderSpec qwen3(ConfigReader& config);

std::span<const Architecture> architectures() {
    static constexpr Architecture kTable[] = {
        {"llama", llama},
        {"mistral", mistral},
        {"qwen2", qwen2},
        {"qwen3", qwen3},
    };
    return kTable;
}

}  // namespace qlora::models
