#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <iostream>
#include <optional>

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
    RowReader(const RunConfig& config, std::int64_t threads)
        : config_(config),
          folder_(config.model.path),
          template_(folder_.prompt_template(config.data, jinja::LocalTime::now())),
          threads_(threads) {
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
        reading.on_row = [&](const data::ReadRow& row) { rows_.push_back(data_report::make_row(row, part)); };
        data::Dataset out =
            data::load_dataset(files, config_.data, template_, folder_.config.vocab_size, reading);
        rejected_.insert(rejected_.end(), out.rejected.begin(), out.rejected.end());
        return out;
    }

    /// Rows of the training files become held-out ones, and go behind the others.
    void mark(const std::vector<std::int64_t>& numbers) {
        for (data_report::Row& row : rows_)
            if (std::binary_search(numbers.begin(), numbers.end(), row.number))
                row.part = data_report::Part::kHeldOut;
        std::stable_partition(rows_.begin(), rows_.end(), [](const data_report::Row& row) {
            return row.part == data_report::Part::kTrain;
        });
    }

    const RunConfig& config_;
    ModelFolder folder_;
    data::PromptTemplate template_;
    std::int64_t threads_;
    std::vector<data_report::Row> rows_;
    std::vector<data::RejectedRow> rejected_;
};

int look_at_data(const DataFlags& flags) {
    const RunConfig config = data_request(flags);
    std::vector<fs::path> files = config.data.train.files;
    if (const fs::path* file = config.data.eval_file()) files.push_back(*file);
    refuse_overwriting(flags, files);
    ReportFiles written(flags);
    const std::int64_t threads = set_threads(config.model.threads);

    RowReader reader(config, threads);
    std::vector<data_report::Row> rows = reader.read();
    data_report::Report report =
        data_report::look_at(std::move(rows), {.max_length = config.data.max_length, .threads = threads});
    report.rejected = reader.rejected();
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
    return 0;
}

}  // namespace

int data_main(int argc, char** argv) {
    DataFlags flags;
    Program program(
        "qlora-data",
        "Looks at training and held-out rows before anything is trained, and tells what it found: "
        "contradictions, duplicates, leaks, poor answers, lengths. No row is changed or left out.");
    program.set_memory_advice("all rows are held with their texts; look at a part of the files");
    CLI::App& app = program.app();
    add_config_flag(app, flags.config);
    add_set_flag(app, flags.overrides);
    add_model_flag(app, flags.model);
    app.add_option("--data", flags.data, "training files, folders or patterns, as data.train")->take_all();
    app.add_option("--eval", flags.eval, "held-out file, folder or pattern, as data.eval");
    app.add_option("--output", flags.output, "file for each row's findings and figures (JSON lines)");
    app.add_option("--html", flags.html, "file for a page with figures, histograms and the worst rows");
    app.add_flag("--json", flags.json, "print the summary as one line of JSON");
    return program.run(argc, argv, [&] { return look_at_data(flags); });
}

}  // namespace qlora::cli
