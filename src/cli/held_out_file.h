#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "qlora/cli/run_config.h"
#include "qlora/data/sft_dataset.h"

namespace qlora::cli {

/// The rows that a run holds out of its training files. Its folder keeps them (held_out_rows.json), so that
/// an evaluation takes the same ones.
struct HeldOutRows {
    data::RowPart part;              ///< `data.eval`
    std::int64_t seed = 0;           ///< `training.seed`
    std::string data;                ///< fingerprint of the training files
    std::vector<std::int64_t> rows;  ///< 0-based places in the training data, rising
};

/// Takes the rows that `config` says, which holds a part as `data.eval`, out of `train`, its training data.
HeldOutRows hold_out_rows(const RunConfig& config, data::Dataset& train);

/// What rows of a run are read and encoded with.
struct RowSettings {
    const RunConfig& config;
    const data::PromptTemplate& prompt_template;
    std::int64_t embedding_rows = 0;
    std::int64_t threads = 1;
};

/// The held-out rows with their texts. DataError when the training files are no longer those they were chosen
/// from.
data::Dataset load_held_out(const HeldOutRows& held_out, const RowSettings& settings);

/// The rows that the run of this configuration holds out: those that its folder keeps, or before it has begun
/// those that it would. ConfigError when the run in the folder trained on other rows than the configuration
/// says, or when it has not begun and `is_changed`: the choice depends on how many rows are kept, so settings
/// beside the file would make another one than the run will.
HeldOutRows held_out_rows_of_run(const RowSettings& settings, bool is_changed);

void write_held_out_file(const std::filesystem::path& file, const HeldOutRows& held_out);

}  // namespace qlora::cli
