#pragma once

#include <filesystem>

#include "qlora/jinja/template.h"

/// What a run's chat template tells for the time (strftime_now): the moment at which the run began, so that a
/// resumed run and its evaluations render the same bytes.
namespace qlora::cli {

/// The time that the run's folder keeps (template_clock.json), or this moment's where it keeps none.
/// CheckpointError for a file that holds no time.
jinja::LocalTime run_clock(const std::filesystem::path& file);
void write_run_clock(const std::filesystem::path& file, const jinja::LocalTime& clock);

}  // namespace qlora::cli
