#include "qlora/models/base_loader.h"

#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "qlora/core/error.h"
#include "support/dequantized.h"
#include "support/tiny_model.h"
#include "support/weight_bytes.h"

namespace qlora::models {
namespace {

using qlora::test::TempDir;
using qlora::test::TinyModel;
using qlora::test::TinyTensor;
using Tensors = std::map<std::string, TinyTensor>;

constexpr const char* kQuery = "model.layers.1.self_attn.q_proj.weight";
constexpr const char* kNorm = "model.norm.weight";
constexpr const char* kTable = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";

LoadOptions options_for(bool quantized) {
    LoadOptions options;
    options.quantization.load_in_4bit = quantized;
    return options;
}

std::unique_ptr<CausalLM> load(const std::filesystem::path& folder, const LoadOptions& options) {
    return load_base(io::Checkpoint(folder), load_decoder_spec(folder), options);
}

std::unique_ptr<CausalLM> load(const TinyModel& tiny, const LoadOptions& options) {
    const TempDir dir;
    tiny.write(dir.path());
    return load(dir.path(), options);
}

struct BadBase {
    const char* name;
    bool tie;
    std::function<void(Tensors&)> spoil;
    std::vector<std::string> message;
};

std::ostream& operator<<(std::ostream& out, const BadBase& value) {
    return out << value.name;
}

std::vector<BadBase> bad_bases() {
    const auto drop = [](const char* name) { return [name](Tensors& tensors) { tensors.erase(name); }; };
    const auto shape = [](const char* name, std::vector<std::int64_t> wanted) {
        return [name, wanted](Tensors& tensors) {
            tensors[name].shape = wanted;
            std::size_t size = 1;
            for (const std::int64_t length : wanted) size *= static_cast<std::size_t>(length);
            tensors[name].values.resize(size);
        };
    };
    const auto dtype = [](const char* name, io::DType wanted) {
        return [name, wanted](Tensors& tensors) { tensors[name].dtype = wanted; };
    };
    const auto value = [](const char* name, float wanted) {
        return [name, wanted](Tensors& tensors) {
            tensors[name].values[77 % tensors[name].values.size()] = wanted;
        };
    };
    constexpr float kInf = std::numeric_limits<float>::infinity();
    constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
    return {
        {"missing_linear", false, drop(kQuery), {kQuery, "missing", "[32, 32]"}},
        {"missing_norm", false, drop(kNorm), {kNorm, "missing", "[32]"}},
        {"missing_embedding", false, drop(kTable), {kTable, "missing", "[97, 32]"}},
        {"missing_head", false, drop(kHead), {kHead, "missing"}},
        {"missing_bias", false, drop("model.layers.0.mlp.up_proj.bias"), {"mlp.up_proj.bias", "missing"}},
        {"extra_layer",
         false,
         [](Tensors& t) { t["model.layers.2.self_attn.q_proj.weight"] = t[kQuery]; },
         {"model.layers.2.self_attn.q_proj.weight", "not a parameter"}},
        {"extra_norm",
         false,
         [](Tensors& t) { t["model.layers.0.self_attn.q_norm.weight"] = t[kNorm]; },
         {"q_norm", "not a parameter", "llama"}},
        {"packed_weight",
         false,
         [](Tensors& t) { t["model.layers.0.mlp.up_proj.weight.absmax"] = t[kNorm]; },
         {"weight.absmax"}},
        {"transposed",
         false,
         shape("model.layers.0.mlp.down_proj.weight", {40, 32}),
         {"mlp.down_proj.weight", "[40, 32]", "[32, 40]"}},
        {"flat", false, shape(kQuery, {1024}), {kQuery, "[1024]", "[32, 32]"}},
        {"padded_vocabulary", false, shape(kTable, {104, 32}), {kTable, "[104, 32]", "[97, 32]"}},
        {"short_norm", false, shape(kNorm, {16}), {kNorm, "[16]", "[32]"}},
        {"int8_linear", false, dtype(kQuery, io::DType::kI8), {kQuery, "I8", "F32, F16 and BF16"}},
        {"f64_norm", false, dtype(kNorm, io::DType::kF64), {kNorm, "F64"}},
        {"nan_in_a_linear", false, value(kQuery, kNan), {kQuery}},
        {"inf_in_a_linear", false, value(kQuery, kInf), {kQuery}},
        {"minus_inf_in_a_norm", false, value(kNorm, -kInf), {kNorm, "not finite"}},
        {"nan_in_the_embedding", false, value(kTable, kNan), {kTable, "not finite"}},
        {"nan_in_the_head", false, value(kHead, kNan), {kHead, "not finite"}},
        {"nan_in_a_bias",
         false,
         value("model.layers.0.self_attn.k_proj.bias", kNan),
         {"k_proj.bias", "not finite"}},
        {"tied_head_that_differs",
         true,
         [](Tensors& t) {
             t[kHead] = t[kTable];
             t[kHead].values[5] += 1.0F;
         },
         {kHead, "differs", "tie_word_embeddings"}},
        {"tied_head_of_another_dtype",
         true,
         [](Tensors& t) {
             t[kHead] = t[kTable];
             t[kHead].dtype = io::DType::kBF16;
         },
         {kHead, "differs"}},
        {"neither_tied_tensor", true, drop(kTable), {kTable, "missing"}},
    };
}

TEST(BaseLoader, learned_positions_and_a_bias_of_the_head_are_parameters_too) {
    const TinyModel tiny;
    const TempDir dir;
    Tensors tensors = tiny.tensors();
    TinyModel::write(dir.path(), tiny.config(), tensors);
    DecoderSpec decoder = load_decoder_spec(dir.path());
    decoder.positions = "model.wpe";
    decoder.head.bias = true;
    try {
        check_base(io::Checkpoint(dir.path()), decoder);
        ADD_FAILURE() << "accepted";
    } catch (const CheckpointError& error) {
        const std::string what = error.what();
        EXPECT_NE(what.find("model.wpe.weight: is missing (expected shape [256, 32])"), std::string::npos)
            << what;
        EXPECT_NE(what.find("lm_head.bias: is missing (expected shape [97])"), std::string::npos) << what;
    }
    tensors["model.wpe.weight"] = {io::DType::kF32, {256, 32}, std::vector<float>(256 * 32, 0.5F)};
    tensors["lm_head.bias"] = {io::DType::kF32, {97}, std::vector<float>(97, 0.25F)};
    TinyModel::write(dir.path(), tiny.config(), tensors);
    const auto model = load_base(io::Checkpoint(dir.path()), decoder, options_for(true));
    EXPECT_EQ(model->positions().sum().item<float>(), 256 * 32 * 0.5F);
    EXPECT_EQ(model->head_bias().sum().item<float>(), 97 * 0.25F);
}

/// Both forms of a model: each linear in rows and in columns.
struct ColumnsCase {
    TinyModel tiny;
    Tensors in_columns;
    DecoderSpec decoder;
};

ColumnsCase columns_case(const std::filesystem::path& folder) {
    ColumnsCase out;
    out.tiny.write(folder);
    out.in_columns = out.tiny.tensors();
    out.decoder = load_decoder_spec(folder);
    for (spec::Layer& layer : out.decoder.layers) {
        for (spec::Branch& branch : layer.branches) {
            spec::for_each_linear(branch.block,
                                  [](spec::Linear& linear) { linear.stored_in_columns = true; });
        }
    }
    for (const spec::Linear* linear : out.decoder.linears()) {
        TinyTensor& tensor = out.in_columns[linear->weight()];
        const TinyTensor rows = tensor;
        tensor.shape = {linear->in, linear->out};
        for (std::int64_t row = 0; row < linear->out; ++row) {
            for (std::int64_t column = 0; column < linear->in; ++column) {
                tensor.values[static_cast<std::size_t>(column * linear->out + row)] =
                    rows.values[static_cast<std::size_t>(row * linear->in + column)];
            }
        }
    }
    return out;
}

/// Conv1D's weights are transposed before they are used, and before they are quantized as bitsandbytes does.
TEST(BaseLoader, weights_in_columns_are_those_of_the_transposed_file) {
    const TempDir rows, columns;
    const ColumnsCase both = columns_case(rows.path());
    TinyModel::write(columns.path(), both.tiny.config(), both.in_columns);
    for (const bool quantized : {false, true}) {
        const auto usual = load(rows.path(), options_for(quantized));
        const auto other = load_base(io::Checkpoint(columns.path()), both.decoder, options_for(quantized));
        for (std::size_t i = 0; i < usual->linears().size(); ++i) {
            const nn::Linear &a = *usual->linears()[i], &b = *other->linears()[i];
            EXPECT_TRUE(a.weight().dense().equal(b.weight().dense())) << a.path();
        }
    }
}

TEST(BaseLoader, a_weight_in_columns_must_be_finite_and_have_the_shape_of_the_file) {
    const TempDir rows, columns;
    const ColumnsCase both = columns_case(rows.path());
    try {
        load_base(io::Checkpoint(rows.path()), both.decoder, options_for(true));
        ADD_FAILURE() << "accepted";
    } catch (const CheckpointError& error) {
        EXPECT_NE(std::string(error.what())
                      .find("mlp.up_proj.weight: has shape [40, 32], config.json asks for "
                            "[32, 40]"),
                  std::string::npos)
            << error.what();
    }
    Tensors spoilt = both.in_columns;
    spoilt[kQuery].values[7] = std::numeric_limits<float>::infinity();
    TinyModel::write(columns.path(), both.tiny.config(), spoilt);
    for (const bool quantized : {false, true}) {
        EXPECT_THROW(load_base(io::Checkpoint(columns.path()), both.decoder, options_for(quantized)),
                     CheckpointError);
    }
}

class BadBaseModel : public testing::TestWithParam<BadBase> {};
INSTANTIATE_TEST_SUITE_P(Faults, BadBaseModel, testing::ValuesIn(bad_bases()),
                         [](const auto& chosen) { return chosen.param.name; });

TEST_P(BadBaseModel, is_refused_by_name) {
    const TinyModel tiny{.tie = GetParam().tie, .bias = true};
    Tensors tensors = tiny.tensors();
    GetParam().spoil(tensors);
    for (const bool quantized : {false, true}) {
        const TempDir dir;
        TinyModel::write(dir.path(), tiny.config(), tensors);
        try {
            load(dir.path(), options_for(quantized));
            FAIL() << "loaded, quantized " << quantized;
        } catch (const CheckpointError& error) {
            for (const std::string& part : GetParam().message) {
                EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
            }
        }
    }
}

TEST(BaseLoader, all_faults_come_together) {
    const TinyModel tiny;
    Tensors tensors = tiny.tensors();
    tensors.erase(kQuery);
    tensors["stray"] = tensors[kNorm];
    tensors[kNorm] = {io::DType::kF32, {3}, {1, 2, 3}};
    const TempDir dir;
    TinyModel::write(dir.path(), tiny.config(), tensors);
    try {
        load(dir.path(), options_for(true));
        FAIL();
    } catch (const CheckpointError& error) {
        for (const char* part : {"3 faults", kQuery, "stray", kNorm}) {
            EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
        }
    }
}

TEST(BaseLoader, a_tied_head_with_equal_bytes_and_old_rotary_buffers_are_passed_over) {
    const TinyModel tiny{.tie = true};
    Tensors tensors = tiny.tensors();
    tensors[kHead] = tensors[kTable];
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = {io::DType::kF32, {4}, {1, 2, 3, 4}};
    const TempDir dir;
    TinyModel::write(dir.path(), tiny.config(), tensors);
    EXPECT_NO_THROW(load(dir.path(), options_for(true)));
}

at::Tensor as_tensor(const TinyTensor& tensor) {
    return at::tensor(at::ArrayRef<float>(tensor.values)).view(tensor.shape);
}

TEST(BaseLoader, dense_tensors_are_those_of_the_file_in_each_dtype) {
    for (const io::DType dtype : {io::DType::kF32, io::DType::kF16, io::DType::kBF16}) {
        const TinyModel tiny{.model_type = "qwen3", .bias = true, .dtype = dtype};
        const auto model = load(tiny, options_for(false));
        const Tensors tensors = tiny.tensors();
        const at::ScalarType type = dtype == io::DType::kF32   ? at::kFloat
                                    : dtype == io::DType::kF16 ? at::kHalf
                                                               : at::kBFloat16;
        const auto stored = [&](const std::string& name) {
            return as_tensor(tensors.at(name)).to(type).to(at::kFloat);
        };
        for (nn::Linear* linear : model->linears()) {
            EXPECT_FALSE(linear->weight().is_quantized());
            EXPECT_TRUE(linear->weight().dense().equal(stored(linear->path() + ".weight"))) << linear->path();
            if (linear->has_bias()) {
                EXPECT_TRUE(linear->bias().to(at::kFloat).equal(stored(linear->path() + ".bias")));
            }
        }
        for (nn::Norm* norm : model->norms()) {
            EXPECT_TRUE(norm->weight().to(at::kFloat).equal(stored(norm->path() + ".weight")))
                << norm->path();
        }
        EXPECT_TRUE(model->embedding().dense().equal(stored(kTable)));
        EXPECT_TRUE(model->output_matrix().dense().equal(stored(kHead)));
    }
}

TEST(BaseLoader, quantizes_linears_while_loading_and_nothing_else) {
    const TinyModel tiny{.model_type = "qwen2", .dtype = io::DType::kBF16};
    LoadOptions options = options_for(true);
    options.stays_dense = [](const std::string& path) { return path == "model.layers.0.mlp.up_proj"; };
    const auto model = load(tiny, options);
    const Tensors tensors = tiny.tensors();
    for (nn::Linear* linear : model->linears()) {
        const bool dense = linear->path() == "model.layers.0.mlp.up_proj";
        EXPECT_EQ(linear->weight().is_quantized(), !dense) << linear->path();
        const at::Tensor stored =
            as_tensor(tensors.at(linear->path() + ".weight")).to(at::kBFloat16).to(at::kFloat);
        const at::Tensor held = linear->weight().dense();
        if (dense) {
            EXPECT_TRUE(held.equal(stored));
            continue;
        }
        // NF4's widest gap is 0.304 of the block's largest value, so no value moves by more than half of
        // that; double quantization moves the scale itself by a few percent.
        EXPECT_LE((held - stored).abs().max().item<float>(), 0.17F * stored.abs().max().item<float>());
        EXPECT_GT((held - stored).abs().max().item<float>(), 0.0F);
        EXPECT_TRUE(linear->weight().quantized().double_quantized());
    }
    EXPECT_FALSE(model->embedding().is_quantized());
    EXPECT_FALSE(model->head().is_quantized());
    EXPECT_TRUE(
        model->output_matrix().dense().equal(as_tensor(tensors.at(kHead)).to(at::kBFloat16).to(at::kFloat)));
}

TEST(BaseLoader, quantized_values_are_those_of_the_quantizer_alone) {
    const TinyModel tiny;
    const TempDir dir;
    tiny.write(dir.path());
    const LoadOptions options = options_for(true);
    const io::Checkpoint checkpoint(dir.path());
    const auto model = load_base(checkpoint, load_decoder_spec(dir.path()), options);
    for (nn::Linear* linear : model->linears()) {
        const auto alone = quant::quantize(checkpoint.at(linear->path() + ".weight"), options.quantization);
        EXPECT_TRUE(linear->weight().quantized().codes.equal(alone.codes));
        EXPECT_TRUE(linear->weight().dense().equal(test::dequantized(alone, at::kFloat)));
    }
}

TEST(BaseLoader, keeping_dense_forms_changes_no_bit) {
    for (const at::ScalarType compute : {at::kFloat, at::kBFloat16}) {
        LoadOptions options = options_for(true);
        options.compute_dtype = compute;
        const auto model = load(TinyModel{}, options);
        std::vector<at::Tensor> before;
        for (nn::Linear* linear : model->linears()) before.push_back(linear->weight().dense());
        const std::int64_t bytes = test::weight_bytes(*model);
        model->keep_dense(true);
        EXPECT_EQ(test::weight_bytes(*model), bytes);
        for (std::size_t i = 0; i < before.size(); ++i) {
            const at::Tensor kept = model->linears()[i]->weight().dense();
            EXPECT_TRUE(kept.equal(before[i]));
            EXPECT_TRUE(kept.equal(kept.to(compute).to(at::kFloat))) << "values of the compute dtype";
        }
    }
}

}  // namespace
}  // namespace qlora::models
