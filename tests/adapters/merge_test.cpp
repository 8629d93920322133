#include "qlora/adapters/merge.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <sys/statvfs.h>

#include <algorithm>
#include <optional>

#include "qlora/adapters/inject.h"
#include "qlora/adapters/lora.h"
#include "qlora/adapters/peft_format.h"
#include "qlora/core/stopped.h"
#include "qlora/models/base_loader.h"
#include "qlora/quant/tensor_bytes.h"
#include "support/dequantized.h"
#include "support/model_spellings.h"
#include "support/temp_dir.h"

namespace {

/// What the disk says is free, where a test sets it.
std::optional<std::uint64_t> free_bytes;

}  // namespace

// The program's own definition comes before that of the C library.
extern "C" int statvfs(const char* path, struct statvfs* out) noexcept {
    static auto* const real =
        reinterpret_cast<int (*)(const char*, struct statvfs*)>(dlsym(RTLD_NEXT, "statvfs"));
    const int result = real(path, out);
    if (free_bytes) out->f_bavail = *free_bytes / out->f_frsize;
    return result;
}

namespace qlora::adapters {
namespace {

// The MLP's matrices have more values than the merge holds at a time, and rows that no block divides.
constexpr const char* kConfig = R"({"model_type": "llama", "vocab_size": 50, "hidden_size": 60,
  "intermediate_size": 9001, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
  "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "tie_word_embeddings": true})";

at::Tensor random(at::IntArrayRef shape, std::uint64_t seed) {
    return at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed), at::kFloat);
}

/// A one-layer model and an adapter on all its linears but up_proj, with a random B.
class Merge : public testing::Test {
  protected:
    Merge() {
        std::filesystem::create_directory(model_);
        test::write_file(model_ / "config.json", kConfig);
        const models::DecoderSpec config = models::load_decoder_spec(model_);
        models::CausalLM empty(config, at::kFloat);
        std::vector<nn::Parameter> tensors{{"model.embed_tokens.weight", random({50, 60}, 1)}};
        for (const nn::Linear* linear : empty.linears()) {
            tensors.push_back({linear->path() + ".weight",
                               random({linear->out_features(), linear->in_features()}, tensors.size() + 1)});
        }
        for (const nn::Norm* norm : empty.norms())
            tensors.push_back({norm->path() + ".weight", at::ones({60})});
        save_tensors(model_ / "model.safetensors", tensors, {{"format", "pt"}});

        const io::Checkpoint checkpoint(model_);
        const auto model = models::load_base(checkpoint, config, {});
        LoraConfig lora;
        lora.target_modules = NameList{"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj"};
        lora.init_lora_weights = InitLoraWeights::kRandom;
        const Adaptation adaptation = inject(*model, lora, 7);
        save_adapter(
            adapter_, adaptation, "base",
            {{kBaseKey, checkpoint.fingerprint()}, {kQuantizationKey, write_fields(quantization_).dump()}});
        for (const nn::Linear* linear : model->linears()) {
            if (linear->adapter() == nullptr) continue;
            const ops::LowRank adapter = *linear->adapter()->update({}).low_rank;
            deltas_[linear->path()] = at::mm(adapter.b, adapter.a).detach() * adapter.scaling;
        }
    }

    MergeRequest request() const {
        return {.model = model_, .adapter = adapter_, .output = folder_ / "merged"};
    }
    std::vector<std::string> entries() const {
        std::vector<std::string> out;
        for (const auto& entry : std::filesystem::directory_iterator(folder_.path())) {
            out.push_back(entry.path().filename().string());
        }
        std::sort(out.begin(), out.end());
        return out;
    }

    test::TempDir folder_;
    std::filesystem::path model_ = folder_ / "model";
    std::filesystem::path adapter_ = folder_ / "adapter";
    quant::QuantConfig quantization_;
    std::map<std::string, at::Tensor> deltas_;  ///< by module
};

