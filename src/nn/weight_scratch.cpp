#include "qlora/nn/weight_scratch.h"

#include <ATen/DeviceAccelerator.h>
#include <ATen/ops/empty.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>

namespace qlora::nn {
namespace {

std::int64_t elements_of(const ScratchSource& source) {
    const std::vector<std::int64_t> shape = source.scratch_shape();
    return shape[0] * shape[1];
}

}  // namespace

WeightScratch::WeightScratch(const std::vector<const ScratchSource*>& sources, at::TensorOptions options) {
    std::int64_t most = 0;
    for (const ScratchSource* source : sources) most = std::max(most, elements_of(*source));
    for (Buffer& buffer : buffers_) buffer.memory = at::empty({most}, options);
    if (options.device().is_cuda()) {
        second_stream_ = c10::impl::VirtualGuardImpl(at::kCUDA).getNewStream(options.device());
    }
}

bool WeightScratch::holds(const Buffer& buffer, const ScratchSource& source) {
    return buffer.holds == &source && buffer.version == source.scratch_version();
}

at::Tensor WeightScratch::view_for(const Buffer& buffer, const ScratchSource& source) {
    return buffer.memory.narrow(0, 0, elements_of(source)).view(source.scratch_shape());
}

void WeightScratch::wait_for(Buffer& buffer) {
    if (!buffer.written) return;
    buffer.written->block(at::accelerator::getCurrentStream(buffer.memory.device().index()));
    buffer.written.reset();
}

void WeightScratch::write_ahead(Buffer& buffer, const ScratchSource& source) {
    source.prepare_scratch();
    if (holds(buffer, source)) return;
    at::Tensor out = view_for(buffer, source);
    if (second_stream_) {
        // All that reads the buffer, and all that made the source's inputs, is queued on the current stream.
        c10::Event ready(at::kCUDA);
        ready.record(at::accelerator::getCurrentStream(buffer.memory.device().index()));
        ready.block(*second_stream_);
        const c10::StreamGuard guard(*second_stream_);
        source.write_scratch(out);
        for (const at::Tensor& input : source.scratch_inputs()) input.record_stream(*second_stream_);
        buffer.written.emplace(at::kCUDA);
        buffer.written->record(*second_stream_);
    } else {
        source.write_scratch(out);
    }
    buffer.holds = &source;
    buffer.version = source.scratch_version();
}

at::Tensor WeightScratch::acquire(const ScratchSource& source) {
    source.prepare_scratch();
    if (!holds(buffers_[current_], source)) current_ = 1 - current_;
    Buffer& buffer = buffers_[current_];
    wait_for(buffer);
    if (!holds(buffer, source)) {
        at::Tensor out = view_for(buffer, source);
        source.write_scratch(out);
        buffer.holds = &source;
        buffer.version = source.scratch_version();
    }
    if (last_.second != nullptr) follows_[last_] = &source;
    last_ = {last_.second, &source};
    const auto next = follows_.find(last_);
    if (next != follows_.end() && next->second != &source) {
        write_ahead(buffers_[1 - current_], *next->second);
    }
    return view_for(buffer, source);
}

}  // namespace qlora::nn
