// model_probe REQUEST.json OUTPUT.safetensors: what the tests need to see of a model. The request holds
//   model: folder; quantization: section or absent (dense); compute_dtype; peft: section or absent; adapter:
//   folder; sequences: [[ids]]; supervised: [[0/1]]; gradients: bool; recomputation: none, mlp or layers;
//   dropout_step: int; states: bool; cached: bool; router_loss: share of the routers' loss in the gradients;
//   encoder: {kind, tokens, hidden, layers, tensors: file}, what PEFT calls prompt_encoder.default
// and the output: logits [T, V], loss (sum), with router_loss that of routers, "grad.KEY", "param.KEY", with
// an encoder prompt_embeddings, with states "dequantized.NAME" and the codes, with cached "cached_logits",
// those of a pass over each sequence's first half and of one a token. A request may be a list of such ones,
// each with a "name": "NAME/" stands before the keys of each, and one that fails is told on stderr and puts
// nothing out.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/scalar_tensor.h>
#include <iostream>

#include "qlora/adapters/inject.h"
#include "qlora/adapters/peft_format.h"
#include "qlora/adapters/virtual_tokens.h"
#include "qlora/core/error.h"
#include "qlora/data/batch.h"
#include "qlora/eval/token_batch.h"
#include "qlora/models/base_loader.h"
#include "qlora/ops/routing.h"
#include "qlora/quant/tensor_bytes.h"

