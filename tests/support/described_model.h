#pragma once

#include "qlora/models/decoder_spec.h"
#include "support/tiny_model.h"

namespace qlora::test {

/// A model folder with every parameter that the description of this config.json asks for, whatever its type.
/// Values are random, of the spread that TinyModel gives its weights.
inline void write_described(const std::filesystem::path& folder, const Json& config) {
    const models::DecoderSpec decoder = models::parse_decoder_spec(config, "config.json");
    std::map<std::string, TinyTensor> tensors;
    std::mt19937 engine(7);
    const auto add = [&](const std::string& name, std::vector<std::int64_t> shape, float mean) {
        std::size_t count = 1;
        for (const std::int64_t size : shape) count *= static_cast<std::size_t>(size);
        std::normal_distribution<float> draw(mean, 0.1F);
        std::vector<float> values(count);
        for (float& value : values) value = draw(engine);
        tensors[name] = {io::DType::kF32, std::move(shape), std::move(values)};
    };
    add(decoder.embedding_weight(), {decoder.vocab_size, decoder.hidden_size}, 0.0F);
    if (!decoder.positions.empty())
        add(decoder.positions + ".weight", {decoder.max_position_embeddings, decoder.hidden_size}, 0.0F);
    if (!decoder.tie_word_embeddings)
        add(decoder.head_weight(), {decoder.vocab_size, decoder.hidden_size}, 0.0F);
    if (decoder.head.bias) add(decoder.head.path + ".bias", {decoder.vocab_size}, 0.0F);
    for (const models::spec::Linear* linear : decoder.linears()) {
        std::vector<std::int64_t> shape = {linear->out, linear->in};
        if (linear->stored_in_columns) std::swap(shape[0], shape[1]);
        add(linear->weight(), shape, 0.0F);
        if (linear->bias) add(linear->path + ".bias", {linear->out}, 0.0F);
    }
    for (const models::spec::Norm* norm : decoder.norms()) {
        add(norm->path + ".weight", norm->shape(), norm->offset ? 0.0F : 1.0F);
        if (norm->bias) add(norm->path + ".bias", norm->shape(), 0.0F);
    }
    TinyModel::write(folder, config, tensors);
}

}  // namespace qlora::test
