#include "qlora/core/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

#include <memory>

namespace qlora {

void set_up_log(Verbosity verbosity) {
    auto logger =
        std::make_shared<spdlog::logger>("qlora", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
    switch (verbosity) {
        case Verbosity::kQuiet:
            logger->set_level(spdlog::level::warn);
            break;
        case Verbosity::kNormal:
            logger->set_level(spdlog::level::info);
            break;
        case Verbosity::kVerbose:
            logger->set_level(spdlog::level::debug);
            break;
    }
    logger->set_pattern("[%T] %^%l%$: %v");
    logger->flush_on(spdlog::level::info);
    spdlog::set_default_logger(std::move(logger));
}

}  // namespace qlora