namespace {

using qlora::Json;

template <class Config>
Config read_section(const Json& request, const char* name) {
    Config config;
    qlora::ReadState state;
    qlora::read_fields(request.at(name), name, config, state);
    state.faults.throw_if_any<qlora::ConfigError>("request");
    return config;
}

qlora::nn::Recomputation recomputation_of(const std::string& name) {
    for (const auto& [text, value] : enum_table(qlora::nn::Recomputation{})) {
        if (text == name) return value;
    }
    throw qlora::ConfigError("recomputation: " + name);
}

std::vector<qlora::data::Example> read_examples(const Json& request) {
    std::vector<qlora::data::Example> examples;
    for (std::size_t i = 0; i < request.at("sequences").size(); ++i) {
        qlora::data::Example example;
        example.ids = request.at("sequences")[i].get<std::vector<qlora::tokenizer::TokenId>>();
        example.supervised.assign(example.ids.size(), 1);
        example.supervised[0] = 0;
        if (request.contains("supervised")) {
            example.supervised = request.at("supervised")[i].get<std::vector<std::uint8_t>>();
        }
        examples.push_back(std::move(example));
    }
    return examples;
}

qlora::adapters::Adaptation adapt(qlora::models::CausalLM& model, const Json& request) {
    if (request.contains("adapter")) {
        const std::string adapter = request.at("adapter").get<std::string>();
        auto adaptation = qlora::adapters::inject(model, qlora::adapters::load_adapter_config(adapter), 1);
        qlora::adapters::load_adapter_weights(adapter, model.spec(), adaptation);
        return adaptation;
    }
    if (!request.contains("peft")) return {};
    return qlora::adapters::inject(model, read_section<qlora::adapters::LoraConfig>(request, "peft"),
                                   request.value("seed", 1));
}

using Tensors = std::vector<qlora::nn::Parameter>;

qlora::adapters::PromptEncoderShape encoder_shape(const Json& encoder,
                                                  const qlora::models::DecoderSpec& decoder) {
    const std::string kind = encoder.at("kind").get<std::string>();
    const auto tokens = encoder.at("tokens").get<std::int64_t>();
    const std::int64_t hidden = encoder.value("hidden", decoder.hidden_size),
                       layers = static_cast<std::int64_t>(decoder.layers.size());
    if (kind == "prompt") return qlora::adapters::prompt_embedding(tokens, decoder.hidden_size);
    if (kind == "mlp") return qlora::adapters::p_tuning_mlp(tokens, decoder.hidden_size, hidden);
    if (kind == "lstm") {
        return qlora::adapters::p_tuning_lstm(tokens, decoder.hidden_size, hidden, encoder.value("layers", 2),
                                              0.0);
    }
    const std::int64_t kv_size = qlora::adapters::key_value_heads(decoder).kv_size();
    if (kind == "prefix") return qlora::adapters::prefix_embedding(tokens, layers, kv_size);
    if (kind == "projection") return qlora::adapters::prefix_projection(tokens, layers, kv_size, hidden);
    throw qlora::ConfigError("encoder: " + kind);
}

/// Sets an encoder with the tensors of a file; returns it, or null where the request has none.
std::shared_ptr<qlora::adapters::PromptEncoder> set_encoder(qlora::models::CausalLM& model,
                                                            const Json& request) {
    if (!request.contains("encoder")) return nullptr;
    const Json& asked = request.at("encoder");
    const auto shape = encoder_shape(asked, model.spec());
    const auto encoder = std::make_shared<qlora::adapters::PromptEncoder>(shape, 1);
    const qlora::io::SafetensorsFile file(asked.at("tensors").get<std::string>());
    const at::AutoGradMode no_gradients(false);
    for (const auto& parameter : encoder->parameters())
        at::Tensor(parameter.tensor).copy_(qlora::quant::tensor_from_view(file.at(parameter.key)));
    qlora::models::Hooks hooks;
    if (asked.at("kind") != "prefix" && asked.at("kind") != "projection") {
        hooks.prompt = std::make_shared<qlora::adapters::EncodedPrompt>(encoder);
    } else {
        hooks.prefix = std::make_shared<qlora::adapters::EncodedPrefix>(
            encoder, static_cast<std::int64_t>(model.spec().layers.size()));
    }
    model.set_hooks(hooks);
    return encoder;
}

/// What the linears multiply with, and how it is stored.
void put_states(qlora::models::CausalLM& model, Tensors& out) {
    for (qlora::nn::Linear* linear : model.linears()) {
        const std::string name = linear->path() + ".weight";
        out.push_back({"dequantized." + name, linear->weight().dense()});
        if (!linear->weight().is_quantized()) continue;
        const auto& state = linear->weight().quantized();
        out.push_back({"codes." + name, state.codes});
        out.push_back({"absmax." + name, state.absmax});
        if (!state.double_quantized()) continue;
        out.push_back({"nested_absmax." + name, state.nested_absmax});
        out.push_back({"nested_offset." + name, at::scalar_tensor(state.nested_offset, at::kFloat)});
    }
}

/// Logits [T, V] as generation sees them: each sequence's first half in one pass, or as much as turns as the
/// whole does, then one token at a time, the sequences that are not at their end together.
at::Tensor cached_logits(const qlora::models::CausalLM& model,
                         const std::vector<qlora::data::Example>& examples) {
    std::vector<qlora::models::KvCache> caches(examples.size(),
                                               qlora::models::KvCache(model.spec().layers.size()));
    std::vector<std::int64_t> passed(examples.size());
    std::vector<std::vector<at::Tensor>> logits(examples.size());
    const qlora::models::LongropeEdges edges(model.spec());
    const std::int64_t before = model.hooks().tokens();
    for (bool first = true;; first = false) {
        std::vector<std::int64_t> ids, positions, offsets{0};
        std::vector<std::size_t> going;
        std::vector<qlora::models::KvCache*> active;
        for (std::size_t i = 0; i < examples.size(); ++i) {
            const std::int64_t seen = passed[i], tokens = examples[i].tokens();
            if (seen == tokens) continue;
            std::int64_t end = first ? (tokens + 1) / 2 : seen + 1;
            // Keys and values of a sequence that longrope turns otherwise than the whole are of no use to it.
            while (edges.passed(before + end) != edges.passed(before + tokens)) ++end;
            for (std::int64_t at = seen; at < end; ++at) {
                ids.push_back(examples[i].ids[static_cast<std::size_t>(at)]);
                positions.push_back(at);
            }
            passed[i] = end;
            offsets.push_back(static_cast<std::int64_t>(ids.size()));
            going.push_back(i);
            active.push_back(&caches[i]);
        }
        if (going.empty()) break;
        const auto batch = qlora::models::upload(
            {.ids = ids, .positions = positions, .offsets = offsets, .rows = {}, .targets = {}},
            model.device());
        const at::Tensor found = model.logits(model.forward(batch, {}, {}, active));
        for (std::size_t k = 0; k < going.size(); ++k) {
            const std::int64_t count = offsets[k + 1] - offsets[k];
            logits[going[k]].push_back(found.narrow(0, offsets[k], count));
        }
    }
    std::vector<at::Tensor> all;
    for (const auto& sequence : logits) all.insert(all.end(), sequence.begin(), sequence.end());
    return at::cat(all);
}

Tensors answer(const Json& request) {
    const std::filesystem::path folder = request.at("model").get<std::string>();
    qlora::models::LoadOptions options;
    options.quantization.load_in_4bit = false;
    if (request.contains("quantization")) {
        options.quantization = read_section<qlora::quant::QuantConfig>(request, "quantization");
    }
    options.compute_dtype =
        request.value("compute_dtype", "float32") == "bfloat16" ? at::kBFloat16 : at::kFloat;
    const qlora::io::Checkpoint checkpoint(folder);
    const auto model =
        qlora::models::load_base(checkpoint, qlora::models::load_decoder_spec(folder), options);
    qlora::adapters::Adaptation adaptation = adapt(*model, request);
    const auto encoder = set_encoder(*model, request);
    if (encoder) adaptation.parameters = encoder->parameters();

    const std::vector<qlora::data::Example> examples = read_examples(request);
    std::vector<const qlora::data::Example*> pointers;
    for (const auto& example : examples) pointers.push_back(&example);
    const qlora::data::Batch batch = qlora::data::collate(pointers);

    qlora::nn::ForwardContext context{
        .training = request.value("training", false),
        .recomputation = recomputation_of(request.value("recomputation", "none")),
        .seed = request.value("seed", std::uint64_t{1}),
        .micro_step = request.value("dropout_step", std::uint32_t{0})};
    Tensors out;
    const bool gradients = request.value("gradients", false);
    const at::AutoGradMode mode(gradients);
    const qlora::models::TokenBatch there = qlora::eval::token_batch(batch, model->device());
    const double router_share = request.value("router_loss", 0.0);
    if (router_share > 0) context.router_balance = std::make_shared<qlora::ops::RouterBalance>();
    const at::Tensor hidden = model->forward(there, context);
    if (router_share > 0) context.router_balance->set_scale(router_share);
    const at::Tensor loss = model->loss_sum(hidden.index_select(0, there.rows), there.targets);
    if (gradients) {
        loss.backward();
        for (const auto& parameter : adaptation.parameters) {
            if (parameter.tensor.grad().defined())
                out.push_back({"grad." + parameter.key, parameter.tensor.grad()});
        }
    }
    const at::AutoGradMode no_gradients(false);
    out.push_back({"logits", model->logits(hidden)});
    out.push_back({"loss", loss});
    if (router_share > 0) out.push_back({"router_loss", context.router_balance->loss()});
    for (const auto& parameter : adaptation.parameters)
        out.push_back({"param." + parameter.key, parameter.tensor});
    if (encoder) out.push_back(encoder->saved());
    if (request.value("states", false)) put_states(*model, out);
    if (request.value("cached", false)) out.push_back({"cached_logits", cached_logits(*model, examples)});
    if (request.contains("save_adapter")) {
        qlora::adapters::save_adapter(request.at("save_adapter").get<std::string>(), adaptation,
                                      folder.string(), {});
    }
    return out;
}

int run(const std::string& request_file, const std::string& output_file) {
    const Json request = qlora::read_json_file(request_file);
    if (!request.is_array()) {
        qlora::adapters::save_tensors(output_file, answer(request), {});
        return 0;
    }
    Tensors out;
    for (const Json& one : request) {
        const std::string name = one.at("name").get<std::string>();
        try {
            for (const auto& found : answer(one)) out.push_back({name + "/" + found.key, found.tensor});
        } catch (const qlora::Error& error) {
            std::cerr << name << ": " << error.what() << '\n';
        }
    }
    qlora::adapters::save_tensors(output_file, out, {});
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 3) {
        std::cerr << "usage: model_probe REQUEST.json OUTPUT.safetensors\n";
        return 2;
    }
    try {
        return run(argv[1], argv[2]);
    } catch (const qlora::Error& error) {
        std::cerr << error.what() << '\n';
        return static_cast<int>(error.code());
    }
}
