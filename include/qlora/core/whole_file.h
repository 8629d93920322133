#pragma once

#include <filesystem>
#include <string>

#include "qlora/core/error.h"

namespace qlora {

/// A file that cannot be read, with the system's reason. Nothing is known of its content then, so it must not
/// be taken for one that has changed. Exit code 4 where memory is missing, else 2.
class ReadError : public Error {
  public:
    /// `action`: "open", "read". `error`: an errno.
    ReadError(const std::filesystem::path& file, const std::string& action, int error);
    /// There is no such file (or no such folder above it), which is a fact about what is on the disk.
    bool is_missing() const { return is_missing_; }

  private:
    bool is_missing_;
};

/// The bytes of a file. Throws ReadError.
std::string read_whole_file(const std::filesystem::path& file);

}  // namespace qlora
