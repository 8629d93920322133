#include "model_writing.h"

#include <ATen/core/grad_mode.h>

#include <iostream>

#include "qlora/core/log.h"
#include "qlora/core/stopped.h"
#include "qlora/train/stop_signal.h"
#include "threads.h"

namespace qlora::cli {

int write_model_folder(const std::filesystem::path& output,
                       const std::function<Json(const std::function<bool()>& stop_requested)>& work) {
    const train::StopSignal stop_signal;
    set_threads(std::nullopt);
    const at::AutoGradMode no_gradients(false);
    try {
        const Json result = work([] { return train::StopSignal::received() != 0; });
        std::cout << result.dump() << std::endl;
        return 0;
    } catch (const Stopped&) {
        spdlog::info("stopped by a signal; {} has not been written", output.string());
        return 128 + train::StopSignal::received();
    }
}

}  // namespace qlora::cli
