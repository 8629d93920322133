#include <CLI/CLI.hpp>

#include "flags.h"
#include "merge_summary.h"
#include "model_writing.h"
#include "program.h"
#include "qlora/adapters/merge.h"
#include "qlora/adapters/peft_format.h"
#include "qlora/cli/commands.h"
#include "qlora/core/error.h"
#include "trained_template.h"

namespace qlora::cli {
namespace {

struct MergeFlags {
    TextFlag model, adapter, output, base, dtype;
    bool allow_other_base = false;
};

Json merge(const MergeFlags& flags, const std::function<bool()>& stop_requested) {
    adapters::MergeRequest request;
    request.model = *flags.model;
    request.adapter = *flags.adapter;
    request.output = *flags.output;
    request.allow_other_base = flags.allow_other_base;
    request.stop_requested = stop_requested;
    FaultList faults;
    read_choice("--base", flags.base, request.base, faults);
    read_choice("--dtype", flags.dtype, request.dtype, faults);
    faults.throw_if_any<ConfigError>("command line");
    adapters::require_adapter_folder(request.adapter);
    request.companions = merged_companions(request.model, request.adapter);
    const adapters::MergeReport report = adapters::merge(request);
    log_merge_summary(report, request);
    return merge_result(report, request);
}

}  // namespace

int merge_main(int argc, char** argv) {
    MergeFlags flags;
    Program program("qlora-merge",
                    "Adds a LoRA adapter to its base model and writes the sum as a model folder.");
    program.set_memory_advice(
        "merging takes about one tensor of the base (the largest is usually the embedding) and 100 MB; close "
        "other programs");
    CLI::App& app = program.app();
    add_model_flag(app, flags.model)->required();
    add_adapter_flag(app, flags.adapter)->required();
    add_output_flag(app, flags.output)->required();
    app.add_option("--base", flags.base,
                   "original (the weights on disk, the default) or dequantized (the NF4 values trained on)");
    app.add_option("--dtype", flags.dtype,
                   "auto (each tensor as in the base, the default), float32, bfloat16 or float16");
    app.add_flag("--allow-other-base", flags.allow_other_base,
                 "merge although the adapter was trained on another base (shapes must fit)");
    return program.run(argc, argv, [&] {
        return write_model_folder(*flags.output, [&](const std::function<bool()>& stop_requested) {
            return merge(flags, stop_requested);
        });
    });
}

}  // namespace qlora::cli
