#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <iostream>
#include <numeric>
#include <optional>

#include "answer_scoring.h"
#include "data_request.h"
#include "held_out_file.h"
#include "log_rows.h"
#include "program.h"
#include "qlora/cli/commands.h"
#include "qlora/core/atomic_file.h"
#include "qlora/core/log.h"
#include "qlora/data/data_files.h"
#include "qlora/data/sft_dataset.h"
#include "qlora/data_report/report.h"
#include "row_positions.h"
#include "session.h"
#include "threads.h"

namespace qlora::cli {
namespace {

namespace fs = std::filesystem;

/// The files that are written, opened before the work begins so that a folder that is missing shows at once.
struct ReportFiles {
    explicit ReportFiles(const DataFlags& flags) {
        if (flags.output) lines.emplace(*flags.output);
        if (flags.html) page.emplace(*flags.html);
    }

    std::optional<AtomicFile> lines, page;
};

void refuse_overwriting(const DataFlags& flags, const std::vector<fs::path>& paths) {
    FaultList faults;
    for (const auto& [flag, file] : {std::pair{"--output", flags.output}, std::pair{"--html", flags.html}}) {
        if (!file || !fs::exists(*file)) continue;
        if (fs::is_directory(*file)) faults.add(flag, *file + " is a folder; name a file");
        for (const fs::path& one : data::data_files(paths))
            if (fs::exists(one) && fs::equivalent(one, *file))
                faults.add(flag, *file + " is one of the data files");
    }
    faults.throw_if_any<ConfigError>("command line");
}

/// Reads training and held-out rows as a run does, and keeps the texts of all.
class RowReader {
  public:
    /// `scoring`: null, or what the rows are to be scored with.
    RowReader(const RunConfig& config, const ModelFolder& folder, std::int64_t threads,
              AnswerScoring* scoring)
        : config_(config),
          folder_(folder),
          template_(folder.prompt_template(config.data, jinja::LocalTime::now())),
          threads_(threads),
          scoring_(scoring) {
        spdlog::info("template: {}", template_.name());
    }

    std::vector<data_report::Row> read() {
        data::Dataset train = load(config_.data.train.files, data_report::Part::kTrain);
        if (config_.data.eval_part() != nullptr) mark(hold_out_rows(config_, train).rows);
        log_rows("training data", train.statistics);
        if (const fs::path* file = config_.data.eval_file()) {
            const data::Dataset held_out = load({*file}, data_report::Part::kHeldOut);
            log_rows("held-out data", held_out.statistics);
        }
        return std::move(rows_);
    }
    std::vector<data::RejectedRow> rejected() { return std::move(rejected_); }

  private:
    data::Dataset load(const std::vector<fs::path>& files, data_report::Part part) {
        data::RowReading reading{.keeps_texts = false, .threads = threads_};
        reading.on_row = [&](const data::ReadRow& row) {
            if (scoring_ != nullptr) scoring_->add(row, rows_.size());
            rows_.push_back(data_report::make_row(row, part));
        };
        data::Dataset out =
            data::load_dataset(files, config_.data, template_, folder_.config.vocab_size, reading);
        if (scoring_ != nullptr) require_positions(scoring_->positions(), {&out}, "data.max_length:");
        rejected_.insert(rejected_.end(), out.rejected.begin(), out.rejected.end());
        return out;
    }

    /// Rows of the training files become held-out ones, and go behind the others.
    void mark(const std::vector<std::int64_t>& numbers) {
        for (data_report::Row& row : rows_)
            if (std::binary_search(numbers.begin(), numbers.end(), row.number))
                row.part = data_report::Part::kHeldOut;
        std::vector<std::size_t> order(rows_.size()), places(rows_.size());
        std::iota(order.begin(), order.end(), std::size_t{0});
        std::stable_partition(order.begin(), order.end(),
                              [&](std::size_t row) { return rows_[row].part == data_report::Part::kTrain; });
        std::vector<data_report::Row> ordered;
        ordered.reserve(rows_.size());
        for (const std::size_t row : order) {
            places[row] = ordered.size();
            ordered.push_back(std::move(rows_[row]));
        }
        rows_ = std::move(ordered);
        if (scoring_ != nullptr) scoring_->reorder(places);
    }

