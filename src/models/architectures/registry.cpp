#include "registry.h"

namespace qlora::models {

// Each in its own file, <model_type>.cpp.
DecoderSpec llama(ConfigReader& config);
DecoderSpec ministral(ConfigReader& config);
DecoderSpec mistral(ConfigReader& config);
DecoderSpec phi3(ConfigReader& config);
DecoderSpec qwen2(ConfigReader& config);
DecoderSpec qwen3(ConfigReader& config);
DecoderSpec smollm3(ConfigReader& config);

std::span<const Architecture> architectures() {
    static constexpr Architecture kTable[] = {
        {"llama", llama}, {"ministral", ministral}, {"mistral", mistral}, {"phi3", phi3},
        {"qwen2", qwen2}, {"qwen3", qwen3},         {"smollm3", smollm3},
    };
    return kTable;
}

}  // namespace qlora::models