TEST_F(Merge, ABaseUnderOtherNamesGivesTheSameFolder) {
    merge(request());
    const std::string expected = io::Checkpoint(folder_ / "merged").fingerprint();
    const auto head_alone = [](const std::string& name) {
        return name == "model.embed_tokens.weight" ? std::string("lm_head.weight") : name;
    };
    for (const auto& renamed :
         {std::function(test::bare_name), std::function<std::string(const std::string&)>(head_alone)}) {
        const test::TempDir other;
        MergeRequest wanted = request();
        wanted.model = other / "model";
        wanted.output = other / "merged";
        wanted.allow_other_base = true;
        test::copy_renamed(model_, wanted.model, renamed);
        merge(wanted);
        EXPECT_EQ(io::Checkpoint(wanted.output).fingerprint(), expected);
    }
}

/// The head of the file is the embedding; the trained one comes beside it.
TEST_F(Merge, ATrainedHeadComesBesideAnEmbeddingStoredAsTheHead) {
    const std::filesystem::path model = folder_ / "head alone", adapter = folder_ / "whole head";
    test::copy_renamed(model_, model, [](const std::string& name) {
        return name == "model.embed_tokens.weight" ? std::string("lm_head.weight") : name;
    });
    const auto trained = models::load_base(io::Checkpoint(model), models::load_decoder_spec(model), {});
    LoraConfig lora;
    lora.modules_to_save = NameList{"lm_head"};
    const Adaptation adaptation = inject(*trained, lora, 7);
    {
        const at::NoGradGuard off;
        for (const nn::Parameter& parameter : adaptation.parameters) {
            if (parameter.key.ends_with("lm_head.weight")) at::Tensor(parameter.tensor).add_(1.0);
        }
    }
    save_adapter(adapter, adaptation, "base", {});
    MergeRequest wanted = request();
    wanted.model = model;
    wanted.adapter = adapter;
    EXPECT_TRUE(merge(wanted).untied);
    const io::Checkpoint merged(wanted.output), base(model_);
    const auto values = [](const io::Checkpoint& checkpoint, const char* name) {
        return quant::tensor_from_view(checkpoint.at(name));
    };
    const at::Tensor table = values(base, "model.embed_tokens.weight");
    EXPECT_TRUE(values(merged, "model.embed_tokens.weight").equal(table));
    EXPECT_TRUE(values(merged, "lm_head.weight").equal(table + 1.0));
}

TEST_F(Merge, MatricesLargerThanABlockAreMergedRowByRow) {
    for (const MergeBase base : {MergeBase::kOriginal, MergeBase::kDequantized}) {
        MergeRequest wanted = request();
        wanted.base = base;
        wanted.output = folder_ / (base == MergeBase::kOriginal ? "original" : "dequantized");
        const MergeReport report = merge(wanted);
        EXPECT_EQ(report.layers.size(), deltas_.size());
        const io::Checkpoint original(model_), merged(wanted.output);
        ASSERT_EQ(original.names(), merged.names());
        for (const std::string& name : original.names()) {
            at::Tensor expected = quant::tensor_from_view(original.at(name));
            const std::string module = name.substr(0, name.rfind('.'));
            if (base == MergeBase::kDequantized && name.find("_proj") != std::string::npos) {
                expected = test::dequantized(quant::quantize(original.at(name), quantization_), at::kFloat);
            }
            const at::Tensor got = quant::tensor_from_view(merged.at(name));
            const auto delta = deltas_.find(module);
            if (delta == deltas_.end()) {
                EXPECT_TRUE(at::equal(got, expected)) << name;
                continue;
            }
            // A product of some of the rows may be summed in another order than one of all rows.
            expected = expected + delta->second;
            EXPECT_LE((got - expected).abs().max().item<float>(), 1e-5F) << name;
            EXPECT_GT(delta->second.abs().max().item<float>(), 1e-2F) << name;
        }
    }
}

