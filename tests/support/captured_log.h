#pragma once

#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>

namespace qlora::test {

/// What is logged while it lives, instead of on stderr.
class CapturedLog {
  public:
    CapturedLog() : before_(spdlog::default_logger()) {
        auto sink = std::make_shared<spdlog::sinks::ostream_sink_mt>(stream_);
        spdlog::set_default_logger(std::make_shared<spdlog::logger>("captured", std::move(sink)));
    }
    ~CapturedLog() { spdlog::set_default_logger(before_); }
    CapturedLog(const CapturedLog&) = delete;
    CapturedLog& operator=(const CapturedLog&) = delete;

    std::string text() const { return stream_.str(); }
    /// How often it holds `words`.
    std::size_t count(std::string_view words) const {
        const std::string all = text();
        std::size_t found = 0;
        for (std::size_t at = all.find(words); at != std::string::npos; at = all.find(words, at + 1)) ++found;
        return found;
    }

  private:
    std::shared_ptr<spdlog::logger> before_;
    std::ostringstream stream_;
};

}  // namespace qlora::test
