#include <CLI/CLI.hpp>
#include <iostream>

#include "dry_run.h"
#include "memory_options.h"
#include "program.h"
#include "progress.h"
#include "qlora/adapters/peft_format.h"
#include "qlora/cli/commands.h"
#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/data/preview.h"
#include "qlora/ops/device.h"
#include "qlora/train/run_checkpoint.h"
#include "qlora/train/run_folder.h"
#include "qlora/train/stop_signal.h"
#include "qlora/train/trainer.h"
#include "session.h"
#include "threads.h"
#include "training_plan.h"

namespace qlora::cli {
namespace {

struct TrainFlags {
    std::string config;
    std::vector<std::string> overrides;
    bool resume = false;
    bool dry_run = false;
};

std::string held_run_fault(const train::RunPaths& paths) {
    return paths.root.string() +
           " already holds a run; add --resume to go on with it, or choose another folder";
}

/// What must be there before anything is read, so that all of it is said at once.
void check_paths(const RunConfig& config, const TrainFlags& flags, FaultList& faults) {
    const auto need = [&](const std::string& setting, const std::filesystem::path& path) {
        std::error_code error;
        const bool is_missing =
            std::filesystem::status(path, error).type() == std::filesystem::file_type::not_found;
        if (config.given.contains(setting) && is_missing) faults.add(setting, "there is no " + path.string());
    };
    need("model.path", config.model.path);
    if (config.model.adapter) need("model.adapter", *config.model.adapter);
    for (const std::filesystem::path& file : config.data.train.files) need("data.train", file);
    if (config.data.eval) need("data.eval", *config.data.eval);
    // Alone it is said once the lock is held: until then the run may be another process's.
    const train::RunPaths paths{config.training.output_dir};
    const bool starts = !flags.dry_run && !flags.resume && config.given.contains("training.output_dir");
    if (!faults.empty() && starts && paths.holds_run()) {
        faults.add("training.output_dir", held_run_fault(paths));
    }
}

struct Data {
    data::Dataset train;
    std::optional<data::Dataset> eval;
};

Data load_data(const RunConfig& config, const ModelFolder& folder,
               const data::PromptTemplate& prompt_template) {
    Data out;
    out.train =
        data::load_dataset(config.data.train.files, config.data, prompt_template, folder.config.vocab_size);
    spdlog::info("training data: {}", data::summary_line(out.train.statistics));
    if (config.data.eval) {
        out.eval =
            data::load_dataset({*config.data.eval}, config.data, prompt_template, folder.config.vocab_size);
        spdlog::info("held-out data: {}", data::summary_line(out.eval->statistics));
    }
    return out;
}

void write_rejected_rows(const train::RunPaths& paths, const Data& data) {
    std::vector<data::RejectedRow> rejected = data.train.rejected;
    if (data.eval) rejected.insert(rejected.end(), data.eval->rejected.begin(), data.eval->rejected.end());
    if (rejected.empty()) return;
    data::write_rejected(paths.rejected(), rejected);
    spdlog::warn("{} bad rows were left out; they are listed in {}", rejected.size(),
                 paths.rejected().string());
}

/// What must be the same when a run is resumed.
Json run_identity(const RunConfig& config, const std::map<std::string, std::string>& metadata,
                  const Data& data, std::int64_t threads) {
    return {{"base", metadata.at(adapters::kBaseKey)},
            {"tokenizer", metadata.at(adapters::kTokenizerKey)},
            {"data", data.train.fingerprint},
            {"eval_data", data.eval ? Json(data.eval->fingerprint) : Json(nullptr)},
            {"threads", threads},
            {"config", run_config_json(config)}};
}

void require_same_run(const Json& saved, const Json& now, const RunConfig& config,
                      const std::filesystem::path& place) {
    if (!saved.is_object())
        throw CheckpointError(place.string() + ": its run_state.json has no identity of the run");
    FaultList faults;
    const std::pair<const char*, const char*> facts[] = {
        {"base", "the base model's tensors have changed"},
        {"tokenizer", "the tokenizer has changed"},
        {"data", "the training data have changed"},
        {"threads", "the number of threads has changed, which changes the order of sums"}};
    for (const auto& [key, message] : facts) {
        const Json before = saved.value(key, Json());
        if (before != now.at(key)) {
            faults.add(
                key, std::string(message) + " (" + before.dump() + " then, " + now.at(key).dump() + " now)");
        }
    }
    if (saved.value("eval_data", Json()) != now.at("eval_data")) {
        spdlog::warn(
            "the held-out data have changed: losses from before and after {} are not of the same rows",
            place.string());
    }
    const RunConfig before = parse_run_config(saved.value("config", Json()), place, place.string());
    for (const std::string& difference : resume_differences(before, config)) faults.add("", difference);
    faults.throw_if_any<ConfigError>("--resume: " + place.string() + " cannot go on");
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
    spdlog::info("metrics: {}", (config.training.output_dir / "metrics.jsonl").string());
    spdlog::info("next: qlora-eval --config {}", config.file.string());
}

int finish(const train::RunSummary& summary, const RunConfig& config) {
    print_summary(summary, config);
    return summary.signal == 0 ? 0 : 128 + summary.signal;
}

int stopped_before_training() {
    spdlog::info("stopped by a signal before training began; nothing was changed");
    return 128 + train::StopSignal::received();
}

int train(const TrainFlags& flags, Program& program) {
    // Never destroyed: a signal that comes after the last save must not make a finished run look killed.
    static const auto* const stop_signal = new train::StopSignal;
    static_cast<void>(stop_signal);
    RunConfig config =
        load_run_config(flags.config, flags.overrides,
                        [&](const RunConfig& read, FaultList& faults) { check_paths(read, flags, faults); });
    const at::Device device = ops::select_device(config.model.device);
    check_device(config, device.is_cuda());
    if (device.is_cuda() && config.training.full_determinism) ops::use_deterministic_algorithms();
    adopt_adapter_config(config);
    const std::int64_t threads = set_threads(config.model.threads);
    const train::RunPaths paths{config.training.output_dir};

    std::optional<train::RunLock> lock;
    if (!flags.dry_run) {
        lock.emplace(paths);
        if (paths.holds_run() && !flags.resume) {
            throw ConfigError("training.output_dir: " + held_run_fault(paths));
        }
        for (const auto& folder : {paths.root, paths.checkpoints()}) train::remove_leftovers(folder);
    }

    const ModelFolder folder(config.model.path);
    adopt_stored_quantization(config, folder.stored);
    if (config.model.adapter) check_adapter_base(*config.model.adapter, folder);
    const data::PromptTemplate prompt_template = folder.prompt_template(config.data.template_);
    spdlog::info("template: {}", prompt_template.name());
    Data data = load_data(config, folder, prompt_template);
    if (flags.dry_run) {
        std::cout << dry_run_report(config, folder, prompt_template, data.train,
                                    data.eval ? &*data.eval : nullptr, device);
        return 0;
    }
    if (train::StopSignal::received() != 0) return stopped_before_training();
    write_rejected_rows(paths, data);

    const std::map<std::string, std::string> metadata = adapter_metadata_for(folder, config.quantization);
    const Json identity = run_identity(config, metadata, data, threads);
    std::optional<train::CheckpointFolder> checkpoint;
    if (flags.resume) {
        checkpoint = train::newest_whole_checkpoint(paths.checkpoints());
        if (checkpoint) {
            const Json saved = read_json_file(checkpoint->path / "run_state.json");
            require_same_run(saved.value("identity", Json()), identity, config, checkpoint->path);
        } else {
            spdlog::info("--resume: {} holds no whole checkpoint; the run starts at the beginning",
                         paths.root.string());
        }
    }

    const RowLengths rows = row_lengths(data.train);
    const std::int64_t available = train::available_memory_bytes(device);
    const train::MemoryChoice memory = train::choose_memory(
        memory_request(config, folder.config, rows, device), config.training.gradient_checkpointing,
        available, config.training.cache_dequantized);
    spdlog::info("{}", memory.text);
    spdlog::info("{}", memory.plan.text());
    program.set_memory_advice(train::memory_advice(
        memory_options(config, folder.config, rows, memory, device), memory.plan.needed()));
    train::require_memory(memory.plan, available, program.memory_advice());

    LoadedModel loaded = load_model(folder, config.quantization, &config.peft, config.model.adapter,
                                    config.training.seed, device, memory.keep_dense);
    spdlog::info("{} trainable of {} parameters, {} adapters", loaded.adaptation.trainable_elements(),
                 loaded.model->parameter_count(), loaded.adaptation.targets.size());
    const std::unique_ptr<train::Callback> progress = make_progress(program.quiet());
    train::Trainer trainer({.model = loaded.model.get(),
                            .adaptation = &loaded.adaptation,
                            .train = std::move(data.train.examples),
                            .eval = data.eval ? std::move(data.eval->examples) : std::vector<data::Example>{},
                            .tokenizer = folder.tokenizer.get(),
                            .stop_ids = folder.stop_ids(prompt_template),
                            .plan = batch_plan_options(config),
                            .recomputation = memory.recomputation,
                            .base_model = config.model.path.string(),
                            .metadata = metadata,
                            .files_to_copy = tokenizer::tokenizer_files(folder.folder),
                            .identity = identity},
                           config.training, *progress);
    if (checkpoint) {
        trainer.resume_from(checkpoint->path);
        if (trainer.has_result()) {
            spdlog::info("the run is already finished after {} steps: {}", trainer.state().step,
                         paths.adapter().string());
            return 0;
        }
    }
    if (train::StopSignal::received() != 0) return stopped_before_training();
    trainer.require_disk_space();
    write_file_atomically(paths.run_config(), run_config_json(config).dump(2) + "\n");
    return finish(trainer.run(), config);
}

}  // namespace

int train_main(int argc, char** argv) {
    TrainFlags flags;
    Program program("qlora-train", "Fine-tunes a causal language model with QLoRA, from one JSON file.");
    program.app().add_option("--config", flags.config, "the run's JSON file")->required();
    program.app().add_option("--set", flags.overrides, "overrides a setting: section.key=value")->take_all();
    program.app().add_flag("--resume", flags.resume, "go on from the newest whole checkpoint");
    program.app().add_flag("--dry-run", flags.dry_run, "show data, adapters and memory, then stop");
    return program.run(argc, argv, [&] { return train(flags, program); });
}

}  // namespace qlora::cli
