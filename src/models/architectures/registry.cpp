#include "registry.h"

namespace qlora::models {

// Each in the file of its name or of the type that it is made like.
DecoderSpec cohere(ConfigReader& config);
DecoderSpec cohere2(ConfigReader& config);
DecoderSpec exaone4(ConfigReader& config);
DecoderSpec gemma(ConfigReader& config);
DecoderSpec gemma2(ConfigReader& config);
DecoderSpec gemma3(ConfigReader& config);
DecoderSpec gemma3_text(ConfigReader& config);
DecoderSpec glm4(ConfigReader& config);
DecoderSpec gpt2(ConfigReader& config);
DecoderSpec gpt_neox(ConfigReader& config);
DecoderSpec granite(ConfigReader& config);
DecoderSpec hyperclovax(ConfigReader& config);
DecoderSpec llama(ConfigReader& config);
DecoderSpec ministral(ConfigReader& config);
DecoderSpec ministral3(ConfigReader& config);
DecoderSpec mistral(ConfigReader& config);
DecoderSpec mistral3(ConfigReader& config);
DecoderSpec mixtral(ConfigReader& config);
DecoderSpec olmo2(ConfigReader& config);
DecoderSpec olmo3(ConfigReader& config);
DecoderSpec olmoe(ConfigReader& config);
DecoderSpec phi(ConfigReader& config);
DecoderSpec phi3(ConfigReader& config);
DecoderSpec qwen2(ConfigReader& config);
DecoderSpec qwen2_moe(ConfigReader& config);
DecoderSpec qwen3(ConfigReader& config);
DecoderSpec qwen3_moe(ConfigReader& config);
DecoderSpec smollm3(ConfigReader& config);
DecoderSpec stablelm(ConfigReader& config);
DecoderSpec starcoder2(ConfigReader& config);

std::span<const Architecture> architectures() {
    static constexpr Architecture kTable[] = {
        {"cohere", cohere},
        {"cohere2", cohere2},
        {"exaone4", exaone4},
        {"gemma", gemma, {"q_proj", "v_proj"}, {"q_proj", "v_proj", "down_proj"}},
        {"gemma2", gemma2, {"q_proj", "v_proj"}, {"q_proj", "v_proj", "down_proj"}},
        {"gemma3", gemma3},
        {"gemma3_text", gemma3_text, {"q_proj", "v_proj"}, {"q_proj", "v_proj", "down_proj"}},
        {"glm4", glm4},
        {"gpt2", gpt2, {"c_attn"}, {"c_attn", "mlp.c_proj"}},
        {"gpt_neox", gpt_neox, {"query_key_value"}, {"query_key_value", "dense_4h_to_h"}},
        {"granite", granite},
        {"hyperclovax", hyperclovax},
        {"llama", llama, {"q_proj", "v_proj"}, {"k_proj", "v_proj", "down_proj"}},
        {"ministral", ministral},
        {"ministral3", ministral3},
        {"mistral", mistral, {"q_proj", "v_proj"}, {"k_proj", "v_proj", "down_proj"}},
        {"mistral3", mistral3},
        {"mixtral", mixtral, {"q_proj", "v_proj"}},
        {"olmo2", olmo2},
        {"olmo3", olmo3},
        {"olmoe", olmoe},
        {"phi", phi, {"q_proj", "v_proj", "fc1", "fc2"}, {"q_proj", "v_proj", "fc2"}},
        {"phi3", phi3},
        {"qwen2", qwen2, {"q_proj", "v_proj"}, {"q_proj", "v_proj", "down_proj"}},
        {"qwen2_moe", qwen2_moe},
        {"qwen3", qwen3, {"q_proj", "v_proj"}, {"q_proj", "v_proj", "down_proj"}},
        {"qwen3_moe", qwen3_moe},
        {"smollm3", smollm3},
        {"stablelm", stablelm, {"q_proj", "v_proj"}},
        {"starcoder2", starcoder2},
    };
    return kTable;
}

const Architecture* find_architecture(std::string_view model_type) {
    for (const Architecture& row : architectures()) {
        if (row.model_type == model_type) return &row;
    }
    return nullptr;
}

void read_end_ids(ConfigReader& section, DecoderSpec& decoder) {
    if (!section.has("eos_token_id")) return;
    const Json& eos = section.json().at("eos_token_id");
    for (const Json& id : eos.is_array() ? eos : Json::array({eos})) {
        if (id.is_number_integer()) decoder.eos_token_ids.push_back(id.get<std::int64_t>());
    }
}

}  // namespace qlora::models
