#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "qlora/adapters/bottleneck_config.h"
#include "qlora/models/decoder_spec.h"
#include "qlora/models/hooks.h"
#include "qlora/nn/parameter.h"

namespace qlora::adapters {

/// Where one of the networks of a configuration stands, from shapes alone.
struct BottleneckPlace {
    std::size_t layer = 0, branch = 0;  ///< as in DecoderSpec
    std::string module;                 ///< "model.layers.0.output_adapters"
    models::Bottleneck::Reads reads = models::Bottleneck::Reads::kSum;
};
/// ConfigError, with all faults, where the model's layers are not made for it.
std::vector<BottleneckPlace> bottleneck_places(const BottleneckConfig& config,
                                               const models::DecoderSpec& decoder);

/// int(hidden_size // reduction_factor), at least 1.
std::int64_t bottleneck_width(const BottleneckConfig& config, std::int64_t hidden_size);

struct BottleneckTensor {
    static constexpr const char *kDown = "adapter_down.0.weight", *kUp = "adapter_up.weight";

    std::string name;
    std::vector<std::int64_t> sizes;
};
/// down, its bias, up, its bias.
std::vector<BottleneckTensor> bottleneck_tensors(std::int64_t hidden_size, std::int64_t width);

/// One such network, in fp32.
class BottleneckLayer final : public models::Bottleneck {
  public:
    /// `config` completed. Starts depend on the seed and on `index`, the network's number in the model.
    BottleneckLayer(const BottleneckConfig& config, std::int64_t hidden_size, Reads reads, std::uint64_t seed,
                    std::uint32_t index);

    Reads reads() const override { return reads_; }
    at::Tensor added_to(const at::Tensor& start, const at::Tensor& x,
                        const nn::ForwardContext& context) const override;
    void to(at::Device device) override;

    /// In the order of bottleneck_tensors.
    const std::vector<at::Tensor>& tensors() const { return tensors_; }

  private:
    NonLinearity non_linearity_;
    double scaling_, dropout_;
    Reads reads_;
    std::uint32_t index_;
    std::vector<at::Tensor> tensors_;
};

}  // namespace qlora::adapters
