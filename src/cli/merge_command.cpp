#include <CLI/CLI.hpp>
#include <iostream>
#include <new>

#include "merge_summary.h"
#include "program.h"
#include "qlora/adapters/merge.h"
#include "qlora/cli/commands.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/train/stop_signal.h"
#include "session.h"
#include "threads.h"

namespace qlora::cli {
namespace {

struct MergeFlags {
    std::string model, adapter, output;
    std::string base = "original";
    std::string dtype = "auto";
    bool allow_other_base = false;
};

template <class Enum>
void read_choice(const char* flag, const std::string& text, Enum& out, FaultList& faults) {
    const std::string problem = FieldType<Enum>::read(text, {}, out);
    if (!problem.empty()) faults.add(flag, problem);
}

adapters::MergeRequest merge_request(const MergeFlags& flags) {
    adapters::MergeRequest request{.model = flags.model,
                                   .adapter = flags.adapter,
                                   .output = flags.output,
                                   .allow_other_base = flags.allow_other_base,
                                   .files_to_copy = files_beside_weights(flags.model),
                                   .stop_requested = [] { return train::StopSignal::received() != 0; }};
    FaultList faults;
    read_choice("--base", flags.base, request.base, faults);
    read_choice("--dtype", flags.dtype, request.dtype, faults);
    faults.throw_if_any<ConfigError>("command line");
    return request;
}

int merge(const MergeFlags& flags) {
    const train::StopSignal stop_signal;
    set_threads(std::nullopt);
    const at::AutoGradMode no_gradients(false);
    const adapters::MergeRequest request = merge_request(flags);
    try {
        const adapters::MergeReport report = adapters::merge(request);
        log_merge_summary(report, request);
        std::cout << merge_result(report, request).dump() << std::endl;
        return 0;
    } catch (const adapters::MergeStopped&) {
        spdlog::info("stopped by a signal; {} has not been written", request.output.string());
        return 128 + train::StopSignal::received();
    } catch (const std::bad_alloc&) {
        throw ResourceError(
            "memory ran out while merging, which takes about one tensor of the base (the largest is "
            "usually the embedding) and 100 MB; close other programs");
    }
}

}  // namespace

int merge_main(int argc, char** argv) {
    MergeFlags flags;
    Program program("qlora-merge",
                    "Adds a LoRA adapter to its base model and writes the sum as a model folder.");
    CLI::App& app = program.app();
    app.add_option("--model", flags.model, "the base model's folder")->required();
    app.add_option("--adapter", flags.adapter, "the adapter's folder (PEFT's format)")->required();
    app.add_option("--output", flags.output, "folder for the merged model; new or empty")->required();
    app.add_option("--base", flags.base,
                   "original: the weights on disk; dequantized: the NF4 values trained on")
        ->capture_default_str();
    app.add_option("--dtype", flags.dtype, "auto (each tensor as in the base), float32, bfloat16 or float16")
        ->capture_default_str();
    app.add_flag("--allow-other-base", flags.allow_other_base,
                 "merge although the adapter was trained on another base (shapes must fit)");
    return program.run(argc, argv, [&] { return merge(flags); });
}

}  // namespace qlora::cli
