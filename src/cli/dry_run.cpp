#include "dry_run.h"

#include <algorithm>

#include "qlora/adapters/plan.h"
#include "qlora/core/log.h"
#include "qlora/data/preview.h"
#include "qlora/train/memory_choice.h"
#include "row_positions.h"
#include "training_plan.h"

namespace qlora::cli {
namespace {

constexpr std::int64_t kPreviewRows = 3;
constexpr std::int64_t kListedRows = 1000;

std::string adapters_text(const adapters::Plan& plan) {
    std::string out;
    for (const std::string& line : plan.text) out += "  " + line + "\n";
    for (const std::string& path : plan.modules_to_save) out += "  trained whole: " + path + "\n";
    for (const std::string& warning : plan.warnings) out += "  warning: " + warning + "\n";
    return out;
}

}  // namespace

std::string dry_run_report(const RunConfig& config, const ModelFolder& folder,
                           const data::PromptTemplate& prompt_template, const data::Dataset& train,
                           const data::Dataset* eval, at::Device device) {
    const adapters::Plan plan = adapters::plan_adapter(config.peft, folder.config);
    const Positions positions{folder.config, plan.tokens_before()};
    const train::MemoryRequest request =
        memory_request(config, folder.config, row_lengths(train, eval), device);
    const train::MemoryChoice memory =
        train::choose_memory(request, config.training.gradient_checkpointing,
                             train::available_memory_bytes(device), config.training.cache_dequantized);
    const models::CausalLM empty(folder.config, at::kFloat);
    const std::int64_t trainable = request.trained_elements;
    const std::int64_t total = empty.parameter_count();
    std::string out = fmt::format(
        "template: {}\n\nfirst rows:\n{}\ntraining data:\n{}\n", prompt_template.name(),
        data::preview_rows(train, *folder.tokenizer, kPreviewRows), data::describe(train.statistics));
    if (eval != nullptr) out += fmt::format("held-out data:\n{}\n", data::describe(eval->statistics));
    if (config.data.eval_part() != nullptr) {
        out += fmt::format("rows held out of the training files:\n{}\n",
                           data::list_rows(eval->examples, kListedRows));
    }
    if (const std::string warning = position_warning(positions, train, eval); !warning.empty())
        out += "warning: " + warning + "\n";
    std::vector<const data::Dataset*> data{&train};
    if (eval != nullptr) data.push_back(eval);
    if (const std::string note = longrope_note(positions, data); !note.empty()) out += note + "\n";
    out += fmt::format("adapters on:\n{}", adapters_text(plan));
    out += fmt::format("trainable parameters: {} of {} ({:.3f} %)\n", trainable, total,
                       100.0 * static_cast<double>(trainable) / static_cast<double>(total));
    if (const std::string text = embedding_rate_text(config.training, plan); !text.empty())
        out += text + "\n";
    out += memory.text + "\n" + memory.plan.text() + "\n";
    return out;
}

}  // namespace qlora::cli
