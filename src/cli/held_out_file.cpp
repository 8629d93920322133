#include "held_out_file.h"

#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/data/held_out_rows.h"
#include "qlora/train/run_folder.h"

namespace qlora::cli {
namespace {

constexpr const char* kOtherRows = "or give --data FILE to evaluate on other rows";

HeldOutRows read_held_out_file(const std::filesystem::path& file) {
    const Json json = read_json_file(file);
    HeldOutRows out;
    try {
        const std::string problem = FieldType<data::RowPart>::read(json.at("eval"), {}, out.part);
        if (!problem.empty()) throw ConfigError(file.string() + ": eval: " + problem);
        json.at("seed").get_to(out.seed);
        json.at("data").get_to(out.data);
        json.at("rows").get_to(out.rows);
    } catch (const Json::exception& error) {
        throw ConfigError(file.string() + ": does not say which rows the run held out: " + error.what());
    }
    return out;
}

std::string choice_text(const data::RowPart& part, std::int64_t seed) {
    return fmt::format("data.eval {} and training.seed {}", FieldType<data::RowPart>::write(part).dump(),
                       seed);
}

}  // namespace

HeldOutRows hold_out_rows(const RunConfig& config, data::Dataset& train) {
    HeldOutRows out;
    out.part = *config.data.eval_part();
    out.seed = config.training.seed;
    out.data = train.fingerprint;
    out.rows = data::hold_out(train, out.part, static_cast<std::uint64_t>(out.seed));
    return out;
}

data::Dataset load_held_out(const HeldOutRows& held_out, const RowSettings& settings) {
    data::Dataset out =
        data::load_dataset(settings.config.data.train.files, settings.config.data, settings.prompt_template,
                           settings.embedding_rows, {.threads = settings.threads, .only = &held_out.rows});
    if (out.fingerprint != held_out.data) {
        throw DataError(
            "data.train: the training files have changed since the held-out rows were chosen from them; "
            "bring them back (qlora-eval also takes --data FILE)");
    }
    return out;
}

HeldOutRows held_out_rows_of_run(const RowSettings& settings, bool is_changed) {
    const train::RunPaths paths{settings.config.training.output_dir};
    const std::filesystem::path file = paths.held_out_rows();
    const data::RowPart& part = *settings.config.data.eval_part();
    const std::int64_t seed = settings.config.training.seed;
    if (std::filesystem::exists(file)) {
        const HeldOutRows kept = read_held_out_file(file);
        if (kept.part == part && kept.seed == seed) return kept;
        throw ConfigError(fmt::format(
            "{}: the run held out rows by {}; those of {} were trained on. Set what the "
            "run has, {}",
            file.string(), choice_text(kept.part, kept.seed), choice_text(part, seed), kOtherRows));
    }
    if (paths.holds_run()) {
        throw ConfigError(
            fmt::format("data.eval: the run in {} held no rows out of its training files, so it "
                        "trained on them; set what the run has, {}",
                        paths.root.string(), kOtherRows));
    }
    if (is_changed) {
        throw ConfigError(
            "data.eval: the run has not begun, and which rows it will hold out depends on how they are read; "
            "leave "
            "out --model, --format, --template and --max-length, or give --data FILE");
    }
    data::Dataset train =
        data::load_dataset(settings.config.data.train.files, settings.config.data, settings.prompt_template,
                           settings.embedding_rows, {.keeps_texts = false, .threads = settings.threads});
    return hold_out_rows(settings.config, train);
}

void write_held_out_file(const std::filesystem::path& file, const HeldOutRows& held_out) {
    const Json json = {{"eval", FieldType<data::RowPart>::write(held_out.part)},
                       {"seed", held_out.seed},
                       {"data", held_out.data},
                       {"rows", held_out.rows}};
    write_file_atomically(file, json.dump() + "\n");
}

}  // namespace qlora::cli
