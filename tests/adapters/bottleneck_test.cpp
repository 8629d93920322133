#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <cmath>

#include "models/token_rows.h"
#include "qlora/adapters/finished_adapter.h"
#include "qlora/adapters/inject.h"
#include "qlora/adapters/peft_format.h"
#include "qlora/core/error.h"
#include "qlora/eval/generate.h"
#include "qlora/models/base_loader.h"
#include "support/described_model.h"

namespace qlora::adapters {
namespace {

using models::collated;
using models::examples_of;
using models::row_of;

Json of_type(const char* model_type, const Json& changes = Json::object()) {
    Json out = {{"model_type", model_type},  {"vocab_size", 97},
                {"hidden_size", 32},         {"intermediate_size", 48},
                {"num_hidden_layers", 3},    {"num_attention_heads", 4},
                {"num_key_value_heads", 2},  {"max_position_embeddings", 64},
                {"architectures", {"Class"}}};
    out.update(changes);
    return out;
}
const Json kGpt2Config = {{"model_type", "gpt2"}, {"vocab_size", 97}, {"n_embd", 32},
                          {"n_layer", 3},         {"n_head", 4},      {"n_positions", 64}};

struct PlacedCase {
    const char* name;
    Json config;
    BottleneckKind kind = BottleneckKind::kSeq;
    at::ScalarType compute = at::kFloat;
};

std::ostream& operator<<(std::ostream& out, const PlacedCase& value) {
    return out << value.name;
}

BottleneckConfig of_kind(BottleneckKind kind) {
    BottleneckConfig config;
    config.config = kind;
    config.reduction_factor.emplace(4.0);
    config.init_weights = BottleneckInit::kBert;
    return config;
}

/// A small model with networks whose values count.
struct Adapted {
    explicit Adapted(const PlacedCase& value, bool grown = true) {
        const test::TempDir dir;
        test::write_described(dir.path(), value.config);
        model = models::load_base(io::Checkpoint(dir.path()), models::load_decoder_spec(dir.path()),
                                  {.quantization = {}, .compute_dtype = value.compute});
        BottleneckConfig config = of_kind(value.kind);
        config.dropout = 0.2;
        config.non_linearity = NonLinearity::kGelu;  // without corners, for slopes
        adaptation = inject(*model, config, 5);
        const at::AutoGradMode off(false);
        for (const nn::Parameter& each : adaptation.parameters) {
            at::Tensor values = each.tensor;
            if (grown) values.mul_(15.0).add_(0.05);
        }
    }

