#include <chrono>
#include <thread>

#include "qlora/adapters/peft_format.h"
#include "qlora/core/atomic_file.h"
#include "qlora/core/disk_space.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/models/folder_writer.h"
#include "qlora/train/run_checkpoint.h"
#include "qlora/train/stop_signal.h"
#include "qlora/train/trainer.h"

namespace qlora::train {
namespace {

namespace fs = std::filesystem;

constexpr const char* kOptimizerFile = "optimizer.safetensors";
constexpr const char* kStateFile = "run_state.json";
/// A save that nothing follows is tried this often, with a pause between.
constexpr int kLastSaveTries = 3;
constexpr std::chrono::milliseconds kPause{300};
/// Headers, configuration, run state and manifest.
constexpr std::uint64_t kSmallFileBytes = 64 << 10;

}  // namespace

std::uint64_t Trainer::checkpoint_bytes() const {
    // The adapter and two moments, fp32.
    return static_cast<std::uint64_t>(input_.adaptation->trainable_elements()) * 3 * sizeof(float) +
           kSmallFileBytes;
}

void Trainer::require_disk_space() const {
    // A run that goes on has the older checkpoint on the disk already.
    const std::uint64_t checkpoints = saved_step_ < 0 ? 2 : 1;
    require_free_space(paths_.adapter(), checkpoints * checkpoint_bytes());
}

void Trainer::resume_from(const fs::path& checkpoint) {
    const fs::path file = checkpoint / kStateFile;
    const Json saved = read_json_file(file);
    if (!saved.is_object() || !saved.contains("state"))
        throw CheckpointError(file.string() + ": holds no run state");
    state_ = RunState::from_json(saved["state"], file.string());
    adapters::load_parameters(checkpoint, input_.model->spec(), *input_.adaptation);
    optimizer_.load_state(checkpoint / kOptimizerFile, state_.optimizer_steps);
    saved_step_ = state_.step;
}

bool Trainer::has_result() const {
    if (!is_finished() || !folder_fault(paths_.adapter()).empty()) return false;
    // An adapter that is whole may still be the one of a shorter run that this one went on from.
    const char* file = adapters::weights_file_name(input_.adaptation->plan.config);
    const std::string wanted = manifest_hash(paths_.checkpoint(result_step()), file);
    return !wanted.empty() && wanted == manifest_hash(paths_.adapter(), file);
}

std::int64_t Trainer::result_step() const {
    return config_.load_best_model_at_end && state_.best_step > 0 ? state_.best_step : state_.step;
}

void Trainer::require_finite() const {
    const std::string key = optimizer_.nonfinite_tensor();
    if (key.empty()) return;
    throw NonFiniteError(fmt::format(
        "{} is not finite at step {}; nothing is saved, the last good checkpoint is kept", key, state_.step));
}

void Trainer::save(const fs::path& folder, bool is_last, const std::function<void(const fs::path&)>& fill) {
    std::string reason;
    for (int tries = is_last ? kLastSaveTries : 1; tries > 0; --tries) {
        try {
            write_folder_with_manifest(folder, fill);
            callback_.on_save(folder);
            return;
        } catch (const NonFiniteError&) {
            throw;
        } catch (const Error& error) {
            reason = error.what();
        }
        if (tries > 1) {
            spdlog::warn("{}; trying again", reason);
            std::this_thread::sleep_for(kPause);
        }
    }
    throw ResourceError(fmt::format("{} was not saved: {} (it needs about {} bytes)", folder.string(), reason,
                                    checkpoint_bytes()));
}

void Trainer::save_checkpoint() {
    // Steps without an update are not saved: they would push out the last checkpoint known to be good.
    if (state_.nonfinite_in_a_row > 0 && state_.step < total_steps_) return;
    require_finite();
    metrics_->sync();
    const fs::path folder = paths_.checkpoint(state_.step);
    const bool is_last = state_.step >= total_steps_ || StopSignal::received() != 0;
    try {
        save(folder, is_last, [&](const fs::path& temporary) {
            adapters::save_adapter(temporary, *input_.adaptation, input_.base_model, input_.metadata);
            adapters::save_parameters(temporary, *input_.adaptation);
            adapters::save_tensors(temporary / kOptimizerFile, optimizer_.state(), {});
            const Json state = {{"state", state_.to_json()}, {"identity", input_.identity}};
            write_file_atomically(temporary / kStateFile, state.dump(2) + "\n");
        });
    } catch (const ResourceError& error) {
        if (is_last) {
            last_save_fault_ = error.what();
        } else {
            spdlog::warn("{}. The run goes on and tries again at the next save", error.what());
        }
        return;
    }
    last_save_fault_.clear();
    saved_step_ = state_.step;
    prune_checkpoints(paths_.checkpoints(), config_.save_total_limit, state_.best_step, state_.step);
}

void Trainer::load_best() {
    const fs::path best = paths_.checkpoint(result_step());
    const std::string fault = folder_fault(best);
    if (fault.empty()) {
        adapters::load_parameters(best, input_.model->spec(), *input_.adaptation);
    } else {
        spdlog::error(
            "the best checkpoint, {}, cannot be used ({}); the result is the adapter of the last step",
            best.string(), fault);
    }
}

void Trainer::save_result() {
    require_finite();
    if (result_step() != state_.step) load_best();
    save(paths_.adapter(), true, [&](const fs::path& temporary) {
        adapters::save_adapter(temporary, *input_.adaptation, input_.base_model, input_.metadata);
        models::write_companions(input_.companions, temporary);
    });
}

}  // namespace qlora::train
