#include "program.h"

#include <ATen/Version.h>
#include <torch/version.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <new>
#include <system_error>

#include "qlora/cli/run_config.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/kernels/instruction_set.h"
#include "qlora/ops/cpu_arena.h"
#include "qlora/ops/device.h"
#include "qlora/train/memory_plan.h"
#include "version.h"

namespace qlora::cli {
namespace {

int report(ExitCode code, const std::string& message) {
    spdlog::error("{}", message);
    return static_cast<int>(code);
}

int report_out_of_memory(const std::string& advice) {
    return report(ExitCode::kResources, "memory ran out; " + advice);
}

bool is_out_of_memory(const std::error_code& code) {
    return code == std::errc::not_enough_memory || code == std::errc::resource_unavailable_try_again;
}

/// LibTorch's variable that keeps it to older instructions keeps our kernels to them too.
void follow_cpu_capability() {
    using kernels::cpu::InstructionSet;
    if (std::getenv("ATEN_CPU_CAPABILITY") == nullptr) return;
    const std::string capability = at::get_cpu_capability();
    const InstructionSet most = capability == "AVX512" ? InstructionSet::kAvx512
                                : capability == "AVX2" ? InstructionSet::kAvx2
                                                       : InstructionSet::kPortable;
    if (most < kernels::cpu::instruction_set()) kernels::cpu::set_instruction_set(most);
}

}  // namespace

Program::Program(const std::string& name, const std::string& description)
    : app_(std::make_unique<CLI::App>(description, name)), memory_advice_(train::kMemoryAdvice) {
    app_->set_version_flag("--version", [name] { return version_text(name); });
    app_->add_flag("--verbose", verbose_, "also log details");
    app_->add_flag("--quiet", quiet_, "only warnings and errors");
    app_->add_flag_callback(
        "--help-config",
        [] {
            std::cout << config_help_text();
            throw CLI::Success();
        },
        "all settings of run.json with their defaults");
}

Program::~Program() = default;

int Program::run(int argc, char** argv, const std::function<int()>& body) {
    follow_cpu_capability();
    try {
        app_->parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        const int code = app_->exit(error);
        return code == 0 ? 0 : static_cast<int>(ExitCode::kInput);
    }
    ops::install_cpu_arena();
    set_up_log(quiet_ ? Verbosity::kQuiet : verbose_ ? Verbosity::kVerbose : Verbosity::kNormal);
    try {
        return body();
    } catch (const Error& error) {
        return report(error.code(), error.what());
    } catch (const std::bad_alloc&) {
        return report_out_of_memory(memory_advice_);
    } catch (const c10::Error& error) {
        const std::string text = error.what_without_backtrace();
        const bool memory = text.find("can't allocate memory") != std::string::npos ||
                            text.find("out of memory") != std::string::npos;
        if (memory) return report_out_of_memory(memory_advice_);
        return report(ExitCode::kInternal, "a fault of this program, please report it: " + text);
    } catch (const std::filesystem::filesystem_error& error) {
        return report(ExitCode::kInput, error.what());
    } catch (const std::system_error& error) {
        if (is_out_of_memory(error.code())) return report_out_of_memory(memory_advice_);
        return report(ExitCode::kInternal,
                      std::string("a fault of this program, please report it: ") + error.what());
    } catch (const std::exception& error) {
        return report(ExitCode::kInternal,
                      std::string("a fault of this program, please report it: ") + error.what());
    }
}

std::string version_text(const std::string& program) {
    const std::string fault = ops::cuda_fault();
    return program + " " + QLORA_VERSION + ", LibTorch " + TORCH_VERSION +
           ", CPU kernels: " + kernels::cpu::to_string(kernels::cpu::instruction_set()) +
           ", CUDA: " + (fault.empty() ? "ready" : fault);
}

}  // namespace qlora::cli
