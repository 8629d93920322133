#pragma once

#include <filesystem>
#include <functional>

#include "qlora/core/json.h"

namespace qlora::cli {

/// The frame of the programs that write a model folder: all threads, no gradients, and an end at the next
/// tensor after a signal. `work` gets the question whether to stop, throws Stopped when it did, and returns
/// the result, which is printed as one line. Returns the exit code.
int write_model_folder(const std::filesystem::path& output,
                       const std::function<Json(const std::function<bool()>& stop_requested)>& work);

}  // namespace qlora::cli
