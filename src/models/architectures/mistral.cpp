#include "windows.h"
#include "wrapper.h"

namespace qlora::models {

/// A llama with a window of tokens in all layers, unless it is switched off.
DecoderSpec mistral(ConfigReader& config) {
    return mistral_decoder(config, "model.");
}

DecoderSpec mistral_decoder(ConfigReader& config, const std::string& prefix) {
    Sizes sizes = read_sizes(config, {.max_positions = 4096 * 32, .kv_heads = 8});
    sizes.prefix = prefix;
    DecoderSpec out = decoder(config, sizes);
    out.ropes = {read_rope(config, rope_sizes(sizes))};
    add_windowed_layers(out, config, sizes, read_windows(config, WindowRule::kAlways, sizes));
    return out;
}

/// The text part, a mistral or a ministral3, of a model that also sees images.
DecoderSpec mistral3(ConfigReader& config) {
    return wrapped_decoder(config, [](ConfigReader& text, const std::string& prefix) {
        const std::string type = text.text("model_type", "mistral");
        if (type == "ministral3") return ministral3_decoder(text, prefix);
        if (type != "mistral") {
            text.faults().add("model_type",
                              "'" + type + "' is not supported here; supported are mistral and ministral3");
        }
        return mistral_decoder(text, prefix);
    });
}

}  // namespace qlora::models
