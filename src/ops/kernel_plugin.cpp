#include "kernel_plugin.h"

#include <dlfcn.h>

#include "kernel_interface.h"
#include "qlora/kernels/kernel_table.h"

namespace qlora::ops {

std::string kernel_plugin_fault(void* library) {
    const std::string advice = "; build or install the program and it together";
    const auto interface = reinterpret_cast<const char* (*)()>(dlsym(library, "qlora_kernel_interface"));
    if (interface == nullptr || dlsym(library, kernels::kKernelTableSymbol) == nullptr) {
        return " is no plug-in of this program's version (" QLORA_KERNEL_INTERFACE ")" + advice;
    }
    if (const std::string theirs = interface(); theirs != QLORA_KERNEL_INTERFACE) {
        return " is of version " + theirs + ", this program of " QLORA_KERNEL_INTERFACE + advice;
    }
    return {};
}

}  // namespace qlora::ops
