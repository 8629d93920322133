#include "models/decoder/rope_frequencies.h"

#include <gtest/gtest.h>

namespace qlora::models {
namespace {

/// The rope of the layers of one kind: "all", "full_attention" or "sliding_attention".
const spec::Rope& rope_of(const DecoderSpec& decoder, const std::string& kind) {
    for (const spec::Layer& layer : decoder.layers) {
        for (const spec::Branch& branch : layer.branches) {
            const auto* attention = std::get_if<spec::Attention>(&branch.block);
            if (attention == nullptr || !attention->rope) continue;
            const bool is_sliding = attention->window > 0;
            if (kind == "all" || is_sliding == (kind == "sliding_attention"))
                return decoder.ropes.at(*attention->rope);
        }
    }
    throw std::out_of_range("no layer with the rope of " + kind);
}

std::vector<float> values(const at::Tensor& tensor) {
    const auto* data = tensor.const_data_ptr<float>();
    return {data, data + tensor.numel()};
}

/// From rope_golden.py beside this file.
TEST(RopeFrequencies, have_the_bits_of_transformers) {
    const Json golden = read_json_file(QLORA_SOURCE_DIR "/tests/models/rope_golden.json");
    ASSERT_FALSE(golden.empty());
    for (const Json& row : golden) {
        const DecoderSpec decoder = parse_decoder_spec(row.at("config"), row.at("name"));
        for (const auto& [kind, expected] : row.at("ropes").items()) {
            const std::string name = row.at("name").get<std::string>() + " " + kind;
            const spec::Rope& rope = rope_of(decoder, kind);
            const auto frequencies = [&](std::int64_t tokens) {
                return values(inverse_frequencies(rope.frequencies, rope.dims, tokens));
            };
            const auto short_ones = expected.at("short").get<std::vector<float>>();
            const auto long_ones = expected.value("long", short_ones);
            const std::int64_t edge = rope.frequencies.original_max_position_embeddings;
            EXPECT_EQ(frequencies(1), short_ones) << name;
            EXPECT_EQ(frequencies(edge), short_ones) << name;
            EXPECT_EQ(frequencies(edge + 1), long_ones) << name;
            EXPECT_EQ(rope.frequencies.attention_factor, expected.at("attention_factor").get<double>())
                << name;
        }
    }
}

}  // namespace
}  // namespace qlora::models
