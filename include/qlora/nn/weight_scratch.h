#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>

#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

namespace qlora::nn {

/// A frozen matrix that can be written out again at any time.
class ScratchSource {
  public:
    virtual ~ScratchSource() = default;
    virtual std::vector<std::int64_t> scratch_shape() const = 0;
    /// Brings what `write_scratch` reads up to date, on the current stream.
    virtual void prepare_scratch() const = 0;
    /// Differs from an earlier answer once an adapter has changed: the matrix must be written again.
    virtual std::vector<std::int64_t> scratch_version() const = 0;
    virtual void write_scratch(at::Tensor& out) const = 0;
    /// Tensors that `write_scratch` reads and that may be replaced by newer ones.
    virtual std::vector<at::Tensor> scratch_inputs() const = 0;
};

/// Two buffers for dequantized weights on a device. While a product reads one, the matrix that came next the
/// last time is written into the other, on a stream of its own. A matrix stays valid until the next
/// `acquire`, in the order in which work is queued on the current stream.
class WeightScratch {
  public:
    /// Both buffers hold the largest of the sources.
    WeightScratch(const std::vector<const ScratchSource*>& sources, at::TensorOptions options);

    at::Tensor acquire(const ScratchSource& source);

  private:
    struct Buffer {
        at::Tensor memory;
        const ScratchSource* holds = nullptr;
        std::vector<std::int64_t> version;
        std::optional<c10::Event> written;  ///< on the second stream; until the current one has waited
    };
    using Turn = std::pair<const ScratchSource*, const ScratchSource*>;

    static bool holds(const Buffer& buffer, const ScratchSource& source);
    static at::Tensor view_for(const Buffer& buffer, const ScratchSource& source);
    void wait_for(Buffer& buffer);
    void write_ahead(Buffer& buffer, const ScratchSource& source);

    Buffer buffers_[2];
    std::optional<c10::Stream> second_stream_;  ///< none on the CPU
    std::size_t current_ = 0;
    Turn last_{nullptr, nullptr};                   ///< the two latest
    std::map<Turn, const ScratchSource*> follows_;  ///< which source was asked for after these two
};

}  // namespace qlora::nn