TEST_F(Merge, DequantizedValuesAreThoseThatTrainingSaw) {
    quantization_.bnb_4bit_compute_dtype = quant::ComputeDtype::kBfloat16;
    const std::filesystem::path file = adapter_ / kAdapterWeightsFile;
    std::vector<nn::Parameter> tensors;
    std::map<std::string, std::string> metadata;
    {
        const io::SafetensorsFile old(file);
        metadata = old.metadata();
        for (const io::TensorView& view : old.tensors()) {
            tensors.push_back({view.name, quant::tensor_from_view(view).clone()});
        }
    }
    metadata[kQuantizationKey] = write_fields(quantization_).dump();
    save_tensors(file, tensors, metadata);

    MergeRequest wanted = request();
    wanted.base = MergeBase::kDequantized;
    merge(wanted);
    const io::Checkpoint original(model_), merged(wanted.output);
    const std::string name = "model.layers.0.mlp.up_proj.weight";  // without an adapter: no sum hides a bit
    const at::Tensor seen =
        test::dequantized(quant::quantize(original.at(name), quantization_), at::kBFloat16).to(at::kFloat);
    EXPECT_TRUE(at::equal(quant::tensor_from_view(merged.at(name)), seen));
    const std::string adapted = "model.layers.0.self_attn.q_proj.weight";
    const at::Tensor base =
        test::dequantized(quant::quantize(original.at(adapted), quantization_), at::kBFloat16).to(at::kFloat);
    EXPECT_TRUE(at::equal(quant::tensor_from_view(merged.at(adapted)),
                          base + deltas_.at("model.layers.0.self_attn.q_proj")));
}

TEST_F(Merge, MeasuresAddUpOverBlocks) {
    const MergeReport report = merge(request());
    const io::Checkpoint original(model_);
    for (const LayerMeasure& layer : report.layers) {
        const io::TensorView& view = original.at(layer.path + ".weight");
        const at::Tensor nf4 = test::dequantized(quant::quantize(view, quantization_), at::kFloat);
        const double error = (quant::tensor_from_view(view) - nf4).to(at::kDouble).norm().item<double>();
        const double delta = deltas_.at(layer.path).to(at::kDouble).norm().item<double>();
        EXPECT_NEAR(layer.quantization_error / error, 1, 1e-9) << layer.path;
        EXPECT_NEAR(layer.delta / delta, 1, 1e-6) << layer.path;
        EXPECT_EQ(layer.changed, view.elements()) << layer.path;
        EXPECT_EQ(layer.ratio(), layer.delta / layer.quantization_error);
    }
}

TEST_F(Merge, StoppedAtAnyTensorItLeavesNothing) {
    const std::vector<std::string> before = entries();
    int tensors = 0;
    MergeRequest wanted = request();
    wanted.stop_requested = [&] { return ++tensors < 0; };
    merge(wanted);
    ASSERT_EQ(tensors, 11);
    std::filesystem::remove_all(wanted.output);
    for (int stop = 1; stop <= tensors; ++stop) {
        int asked = 0;
        wanted.stop_requested = [&] { return ++asked == stop; };
        EXPECT_THROW(merge(wanted), Stopped);
        EXPECT_EQ(entries(), before) << stop;
    }
}

TEST_F(Merge, RoomOnTheDiskIsAskedForBeforeAnythingIsWritten) {
    const std::vector<std::string> before = entries();
    MergeRequest wanted = request();
    bool is_begun = false;
    wanted.stop_requested = [&] { return is_begun = true; };
    // Enough for the tensors alone.
    free_bytes = std::filesystem::file_size(model_ / "model.safetensors") + (1 << 20);
    EXPECT_THROW(merge(wanted), ResourceError);
    free_bytes.reset();
    EXPECT_FALSE(is_begun);
    EXPECT_EQ(entries(), before);
}

TEST_F(Merge, WhatAKilledMergeLeftIsRemoved) {
    const std::vector<std::string> before = entries();
    std::filesystem::create_directory(folder_ / ".tmp-merged-2147483647");  // above the largest process id
    test::write_file(folder_ / ".tmp-merged-2147483647" / "model.safetensors", "half");
    merge(request());
    std::filesystem::remove_all(request().output);
    EXPECT_EQ(entries(), before);
}

