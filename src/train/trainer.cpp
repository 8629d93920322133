#include "qlora/train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>

#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/ops/device.h"
#include "qlora/train/lr_scheduler.h"
#include "qlora/train/router_loss.h"
#include "qlora/train/run_length.h"
#include "qlora/train/stop_signal.h"

namespace qlora::train {
namespace {

double now_seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Largest resident size of this program. getrusage's would count the process that started it too, as it was
/// then. On a GPU what the tensors took at most there.
std::int64_t peak_memory_bytes(at::Device device) {
    if (device.is_cuda()) return ops::peak_device_bytes(device);
    std::ifstream status("/proc/self/status");
    for (std::string word; status >> word;) {
        std::int64_t kilobytes = 0;
        if (word == "VmHWM:" && status >> kilobytes) return kilobytes * 1024;
    }
    return 0;
}

Json number_or_null(double value) {
    return std::isfinite(value) ? Json(value) : Json(nullptr);
}

/// Why the gradients of a step must not be used; empty when they may.
std::string gradient_fault(const StepGradients& gradients, double norm) {
    // With a loss below this, zero gradients are no fault: the model may know its rows by heart.
    constexpr double kLearnedLoss = 1e-3;
    if (!std::isfinite(gradients.loss)) return fmt::format("the loss ({}) is not finite", gradients.loss);
    if (!std::isfinite(norm)) return fmt::format("the gradient norm ({}) is not finite", norm);
    if (norm == 0.0 && gradients.loss > kLearnedLoss) {
        return fmt::format(
            "every gradient is zero at a loss of {:.4f}: activations have left the range of floats",
            gradients.loss);
    }
    return {};
}

/// "a, b, c and 4 more".
std::string first_names(const std::vector<std::string>& names) {
    constexpr std::size_t kMostNames = 3;
    const std::size_t shown = std::min(names.size(), kMostNames);
    std::string out =
        fmt::format("{}", fmt::join(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(shown), ", "));
    if (shown < names.size()) out += fmt::format(" and {} more", names.size() - shown);
    return out;
}

/// The parameters with their shares of the learning rate, which LoRA+ sets.
std::vector<nn::Parameter> with_rates(const adapters::Adaptation& adaptation, const TrainingConfig& config) {
    std::vector<nn::Parameter> out = adaptation.parameters;
    if (!config.loraplus_lr_ratio) return out;
    for (std::size_t i = 0; i < out.size(); ++i) {
        const adapters::TrainedTensor& tensor = adaptation.plan.trained[i];
        if (tensor.of_embedding) out[i].rate = config.loraplus_embedding_rate() / config.learning_rate;
        if (tensor.raised) out[i].rate = *config.loraplus_lr_ratio;
    }
    return out;
}

}  // namespace

Trainer::Trainer(TrainerInput input, TrainingConfig config, Callback& callback)
    : input_(std::move(input)),
      config_(std::move(config)),
      callback_(callback),
      paths_{config_.output_dir},
      optimizer_(with_rates(*input_.adaptation, config_), config_),
      scaler_(state_, input_.model->compute_dtype() == at::kHalf) {
    for (const data::Example& example : input_.train) lengths_.push_back(example.tokens());
    total_steps_ = steps_of_run(
        config_, [this](std::int64_t epoch) { return data::steps_of_epoch(lengths_, input_.plan, epoch); });
    warmup_steps_ = warmup_steps_for(total_steps_, config_);
}

const std::vector<data::StepPlan>& Trainer::epoch_plan() {
    if (planned_epoch_ != state_.epoch) {
        plan_ = data::plan_epoch(lengths_, input_.plan, state_.epoch);
        planned_epoch_ = state_.epoch;
    }
    return plan_;
}

RunSummary Trainer::run() {
    const double start = now_seconds();
    const bool is_fresh = saved_step_ < 0;
    const bool is_evaluation_due = state_.boundary_pending || (state_.step == 0 && !state_.first_eval_loss);
    metrics_.emplace(paths_.metrics(), MetricsCut{.last_step = is_fresh ? -1 : state_.step,
                                                  .drops_evaluation = is_evaluation_due});
    callback_.on_begin(total_steps_, state_.step);
    if (config_.eval_on_start && state_.step == 0 && !state_.first_eval_loss) evaluate();
    if (state_.boundary_pending) finish_step();
    while (state_.step < total_steps_ && !stop_requested_ && !StopSignal::is_received()) {
        train_one_step();
        if (!stop_requested_) finish_step();
    }
    if (is_finished()) {
        save_result();
    } else if (saved_step_ != state_.step) {
        save_checkpoint();
    }
    metrics_->sync();
    callback_.on_end();
    if (!last_save_fault_.empty()) {
        throw ResourceError("the last save failed: " + last_save_fault_ +
                            "; make room and go on with --resume");
    }
    return {.steps = state_.step,
            .total_steps = total_steps_,
            .signal = is_finished() ? 0 : StopSignal::received(),
            .first_eval_loss = state_.first_eval_loss,
            .last_eval_loss = state_.last_eval_loss,
            .best_eval_loss = state_.best_eval_loss,
            .best_step = state_.best_step,
            .seconds = now_seconds() - start,
            .tokens = state_.tokens,
            .adapter = paths_.adapter()};
}

void Trainer::train_one_step() {
    const double start = now_seconds();
    const data::StepPlan& plan = epoch_plan().at(static_cast<std::size_t>(state_.step_in_epoch));
    double norm = 0.0;
    const StepGradients gradients = finite_gradients(plan, norm);
    if (gradients.stopped) {
        stop_requested_ = true;
        return;
    }
    const double learning_rate =
        config_.learning_rate * lr_factor(config_, state_.step, warmup_steps_, total_steps_);
    const std::string fault = gradient_fault(gradients, norm);
    const bool updates = fault.empty() && gradients.supervised_tokens > 0;
    if (updates) {
        apply_update(plan, learning_rate, norm);
        state_.nonfinite_in_a_row = 0;
    } else if (!fault.empty()) {
        ++state_.nonfinite_in_a_row;
        spdlog::error("step {}: {}, twice; no update is made. Rows: {}", state_.step + 1, fault,
                      row_places(plan));
    } else {
        ++state_.skipped_steps;
        spdlog::warn("step {} has no supervised token and is skipped", state_.step + 1);
    }
    ++state_.step;
    state_.micro_step += static_cast<std::int64_t>(plan.micro_batches.size());
    state_.tokens += gradients.tokens;
    state_.supervised_tokens += gradients.supervised_tokens;
    if (config_.log_rows) {
        for (const auto& micro_batch : plan.micro_batches) {
            for (const std::int64_t place : micro_batch) {
                state_.logged_rows.push_back(input_.train[static_cast<std::size_t>(place)].row);
            }
        }
    }
    if (++state_.step_in_epoch == static_cast<std::int64_t>(epoch_plan().size())) {
        state_.step_in_epoch = 0;
        ++state_.epoch;
    }
    state_.boundary_pending = true;
    log_step(gradients, learning_rate, norm, updates, now_seconds() - start);
    if (state_.nonfinite_in_a_row >= config_.max_nonfinite_steps) {
        throw NonFiniteError(
            fmt::format("stopped at step {}: {} steps in a row had no usable loss or gradient. The last good "
                        "checkpoint is kept. "
                        "Lower training.learning_rate or mend the rows named above and start a new run; it "
                        "can go on from that "
                        "checkpoint with model.adapter",
                        state_.step, state_.nonfinite_in_a_row));
    }
}

StepGradients Trainer::finite_gradients(const data::StepPlan& plan, double& norm) {
    const nn::ForwardContext context{.training = true,
                                     .recomputation = input_.recomputation,
                                     .seed = static_cast<std::uint64_t>(config_.seed),
                                     .micro_step = static_cast<std::uint32_t>(state_.micro_step)};
    StepGradients gradients;
    // A second try tells a fault of the machine from one of the data.
    for (int attempt = 0; attempt < 2; ++attempt) {
        optimizer_.zero_grad();
        gradients =
            accumulate_gradients(*input_.model, input_.train, plan, context, scaler_.scale(),
                                 StopSignal::is_received, router_loss_share(config_, input_.model->spec()));
        if (gradients.stopped) return gradients;
        norm = optimizer_.grad_norm() / scaler_.scale();
        if (gradient_fault(gradients, norm).empty()) {
            if (attempt > 0) spdlog::warn("step {}: the second try gave finite numbers", state_.step + 1);
            return gradients;
        }
        if (std::isfinite(gradients.loss) && !std::isfinite(norm) && scaler_.lower()) {
            spdlog::debug("step {}: gradients overflow in float16; loss scale {}", state_.step + 1,
                          scaler_.scale());
            --attempt;  // no fault yet of machine or data
        }
    }
    return gradients;
}

std::string Trainer::row_places(const data::StepPlan& plan) const {
    std::string rows;
    for (const auto& micro_batch : plan.micro_batches) {
        for (const std::int64_t place : micro_batch) {
            rows += (rows.empty() ? "" : ", ") + input_.train[static_cast<std::size_t>(place)].place;
        }
    }
    return rows;
}

void Trainer::apply_update(const data::StepPlan& plan, double learning_rate, double norm) {
    double scale = 1.0;
    if (config_.max_grad_norm > 0) scale = std::min(1.0, config_.max_grad_norm / (norm + 1e-6));
    optimizer_.step(learning_rate, static_cast<float>(scale / scaler_.scale()));
    scaler_.step_done();
    ++state_.optimizer_steps;
    prove_adapters(learning_rate);
    const std::string broken = optimizer_.nonfinite_tensor();
    if (broken.empty()) return;
    throw NonFiniteError(fmt::format(
        "stopped at step {}: {} is not finite after the update. The last good checkpoint is kept. Lower "
        "training.learning_rate or mend the rows {} and start a new run; it can go on from that checkpoint "
        "with "
        "model.adapter",
        state_.step + 1, broken, row_places(plan)));
}

void Trainer::prove_adapters(double learning_rate) {
    if (state_.adapters_proven || learning_rate == 0.0) return;
    constexpr const char* kHeadline = "after the first update the adapters are not as they must be";
    FaultList faults;
    std::vector<std::string> still_zero;
    std::size_t adapters = 0;
    std::string kind;
    for (std::size_t i = 0; i < input_.adaptation->parameters.size(); ++i) {
        const nn::Parameter& parameter = input_.adaptation->parameters[i];
        const adapters::TrainedTensor& planned = input_.adaptation->plan.trained[i];
        if (!planned.leaves_zero) continue;
        kind = planned.name.substr(0, planned.name.find('.'));
        ++adapters;
        const at::Tensor value = parameter.tensor.detach();
        if (!value.isfinite().all().item<bool>()) {
            faults.add(parameter.key, "is not finite");
        } else if (!value.any().item<bool>()) {
            still_zero.push_back(parameter.key);
        }
    }
    faults.throw_if_any<NonFiniteError>(kHeadline);
    if (!still_zero.empty()) {
        const std::string text =
            fmt::format("{} of {} {} are still zero, so these adapters get no gradient ({})",
                        still_zero.size(), adapters, kind, first_names(still_zero));
        if (still_zero.size() == adapters) throw NonFiniteError(std::string(kHeadline) + ": " + text);
        // Legal where a row says nothing about them: q and k learn nothing from positions that see one key.
        spdlog::warn("after the first update {}", text);
    }
    state_.adapters_proven = true;
}

void Trainer::log_step(const StepGradients& gradients, double learning_rate, double norm, bool updated,
                       double seconds) {
    seconds_since_log_ += seconds;
    tokens_since_log_ += gradients.tokens;
    training_seconds_ += seconds;
    ++timed_steps_;
    if (updated) {
        state_.logged_loss_sum += gradients.loss;
        ++state_.logged_steps;
    }
    const auto steps_in_epoch = static_cast<double>(plan_.size());
    const double epoch =
        planned_epoch_ == state_.epoch
            ? static_cast<double>(state_.epoch) + static_cast<double>(state_.step_in_epoch) / steps_in_epoch
            : static_cast<double>(state_.epoch);
    StepReport report{.step = state_.step,
                      .total_steps = total_steps_,
                      .epoch = epoch,
                      .loss = gradients.loss,
                      .learning_rate = learning_rate,
                      .grad_norm = norm,
                      .tokens_per_second = static_cast<double>(tokens_since_log_) / seconds_since_log_,
                      .step_time = seconds,
                      .seconds_left = training_seconds_ / static_cast<double>(timed_steps_) *
                                      static_cast<double>(total_steps_ - state_.step),
                      .memory_bytes = peak_memory_bytes(input_.model->device())};
    if (state_.step % config_.logging_steps == 0 || state_.step == total_steps_) {
        report.logged = true;
        report.loss = state_.logged_steps > 0
                          ? state_.logged_loss_sum / static_cast<double>(state_.logged_steps)
                          : std::nan("");
        Json line = {{"step", report.step},
                     {"epoch", report.epoch},
                     {"loss", number_or_null(report.loss)},
                     {"learning_rate", learning_rate},
                     {"grad_norm", number_or_null(norm)},
                     {"supervised_tokens", state_.supervised_tokens},
                     {"tokens", state_.tokens},
                     {"tokens_per_second", report.tokens_per_second},
                     {"step_time", report.step_time},
                     {"memory_bytes", report.memory_bytes}};
        if (config_.log_rows) line["rows"] = state_.logged_rows;
        metrics_->append(line);
        state_.logged_loss_sum = 0.0;
        state_.logged_steps = 0;
        state_.logged_rows.clear();
        seconds_since_log_ = 0.0;
        tokens_since_log_ = 0;
    }
    callback_.on_step(report);
}

bool Trainer::is_due(const std::optional<std::int64_t>& interval) const {
    if (state_.step == total_steps_) return true;
    return interval ? state_.step % *interval == 0 : is_epoch_end();
}

void Trainer::finish_step() {
    const double best_before = state_.best_eval_loss.value_or(HUGE_VAL);
    if (!input_.eval.empty() && is_due(config_.eval_steps) && !evaluate()) {
        stop_requested_ = true;
        return;
    }
    state_.boundary_pending = false;
    const bool improved = state_.best_eval_loss.value_or(HUGE_VAL) < best_before;
    if (is_due(config_.save_steps) || improved) save_checkpoint();
}

}  // namespace qlora::train
