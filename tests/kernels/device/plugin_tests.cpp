// The plug-in library loads on any machine; without a GPU its kernels refuse in one sentence.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <stdexcept>

#include "kernel_interface.h"
#include "qlora/kernels/kernel_table.h"

namespace qlora::kernels {
namespace {

const KernelTable* load_table() {
    void* library = dlopen(QLORA_PLUGIN, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return nullptr;
    const auto function = reinterpret_cast<KernelTableFunction>(dlsym(library, kKernelTableSymbol));
    return function != nullptr ? function() : nullptr;
}

TEST(Plugin, hands_over_every_kernel) {
    const KernelTable* table = load_table();
    ASSERT_NE(table, nullptr) << dlerror();
    EXPECT_STREQ(table->backend, "cuda");
    // Behind `backend` there are function pointers alone.
    const auto* functions = reinterpret_cast<void* const*>(&table->compute_capability);
    const std::size_t count =
        (sizeof(KernelTable) - offsetof(KernelTable, compute_capability)) / sizeof(void*);
    for (std::size_t i = 0; i < count; ++i) EXPECT_NE(functions[i], nullptr) << "function " << i;
}

TEST(Plugin, names_its_version_and_headers) {
    void* library = dlopen(QLORA_PLUGIN, RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(library, nullptr) << dlerror();
    const auto interface = reinterpret_cast<const char* (*)()>(dlsym(library, "qlora_kernel_interface"));
    ASSERT_NE(interface, nullptr);
    EXPECT_STREQ(interface(), QLORA_KERNEL_INTERFACE);
}

TEST(Plugin, without_a_gpu_a_launch_says_why) {
    const KernelTable* table = load_table();
    ASSERT_NE(table, nullptr);
    if (table->compute_capability(0) > 0) GTEST_SKIP() << "this machine has a GPU";
    float values[16] = {};
    try {
        table->dropout({.x = values, .n = 16, .p = 0.5F, .y = values, .type = FloatType::kF32}, nullptr);
        FAIL() << "a kernel ran without a GPU";
    } catch (const std::runtime_error& error) {
        EXPECT_NE(std::string(error.what()).find("CUDA refused to launch the kernel drop_groups"),
                  std::string::npos)
            << error.what();
    }
}

}  // namespace
}  // namespace qlora::kernels
