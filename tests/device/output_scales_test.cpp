// Factors on outputs and inputs of linears on the kernels of a device, against the CPU.
#include "device/emulated.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "adapters/ia3_layer.h"
#include "ops/reference.h"
#include "qlora/adapters/lora.h"
#include "qlora/nn/linear_group.h"
#include "qlora/ops/decoder_nodes.h"
#include "qlora/ops/device.h"

namespace qlora::ops {
namespace {

using test::difference;
using test::gaussian;

constexpr std::int64_t kInputs = 40, kOutputs = 24 + 16 + 8;

enum class Method { kDora, kIa3, kAdapterBias };

struct DeviceCase {
    const char* name;
    Method method;
    double dropout = 0.0;
};

std::ostream& operator<<(std::ostream& out, const DeviceCase& value) {
    return out << value.name;
}

/// y, the gradient of x, then of all parameters.
std::vector<at::Tensor> pass(const DeviceCase& value, at::ScalarType dtype) {
    nn::Linear linears[3] = {{"q", kInputs, 24, true}, {"k", kInputs, 16, true}, {"v", kInputs, 8, false}};
    std::vector<at::Tensor> parameters;
    for (std::size_t i = 0; i < 3; ++i) {
        nn::Linear& linear = linears[i];
        const auto site = static_cast<std::uint32_t>(i);
        linear.set_weight(
            nn::Weight((gaussian({linear.out_features(), kInputs}, 10 + i) * 0.2).to(dtype), dtype));
        if (linear.has_bias()) {
            linear.set_bias(gaussian({linear.out_features()}, 20 + i));
            linear.train_bias();
            parameters.push_back(linear.bias());
        }
        std::unique_ptr<nn::LinearAdapter> adapter;
        if (value.method == Method::kIa3) {
            if (i == 0) continue;
            auto layer = std::make_unique<adapters::Ia3Layer>(kInputs, linear.out_features(), false);
            layer->draw(3, site);
            adapter = std::move(layer);
        } else {
            if (i == 1) continue;
            adapters::LoraExtras extras;
            if (value.method == Method::kDora) extras.dora_base = &linear.weight();
            extras.bias = value.method == Method::kAdapterBias;
            auto layer = std::make_unique<adapters::LoraLayer>(kInputs, linear.out_features(), 3, 1.5,
                                                               value.dropout, site, extras);
            layer->initialize(adapters::InitLoraWeights::kRandom, 3);
            const at::AutoGradMode off(false);
            for (const auto& [name, tensor] : layer->parameters()) {
                at::Tensor changed = tensor;
                if (tensor.dim() == 1) changed.add_(gaussian(tensor.sizes(), 30 + i) * 0.2);
            }
            adapter = std::move(layer);
        }
        for (const auto& [name, tensor] : adapter->parameters()) parameters.push_back(tensor);
        linear.set_adapter(std::move(adapter));
    }
    nn::LinearGroup group({&linears[0], &linears[1], &linears[2]});
    group.move_weights_together();
    const nn::ForwardContext context{.training = true, .seed = 5, .micro_step = 2};
    const at::Tensor x = gaussian({11, kInputs}, 1).to(dtype).requires_grad_(),
                     residual = gaussian({11, kOutputs}, 2).to(dtype);
    const at::Tensor y = project_residual(x, residual, group.projections(context));
    torch::autograd::backward({y}, {gaussian({11, kOutputs}, 3).to(dtype)});
    std::vector<at::Tensor> out = {y.detach(), x.grad()};
    for (const at::Tensor& parameter : parameters) out.push_back(parameter.grad());
    return out;
}

class ScalesOfADevice : public testing::TestWithParam<DeviceCase> {};
INSTANTIATE_TEST_SUITE_P(Methods, ScalesOfADevice,
                         testing::Values(DeviceCase{"dora", Method::kDora},
                                         DeviceCase{"dora_dropout", Method::kDora, 0.3},
                                         DeviceCase{"ia3", Method::kIa3},
                                         DeviceCase{"adapter_bias", Method::kAdapterBias},
                                         DeviceCase{"adapter_bias_dropout", Method::kAdapterBias, 0.3}),
                         [](const auto& chosen) { return chosen.param.name; });

TEST_P(ScalesOfADevice, are_those_of_the_cpu) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
        const std::vector<at::Tensor> cpu = pass(GetParam(), dtype);
        std::vector<at::Tensor> device;
        {
            const CpuKernelsGuard guard(kernels::emulated::kernel_table());
            device = pass(GetParam(), dtype);
        }
        ASSERT_EQ(device.size(), cpu.size());
        // fp32: the same sums in another order. bf16: some roundings at other places, of values that a factor
        // makes larger.
        const double bound = dtype == at::kFloat ? 4e-6 : 6 * test::kBf16Rounding;
        for (std::size_t i = 0; i < cpu.size(); ++i)
            EXPECT_LE(difference(device[i], cpu[i], 0.1), bound) << "tensor " << i;
    }
}

TEST(InputScaleOfADevice, is_that_of_the_cpu) {
    const auto run = [](at::ScalarType dtype) {
        nn::Linear linear("down", kInputs, 16, false);
        linear.set_weight(nn::Weight((gaussian({16, kInputs}, 1) * 0.2).to(dtype), dtype));
        auto layer = std::make_unique<adapters::Ia3Layer>(kInputs, 16, true);
        layer->draw(3, 1);
        const at::Tensor vector = layer->vector();
        linear.set_adapter(std::move(layer));
        nn::LinearGroup group({&linear});
        group.move_weights_together();
        const at::Tensor entered = gaussian({11, 2 * kInputs}, 2).to(dtype).requires_grad_();
        const at::Tensor y = activate_project_residual(entered, gaussian({11, 16}, 3).to(dtype),
                                                       group.projections({.training = true}), {});
        torch::autograd::backward({y}, {gaussian({11, 16}, 4).to(dtype)});
        return std::vector<at::Tensor>{y.detach(), entered.grad(), vector.grad()};
    };
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
        const std::vector<at::Tensor> cpu = run(dtype);
        const CpuKernelsGuard guard(kernels::emulated::kernel_table());
        const std::vector<at::Tensor> device = run(dtype);
        for (std::size_t i = 0; i < cpu.size(); ++i) {
            EXPECT_LE(difference(device[i], cpu[i]), dtype == at::kFloat ? 4e-6 : 4 * test::kBf16Rounding)
                << "tensor " << i;
        }
    }
}

}  // namespace
}  // namespace qlora::ops
