// What a device is not asked to do again and again: launches and copies of the emulated model, counted.
#include "device/counters.h"

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <numeric>

#include "qlora/adapters/inject.h"
#include "qlora/data/batch.h"
#include "qlora/eval/generate.h"
#include "qlora/eval/token_batch.h"
#include "qlora/models/base_loader.h"
#include "qlora/ops/device.h"
#include "support/tiny_model.h"

namespace qlora {
namespace {

using test::CopiesOf;
using test::CountedKernel;
using test::TinyModel;

/// A model with adapters on kernels of a device.
struct DeviceModel {
    DeviceModel(const TinyModel& tiny, bool quantized, const kernels::KernelTable& table) : guard(table) {
        tiny.write(folder.path());
        const io::Checkpoint checkpoint(folder.path());
        quant::QuantConfig quantization;
        quantization.load_in_4bit = quantized;
        model = models::load_base(checkpoint, models::load_decoder_spec(folder.path()),
                                  {.quantization = quantization, .compute_dtype = at::kBFloat16});
        adapters::LoraConfig lora;
        lora.r = 3;
        lora.target_modules = "all-linear";
        lora.init_lora_weights = adapters::InitLoraWeights::kRandom;
        adaptation = adapters::inject(*model, lora, 5);
    }

    double train_pass() const {
        data::Example example;
        example.ids.resize(11);
        std::iota(example.ids.begin(), example.ids.end(), 3);
        example.supervised.assign(11, 1);
        example.supervised[0] = 0;
        const data::Example* const rows[] = {&example};
        const models::TokenBatch batch = eval::token_batch(data::collate(rows), model->device());
        const at::Tensor loss =
            model->loss_sum(model->forward(batch, {.training = true}, batch.rows), batch.targets);
        loss.backward();
        return loss.item<double>();
    }
    void change_adapters() const {
        const at::AutoGradMode no_gradients(false);
        for (const auto& parameter : adaptation.parameters) at::Tensor(parameter.tensor).add_(0.125);
    }
    /// The memory in which the weights of all linears lie.
    std::vector<at::Tensor> weights() const {
        std::vector<at::Tensor> out;
        for (const nn::Linear* linear : model->linears())
            out.push_back(linear->weight().rows_as(0, 1, at::kBFloat16));
        return out;
    }

    test::TempDir folder;
    ops::CpuKernelsGuard guard;
    std::unique_ptr<models::CausalLM> model;
    adapters::Adaptation adaptation;
};

constexpr auto kDequantizeRows = &kernels::KernelTable::dequantize_rows_nf4;
constexpr auto kDequantize = &kernels::KernelTable::dequantize_blockwise_nf4;
constexpr auto kMatvec = &kernels::KernelTable::matvec_nf4;

TEST(CountsOnADevice, a_micro_batch_goes_up_in_one_copy) {
    const std::vector<std::int64_t> ids{5, 6, 7}, positions{0, 1, 0}, offsets{0, 2, 3}, rows{1}, targets{6};
    const models::TokenLists lists{
        .ids = ids, .positions = positions, .offsets = offsets, .rows = rows, .targets = targets};
    std::int64_t copies = 0;
    static std::int64_t* counted = nullptr;
    counted = &copies;
    const at::CallbackHandle handle = at::addGlobalCallback(at::RecordFunctionCallback(
        [](const at::RecordFunction& function) -> std::unique_ptr<at::ObserverContext> {
            if (std::strcmp(function.name(), "aten::_to_copy") == 0) ++*counted;
            return nullptr;
        }));
    const models::TokenBatch there = models::upload(lists, at::kMeta);
    at::removeCallback(handle);
    EXPECT_EQ(copies, 1);
    for (const at::Tensor& part :
         {there.ids, there.positions, there.rows, there.targets, there.device_offsets}) {
        EXPECT_TRUE(part.is_meta());
        EXPECT_TRUE(part.is_alias_of(there.ids));
    }
}

TEST(CountsOnADevice, dense_weights_are_not_copied_for_a_product) {
    DeviceModel device({.dtype = io::DType::kBF16}, false, kernels::emulated::kernel_table());
    {
        const CopiesOf copies(device.weights());
        device.model->keep_dense(false);
        EXPECT_EQ(copies.count(), std::ssize(device.model->linears())) << "once, to where adapters join them";
    }
    const double before = device.train_pass();
    const CopiesOf copies(device.weights());
    device.change_adapters();
    EXPECT_NE(device.train_pass(), before);
    EXPECT_EQ(copies.count(), 0);
}

TEST(CountsOnADevice, weights_of_norms_are_cast_when_they_are_loaded_alone) {
    const DeviceModel device({.model_type = "qwen3", .dtype = io::DType::kBF16}, true,
                             kernels::emulated::kernel_table());
    std::vector<at::Tensor> norms;
    for (const nn::Norm* norm : device.model->norms()) norms.push_back(norm->weight());
    const CopiesOf copies(norms);
    device.train_pass();
    EXPECT_EQ(copies.count(), 0);
    norms.front().to(at::kDouble);
    EXPECT_GT(copies.count(), 0) << "a copy is seen";
}

TEST(CountsOnADevice, later_tokens_of_many_prompts_dequantize_no_weight) {
    const kernels::KernelTable& table = test::counted_kernels<kDequantizeRows, kDequantize, kMatvec>();
    const DeviceModel device({.layers = 1}, true, table);
    struct Calls {
        std::int64_t dequantized = 0, multiplied = 0;
    };
    const auto calls_for = [&](std::int64_t tokens) {
        const auto now = [] {
            return Calls{CountedKernel<kDequantizeRows>::calls + CountedKernel<kDequantize>::calls,
                         CountedKernel<kMatvec>::calls};
        };
        const Calls before = now();
        const std::vector<std::vector<tokenizer::TokenId>> prompts(ops::kFewRows + 1, {3});
        eval::generate(*device.model, prompts, {.max_new_tokens = tokens});
        const Calls after = now();
        return Calls{after.dequantized - before.dequantized, after.multiplied - before.multiplied};
    };
    const Calls few = calls_for(2), many = calls_for(4);
    EXPECT_GT(few.dequantized, 0) << "the prompts themselves";
    EXPECT_EQ(many.dequantized, few.dequantized);
    EXPECT_GT(few.multiplied, 0);
    EXPECT_EQ(many.multiplied, 3 * few.multiplied);
}

}  // namespace
}  // namespace qlora
