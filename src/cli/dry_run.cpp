#include "dry_run.h"

#include <algorithm>
#include <map>

#include "qlora/core/log.h"
#include "qlora/data/preview.h"
#include "qlora/train/memory_choice.h"
#include "row_positions.h"
#include "training_plan.h"

namespace qlora::cli {
namespace {

constexpr std::int64_t kPreviewRows = 3;
constexpr std::int64_t kListedRows = 1000;

/// Adapted modules by kind, "q_proj x 30 (r 8, scaling 2)".
std::string adapters_text(const adapters::MatchResult& match) {
    std::map<std::string, std::int64_t> kinds;
    for (const adapters::Target& target : match.targets) {
        // A router's parameter is its module's "weight".
        const std::size_t last = target.path.rfind('.');
        const bool is_weight = target.is_parameter && target.path.ends_with(".weight");
        const std::string kind =
            target.path.substr((is_weight ? target.path.rfind('.', last - 1) : last) + 1);
        ++kinds[fmt::format("{} (r {}, scaling {:g})", kind, target.r, target.scaling)];
    }
    std::string out;
    for (const auto& [kind, count] : kinds) out += fmt::format("  {} x {}\n", count, kind);
    for (const std::string& path : match.modules_to_save) out += "  trained whole: " + path + "\n";
    for (const std::string& warning : match.warnings) out += "  warning: " + warning + "\n";
    return out;
}

}  // namespace

std::string dry_run_report(const RunConfig& config, const ModelFolder& folder,
                           const data::PromptTemplate& prompt_template, const data::Dataset& train,
                           const data::Dataset* eval, at::Device device) {
    const adapters::MatchResult match =
        adapters::match_targets(config.peft, adapters::adaptable_model(folder.config));
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
    if (const std::string warning = position_warning(folder.config, train, eval); !warning.empty())
        out += "warning: " + warning + "\n";
    std::vector<const data::Dataset*> data{&train};
    if (eval != nullptr) data.push_back(eval);
    if (const std::string note = longrope_note(folder.config, data); !note.empty()) out += note + "\n";
    out += fmt::format("adapters on:\n{}", adapters_text(match));
    out += fmt::format("trainable parameters: {} of {} ({:.3f} %)\n", trainable, total,
                       100.0 * static_cast<double>(trainable) / static_cast<double>(total));
    out += memory.text + "\n" + memory.plan.text() + "\n";
    return out;
}

}  // namespace qlora::cli
