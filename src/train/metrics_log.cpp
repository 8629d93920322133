#include "qlora/train/metrics_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"

namespace qlora::train {
namespace {

bool is_kept(const std::string& line, const MetricsCut& cut) {
    const Json value = Json::parse(line, nullptr, false);
    if (!value.is_object() || !value.contains("step") || !value["step"].is_number_integer()) return false;
    const auto step = value["step"].get<std::int64_t>();
    if (step == cut.last_step && cut.drops_evaluation) return !value.contains("eval_loss");
    return step <= cut.last_step;
}

/// All of `text` at the end of the file, or nothing and the reason in errno.
bool append_whole(int fd, const std::string& text) {
    struct stat status {};
    if (::fstat(fd, &status) != 0) return false;
    std::size_t done = 0;
    while (done < text.size()) {
        const ssize_t count = ::write(fd, text.data() + done, text.size() - done);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) {
            const int error = count < 0 ? errno : EIO;
            if (::ftruncate(fd, status.st_size) != 0) spdlog::warn("metrics: a line was cut short");
            errno = error;
            return false;
        }
        done += static_cast<std::size_t>(count);
    }
    return true;
}

}  // namespace

MetricsLog::MetricsLog(std::filesystem::path file, const MetricsCut& cut) : file_(std::move(file)) {
    std::ifstream in(file_, std::ios::binary);
    std::string kept, line;
    bool is_cut = false;
    while (std::getline(in, line)) {
        const bool is_whole = !in.eof();
        if (is_whole && is_kept(line, cut)) {
            kept += line + "\n";
        } else {
            is_cut = true;
        }
    }
    in.close();
    if (is_cut) write_file_atomically(file_, kept);
}

void MetricsLog::append(const Json& line) {
    pending_ += line.dump() + "\n";
    if (write_pending()) {
        warned_ = false;
        return;
    }
    if (!warned_)
        spdlog::warn("{}: cannot be written: {}; it is tried again", file_.string(), std::strerror(errno));
    warned_ = true;
}

bool MetricsLog::write_pending() {
    const int fd = ::open(file_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0) return false;
    const bool is_written = append_whole(fd, pending_);
    const int error = errno;
    ::close(fd);
    errno = error;
    if (is_written) pending_.clear();
    return is_written;
}

void MetricsLog::sync() {
    if (!pending_.empty()) write_pending();
    const int fd = ::open(file_.c_str(), O_WRONLY | O_CLOEXEC);
    if (fd < 0) return;
    if (::fsync(fd) != 0) spdlog::warn("{}: cannot be synced: {}", file_.string(), std::strerror(errno));
    ::close(fd);
    if (is_name_synced_) return;
    try {
        sync_folder(std::filesystem::absolute(file_).parent_path());
        is_name_synced_ = true;
    } catch (const Error& error) {
        spdlog::warn("{}", error.what());
    }
}

}  // namespace qlora::train
