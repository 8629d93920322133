#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>

#include "compute_dtype.h"
#include "dry_run.h"
#include "flags.h"
#include "held_out_file.h"
#include "log_rows.h"
#include "memory_options.h"
#include "program.h"
#include "progress.h"
#include "qlora/adapters/peft_format.h"
#include "qlora/adapters/plan.h"
#include "qlora/cli/commands.h"
#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/data/data_files.h"
#include "qlora/io/model_folder.h"
#include "qlora/ops/device.h"
#include "qlora/train/router_loss.h"
#include "qlora/train/run_checkpoint.h"
#include "qlora/train/run_folder.h"
#include "qlora/train/stop_signal.h"
#include "qlora/train/trainer.h"
#include "row_positions.h"
#include "run_clock.h"
#include "run_identity.h"
#include "session.h"
#include "status_line.h"
#include "threads.h"
#include "trained_template.h"
#include "training_plan.h"

namespace qlora::cli {
namespace {

struct TrainFlags {
    TextFlag config;
    std::vector<std::string> overrides;
    bool resume = false;
    bool dry_run = false;
};

std::string held_run_fault(const train::RunPaths& paths) {
    return paths.root.string() +
           " already holds a run; add --resume to go on with it, or choose another folder";
}

void check_data_paths(const RunConfig& config, FaultList& faults) {
    const std::size_t before = faults.size();
    const auto need = [&](const std::string& setting, const std::filesystem::path& path) {
        const std::string fault = data::fault_of_data_path(path);
        if (config.given.contains(setting) && !fault.empty()) faults.add(setting, fault);
    };
    for (const std::filesystem::path& path : config.data.train.files) need("data.train", path);
    const std::filesystem::path* held_out = config.data.eval_file();
    if (held_out != nullptr) need("data.eval", *held_out);
    // Equal paths are a fault of the configuration, found before; folders and patterns hide them.
    if (held_out == nullptr || faults.size() > before) return;
    const std::vector<std::filesystem::path>& named = config.data.train.files;
    const bool is_named = std::find(named.begin(), named.end(), *held_out) != named.end();
    if (is_named || !config.given.contains("data.eval") || !config.given.contains("data.train")) return;
    const std::vector<std::filesystem::path> trained = data::data_files(named);
    for (const std::filesystem::path& file : data::data_files({*held_out})) {
        if (std::find(trained.begin(), trained.end(), file) == trained.end()) continue;
        faults.add("data.eval",
                   file.string() +
                       " is one of the files that data.train names, so its loss would say nothing; "
                       "keep it in another folder, or name the training files alone");
    }
}

/// What must be there before anything is read, so that all of it is said at once.
void check_paths(const RunConfig& config, const TrainFlags& flags, FaultList& faults) {
    const auto need = [&](const std::string& setting, const std::filesystem::path& path) {
        std::error_code error;
        const bool is_missing =
            std::filesystem::status(path, error).type() == std::filesystem::file_type::not_found;
        if (config.given.contains(setting) && is_missing) faults.add(setting, "there is no " + path.string());
    };
    if (config.given.contains("model.path")) {
        const std::string fault = io::fault_of_model_folder(config.model.path);
        if (!fault.empty()) faults.add("model.path", fault);
    }
    if (config.model.adapter) need("model.adapter", *config.model.adapter);
    check_data_paths(config, faults);
    // Alone it is said once the lock is held: until then the run may be another process's.
    const train::RunPaths paths{config.training.output_dir};
    const bool starts = !flags.dry_run && !flags.resume && config.given.contains("training.output_dir");
    if (!faults.empty() && starts && paths.holds_run()) {
        faults.add("training.output_dir", held_run_fault(paths));
    }
}

/// The rows of a run.
struct Data {
    data::Dataset train;
    std::optional<data::Dataset> eval;
};

void write_rejected_rows(const train::RunPaths& paths, const Data& data) {
    std::vector<data::RejectedRow> rejected = data.train.rejected;
    if (data.eval) rejected.insert(rejected.end(), data.eval->rejected.begin(), data.eval->rejected.end());
    if (rejected.empty()) return;
    data::write_rejected(paths.rejected(), rejected);
    spdlog::warn("{} bad rows were left out; they are listed in {}", rejected.size(),
                 paths.rejected().string());
}

void print_summary(const train::RunSummary& summary, const RunConfig& config) {
    if (summary.signal != 0) {
        spdlog::info("stopped by a signal after step {} of {}; go on with: qlora-train --config {} --resume",
                     summary.steps, summary.total_steps, config.file.string());
        return;
    }
    spdlog::info("done: {} steps, {} tokens, {}", summary.steps, summary.tokens,
                 duration_text(summary.seconds));
    if (summary.first_eval_loss && summary.last_eval_loss) {
        spdlog::info("held-out loss {:.4f} before, {:.4f} after (best {:.4f} at step {})",
                     *summary.first_eval_loss, *summary.last_eval_loss,
                     summary.best_eval_loss.value_or(*summary.last_eval_loss), summary.best_step);
    }
    spdlog::info("adapter: {}", summary.adapter.string());
    if (const std::string note = adapters::loading_note(config.peft, summary.adapter); !note.empty())
        spdlog::info("{}", note);
    spdlog::info("metrics: {}", (config.training.output_dir / "metrics.jsonl").string());
    spdlog::info("next: qlora-eval --config {}", config.file.string());
}

int stopped_before_training() {
    spdlog::info("stopped by a signal before training began; nothing was changed");
    return 128 + train::StopSignal::received();
}

/// One `qlora-train`: its members are what the steps of `run` leave to those after them.
class Run {
  public:
    Run(RunConfig config, const TrainFlags& flags, Program& program)
        : config_(std::move(config)),
          flags_(flags),
          program_(program),
          paths_{config_.training.output_dir},
          device_(ops::select_device(config_.model.device)) {}

