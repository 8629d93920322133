#include "refused.h"

namespace qlora::models {
namespace {

struct Refused {
    std::string_view model_type, why;
};

constexpr std::string_view kSinks = "attention sinks and experts in MXFP4 are not built";
constexpr std::string_view kEncoder = "it is an encoder, and only decoders are trained";
constexpr std::string_view kTwoStacks = "it is an encoder with a decoder, and only decoders are trained";
constexpr std::string_view kConvolutions = "its short convolutions are not built";
constexpr std::string_view kDeltaNet = "its gated delta nets are not built";
constexpr std::string_view kLatent = "its attention over a latent of keys and values is not built";
constexpr std::string_view kChunked = "its chunked attention is not built";
constexpr std::string_view kSharedKeys =
    "its layers that share keys and values, with heads of two sizes, are not built";

constexpr Refused kRefused[] = {
    {"bert", kEncoder},           {"deepseek_v2", kLatent},  {"deepseek_v3", kLatent},
    {"distilbert", kEncoder},     {"gemma3n", kSharedKeys},  {"gemma4", kSharedKeys},
    {"gemma4_text", kSharedKeys}, {"gpt_oss", kSinks},       {"lfm2", kConvolutions},
    {"lfm2_moe", kConvolutions},  {"llama4", kChunked},      {"llama4_text", kChunked},
    {"mt5", kTwoStacks},          {"qwen3_5", kDeltaNet},    {"qwen3_5_moe", kDeltaNet},
    {"qwen3_5_text", kDeltaNet},  {"qwen3_next", kDeltaNet}, {"roberta", kEncoder},
    {"t5", kTwoStacks},           {"xlm-roberta", kEncoder},
};

}  // namespace

std::string_view why_refused(std::string_view model_type) {
    for (const Refused& row : kRefused) {
        if (row.model_type == model_type) return row.why;
    }
    return {};
}

}  // namespace qlora::models
