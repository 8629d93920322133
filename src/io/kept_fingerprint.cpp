#include "kept_fingerprint.h"

#include <algorithm>
#include <chrono>
#include <system_error>

#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"
#include "qlora/core/json.h"

namespace qlora::io {
namespace {

/// Coarser than the time stamps of any file system.
constexpr std::int64_t kSettled = 2'000'000'000;
constexpr std::size_t kHexDigits = 32;

Json description(const std::vector<SafetensorsFile>& shards) {
    Json files = Json::array();
    for (const SafetensorsFile& shard : shards) {
        const FileIdentity& is = shard.identity();
        files.push_back({{"path", std::filesystem::absolute(shard.path()).string()},
                         {"device", is.device},
                         {"inode", is.inode},
                         {"size", is.size},
                         {"modified_ns", is.modified},
                         {"changed_ns", is.changed}});
    }
    return files;
}

bool is_fingerprint(const std::string& text) {
    return text.size() == kHexDigits && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

bool is_settled(const SafetensorsFile& shard) {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    const std::int64_t last = std::max(shard.identity().modified, shard.identity().changed);
    return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count() - last > kSettled &&
           identify(shard.path()) == shard.identity();
}

}  // namespace

std::optional<std::string> read_kept_fingerprint(const std::filesystem::path& file,
                                                 const std::vector<SafetensorsFile>& shards) {
    try {
        std::error_code error;
        if (!std::filesystem::is_regular_file(file, error)) return std::nullopt;
        const Json kept = read_json_file(file);
        if (!kept.is_object() || kept.value("files", Json()) != description(shards)) return std::nullopt;
        const Json fingerprint = kept.value("fingerprint", Json());
        if (fingerprint.is_string() && is_fingerprint(fingerprint.get<std::string>()))
            return fingerprint.get<std::string>();
    } catch (const Error&) {
        // What cannot be read is computed.
    }
    return std::nullopt;
}

void keep_fingerprint(const std::filesystem::path& file, const std::vector<SafetensorsFile>& shards,
                      const std::string& fingerprint) {
    if (!std::all_of(shards.begin(), shards.end(), is_settled)) return;
    try {
        const Json kept = {{"fingerprint", fingerprint}, {"files", description(shards)}};
        write_file_atomically(file, kept.dump(2) + "\n");
    } catch (const Error&) {
        // The next start computes it again.
    }
}

}  // namespace qlora::io
