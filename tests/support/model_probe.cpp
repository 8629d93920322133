// model_probe REQUEST.json OUTPUT.safetensors: what the tests need to see of a model. The request holds
//   model: folder; quantization: section or absent (dense); compute_dtype; peft: section or absent; adapter:
//   folder; sequences: [[ids]]; supervised: [[0/1]]; gradients: bool; recomputation: none, mlp or layers;
//   dropout_step: int; states: bool
// and the output: logits [T, V], loss (sum), "grad.KEY", "param.KEY", with states "dequantized.NAME" and the
// codes.

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/scalar_tensor.h>
#include <iostream>

#include "qlora/adapters/inject.h"
#include "qlora/adapters/peft_format.h"
#include "qlora/core/error.h"
#include "qlora/data/batch.h"
#include "qlora/eval/token_batch.h"
#include "qlora/models/base_loader.h"

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

int run(const std::string& request_file, const std::string& output_file) {
    const Json request = qlora::read_json_file(request_file);
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

    qlora::adapters::Adaptation adaptation;
    if (request.contains("adapter")) {
        const std::string adapter = request.at("adapter").get<std::string>();
        adaptation = qlora::adapters::inject(*model, qlora::adapters::load_adapter_config(adapter), 1);
        qlora::adapters::load_adapter_weights(adapter, adaptation);
    } else if (request.contains("peft")) {
        adaptation = qlora::adapters::inject(
            *model, read_section<qlora::adapters::LoraConfig>(request, "peft"), request.value("seed", 1));
    }

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
    std::vector<const qlora::data::Example*> pointers;
    for (const auto& example : examples) pointers.push_back(&example);
    const qlora::data::Batch batch = qlora::data::collate(pointers);

    qlora::nn::ForwardContext context{
        .training = request.value("training", false),
        .recomputation = recomputation_of(request.value("recomputation", "none")),
        .seed = request.value("seed", std::uint64_t{1}),
        .micro_step = request.value("dropout_step", std::uint32_t{0})};
    std::vector<qlora::nn::TrainableParameter> out;
    const bool gradients = request.value("gradients", false);
    const at::AutoGradMode mode(gradients);
    const qlora::models::TokenBatch there = qlora::eval::token_batch(batch, model->device());
    const at::Tensor hidden = model->forward(there, context);
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
    for (const auto& parameter : adaptation.parameters)
        out.push_back({"param." + parameter.key, parameter.tensor});
    if (request.value("states", false)) {
        for (qlora::nn::Linear* linear : model->linears()) {
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
    qlora::adapters::save_tensors(output_file, out, {});
    if (request.contains("save_adapter")) {
        qlora::adapters::save_adapter(request.at("save_adapter").get<std::string>(), adaptation,
                                      folder.string(), {});
    }
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
