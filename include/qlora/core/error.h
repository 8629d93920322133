#pragma once

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace qlora {

/// Exit codes of the programs; 130 and 143 (stopped by a signal after saving) are set by the commands.
enum class ExitCode : int { kDone = 0, kInternal = 1, kInput = 2, kNonFinite = 3, kResources = 4 };

/// Every error the library throws on purpose. `what()` is one clear sentence (or one line a fault) for the
/// user.
class Error : public std::runtime_error {
  public:
    Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
    ExitCode code() const { return code_; }

  private:
    ExitCode code_;
};

/// A wrong configuration value or command line; the message names the JSON path.
class ConfigError : public Error {
  public:
    explicit ConfigError(const std::string& message) : Error(ExitCode::kInput, message) {}
};

/// A model, adapter, tokenizer or run folder that cannot be used; the message names file and tensor or key.
class CheckpointError : public Error {
  public:
    explicit CheckpointError(const std::string& message) : Error(ExitCode::kInput, message) {}
};

/// Training data that cannot be used; the message names `file:line`.
class DataError : public Error {
  public:
    explicit DataError(const std::string& message) : Error(ExitCode::kInput, message) {}
};

/// Loss or gradient not finite too often.
class NonFiniteError : public Error {
  public:
    explicit NonFiniteError(const std::string& message) : Error(ExitCode::kNonFinite, message) {}
};

/// Memory or disk exhausted; the message names what to change.
class ResourceError : public Error {
  public:
    explicit ResourceError(const std::string& message) : Error(ExitCode::kResources, message) {}
};

/// Collects the faults of one input, so that the user sees all of them at once.
class FaultList {
  public:
    /// `place` is a JSON path, a tensor name or `file:line`; may be empty.
    void add(const std::string& place, const std::string& message) {
        faults_.push_back(place.empty() ? message : place + ": " + message);
    }
    bool empty() const { return faults_.empty(); }
    std::size_t size() const { return faults_.size(); }
    const std::vector<std::string>& faults() const { return faults_; }

    /// The headline (a file name, say), then one indented line a fault; a single fault stays on one line.
    std::string text(const std::string& headline) const {
        if (faults_.size() == 1) return headline + ": " + faults_.front();
        std::string out = headline + ": " + std::to_string(faults_.size()) + " faults:";
        for (const std::string& fault : faults_) out += "\n  " + fault;
        return out;
    }

    template <class ErrorType>
    void throw_if_any(const std::string& headline) const {
        if (!faults_.empty()) throw ErrorType(text(headline));
    }

  private:
    std::vector<std::string> faults_;
};

}  // namespace qlora
