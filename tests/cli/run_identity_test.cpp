#include "cli/run_identity.h"

#include <gtest/gtest.h>

#include "qlora/adapters/peft_format.h"
#include "qlora/core/error.h"
#include "qlora/ops/gemm.h"
#include "support/captured_log.h"
#include "support/temp_dir.h"

namespace qlora::cli {
namespace {

namespace fs = std::filesystem;
using quant::ComputeDtype;

/// A run with all that its identity is made of.
struct Made {
    explicit Made(const fs::path& folder) {
        fs::create_directories(folder / "model");
        test::write_file(folder / "model/config.json", R"({"rope_theta": 10000.0, "use_cache": true})");
        config = parse_run_config({{"model", {{"path", "model"}}},
                                   {"data", {{"train", "train.jsonl"}}},
                                   {"training", {{"output_dir", "run"}}}},
                                  folder, "run.json");
        config.quantization.bnb_4bit_compute_dtype = ComputeDtype::kFloat32;
        train.fingerprint = "rows";
        eval.fingerprint = "held out";
    }

    Json identity() const {
        return run_identity({.config = config,
                             .metadata = metadata,
                             .train = train,
                             .eval = &eval,
                             .device = device,
                             .threads = threads});
    }

    RunConfig config;
    std::map<std::string, std::string> metadata{{adapters::kBaseKey, "base"},
                                                {adapters::kTokenizerKey, "tokenizer"}};
    data::Dataset train, eval;
    at::Device device = at::kCPU;
    std::int64_t threads = 2;
};

class RunIdentity : public testing::Test {
  protected:
    /// What is said about going on, as `now`, from a checkpoint that kept `saved`.
    static std::string refusal(const Json& saved, const Made& now) {
        try {
            require_same_run(saved, now.identity(), now.config, "step-7");
        } catch (const ConfigError& error) {
            return error.what();
        }
        return {};
    }

    test::TempDir folder_, elsewhere_;
    Made before_{folder_.path()};
};

TEST_F(RunIdentity, a_run_moves_with_its_files_and_to_other_cores) {
    Made now(elsewhere_.path());
    ASSERT_NE(now.config.model.path, before_.config.model.path);
    now.threads = 3;
    now.config.model.threads = 3;
    now.config.model.device = "cpu";
    EXPECT_EQ(refusal(before_.identity(), now), "");
    EXPECT_TRUE(now.identity().at("threads").is_null() || ops::sums_depend_on_threads(at::kFloat));
}

TEST_F(RunIdentity, threads_count_where_products_are_libtorchs_and_the_message_says_what_to_set) {
    before_.config.quantization.bnb_4bit_compute_dtype = ComputeDtype::kBfloat16;
    Made now = before_;
    EXPECT_EQ(refusal(before_.identity(), now), "");
    now.threads = 3;
    const std::string message = refusal(before_.identity(), now);
    EXPECT_NE(message.find("set model.threads to 2"), std::string::npos) << message;
}

TEST_F(RunIdentity, each_fact_that_has_changed_is_named) {
    const auto changed = [&](auto&& change) {
        Made now = before_;
        change(now);
        return refusal(before_.identity(), now);
    };
    const auto expect = [&](const std::string& words, auto&& change) {
        const std::string message = changed(change);
        EXPECT_NE(message.find(words), std::string::npos) << words << " in: " << message;
    };
    expect("the base model's tensors", [](Made& now) { now.metadata[adapters::kBaseKey] = "other"; });
    expect("the tokenizer has changed", [](Made& now) { now.metadata[adapters::kTokenizerKey] = "other"; });
    expect("the training data", [](Made& now) { now.train.fingerprint = "other"; });
    expect("quantization.bnb_4bit_compute_dtype: \"float32\" in the run, \"bfloat16\" now",
           [](Made& now) { now.config.quantization.bnb_4bit_compute_dtype = ComputeDtype::kBfloat16; });
    expect("the adapter that the run began with", [&](Made& now) {
        now.config.model.adapter = folder_.path();
        test::write_file(folder_ / adapters::kAdapterWeightsFile, "weights");
    });
    expect("(\"cpu\" then, \"cuda\" now)", [](Made& now) {
        now.device = at::Device(at::kCUDA, 0);
        now.config.quantization.bnb_4bit_compute_dtype = ComputeDtype::kFloat32;
    });
    const Json saved = before_.identity();
    test::write_file(folder_ / "model/chat_template.jinja", "{{ x }}");
    EXPECT_NE(refusal(saved, before_).find("chat template"), std::string::npos);
    fs::remove(folder_ / "model/chat_template.jinja");
    test::write_file(folder_ / "model/config.json", R"({"use_cache": false, "rope_theta": 10000.0})");
    EXPECT_EQ(refusal(saved, before_), "") << "says the same about the model";
    test::write_file(folder_ / "model/config.json", R"({"rope_theta": 500000.0})");
    EXPECT_NE(refusal(saved, before_).find("config.json has changed"), std::string::npos);
}

TEST_F(RunIdentity, a_gpu_may_have_another_number) {
    before_.device = at::Device(at::kCUDA, 1);
    Json saved = {{"device", "cuda"}};
    Made now = before_;
    now.device = at::Device(at::kCUDA, 0);
    now.config.model.device = "cuda:0";
    before_.config.model.device = "cuda:1";
    saved["config"] = run_config_json(before_.config);
    saved["eval_data"] = "held out";
    Json identity = {{"device", "cuda"}, {"threads", nullptr}, {"eval_data", "held out"}};
    for (const char* key : {"base", "architecture", "tokenizer", "chat_template", "adapter", "data"}) {
        identity[key] = nullptr;
    }
    EXPECT_NO_THROW(require_same_run(saved, identity, now.config, "step-7"));
}

TEST_F(RunIdentity, a_run_of_an_earlier_version_goes_on) {
    Json saved = before_.identity();
    for (const char* key : {"architecture", "chat_template", "adapter", "device"}) saved.erase(key);
    saved["threads"] = 8;
    saved["config"]["quantization"]["bnb_4bit_compute_dtype"] = "auto";
    EXPECT_EQ(refusal(saved, before_), "");
}

TEST_F(RunIdentity, other_rows_held_out_of_the_training_files_are_refused) {
    before_.config.data.eval = data::RowPart{.rows = 1};
    before_.eval.examples.resize(1);
    Made now = before_;
    EXPECT_EQ(refusal(before_.identity(), now), "");
    now.eval.examples[0].row = 4;
    const std::string message = refusal(before_.identity(), now);
    EXPECT_NE(message.find("data.eval: other rows are held out"), std::string::npos) << message;
    now.config.data.eval = data::RowPart{.rows = 2};
    EXPECT_NE(refusal(before_.identity(), now).find("data.eval: 1 in the run, 2 now"), std::string::npos);
    now.config.data.eval.reset();
    EXPECT_NE(refusal(before_.identity(), now).find("data.eval: 1 in the run, null now"), std::string::npos);
}

TEST_F(RunIdentity, other_held_out_rows_are_named) {
    Made now = before_;
    now.eval.fingerprint = "other";
    const test::CapturedLog log;
    EXPECT_EQ(refusal(before_.identity(), now), "");
    EXPECT_EQ(log.count("the held-out data have changed"), 1U);
}

}  // namespace
}  // namespace qlora::cli
