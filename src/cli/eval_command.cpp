#include <CLI/CLI.hpp>
#include <cmath>
#include <fstream>
#include <iostream>
#include <map>

#include "program.h"
#include "qlora/adapters/peft_format.h"
#include "qlora/cli/commands.h"
#include "qlora/cli/run_config.h"
#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/data/preview.h"
#include "qlora/data/sft_dataset.h"
#include "qlora/eval/evaluator.h"
#include "qlora/eval/exact_match.h"
#include "qlora/eval/generate.h"
#include "qlora/ops/device.h"
#include "qlora/ops/frozen_weight.h"
#include "qlora/train/run_folder.h"
#include "session.h"
#include "threads.h"

namespace qlora::cli {
namespace {

struct EvalFlags {
    std::string config, model, adapter, data, format, template_name, per_token, generations;
    std::string quantization = "auto";
    std::string device = "auto";
    std::vector<std::string> overrides;
    std::int64_t max_length = data::DataConfig{}.max_length;
    std::int64_t limit = 0;
    std::int64_t max_new_tokens = eval::GenerateOptions{}.max_new_tokens;
    bool generate = false;
    bool base_only = false;
};

/// What is evaluated, wherever it was said.
struct EvalRequest {
    std::filesystem::path model, data;
    std::optional<std::filesystem::path> adapter;
    at::Device device = at::kCPU;
    std::optional<RunConfig> run;  ///< whose quantization is used; absent: what the adapter says
    data::DataConfig data_config;
    std::optional<std::int64_t> threads;
};

template <class Enum>
Enum enum_value(const std::string& text, const char* flag) {
    Enum value{};
    const std::string problem = FieldType<Enum>::read(Json(text), {}, value);
    if (!problem.empty()) throw ConfigError(std::string(flag) + ": " + problem);
    return value;
}

EvalRequest request_from_config(const EvalFlags& flags) {
    RunConfig config = load_run_config(flags.config, flags.overrides);
    const at::Device device = ops::select_device(config.model.device);
    check_device(config, device.is_cuda());
    if (!config.data.eval) {
        throw ConfigError(
            flags.config +
            ": data.eval is not set, so there is nothing to evaluate on; set it or give --data");
    }
    const train::RunPaths paths{config.training.output_dir};
    EvalRequest request{.model = config.model.path,
                        .data = *config.data.eval,
                        .device = device,
                        .run = config,
                        .data_config = config.data,
                        .threads = config.model.threads};
    if (flags.base_only) return request;
    request.adapter = paths.adapter();
    if (!std::filesystem::exists(paths.adapter())) {
        throw ConfigError(
            paths.adapter().string() +
            " does not exist: the run has not finished. Train first, or measure the base with --base-only");
    }
    return request;
}

EvalRequest request_from_flags(const EvalFlags& flags) {
    FaultList faults;
    if (flags.model.empty()) faults.add("--model", "is needed (or --config)");
    if (flags.data.empty()) faults.add("--data", "is needed (or --config)");
    if (!flags.overrides.empty()) faults.add("--set", "goes with --config only");
    if (flags.base_only) faults.add("--base-only", "goes with --config only; leave --adapter out instead");
    faults.throw_if_any<ConfigError>("command line");
    EvalRequest request{
        .model = flags.model, .data = flags.data, .device = ops::select_device(flags.device, "--device")};
    if (!flags.adapter.empty()) request.adapter = flags.adapter;
    return request;
}

/// `wanted`, which `who` asks for, must be what is stored in 4 bits, if something is.
quant::QuantConfig as_stored(const quant::QuantConfig& wanted, const ModelFolder& folder,
                             const std::string& who) {
    if (!folder.stored) return wanted;
    FaultList faults;
    for (const std::string& text : quant::contradictions(wanted, *folder.stored)) faults.add(who, text);
    faults.throw_if_any<ConfigError>(folder.folder.string() +
                                     " is stored in 4 bits; use the original model, or --quantization auto");
    return wanted;
}

/// `--quantization auto`: what the adapter was trained on, else what the folder holds, else nothing (dense as
/// on disk).
quant::QuantConfig quantization_for(const EvalFlags& flags, const EvalRequest& request,
                                    const ModelFolder& folder) {
    quant::QuantConfig none;
    none.load_in_4bit = false;
    if (flags.quantization == "nf4") return as_stored({}, folder, "--quantization nf4");
    if (flags.quantization == "none") return as_stored(none, folder, "--quantization none");
    if (request.run) {
        RunConfig run = *request.run;
        adopt_stored_quantization(run, folder.stored);
        return run.quantization;
    }
    std::optional<quant::QuantConfig> trained;
    if (request.adapter) trained = adapters::trained_quantization(*request.adapter);
    if (trained) return as_stored(*trained, folder, request.adapter->string() + " was trained with");
    return folder.stored.value_or(none);
}

EvalRequest complete_request(const EvalFlags& flags) {
    EvalRequest request = flags.config.empty() ? request_from_flags(flags) : request_from_config(flags);
    if (!flags.config.empty() && !flags.data.empty()) request.data = flags.data;
    if (!flags.format.empty())
        request.data_config.format = enum_value<data::DataFormat>(flags.format, "--format");
    if (!flags.template_name.empty()) {
        request.data_config.template_ = enum_value<data::TemplateName>(flags.template_name, "--template");
    }
    if (flags.config.empty() || flags.max_length != data::DataConfig{}.max_length) {
        request.data_config.max_length = flags.max_length;
    }
    return request;
}

/// The text of one line of `--per-token`.
std::string per_token_line(const data::Example& example, std::span<const float> logprobs) {
    Json values = Json::array({nullptr});
    for (const float value : logprobs) values.push_back(value);
    Json supervised = Json::array();
    for (const std::uint8_t flag : example.supervised) supervised.push_back(flag != 0);
    return Json{{"row", example.row}, {"ids", example.ids}, {"supervised", supervised}, {"logprobs", values}}
               .dump() +
           "\n";
}

/// Exact match over the rows with a whole prompt, in all and by task.
void add_generations(const EvalFlags& flags, const ModelFolder& folder,
                     const data::PromptTemplate& prompt_template, const models::CausalLM& model,
                     const std::vector<data::Example>& examples, Json& summary) {
    std::vector<std::vector<tokenizer::TokenId>> prompts;
    std::vector<const data::Example*> rows;
    for (const data::Example& example : examples) {
        if (example.answer_begin == 0) continue;
        rows.push_back(&example);
        prompts.emplace_back(example.ids.begin(), example.ids.begin() + example.answer_begin);
    }
    const std::vector<tokenizer::TokenId> stop_ids = folder.stop_ids(prompt_template);
    const auto answers =
        eval::generate(model, prompts, {.max_new_tokens = flags.max_new_tokens, .stop_ids = stop_ids});
    std::map<std::string, std::pair<std::int64_t, std::int64_t>> tasks;  // matches, rows
    std::int64_t matches = 0;
    std::string lines;
    for (std::size_t i = 0; i < rows.size(); ++i) {
        const std::string generated = folder.tokenizer->decode(answers[i], true);
        const bool match = eval::exact_match(generated, rows[i]->expected);
        matches += match ? 1 : 0;
        if (!rows[i]->task.empty()) {
            tasks[rows[i]->task].first += match ? 1 : 0;
            ++tasks[rows[i]->task].second;
        }
        lines += Json{{"row", rows[i]->row},
                      {"prompt", rows[i]->prompt},
                      {"generated", generated},
                      {"expected", rows[i]->expected},
                      {"match", match}}
                     .dump(-1, ' ', false, Json::error_handler_t::replace) +
                 "\n";
    }
    summary["exact_match"] =
        rows.empty() ? Json(nullptr) : Json(static_cast<double>(matches) / static_cast<double>(rows.size()));
    if (!tasks.empty()) {
        Json by_task = Json::object();
        for (const auto& [task, counts] : tasks) {
            by_task[task] = static_cast<double>(counts.first) / static_cast<double>(counts.second);
        }
        summary["exact_match_by_task"] = by_task;
    }
    if (!flags.generations.empty()) write_file_atomically(flags.generations, lines);
}

/// Whether fp32 forms of the weights, whose making costs as much as several passes do without them, will
/// serve many: false, or null for "when memory allows". A few prompts are generated for from the stored
/// weights.
std::optional<bool> keeps_dense(const std::vector<data::Example>& examples, bool generates) {
    constexpr std::int64_t kFewPasses = 16;
    if (generates && static_cast<std::int64_t>(examples.size()) > ops::kFewRows) return std::nullopt;
    std::int64_t tokens = 0;
    for (const data::Example& example : examples) tokens += static_cast<std::int64_t>(example.ids.size());
    if (tokens > kFewPasses * eval::EvalOptions{}.tokens_per_batch) return std::nullopt;
    return false;
}

int evaluate(const EvalFlags& flags) {
    if (!flags.generations.empty() && !flags.generate) {
        throw ConfigError("--generations: needs --generate, which makes them");
    }
    const EvalRequest request = complete_request(flags);
    set_threads(request.threads);

    const ModelFolder folder(request.model);
    std::optional<adapters::LoraConfig> peft;
    if (request.adapter) {
        peft = adapters::load_adapter_config(*request.adapter);
        check_adapter_base(*request.adapter, folder);
    }
    const quant::QuantConfig quantization = quantization_for(flags, request, folder);
    const data::PromptTemplate prompt_template = folder.prompt_template(request.data_config.template_);
    data::Dataset dataset =
        data::load_dataset({request.data}, request.data_config, prompt_template, folder.config.vocab_size);
    spdlog::info("{}: {}", request.data.string(), data::summary_line(dataset.statistics));
    std::vector<data::Example>& examples = dataset.examples;
    if (flags.limit > 0 && static_cast<std::int64_t>(examples.size()) > flags.limit) {
        examples.resize(static_cast<std::size_t>(flags.limit));
    }
    spdlog::info("base {}{}", quantization.load_in_4bit ? "quantized to NF4" : "as on disk",
                 request.adapter ? ", adapter " + request.adapter->string() : ", no adapter");
    const LoadedModel loaded = load_model(folder, quantization, peft ? &*peft : nullptr, request.adapter, 0,
                                          request.device, keeps_dense(examples, flags.generate));

    std::string per_token;
    eval::EvalOptions options;
    if (!flags.per_token.empty()) {
        options.per_row = [&](const data::Example& example, std::span<const float> logprobs) {
            per_token += per_token_line(example, logprobs);
        };
    }
    const eval::EvalSums sums = eval::evaluate(*loaded.model, examples, options);
    if (!flags.per_token.empty()) write_file_atomically(flags.per_token, per_token);
    if (!std::isfinite(sums.mean_loss()))
        throw NonFiniteError("the loss is not finite: model or adapter are damaged");
    Json summary = {{"loss", sums.mean_loss()},
                    {"perplexity", std::exp(sums.mean_loss())},
                    {"token_accuracy", sums.token_accuracy()},
                    {"rows", sums.rows},
                    {"dropped", dataset.statistics.dropped()},
                    {"supervised_tokens", sums.supervised_tokens}};
    if (flags.generate) add_generations(flags, folder, prompt_template, *loaded.model, examples, summary);
    std::cout << summary.dump() << std::endl;
    return 0;
}

}  // namespace

int eval_main(int argc, char** argv) {
    EvalFlags flags;
    Program program(
        "qlora-eval",
        "Measures a model, with or without an adapter, on held-out data. Prints one line of JSON.");
    CLI::App& app = program.app();
    app.add_option("--config", flags.config, "a run's JSON file: its model, adapter and held-out file");
    app.add_option("--set", flags.overrides, "with --config: overrides a setting, section.key=value")
        ->take_all();
    app.add_flag("--base-only", flags.base_only, "with --config: the base without the run's adapter");
    app.add_option("--model", flags.model, "Hugging Face folder");
    app.add_option("--adapter", flags.adapter, "PEFT adapter folder");
    app.add_option("--data", flags.data, "held-out file (.jsonl, .json)");
    app.add_option(
           "--quantization", flags.quantization,
           "auto (what the adapter was trained on, else what the folder holds), none, or nf4 (blocksize 64, "
           "double quantization)")
        ->check(CLI::IsMember({"auto", "none", "nf4"}))
        ->capture_default_str();
    app.add_option("--format", flags.format, "data format, as data.format");
    app.add_option("--template", flags.template_name, "template, as data.template");
    app.add_option("--max-length", flags.max_length, "longest row in tokens")->check(CLI::Range(2, 1 << 24));
    app.add_option("--limit", flags.limit, "only the first N rows")->check(CLI::PositiveNumber);
    app.add_option("--device", flags.device, "auto, cpu, cuda or cuda:N")->capture_default_str();
    app.add_option("--per-token", flags.per_token,
                   "file for each row's ids and log probabilities (JSON lines)");
    app.add_flag("--generate", flags.generate, "also generate each answer greedily and compare it");
    app.add_option("--max-new-tokens", flags.max_new_tokens, "longest generated answer")
        ->check(CLI::Range(1, 1 << 20))
        ->capture_default_str();
    app.add_option("--generations", flags.generations, "file for the generated answers (JSON lines)");
    return program.run(argc, argv, [&] { return evaluate(flags); });
}

}  // namespace qlora::cli