TEST_F(Merge, AFileThatIsWrittenComesBeforeACopyOfIt) {
    test::write_file(model_ / "tokenizer_config.json", "base");
    test::write_file(model_ / "tokenizer.json", "base");
    MergeRequest wanted = request();
    wanted.companions = {.copied = {model_ / "tokenizer_config.json", model_ / "tokenizer.json"},
                         .written = {{"tokenizer_config.json", "ours"}, {"chat_template.jinja", "{{ x }}"}}};
    merge(wanted);
    EXPECT_EQ(test::read_file(wanted.output / "tokenizer_config.json"), "ours");
    EXPECT_EQ(test::read_file(wanted.output / "tokenizer.json"), "base");
    EXPECT_EQ(test::read_file(wanted.output / "chat_template.jinja"), "{{ x }}");
}

TEST_F(Merge, AFaultInTheMiddleLeavesNothing) {
    std::string bytes = test::read_file(model_ / "model.safetensors");
    bytes[bytes.size() - 1] = bytes[bytes.size() - 2] = '\xff';  // a NaN in the last tensor
    test::write_file(model_ / "model.safetensors", bytes);
    const std::vector<std::string> before = entries();
    MergeRequest wanted = request();
    wanted.allow_other_base = true;
    EXPECT_THROW(merge(wanted), CheckpointError);
    EXPECT_EQ(entries(), before);
}

/// An untied head is spelled like the rest of the file; the vision tower is copied, also where a dtype is
/// asked for. PEFT's adapter has updates of the tower that are zero, unless it was trained on pictures.
TEST(MergeOfAPart, KeepsTheNamesAndTheOtherPartsOfTheFile) {
    const test::TempDir dir;
    const std::filesystem::path model = dir / "model", adapter = dir / "adapter";
    std::filesystem::create_directory(model);
    const test::TinyModel tiny{.model_type = "mistral", .tie = true};
    test::TinyModel::write(
        model, test::around_text(tiny.config()),
        test::beside_vision(tiny.tensors(), "language_model.model.", "language_model.lm_head.", ""));
    const io::Checkpoint base(model);
    const auto loaded = models::load_base(base, models::load_decoder_spec(model), {});
    LoraConfig lora;
    lora.target_modules = NameList{"q_proj", "v_proj"};
    lora.modules_to_save = NameList{"lm_head"};
    lora.init_lora_weights = InitLoraWeights::kRandom;
    const Adaptation adaptation = inject(*loaded, lora, 1);
    const std::string tower = "base_model.model.model.vision_tower.layers.0.q_proj.";
    std::vector<nn::Parameter> tensors = adaptation.parameters;
    tensors.push_back({tower + "lora_A.weight", at::ones({2, 3})});
    tensors.push_back({tower + "lora_B.weight", at::zeros({3, 2})});
    save_adapter(adapter, adaptation, "base", {});
    save_tensors(adapter / kAdapterWeightsFile, tensors, {});

    MergeRequest wanted{.model = model, .adapter = adapter, .output = dir / "merged"};
    wanted.dtype = MergeDtype::kBfloat16;
    EXPECT_TRUE(merge(wanted).untied);
    const io::Checkpoint merged(wanted.output);
    std::vector<std::string> expected = base.names();
    expected.push_back("language_model.lm_head.weight");
    std::sort(expected.begin(), expected.end());
    EXPECT_EQ(merged.names(), expected);
    for (const char* name : {"vision_tower.patch_conv.weight", "multi_modal_projector.norm.weight"}) {
        EXPECT_EQ(merged.at(name).dtype, base.at(name).dtype);
        EXPECT_TRUE(std::ranges::equal(merged.at(name).bytes, base.at(name).bytes));
    }
    EXPECT_EQ(merged.at("language_model.lm_head.weight").dtype, io::DType::kBF16);
    EXPECT_FALSE(models::load_decoder_spec(wanted.output).tie_word_embeddings);

    tensors.back().tensor = at::ones({3, 2});
    save_tensors(adapter / kAdapterWeightsFile, tensors, {});
    wanted.output = dir / "again";
    try {
        merge(wanted);
        ADD_FAILURE() << "merged";
    } catch (const CheckpointError& error) {
        EXPECT_NE(std::string(error.what()).find(tower + "lora_B.weight changes a part of the model"),
                  std::string::npos)
            << error.what();
    }
}

}  // namespace
}  // namespace qlora::adapters
