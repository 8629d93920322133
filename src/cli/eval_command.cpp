#include <CLI/CLI.hpp>
#include <iostream>

#include "eval_report.h"
#include "eval_request.h"
#include "held_out_file.h"
#include "log_rows.h"
#include "program.h"
#include "qlora/adapters/plan.h"
#include "qlora/cli/commands.h"
#include "qlora/core/atomic_file.h"
#include "qlora/core/log.h"
#include "qlora/data/sft_dataset.h"
#include "qlora/eval/generate.h"
#include "qlora/ops/frozen_weight.h"
#include "qlora/train/run_folder.h"
#include "row_positions.h"
#include "run_clock.h"
#include "threads.h"

namespace qlora::cli {
namespace {

/// Exact match over the rows with a whole prompt.
GenerationReport generate_answers(const EvalFlags& flags, const ModelFolder& folder,
                                  const data::PromptTemplate& prompt_template, const models::CausalLM& model,
                                  const std::vector<data::Example>& examples) {
    std::vector<std::vector<tokenizer::TokenId>> prompts;
    std::vector<const data::Example*> rows;
    for (const data::Example& example : examples) {
        if (example.answer_begin == 0) continue;
        rows.push_back(&example);
        prompts.emplace_back(example.ids.begin(), example.ids.begin() + example.answer_begin);
    }
    eval::GenerateOptions options{.stop_ids = folder.stop_ids(prompt_template)};
    if (flags.max_new_tokens) options.max_new_tokens = *flags.max_new_tokens;
    if (flags.prompts_per_batch) options.batch_rows = *flags.prompts_per_batch;
    const auto answers = eval::generate(model, prompts, options);
    GenerationReport report;
    for (std::size_t i = 0; i < rows.size(); ++i)
        report.add(*rows[i], folder.tokenizer->decode(answers[i], true));
    return report;
}

/// As for rows alone; a few prompts are generated for from the stored weights.
std::optional<bool> keeps_dense_for(const std::vector<data::Example>& examples, std::int64_t tokens_per_batch,
                                    bool generates) {
    if (generates && static_cast<std::int64_t>(examples.size()) > ops::kFewRows) return std::nullopt;
    std::int64_t tokens = 0;
    for (const data::Example& example : examples) tokens += example.tokens();
    return keeps_dense(tokens, tokens_per_batch);
}

data::Dataset read_rows(const EvalRequest& request, const RowSettings& settings, bool is_changed) {
    data::Dataset out =
        request.data ? data::load_dataset({*request.data}, settings.config.data, settings.prompt_template,
                                          settings.embedding_rows, {.threads = settings.threads})
                     : load_held_out(held_out_rows_of_run(settings, is_changed), settings);
    log_rows(request.data ? request.data->string() : "held out of the training files", out.statistics);
    return out;
}

int evaluate(const EvalFlags& flags) {
    const EvalRequest request = eval_request(flags);
    const std::int64_t threads = set_threads(request.settings.model.threads);

    ModelFolder folder(request.settings.model.path);
    const std::optional<adapters::PeftConfig> peft = finished_adapter(request, folder);
    if (request.adapter) {
        if (auto trained = data::read_chat_template(*request.adapter)) {
            // Where it is the base's, the base's template for tools goes with it.
            if (trained != folder.chat_template)
                folder.tool_template = data::read_tool_template(*request.adapter);
            folder.chat_template = std::move(trained);
        }
    }
    const quant::QuantConfig quantization = base_quantization(request, folder);
    const train::RunPaths run{request.settings.training.output_dir};
    const data::PromptTemplate prompt_template = folder.prompt_template(
        request.settings.data, flags.config ? run_clock(run.template_clock()) : jinja::LocalTime::now());
    // --set goes to both programs; these flags are of this one alone.
    const bool is_changed = flags.model || flags.format || flags.template_name || flags.max_length;
    data::Dataset dataset = read_rows(request,
                                      {.config = request.settings,
                                       .prompt_template = prompt_template,
                                       .embedding_rows = folder.config.vocab_size,
                                       .threads = threads},
                                      is_changed);
    std::vector<data::Example>& examples = dataset.examples;
    if (flags.limit && static_cast<std::int64_t>(examples.size()) > *flags.limit)
        examples.resize(static_cast<std::size_t>(*flags.limit));
    const Positions positions{folder.config,
                              peft ? adapters::plan_adapter(*peft, folder.config).tokens_before() : 0};
    require_positions(positions, {&dataset}, "--max-length");
    if (flags.generate) {
        require_answer_positions(positions, examples,
                                 flags.max_new_tokens.value_or(eval::GenerateOptions{}.max_new_tokens));
    }
    if (const std::string note = longrope_note(positions, {&dataset}); !note.empty())
        spdlog::info("{}", note);

    eval::EvalOptions options;
    if (flags.tokens_per_batch) options.tokens_per_batch = *flags.tokens_per_batch;
    const LoadedModel loaded =
        load_model(request, folder, quantization, peft,
                   keeps_dense_for(examples, options.tokens_per_batch, flags.generate));

    std::string per_token;
    if (flags.per_token) {
        options.per_row = [&](const data::Example& example, std::span<const float> logprobs) {
            per_token += per_token_line(example, logprobs);
        };
    }
    const eval::EvalSums sums = eval::evaluate(*loaded.model, examples, options);
    if (flags.per_token) write_file_atomically(*flags.per_token, per_token);
    Json summary = summary_of(sums, dataset.statistics.dropped());
    if (flags.generate) {
        const GenerationReport report =
            generate_answers(flags, folder, prompt_template, *loaded.model, examples);
        report.add_to(summary);
        if (flags.generations) write_file_atomically(*flags.generations, report.lines());
    }
    std::cout << summary.dump() << std::endl;
    return 0;
}

}  // namespace

int eval_main(int argc, char** argv) {
    EvalFlags flags;
    Program program(
        "qlora-eval",
        "Measures a model, with or without an adapter, on held-out data. Prints one line of JSON. What is "
        "given beside --config counts instead of the file.");
    CLI::App& app = program.app();
    add_config_flag(app, flags.config);
    add_set_flag(app, flags.overrides);
    app.add_flag("--base-only", flags.base_only, "with --config: the base without the run's adapter");
    add_model_flag(app, flags.model);
    add_adapter_flag(app, flags.adapter);
    app.add_option("--data", flags.data, "held-out file, folder or pattern, as data.eval");
    add_quantization_flag(app, flags.quantization);
    app.add_option("--format", flags.format, "data format, as data.format");
    app.add_option("--template", flags.template_name, "template, as data.template");
    app.add_option("--max-length", flags.max_length, "longest row in tokens, as data.max_length")
        ->check(CLI::Range(2, 1 << 24));
    app.add_option("--limit", flags.limit, "only the first N rows")->check(CLI::PositiveNumber);
    add_device_flag(app, flags.device);
    add_tokens_per_batch_flag(app, flags.tokens_per_batch);
    app.add_option("--per-token", flags.per_token,
                   "file for each row's ids and log probabilities (JSON lines)");
    app.add_flag("--generate", flags.generate, "also generate each answer greedily and compare it");
    app.add_option("--max-new-tokens", flags.max_new_tokens, "longest generated answer (256 tokens)")
        ->check(CLI::Range(1, 1 << 20));
    app.add_option("--prompts-per-batch", flags.prompts_per_batch,
                   "so many answers are generated together (16)")
        ->check(CLI::Range(1, 1 << 16));
    app.add_option("--generations", flags.generations, "file for the generated answers (JSON lines)");
    return program.run(argc, argv, [&] { return evaluate(flags); });
}

}  // namespace qlora::cli
