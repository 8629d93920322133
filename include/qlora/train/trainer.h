#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "qlora/adapters/inject.h"
#include "qlora/data/batch_plan.h"
#include "qlora/models/causal_lm.h"
#include "qlora/models/folder_writer.h"
#include "qlora/tokenizer/tokenizer.h"
#include "qlora/train/adamw.h"
#include "qlora/train/callback.h"
#include "qlora/train/loss_scaler.h"
#include "qlora/train/metrics_log.h"
#include "qlora/train/run_folder.h"
#include "qlora/train/run_state.h"
#include "qlora/train/train_step.h"
#include "qlora/train/training_config.h"

namespace qlora::train {

/// What a trainer works on; everything outlives it.
struct TrainerInput {
    const models::CausalLM* model = nullptr;
    adapters::Adaptation* adaptation = nullptr;
    std::vector<data::Example> train;
    std::vector<data::Example> eval;                  ///< empty: no evaluation
    const tokenizer::Tokenizer* tokenizer = nullptr;  ///< to show samples; may be null
    std::vector<tokenizer::TokenId> stop_ids;
    data::BatchPlanOptions plan;
    nn::Recomputation recomputation = nn::Recomputation::kNone;

    std::string base_model;                       ///< for adapter_config.json
    std::map<std::string, std::string> metadata;  ///< of the adapter file
    models::CompanionFiles companions;            ///< beside the adapter: the tokenizer's files
    Json identity;  ///< what a resumed run must share (fingerprints, threads, settings), saved in each
                    ///< checkpoint
};

/// How a run ended.
struct RunSummary {
    std::int64_t steps = 0;
    std::int64_t total_steps = 0;
    int signal = 0;  ///< SIGINT or SIGTERM that stopped it after saving, else 0
    std::optional<double> first_eval_loss, last_eval_loss, best_eval_loss;
    std::int64_t best_step = 0;
    double seconds = 0.0;
    std::int64_t tokens = 0;
    std::filesystem::path adapter;
};

/// The training loop: one pass over the plan, evaluations and checkpoints between steps.
class Trainer {
  public:
    Trainer(TrainerInput input, TrainingConfig config, Callback& callback);
    Trainer(const Trainer&) = delete;  // the loss scaler refers to the state
    Trainer& operator=(const Trainer&) = delete;

    /// Continues from a whole checkpoint of this run; before `run`. The caller has compared the identities.
    void resume_from(const std::filesystem::path& checkpoint);

    /// ResourceError unless the disk has room for two checkpoints (one when a run goes on); before `run`.
    void require_disk_space() const;

    RunSummary run();

    std::int64_t total_steps() const { return total_steps_; }
    bool is_finished() const { return state_.step >= total_steps_ && !state_.boundary_pending; }
    /// Whether the run is finished and `adapter/` holds its whole result.
    bool has_result() const;
    const RunState& state() const { return state_; }

  private:
    /// Steps of the epoch that `state_` is in.
    const std::vector<data::StepPlan>& epoch_plan();
    void train_one_step();
    StepGradients finite_gradients(const data::StepPlan& plan, double& norm);
    /// The step's rows as "file:line, file:line".
    std::string row_places(const data::StepPlan& plan) const;
    void apply_update(const data::StepPlan& plan, double learning_rate, double norm);
    void prove_adapters(double learning_rate);
    void log_step(const StepGradients& gradients, double learning_rate, double norm, bool updated,
                  double seconds);
    void finish_step();
    bool evaluate();
    void show_samples();
    std::uint64_t checkpoint_bytes() const;
    void require_finite() const;
    /// One try, or a few when nothing comes after; ResourceError with what it needs.
    void save(const std::filesystem::path& folder, bool is_last,
              const std::function<void(const std::filesystem::path&)>& fill);
    /// A failure is logged, or kept in `last_save_fault_` when no other save comes after.
    void save_checkpoint();
    std::int64_t result_step() const;
    void load_best();
    void save_result();
    bool is_epoch_end() const { return state_.step_in_epoch == 0; }
    bool is_due(const std::optional<std::int64_t>& interval) const;

    TrainerInput input_;
    TrainingConfig config_;
    Callback& callback_;
    RunPaths paths_;
    AdamW optimizer_;
    RunState state_;
    LossScaler scaler_;
    std::optional<MetricsLog> metrics_;
    std::int64_t total_steps_ = 0;
    std::int64_t warmup_steps_ = 0;
    std::int64_t planned_epoch_ = -1;
    std::vector<data::StepPlan> plan_;
    std::vector<std::int64_t> lengths_;
    std::int64_t saved_step_ = -1;
    // Timings of this process; never part of what is compared.
    double seconds_since_log_ = 0.0;
    std::int64_t tokens_since_log_ = 0;
    double training_seconds_ = 0.0;
    std::int64_t timed_steps_ = 0;
    bool stop_requested_ = false;
    std::string last_save_fault_;
};

}  // namespace qlora::train