    std::unique_ptr<models::CausalLM> model;
    Adaptation adaptation;
};

const std::vector<models::TokenIds>& some_rows() {
    static const std::vector<models::TokenIds> rows = {row_of(9, 1), row_of(2, 2), row_of(31, 3),
                                                       row_of(14, 4)};
    return rows;
}

double largest_gap(const at::Tensor& a, const at::Tensor& b) {
    return ((a - b).abs().max() / b.abs().max()).item<double>();
}

class PlacedBottleneck : public testing::TestWithParam<PlacedCase> {};
INSTANTIATE_TEST_SUITE_P(
    Models, PlacedBottleneck,
    testing::Values(
        PlacedCase{"seq", of_type("llama")},
        PlacedCase{"double_seq", of_type("qwen2"), BottleneckKind::kDoubleSeq},
        PlacedCase{"par", of_type("mistral"), BottleneckKind::kPar}, PlacedCase{"seq_gpt2", kGpt2Config},
        PlacedCase{"seq_phi", of_type("phi")},
        PlacedCase{"double_seq_cohere", of_type("cohere"), BottleneckKind::kDoubleSeq},
        PlacedCase{"double_seq_phi_bf16", of_type("phi"), BottleneckKind::kDoubleSeq, at::kBFloat16},
        PlacedCase{"double_seq_gemma2", of_type("gemma2", {{"head_dim", 8}}), BottleneckKind::kDoubleSeq},
        PlacedCase{"par_olmo2", of_type("olmo2"), BottleneckKind::kPar},
        PlacedCase{"double_seq_granite", of_type("granite", {{"residual_multiplier", 0.5}}),
                   BottleneckKind::kDoubleSeq},
        PlacedCase{"seq_experts",
                   of_type("qwen3_moe", {{"num_experts", 4},
                                         {"num_experts_per_tok", 2},
                                         {"moe_intermediate_size", 16},
                                         {"head_dim", 8}}),
                   BottleneckKind::kSeq},
        PlacedCase{"seq_bf16", of_type("llama"), BottleneckKind::kSeq, at::kBFloat16},
        PlacedCase{"double_seq_bf16", of_type("llama"), BottleneckKind::kDoubleSeq, at::kBFloat16},
        PlacedCase{"par_bf16", of_type("gemma2", {{"head_dim", 8}}), BottleneckKind::kPar, at::kBFloat16}),
    [](const auto& chosen) { return chosen.param.name; });

TEST_P(PlacedBottleneck, a_batch_gives_each_row_what_it_gives_alone) {
    const at::AutoGradMode off(false);
    const Adapted adapted(GetParam());
    // fp32 products of other sizes; in bf16 they flip a rounding now and then.
    const double bound = GetParam().compute == at::kFloat ? 2e-6 : 3e-2;
    const models::TokenBatch batch = collated(examples_of(some_rows(), true));
    const at::Tensor all = adapted.model->forward(batch, {});
    std::int64_t begin = 0;
    for (const models::TokenIds& row : some_rows()) {
        const auto n = static_cast<std::int64_t>(row.size());
        const at::Tensor alone = adapted.model->forward(collated(examples_of({row}, true)), {});
        EXPECT_LE(largest_gap(all.narrow(0, begin, n), alone), bound);
        begin += n;
    }
    EXPECT_LE(largest_gap(adapted.model->forward(batch, {}, batch.rows), all.index_select(0, batch.rows)),
              bound);
    adapted.model->set_hooks({});
    EXPECT_GE(largest_gap(adapted.model->forward(batch, {}), all), 1e-2) << "without them";
}

TEST_P(PlacedBottleneck, levels_of_recomputation_give_the_same_bits) {
    std::vector<std::vector<at::Tensor>> found;
    for (const nn::Recomputation level :
         {nn::Recomputation::kNone, nn::Recomputation::kMlp, nn::Recomputation::kLayers}) {
        const Adapted adapted(GetParam());
        const models::TokenBatch batch = collated(examples_of(some_rows(), true));
        const at::Tensor hidden = adapted.model->forward(
            batch, {.training = true, .recomputation = level, .seed = 3, .micro_step = 2}, batch.rows);
        const at::Tensor loss = adapted.model->loss_sum(hidden, batch.targets);
        loss.backward();
        found.push_back({loss.detach()});
        for (const nn::Parameter& parameter : adapted.adaptation.parameters) {
            ASSERT_TRUE(parameter.tensor.grad().defined()) << parameter.key;
            EXPECT_TRUE(parameter.tensor.grad().any().item<bool>()) << parameter.key;
            found.back().push_back(parameter.tensor.grad());
        }
    }
    for (const std::size_t level : {1, 2}) {
        ASSERT_EQ(found[level].size(), found[0].size());
        for (std::size_t i = 0; i < found[0].size(); ++i)
            EXPECT_TRUE(found[level][i].equal(found[0][i])) << level << ", tensor " << i;
    }
}

TEST_P(PlacedBottleneck, generation_equals_whole_passes) {
    if (GetParam().compute != at::kFloat) return;  // ties of bf16 may fall either way
    const at::AutoGradMode off(false);
    const Adapted adapted(GetParam());
    const std::vector<models::TokenIds> prompts = {row_of(3, 1), row_of(17, 3)};
    const auto out =
        eval::generate(*adapted.model, prompts, {.max_new_tokens = 8, .stop_ids = {}, .batch_rows = 2});
    for (std::size_t i = 0; i < prompts.size(); ++i) {
        models::TokenIds ids = prompts[i];
        for (const tokenizer::TokenId found : out[i]) {
            const at::Tensor hidden = adapted.model->forward(collated(examples_of({ids}, true)), {});
            const at::Tensor logits = adapted.model->logits(hidden.narrow(0, hidden.size(0) - 1, 1))[0];
            ASSERT_EQ(found, logits.argmax().item<std::int64_t>()) << "prompt " << i;
            ids.push_back(found);
        }
    }
}

/// The gradient of each parameter along its own direction, against how the loss moves.
TEST_P(PlacedBottleneck, gradients_are_the_slope_of_the_loss) {
    if (GetParam().compute != at::kFloat) return;
    const Adapted adapted(GetParam());
    const models::TokenBatch batch = collated(examples_of(some_rows(), true));
    const auto loss = [&] {
        return adapted.model->loss_sum(adapted.model->forward(batch, {}, batch.rows), batch.targets);
    };
    loss().backward();
    const at::AutoGradMode off(false);
    double slope = 0.0;
    for (const nn::Parameter& each : adapted.adaptation.parameters)
        slope += each.tensor.grad().square().sum().item<double>();
    slope = std::sqrt(slope);
    constexpr double kStep = 2e-3;
    const auto moved = [&](double step) {
        for (const nn::Parameter& each : adapted.adaptation.parameters)
            at::Tensor(each.tensor).add_(each.tensor.grad(), step / slope);
        return loss().item<double>();
    };
    const double above = moved(kStep), below = moved(-2 * kStep);
    EXPECT_NEAR((above - below) / (2 * kStep), slope,
                0.02 * slope + 5e-2);  // and fp32's noise in a loss of about 250
}

TEST(Bottlenecks, of_the_mam_start_change_nothing_at_first) {
    const at::AutoGradMode off(false);
    const test::TempDir dir;
    test::TinyModel{}.write(dir.path());
    const auto model =
        models::load_base(io::Checkpoint(dir.path()), models::load_decoder_spec(dir.path()), {});
    const models::TokenBatch batch = collated(examples_of({row_of(12, 4)}, true));
    const at::Tensor base = model->forward(batch, {});
    BottleneckConfig config;
    config.config = BottleneckKind::kPar;
    const Adaptation adaptation = inject(*model, config, 1);
    // The MLP's sums no longer start from the stream.
    EXPECT_LE(largest_gap(model->forward(batch, {}), base), 1e-6);
    for (std::size_t i = 0; i < adaptation.parameters.size(); ++i) {
        const bool is_up = adaptation.parameters[i].key.ends_with("adapter_up.weight");
        EXPECT_EQ(adaptation.plan.trained[i].leaves_zero, is_up);
        EXPECT_EQ(adaptation.parameters[i].tensor.any().item<bool>(),
                  adaptation.parameters[i].key.ends_with("adapter_down.0.weight"));
    }
}

TEST(Bottlenecks, start_with_the_spread_of_their_names) {
    const auto down_of = [](BottleneckInit init) {
        const test::TempDir dir;
        test::TinyModel{.hidden = 64, .head_dim = 16}.write(dir.path());
        const auto model =
            models::load_base(io::Checkpoint(dir.path()), models::load_decoder_spec(dir.path()), {});
        BottleneckConfig config;
        config.reduction_factor.emplace(0.5);
        config.init_weights = init;
        return inject(*model, config, 1).parameters.front().tensor.detach();  // [128, 64]
    };
    const auto check = [&](BottleneckInit init, double deviation, double largest) {
        const at::Tensor values = down_of(init);
        EXPECT_EQ(values.sizes(), (std::vector<std::int64_t>{128, 64}));
        EXPECT_NEAR(values.square().mean().sqrt().item<double>() / deviation, 1.0, 0.03) << enum_name(init);
        EXPECT_LE(values.abs().max().item<double>(), largest);
        EXPECT_NEAR(values.mean().item<double>() / deviation, 0.0, 0.04);
    };
    check(BottleneckInit::kBert, 0.02, 0.1);
    check(BottleneckInit::kMamAdapter, 1.0 / 8 / std::sqrt(3.0), 1.0 / 8);
    // Of a normal distribution cut at two deviations 0.88 are left.
    check(BottleneckInit::kHoulsby, 0.0088, 0.02);
}

std::string plan_fault(const BottleneckConfig& config, const Json& model) {
    try {
        plan_adapter(config, models::parse_decoder_spec(model, "config.json"));
    } catch (const ConfigError& error) {
        return error.what();
    }
    return "";
}

TEST(Bottlenecks, do_not_fit_where_their_places_are_not) {
    BottleneckConfig config;
    EXPECT_EQ(plan_fault(config, of_type("phi")), "");
    config.config = BottleneckKind::kPar;
    EXPECT_NE(plan_fault(config, of_type("phi")).find("config: par_bn reads the stream between"),
              std::string::npos)
        << plan_fault(config, of_type("phi"));
    config.config = BottleneckKind::kSeq;
    EXPECT_NE(plan_fault(config, of_type("gemma2")).find("gemma2 norms that output"), std::string::npos);
    EXPECT_NE(plan_fault(config, of_type("granite", {{"residual_multiplier", 0.5}}))
                  .find("granite scales that output"),
              std::string::npos);
    EXPECT_EQ(plan_fault(config, of_type("granite")), "");
    config.config = BottleneckKind::kDoubleSeq;
    EXPECT_EQ(plan_fault(config, of_type("gemma2")), "");
    EXPECT_NE(plan_fault(config, of_type("mixtral")).find("the experts of mixtral add theirs"),
              std::string::npos);
    config.config = BottleneckKind::kSeq;
    EXPECT_EQ(plan_fault(config, of_type("mixtral")), "");
    config.leave_out = {0, 1, 7};
    EXPECT_EQ(plan_fault(config, of_type("llama")),
              "the peft section does not fit the model: leave_out: names layer 7, and the last one is 2");
    config.leave_out = {2, 0, 1};
    EXPECT_NE(plan_fault(config, of_type("llama")).find("names all layers"), std::string::npos);
}

TEST(Bottlenecks, plan_what_a_dry_run_lists) {
    BottleneckConfig config = of_kind(BottleneckKind::kDoubleSeq);
    config.leave_out = {1};
    const Plan plan = plan_adapter(config, models::parse_decoder_spec(of_type("llama"), "config.json"));
    EXPECT_EQ(plan.text,
              (std::vector<std::string>{"2 x attention_adapters (double_seq_bn, width 8, swish, scaling 1)",
                                        "2 x output_adapters (double_seq_bn, width 8, swish, scaling 1)"}));
    EXPECT_EQ(trained_elements(plan.trained), 4 * (2 * 8 * 32 + 8 + 32));
    EXPECT_EQ(plan.trained.front().key,
              "model.layers.0.attention_adapters.adapters.qlora.adapter_down.0.weight");
    EXPECT_EQ(plan.trained.back().key, "model.layers.2.output_adapters.adapters.qlora.adapter_up.bias");
    EXPECT_TRUE(plan.warnings.empty());
    EXPECT_EQ(
        plan_adapter(config, models::parse_decoder_spec(of_type("smollm3"), "config.json")).warnings.size(),
        1U)
        << "AdapterHub does not know it";
    const auto smaller =
        smaller_settings(config, models::parse_decoder_spec(of_type("llama"), "config.json"));
    ASSERT_EQ(smaller.size(), 1U);
    EXPECT_EQ(smaller[0].text, "peft.reduction_factor: 8");
    // Python's hidden_size // reduction_factor.
    const auto width = [](double factor, std::int64_t hidden) {
        BottleneckConfig one;
        one.reduction_factor.emplace(factor);
        const Plan made = plan_adapter(
            one, models::parse_decoder_spec(of_type("llama", {{"hidden_size", hidden}}), "config.json"));
        return made.trained.front().shape[0];
    };
    EXPECT_EQ(width(16, 104), 6);
    EXPECT_EQ(width(1000, 32), 1);
    EXPECT_EQ(width(0.1, 32), 319);  // 0.1 is a little more than a tenth
}

/// An adapter of a tiny model in AdapterHub's files, changed at will.
class BottleneckFiles : public testing::Test {
  protected:
    BottleneckFiles() : source_(PlacedCase{"", of_type("llama"), BottleneckKind::kDoubleSeq}) {
        save_adapter(folder_.path(), source_.adaptation, "group/base", {{"qlora.base", "f"}});
    }

