#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace qlora::train {

/// The places of a run's files (interface: "Files of a run").
struct RunPaths {
    std::filesystem::path root;

    std::filesystem::path run_config() const { return root / "run_config.json"; }
    std::filesystem::path metrics() const { return root / "metrics.jsonl"; }
    std::filesystem::path adapter() const { return root / "adapter"; }
    std::filesystem::path checkpoints() const { return root / "checkpoints"; }
    std::filesystem::path checkpoint(std::int64_t step) const {
        return checkpoints() / ("step-" + std::to_string(step));
    }
    /// Which rows of the training files are not trained, where `data.eval` is a part of them.
    std::filesystem::path held_out_rows() const { return root / "held_out_rows.json"; }
    /// The time that its chat template tells, where it tells one.
    std::filesystem::path template_clock() const { return root / "template_clock.json"; }
    std::filesystem::path rejected() const { return root / "rejected.jsonl"; }
    /// The base's fingerprint and the files it is of, so that another start need not read them all.
    std::filesystem::path base_fingerprint() const { return root / ".base_fingerprint.json"; }
    std::filesystem::path lock() const { return root / ".lock"; }

    /// Whether the folder already holds a run. Throws std::filesystem::filesystem_error where that cannot be
    /// told.
    bool holds_run() const;
};

/// Exclusive use of an output folder (flock: a killed owner leaves none). A second run is refused with the
/// first's pid. Makes the folder; at the end it is removed again if the run has put nothing into it.
class RunLock {
  public:
    explicit RunLock(const RunPaths& paths);
    ~RunLock();
    RunLock(const RunLock&) = delete;
    RunLock& operator=(const RunLock&) = delete;

  private:
    /// Makes the names of the folders in `made_` survive a power loss.
    void sync_names();
    /// A run that came to nothing leaves nothing.
    void remove_empty_folders();

    std::filesystem::path file_;
    std::vector<std::filesystem::path> made_;  ///< folders that were not there before, innermost first
    int fd_ = -1;
};

}  // namespace qlora::train
