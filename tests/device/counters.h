#pragma once

#include "device/emulated.h"

#include <ATen/core/Tensor.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace qlora::test {

using kernels::KernelTable;

/// One entry of the emulated kernels, with the number of its calls.
template <auto kEntry>
struct CountedKernel;
template <class... Args, void (*KernelTable::*kEntry)(Args...)>
struct CountedKernel<kEntry> {
    inline static std::int64_t calls = 0;
    static void call(Args... args) {
        ++calls;
        (kernels::emulated::kernel_table().*kEntry)(args...);
    }
};

/// The emulated kernels; calls of the `kEntries` are counted from here on.
template <auto... kEntries>
const KernelTable& counted_kernels() {
    static const KernelTable table = [] {
        KernelTable out = kernels::emulated::kernel_table();
        ((out.*kEntries = &CountedKernel<kEntries>::call), ...);
        return out;
    }();
    ((CountedKernel<kEntries>::calls = 0), ...);
    return table;
}

/// Counts what LibTorch copies while it lives, in any dtype: copies that read the memory of one of `sources`.
/// One at a time.
class CopiesOf {
  public:
    explicit CopiesOf(std::vector<at::Tensor> sources) : sources_(std::move(sources)) {
        watching = this;
        handle_ = at::addGlobalCallback(at::RecordFunctionCallback(&CopiesOf::look)
                                            .needsInputs(true)
                                            .scopes({at::RecordScope::FUNCTION}));
    }
    ~CopiesOf() {
        at::removeCallback(handle_);
        watching = nullptr;
    }
    CopiesOf(const CopiesOf&) = delete;
    CopiesOf& operator=(const CopiesOf&) = delete;

    std::int64_t count() const { return count_; }

  private:
    static std::unique_ptr<at::ObserverContext> look(const at::RecordFunction& function) {
        const bool from_first = std::strcmp(function.name(), "aten::_to_copy") == 0 ||
                                std::strcmp(function.name(), "aten::clone") == 0;
        const bool from_second = std::strcmp(function.name(), "aten::copy_") == 0;
        if (from_first || from_second) watching->count(function.inputs()[from_second ? 1 : 0].toTensor());
        return nullptr;
    }
    void count(const at::Tensor& from) {
        const bool is_watched = std::any_of(sources_.begin(), sources_.end(), [&](const at::Tensor& source) {
            return source.is_alias_of(from);
        });
        if (is_watched) ++count_;
    }

    inline static CopiesOf* watching = nullptr;
    std::vector<at::Tensor> sources_;
    at::CallbackHandle handle_ = 0;
    std::int64_t count_ = 0;
};

}  // namespace qlora::test