    static Json read(const std::filesystem::path& folder) {
        return read_json_file(folder / kAdapterConfigFile);
    }
    /// What another model has of the folder's adapter.
    std::vector<at::Tensor> loaded(const PeftConfig& config) const {
        Adapted other(PlacedCase{"", of_type("llama"), BottleneckKind::kDoubleSeq}, false);
        other.adaptation = inject(*other.model, config, 99);
        load_adapter_weights(folder_.path(), other.model->spec(), other.adaptation);
        std::vector<at::Tensor> out;
        for (const nn::Parameter& parameter : other.adaptation.parameters) out.push_back(parameter.tensor);
        return out;
    }
    std::vector<nn::Parameter> renamed(const std::function<std::string(std::string)>& rename) const {
        std::vector<nn::Parameter> out = source_.adaptation.parameters;
        for (nn::Parameter& parameter : out) parameter.key = rename(parameter.key);
        return out;
    }
    std::string load_fault() const {
        try {
            loaded(load_adapter_config(folder_.path()));
        } catch (const CheckpointError& error) {
            return error.what();
        }
        return "";
    }

    Adapted source_;
    test::TempDir folder_;
};

std::string with_other(std::string text, const std::string& part, const std::string& other) {
    const std::size_t found = text.find(part);
    return found == std::string::npos ? text : text.replace(found, part.size(), other);
}

TEST_F(BottleneckFiles, are_adapterhubs) {
    EXPECT_FALSE(std::filesystem::exists(folder_ / kAdapterWeightsFile));
    EXPECT_EQ(adapter_weights_file(folder_.path()), folder_ / "adapter.safetensors");
    const Json config = read(folder_.path());
    EXPECT_FALSE(config.contains("peft_type"));
    EXPECT_EQ(config.at("name"), "qlora");
    EXPECT_EQ(config.at("version"), "adapters.1.3.0");
    EXPECT_EQ(config.at("hidden_size"), 32);
    EXPECT_EQ(config.at("model_type"), "llama");
    EXPECT_EQ(config.at("model_class"), "Class");
    EXPECT_EQ(config.at("model_name"), "group/base");
    EXPECT_EQ(config.at("config").at("reduction_factor").dump(), "4");
    EXPECT_EQ(config.at("config").at("scaling").dump(), "1.0") << "AdapterHub takes no integer";
    EXPECT_EQ(adapter_metadata(folder_.path()).at("qlora.base"), "f");
    const std::string note = loading_note(source_.adaptation.plan.config, "/a/b");
    EXPECT_NE(note.find("load_adapter(\"/a/b\", use_safetensors=True, set_active=True)"), std::string::npos);
    EXPECT_EQ(loading_note(LoraConfig{}, "/a/b"), "");
}

TEST_F(BottleneckFiles, read_back_equal) {
    const PeftConfig config = load_adapter_config(folder_.path());
    EXPECT_TRUE(differences(source_.adaptation.plan.config, config).empty());
    const std::vector<at::Tensor> values = loaded(config);
    ASSERT_EQ(values.size(), source_.adaptation.parameters.size());
    for (std::size_t i = 0; i < values.size(); ++i)
        EXPECT_TRUE(values[i].equal(source_.adaptation.parameters[i].tensor)) << i;
    const AdapterFile file(folder_.path(), source_.model->spec());
    EXPECT_EQ(load_finished_adapter(folder_.path(), file, source_.model->spec()), config);
}

TEST_F(BottleneckFiles, of_another_name_and_without_a_prefix_are_the_same) {
    Json config = read(folder_.path());
    config["name"] = "my.own";
    test::write_file(folder_ / kAdapterConfigFile, config.dump());
    save_tensors(folder_ / "adapter.safetensors", renamed([](std::string key) {
                     return with_other(with_other(key, ".adapters.qlora.", ".adapters.my.own."), "model.",
                                       "");
                 }),
                 {});
    const std::vector<at::Tensor> values = loaded(load_adapter_config(folder_.path()));
    EXPECT_TRUE(values[2].equal(source_.adaptation.parameters[2].tensor));
}

TEST_F(BottleneckFiles, that_do_not_fit_are_refused_by_name) {
    const Json good = read(folder_.path());
    const auto fault_with = [&](const std::function<void(Json&)>& change) {
        Json config = good;
        change(config);
        test::write_file(folder_ / kAdapterConfigFile, config.dump());
        return load_fault();
    };
    const auto expect = [](const std::string& fault, const std::string& part) {
        EXPECT_NE(fault.find(part), std::string::npos) << fault;
    };
    EXPECT_EQ(fault_with([](Json&) {}), "");
    EXPECT_EQ(fault_with([](Json& c) { c["config"]["init_weights_seed"] = 7; }), "") << "says nothing now";
    EXPECT_EQ(fault_with([](Json& c) { c["config"]["new_thing"] = false; }), "");
    expect(fault_with([](Json& c) { c["config"]["new_thing"] = 3; }), "config.new_thing: is not known");
    expect(fault_with([](Json& c) { c["config"]["ln_before"] = true; }), "config.ln_before: must be false");
    expect(fault_with([](Json& c) { c["config"]["scaling"] = "learned"; }), "a scaling that trains");
    expect(fault_with([](Json& c) {
               c["config"]["reduction_factor"] = {{"default", 16}};
           }),
           "a factor of its own for each layer is not built");
    expect(fault_with([](Json& c) { c["config"]["architecture"] = "lora"; }),
           "config.architecture: is \"lora\"");
    expect(fault_with([](Json& c) { c["config"]["original_ln_before"] = true; }),
           "config.mh_adapter: is true");
    expect(fault_with([](Json& c) { c["config"].erase("non_linearity"); }),
           "config.non_linearity: is required");
    expect(fault_with([](Json& c) { c.erase("name"); }), "name: is required");
    expect(fault_with([](Json& c) { c["config"] = nullptr; }), "config: must be an object");
    expect(fault_with([](Json& c) {
               c.erase("version");
               c["config"]["non_linearity"] = "gelu";
           }),
           "in a file without a version");
    expect(fault_with([](Json& c) { c["config"]["reduction_factor"] = 8; }),
           "has shape [8, 32], this base and configuration ask for [4, 32]");
    expect(fault_with([](Json& c) { c["config"]["leave_out"] = {0}; }),
           "is not a parameter that this adapter_config.json trains");
    expect(fault_with([](Json& c) {
               c["peft_type"] = "BOTTLENECK";
               c["config"] = "seq_bn";
           }),
           "which a file of AdapterHub's does not say");
    test::write_file(folder_ / kAdapterConfigFile, good.dump());
    std::filesystem::rename(folder_ / "adapter.safetensors", folder_ / "pytorch_adapter.bin");
    expect(load_fault(), "is a pickle file");
    expect(load_fault(), "AdapterHub where you trust it and save it with use_safetensors=True");
}

TEST(Bottlenecks, minimal_files_have_adapterhubs_defaults) {
    const auto parse = [](const char* text) {
        return std::get<BottleneckConfig>(parse_adapter_config(parse_json(text, "t"), "t"));
    };
    const BottleneckConfig seq = parse(
        R"({"name": "a", "config": {"mh_adapter": false, "output_adapter": true, "reduction_factor": 2,
            "non_linearity": "gelu", "original_ln_before": true}, "version": "adapters.1.0.0"})");
    EXPECT_EQ(seq.config, BottleneckKind::kSeq);
    EXPECT_EQ(seq.scaling->value, 1.0);
    EXPECT_EQ(seq.non_linearity, NonLinearity::kGelu);
    const BottleneckConfig par = parse(
        R"({"name": "a", "config": {"mh_adapter": false, "output_adapter": true, "reduction_factor": 2,
            "non_linearity": "swish", "is_parallel": true}})");
    EXPECT_EQ(par.config, BottleneckKind::kPar);
    EXPECT_EQ(par.scaling->value, 1.0) << "BnConfig's, not ParBnConfig's";
    EXPECT_EQ(par.init_weights, BottleneckInit::kBert);
}

}  // namespace
}  // namespace qlora::adapters