    const RunConfig& config_;
    const ModelFolder& folder_;
    data::PromptTemplate template_;
    std::int64_t threads_;
    AnswerScoring* scoring_;
    std::vector<data_report::Row> rows_;
    std::vector<data::RejectedRow> rejected_;
};

void write_report(const data_report::Report& report, const RunConfig& config, const DataFlags& flags,
                  ReportFiles& written) {
    if (written.lines) {
        for (std::size_t row = 0; row < report.rows.size(); ++row)
            written.lines->write(data_report::row_line(report, row) + "\n");
        for (const data::RejectedRow& row : report.rejected)
            written.lines->write(data_report::rejected_line(row) + "\n");
        written.lines->commit();
    }
    if (written.page) {
        std::string title = "Rows of";
        for (const fs::path& file : config.data.train.files) title += " " + file.filename().string();
        written.page->write(data_report::html_page(report, title));
        written.page->commit();
    }
    if (flags.json) {
        std::cout << data_report::summary_json(report).dump() << std::endl;
    } else {
        std::cout << data_report::summary_text(report) << std::flush;
    }
}

int look_at_data(const DataFlags& flags, bool quiet) {
    const DataRequest request = data_request(flags);
    const RunConfig& config = request.config;
    std::vector<fs::path> files = config.data.train.files;
    if (const fs::path* file = config.data.eval_file()) files.push_back(*file);
    refuse_overwriting(flags, files);
    ReportFiles written(flags);
    const std::int64_t threads = set_threads(config.model.threads);

    const ModelFolder folder(config.model.path);
    std::optional<AnswerScoring> scoring;
    if (request.scoring)
        scoring.emplace(
            *request.scoring, folder,
            ScoringOptions{
                .rows = flags.score_rows, .tokens_per_batch = flags.tokens_per_batch, .quiet = quiet});
    RowReader reader(config, folder, threads, scoring ? &*scoring : nullptr);
    std::vector<data_report::Row> rows = reader.read();
    data_report::ReportOptions options{.max_length = config.data.max_length, .threads = threads};
    if (scoring) options.scoring = scoring->score(rows);
    data_report::Report report = data_report::look_at(std::move(rows), options);
    report.rejected = reader.rejected();
    write_report(report, config, flags, written);
    return scoring && scoring->signal() != 0 ? 128 + scoring->signal() : 0;
}

}  // namespace

int data_main(int argc, char** argv) {
    DataFlags flags;
    Program program(
        "qlora-data",
        "Looks at training and held-out rows before anything is trained, and tells what it found: "
        "contradictions, duplicates, leaks, poor answers, lengths. No row is changed or left out.");
    program.set_memory_advice(
        "all rows are held with their texts: look at a part of the files; with --score, a smaller "
        "--tokens-per-batch or --quantization nf4 needs less");
    CLI::App& app = program.app();
    add_config_flag(app, flags.config);
    add_set_flag(app, flags.overrides);
    add_model_flag(app, flags.model);
    app.add_option("--data", flags.data, "training files, folders or patterns, as data.train")->take_all();
    app.add_option("--eval", flags.eval, "held-out file, folder or pattern, as data.eval");
    app.add_option("--output", flags.output, "file for each row's findings and figures (JSON lines)");
    app.add_option("--html", flags.html, "file for a page with figures, histograms and the worst rows");
    app.add_flag("--score", flags.score,
                 "also run the model: the loss of each answer with and without its prompt");
    app.add_option("--score-rows", flags.score_rows, "score only so many rows, chosen by training.seed")
        ->check(CLI::PositiveNumber);
    add_adapter_flag(app, flags.adapter);
    add_quantization_flag(app, flags.quantization);
    add_device_flag(app, flags.device);
    add_tokens_per_batch_flag(app, flags.tokens_per_batch);
    app.add_flag("--json", flags.json, "print the summary as one line of JSON");
    return program.run(argc, argv, [&] { return look_at_data(flags, program.quiet()); });
}

}  // namespace qlora::cli