    /// The exit code.
    int run();

  private:
    /// What the device, the CPU and an adapter to go on from decide about the settings.
    void settle_settings();
    void take_folder();
    void read_data();
    data::Dataset read_rows(const std::vector<std::filesystem::path>& files, bool keeps_texts) const;
    /// Of training and evaluation.
    std::vector<const data::Dataset*> all_rows() const;
    void plan_memory();
    /// With `--resume`: the checkpoint to go on from, which must be of this run.
    void find_checkpoint();
    int train();
    /// In the run's folder, for later evaluations.
    void keep_held_out_rows() const;

    const data::PromptTemplate& prompt_template() const { return *prompt_template_; }
    Positions positions() const {
        return {folder_->config, adapters::plan_adapter(config_.peft, folder_->config).tokens_before()};
    }

    RunConfig config_;
    const TrainFlags& flags_;
    Program& program_;
    train::RunPaths paths_;
    at::Device device_;
    std::int64_t threads_ = 0;
    std::optional<train::RunLock> lock_;
    std::optional<ModelFolder> folder_;
    jinja::LocalTime clock_;
    std::optional<data::PromptTemplate> prompt_template_;
    Data data_;
    std::optional<HeldOutRows> held_out_;  ///< of the training files
    std::optional<train::MemoryChoice> memory_;
    std::map<std::string, std::string> metadata_;  ///< of the adapter
    Json identity_;
    std::optional<train::CheckpointFolder> checkpoint_;
};

int Run::run() {
    settle_settings();
    if (!flags_.dry_run) take_folder();
    read_data();
    if (flags_.dry_run) {
        if (config_.model.adapter) check_adapter_base(*config_.model.adapter, *folder_);
        std::cout << dry_run_report(config_, *folder_, prompt_template(), data_.train,
                                    data_.eval ? &*data_.eval : nullptr, device_);
        return 0;
    }
    if (train::StopSignal::received() != 0) return stopped_before_training();
    write_rejected_rows(paths_, data_);
    plan_memory();
    find_checkpoint();
    return train();
}

void Run::settle_settings() {
    check_device(config_, device_.is_cuda());
    if (device_.is_cuda() && config_.training.full_determinism) ops::use_deterministic_algorithms();
    quant::ComputeDtype& dtype = config_.quantization.bnb_4bit_compute_dtype;
    dtype = resolve_compute_dtype(dtype, gpu_of(device_));
    adopt_adapter_config(config_);
    threads_ = set_threads(config_.model.threads);
}

void Run::take_folder() {
    lock_.emplace(paths_);
    if (paths_.holds_run() && !flags_.resume) {
        throw ConfigError("training.output_dir: " + held_run_fault(paths_));
    }
    for (const auto& folder : {paths_.root, paths_.checkpoints()}) train::remove_leftovers(folder);
}

data::Dataset Run::read_rows(const std::vector<std::filesystem::path>& files, bool keeps_texts) const {
    return data::load_dataset(files, config_.data, prompt_template(), folder_->config.vocab_size,
                              {.keeps_texts = keeps_texts, .threads = threads_});
}

void Run::read_data() {
    folder_.emplace(config_.model.path);
    adopt_stored_quantization(config_, folder_->stored);
    train::check_router_loss(config_.training, folder_->config);
    clock_ = flags_.resume ? run_clock(paths_.template_clock()) : jinja::LocalTime::now();
    prompt_template_.emplace(folder_->prompt_template(config_.data, clock_));
    spdlog::info("template: {}", prompt_template().name());
    data_.train = read_rows(config_.data.train.files, false);
    if (config_.data.eval_part() != nullptr) held_out_ = hold_out_rows(config_, data_.train);
    log_rows("training data", data_.train.statistics);
    if (const std::int64_t repeats = data_.train.statistics.held_out_repeats; repeats > 0) {
        spdlog::warn(
            "{} of the {} held-out rows stand among the training rows too, token by token: what they "
            "measure is memory; remove repeated rows from data.train",
            repeats, data_.train.statistics.held_out);
    }
    if (held_out_) {
        data_.eval = load_held_out(*held_out_, {.config = config_,
                                                .prompt_template = prompt_template(),
                                                .embedding_rows = folder_->config.vocab_size,
                                                .threads = threads_});
    } else if (config_.data.eval_file() != nullptr) {
        data_.eval = read_rows({*config_.data.eval_file()}, true);
    }
    if (data_.eval) log_rows("held-out data", data_.eval->statistics);
    require_positions(positions(), all_rows(), "data.max_length:");
}

std::vector<const data::Dataset*> Run::all_rows() const {
    std::vector<const data::Dataset*> out{&data_.train};
    if (data_.eval) out.push_back(&*data_.eval);
    return out;
}

void Run::plan_memory() {
    const RowLengths rows = row_lengths(data_.train, data_.eval ? &*data_.eval : nullptr);
    const std::string too_long =
        position_warning(positions(), data_.train, data_.eval ? &*data_.eval : nullptr);
    if (!too_long.empty()) spdlog::warn("{}", too_long);
    if (const std::string note = longrope_note(positions(), all_rows()); !note.empty())
        spdlog::info("{}", note);
    const std::int64_t available = train::available_memory_bytes(device_);
    memory_ = train::choose_memory(memory_request(config_, folder_->config, rows, device_),
                                   config_.training.gradient_checkpointing, available,
                                   config_.training.cache_dequantized);
    spdlog::info("{}", memory_->text);
    spdlog::info("{}", memory_->plan.text());
    program_.set_memory_advice(train::memory_advice(memory_options(config_, folder_->config, rows, *memory_),
                                                    memory_->plan.needed()));
    train::require_memory(memory_->plan, available, program_.memory_advice());
}

void Run::find_checkpoint() {
    folder_->checkpoint.fingerprint_kept_in(paths_.base_fingerprint());
    if (config_.model.adapter) check_adapter_base(*config_.model.adapter, *folder_);
    metadata_ = adapter_metadata_for(*folder_, config_.quantization);
    metadata_.merge(template_metadata(*folder_, prompt_template()));
    identity_ = run_identity({.config = config_,
                              .metadata = metadata_,
                              .train = data_.train,
                              .eval = data_.eval ? &*data_.eval : nullptr,
                              .device = device_,
                              .threads = threads_});
    if (!flags_.resume) return;
    checkpoint_ = train::newest_whole_checkpoint(paths_.checkpoints());
    if (!checkpoint_) {
        spdlog::info("--resume: {} holds no checkpoint; the run starts at the beginning",
                     paths_.root.string());
        return;
    }
    const Json saved = read_json_file(checkpoint_->path / "run_state.json");
    require_same_run(saved.value("identity", Json()), identity_, config_, checkpoint_->path);
}

int Run::train() {
    // First, because a file of them that cannot be copied is a fault.
    models::CompanionFiles companions = adapter_companions(*folder_, prompt_template());
    LoadedModel loaded =
        load_model(*folder_, config_.quantization,
                   {.config = &config_.peft, .folder = config_.model.adapter, .seed = config_.training.seed},
                   device_, memory_->keep_dense);
    if (!config_.given.contains("training.learning_rate")) {
        spdlog::info("training.learning_rate: {:g}, that of {} where none is given",
                     config_.training.learning_rate, enum_name(adapters::type_of(config_.peft)));
    }
    const std::size_t adapters = loaded.adaptation.plan.targets.size();
    spdlog::info("{} trainable of {} parameters{}", loaded.adaptation.trainable_elements(),
                 loaded.model->parameter_count(), adapters > 0 ? fmt::format(", {} adapters", adapters) : "");
    if (const auto text = embedding_rate_text(config_.training, loaded.adaptation.plan); !text.empty())
        spdlog::info("{}", text);
    const std::unique_ptr<train::Callback> progress = make_progress(program_.quiet());
    train::Trainer trainer(
        {.model = loaded.model.get(),
         .adaptation = &loaded.adaptation,
         .train = std::move(data_.train.examples),
         .eval = data_.eval ? std::move(data_.eval->examples) : std::vector<data::Example>{},
         .tokenizer = folder_->tokenizer.get(),
         .stop_ids = folder_->stop_ids(prompt_template()),
         .plan = batch_plan_options(config_, loaded.adaptation.plan),
         .recomputation = memory_->recomputation,
         .base_model = config_.model.path.string(),
         .metadata = metadata_,
         .companions = std::move(companions),
         .identity = identity_},
        config_.training, *progress);
    if (checkpoint_) {
        trainer.resume_from(checkpoint_->path);
        if (trainer.has_result()) {
            spdlog::info("the run is already finished after {} steps: {}", trainer.state().step,
                         paths_.adapter().string());
            return 0;
        }
    }
    if (train::StopSignal::received() != 0) return stopped_before_training();
    trainer.require_disk_space();
    keep_held_out_rows();
    if (prompt_template().tells_time()) write_run_clock(paths_.template_clock(), clock_);
    write_file_atomically(paths_.run_config(), run_config_json(config_).dump(2) + "\n");
    const train::RunSummary summary = trainer.run();
    print_summary(summary, config_);
    return summary.signal == 0 ? 0 : 128 + summary.signal;
}

void Run::keep_held_out_rows() const {
    const std::filesystem::path file = paths_.held_out_rows();
    if (held_out_) {
        write_held_out_file(file, *held_out_);
    } else if (std::filesystem::exists(file)) {
        std::filesystem::remove(file);  // of a start that ended before the run began
    }
}

int train(const TrainFlags& flags, Program& program) {
    // Never destroyed: a signal that comes after the last save must not make a finished run look killed.
    static const auto* const stop_signal = new train::StopSignal;
    static_cast<void>(stop_signal);
    RunConfig config =
        load_run_config(*flags.config, flags.overrides,
                        [&](const RunConfig& read, FaultList& faults) { check_paths(read, flags, faults); });
    return Run(std::move(config), flags, program).run();
}

}  // namespace

int train_main(int argc, char** argv) {
    TrainFlags flags;
    Program program("qlora-train", "Fine-tunes a causal language model with QLoRA, from one JSON file.");
    add_config_flag(program.app(), flags.config)->required();
    add_set_flag(program.app(), flags.overrides);
    program.app().add_flag("--resume", flags.resume, "go on from the newest whole checkpoint");
    program.app().add_flag("--dry-run", flags.dry_run, "show data, adapters and memory, then stop");
    return program.run(argc, argv, [&] { return train(flags, program); });
}

}  // namespace qlora::cli
