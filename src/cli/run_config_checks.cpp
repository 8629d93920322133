#include "run_config_checks.h"

#include <algorithm>
#include <cmath>

#include "qlora/core/device_name.h"
#include "qlora/train/lr_scheduler.h"

namespace qlora::cli {
namespace {

using train::LrSchedulerType;

void check_model(const RunConfig& config, FaultList& faults) {
    const std::string& device = config.model.device;
    if (!parse_device_name(device)) faults.add("model.device", wrong_device_name(device));
    const bool is_float16 = config.quantization.bnb_4bit_compute_dtype == quant::ComputeDtype::kFloat16;
    if (is_float16 && device == "cpu") faults.add("quantization.bnb_4bit_compute_dtype", kFloat16NeedsGpu);
}

void check_quantization(const quant::QuantConfig& config, FaultList& faults) {
    const bool is_blocksize_set = config.bnb_4bit_blocksize != quant::QuantConfig{}.bnb_4bit_blocksize;
    if (!config.load_in_4bit && is_blocksize_set) {
        faults.add("quantization.bnb_4bit_blocksize", "has no effect with load_in_4bit false");
    }
}

void check_data(const RunConfig& config, FaultList& faults) {
    const data::DataConfig& data = config.data;
    if (data.one_row_per_answer && data.train_on == data::TrainOn::kAll) {
        faults.add("data.one_row_per_answer",
                   "would train the turns before an answer once for each answer behind them, with train_on "
                   "\"all\"; leave out one of them");
    }
    if (data.one_row_per_answer && data.eval_part() != nullptr) {
        faults.add("data.eval",
                   "with data.one_row_per_answer held-out rows must be a file: answers of one conversation "
                   "would be trained and held out");
    }
    if (!data.max_tokens_per_batch) return;
    if (*data.max_tokens_per_batch < data.max_length) {
        faults.add("data.max_tokens_per_batch",
                   "is " + std::to_string(*data.max_tokens_per_batch) + ", below data.max_length (" +
                       std::to_string(data.max_length) + "): the longest row would not fit");
    }
    if (config.training.per_device_train_batch_size != 1) {
        faults.add("training.per_device_train_batch_size",
                   "has no effect with data.max_tokens_per_batch, which sets the micro-batches by tokens; "
                   "leave out one "
                   "of them");
    }
}

void check_schedule(const train::TrainingConfig& training, FaultList& faults) {
    train::check_lr_scheduler(training, "training.lr_scheduler_kwargs", faults);
    if (training.lr_scheduler_type == LrSchedulerType::kConstant && training.warmup_steps != 0) {
        faults.add("training.warmup_steps",
                   "has no effect with lr_scheduler_type \"constant\"; use \"constant_with_warmup\" or leave "
                   "it out");
    }
    if (training.warmup_steps > 1 && std::floor(training.warmup_steps) != training.warmup_steps) {
        faults.add("training.warmup_steps", "must be a whole number of steps, or a share below 1");
    }
    if (training.max_steps == 0)
        faults.add("training.max_steps", "must be at least 1, or -1 for whole epochs");
}

void check_training(const RunConfig& config, FaultList& faults) {
    const train::TrainingConfig& training = config.training;
    check_schedule(training, faults);
    if (training.loraplus_lr_ratio && adapters::type_of(config.peft) != adapters::PeftType::kLora)
        faults.add("training.loraplus_lr_ratio", "is a ratio between two matrices of peft_type LORA");
    if (training.loraplus_lr_embedding && !training.loraplus_lr_ratio)
        faults.add("training.loraplus_lr_embedding",
                   "has no effect without training.loraplus_lr_ratio, which switches LoRA+ on");
    if (!config.data.eval && training.eval_steps) {
        faults.add("training.eval_steps", "has no effect without data.eval, the held-out rows");
    }
    if (!config.data.eval && training.load_best_model_at_end) {
        faults.add("training.load_best_model_at_end",
                   "needs data.eval, the held-out rows that say which one is best");
    }
    const auto& files = config.data.train.files;
    const std::filesystem::path* held_out = config.data.eval_file();
    if (held_out != nullptr && std::find(files.begin(), files.end(), *held_out) != files.end()) {
        faults.add("data.eval",
                   "is a training file too, so its loss would say nothing; a number holds rows out of the "
                   "training files: a share below 1, or how many");
    }
}

}  // namespace

void resolve_defaults(RunConfig& config, ReadState& state) {
    train::TrainingConfig& training = config.training;
    const bool has_steps = state.given.contains("training.warmup_steps");
    if (training.warmup_ratio && has_steps) {
        state.faults.add("training.warmup_ratio",
                         "is given besides training.warmup_steps; they mean the same, leave one out");
    } else if (training.warmup_ratio) {
        training.warmup_steps = *training.warmup_ratio;
    } else if (!has_steps && training.lr_scheduler_type == LrSchedulerType::kConstant) {
        training.warmup_steps = 0;
    }
    training.warmup_ratio.reset();
    if (!state.given.contains("training.learning_rate"))
        training.learning_rate = adapters::default_learning_rate(config.peft);
}

void check_combinations(const RunConfig& config, FaultList& faults) {
    check_model(config, faults);
    check_quantization(config.quantization, faults);
    adapters::check_config(config.peft, "peft", faults);
    check_data(config, faults);
    check_training(config, faults);
}

}  // namespace qlora::cli
