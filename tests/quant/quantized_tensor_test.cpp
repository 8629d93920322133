#include "qlora/quant/quantized_tensor.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "qlora/core/error.h"
#include "qlora/io/safetensors.h"
#include "qlora/kernels/block_layout.h"
#include "qlora/kernels/codebook.h"
#include "qlora/kernels/dynamic_code.h"
#include "qlora/quant/bnb_matrix.h"
#include "qlora/quant/tensor_bytes.h"
#include "support/dequantized.h"

namespace qlora::quant {
namespace {

// 7,733 values: blocks run across row ends, the last one is short, and with 64 values a block there are more
// blocks than half of one nested block.
constexpr std::int64_t kRows = 37, kColumns = 209;

at::Tensor random_matrix(std::uint64_t seed = 1) {
    return at::randn({kRows, kColumns}, at::make_generator<at::CPUGeneratorImpl>(seed), at::kFloat);
}

io::TensorView view_of(const at::Tensor& values, const std::string& name = "layer.weight") {
    return {name, dtype_of(values.scalar_type()), values.sizes().vec(), bytes_of(values)};
}

/// The scale of a block, by the formula of the format.
float scale_of(const QuantizedTensor& tensor, std::int64_t block) {
    if (!tensor.double_quantized()) return tensor.absmax[block].item<float>();
    const auto code = tensor.absmax[block].item<std::uint8_t>();
    const float nested = tensor.nested_absmax[block / kernels::kNestedBlocksize].item<float>();
    return kernels::kSignedDynamicMap.value[code] * nested + tensor.nested_offset;
}

/// The matrix that codes and scales stand for, value by value.
at::Tensor obvious_values(const QuantizedTensor& tensor) {
    at::Tensor out = at::empty({tensor.rows, tensor.columns}, at::kFloat);
    float* values = out.mutable_data_ptr<float>();
    const auto* codes = tensor.codes.const_data_ptr<std::uint8_t>();
    for (std::int64_t i = 0; i < out.numel(); ++i)
        values[i] = kernels::decode_nf4(kernels::code_at(codes, i)) * scale_of(tensor, i / tensor.blocksize);
    return out;
}

class Quantized : public testing::TestWithParam<QuantConfig> {};
INSTANTIATE_TEST_SUITE_P(Settings, Quantized,
                         testing::Values(QuantConfig{}, QuantConfig{.bnb_4bit_use_double_quant = false},
                                         QuantConfig{.bnb_4bit_blocksize = 32},
                                         QuantConfig{.bnb_4bit_use_double_quant = false,
                                                     .bnb_4bit_blocksize = 4096}));

TEST_P(Quantized, ValuesAreCodesTimesScales) {
    const QuantizedTensor packed = quantize(view_of(random_matrix()), GetParam());
    EXPECT_EQ(packed.codes.numel(), (kRows * kColumns + 1) / 2);
    EXPECT_TRUE(at::equal(test::dequantized(packed, at::kFloat), obvious_values(packed)));
}

TEST_P(Quantized, EachValueIsTheNearestOfItsBlock) {
    const at::Tensor original = random_matrix();
    QuantConfig config = GetParam();
    config.bnb_4bit_use_double_quant = false;  // whose scales are not the largest values
    const QuantizedTensor packed = quantize(view_of(original), config);
    const at::Tensor values = test::dequantized(packed, at::kFloat);
    const float* before = original.const_data_ptr<float>();
    const float* after = values.const_data_ptr<float>();
    for (std::int64_t i = 0; i < original.numel(); ++i) {
        const float scale = scale_of(packed, i / packed.blocksize);
        float nearest = std::numeric_limits<float>::infinity();
        for (int code = 0; code < kernels::kNf4Codes; ++code)
            nearest = std::min(nearest, std::abs(kernels::decode_nf4(code) * scale - before[i]));
        // A value midway between two codes may go to either; the reciprocal of the scale is rounded.
        ASSERT_LE(std::abs(after[i] - before[i]), nearest + 1e-6F * scale) << i;
    }
}

TEST_P(Quantized, RowsAndOtherDtypesAreThoseOfTheWhole) {
    const QuantizedTensor packed = quantize(view_of(random_matrix()), GetParam());
    const at::Tensor whole = test::dequantized(packed, at::kFloat);
    for (const std::int64_t first : {0, 1, 30}) {
        EXPECT_TRUE(at::equal(dequantize_rows(packed, first, 7, at::kFloat), whole.narrow(0, first, 7)));
        for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf})
            EXPECT_TRUE(
                at::equal(dequantize_rows(packed, first, 7, dtype), whole.narrow(0, first, 7).to(dtype)));
    }
}

TEST_P(Quantized, AProductOfFewRowsIsThatOfTheValues) {
    const QuantizedTensor packed = quantize(view_of(random_matrix()), GetParam());
    const at::Tensor x = random_matrix(2).narrow(0, 0, 3);
    const at::Tensor expected = at::mm(x, test::dequantized(packed, at::kFloat).t());
    // Sums of 209 products in another order.
    EXPECT_LE((multiply_few(packed, x, at::kFloat) - expected).abs().max().item<float>(), 1e-4F);
    const at::Tensor dense = random_matrix(3);
    EXPECT_LE((multiply_few(dense, x) - at::mm(x, dense.t())).abs().max().item<float>(), 1e-4F);
}

TEST(Quantized, HalvesAreQuantizedAsTheirValues) {
    for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf}) {
        const at::Tensor half = random_matrix().to(dtype);
        const QuantizedTensor packed = quantize(view_of(half), {});
        const QuantizedTensor wide = quantize(view_of(half.to(at::kFloat)), {});
        EXPECT_TRUE(at::equal(packed.codes, wide.codes) && at::equal(packed.absmax, wide.absmax));
    }
}

std::string message_of(const std::function<void()>& body) {
    try {
        body();
    } catch (const CheckpointError& error) {
        return error.what();
    }
    return "nothing was thrown";
}

TEST(Quantized, AValueThatIsNotFiniteIsNamedWithItsPlace) {
    at::Tensor values = random_matrix();
    values[3][200] = std::numeric_limits<float>::infinity();
    values[5][1] = std::numeric_limits<float>::quiet_NaN();
    const std::string message = message_of([&] { quantize(view_of(values), {}); });
    EXPECT_NE(message.find("layer.weight holds a value that is not finite (row 3, column 200)"),
              std::string::npos)
        << message;
    EXPECT_NE(
        message_of([&] { quantize(view_of(values.narrow(0, 0, 1).flatten()), {}); }).find("not a matrix"),
        std::string::npos);
    EXPECT_NE(message_of([&] {
                  quantize(view_of(at::zeros({2, 64}, at::kLong)), {});
              }).find("dtype I64"),
              std::string::npos);
}

/// A matrix as bitsandbytes' format holds it: views of the parts of a quantized one.
struct Stored {
    explicit Stored(const QuantConfig& config) : packed(quantize(view_of(random_matrix()), config)) {
        map = at::empty({256}, at::kFloat);
        std::copy_n(kernels::kSignedDynamicMap.value, 256, map.mutable_data_ptr<float>());
    }
    BnbMatrix matrix() {
        codes_view = view_of(packed.codes, "layer.weight");
        absmax_view = view_of(packed.absmax, "layer.weight.absmax");
        BnbMatrix out{.rows = kRows,
                      .columns = kColumns,
                      .blocksize = packed.blocksize,
                      .codes = &codes_view,
                      .absmax = &absmax_view};
        if (!packed.double_quantized()) return out;
        nested_view = view_of(packed.nested_absmax, "layer.weight.nested_absmax");
        map_view = view_of(map, "layer.weight.nested_quant_map");
        out.nested_absmax = &nested_view;
        out.nested_map = &map_view;
        out.nested_offset = packed.nested_offset;
        return out;
    }

    QuantizedTensor packed;
    at::Tensor map;
    io::TensorView codes_view, absmax_view, nested_view, map_view;
};

TEST_P(Quantized, WhatIsStoredIsLoadedToTheBit) {
    Stored stored(GetParam());
    const QuantizedTensor loaded = load_quantized(stored.matrix());
    EXPECT_EQ(loaded.blocksize, GetParam().bnb_4bit_blocksize);
    EXPECT_EQ(loaded.double_quantized(), GetParam().bnb_4bit_use_double_quant);
    EXPECT_EQ(loaded.bytes(), stored.packed.bytes());
    EXPECT_TRUE(
        at::equal(test::dequantized(loaded, at::kFloat), test::dequantized(stored.packed, at::kFloat)));
}

TEST(Quantized, AMapOfNestedScalesThatDiffersIsTheOneThatCounts) {
    Stored stored({});
    const auto used = stored.packed.absmax[0].item<std::uint8_t>();
    stored.map[used] = std::nextafter(stored.map[used].item<float>(), 2.0F);
    const QuantizedTensor loaded = load_quantized(stored.matrix());
    EXPECT_FALSE(loaded.double_quantized());
    const float nested = stored.packed.nested_absmax[0].item<float>();
    EXPECT_EQ(loaded.absmax[0].item<float>(),
              stored.map[used].item<float>() * nested + stored.packed.nested_offset);
    // One unit in the last place of some scales.
    EXPECT_TRUE(at::allclose(test::dequantized(loaded, at::kFloat),
                             test::dequantized(stored.packed, at::kFloat), 1e-6, 1e-6));
}

TEST(Quantized, AScaleThatIsNotFiniteIsNamed) {
    Stored plain({.bnb_4bit_use_double_quant = false});
    plain.packed.absmax[1] = std::numeric_limits<float>::infinity();
    EXPECT_NE(message_of([&] {
                  load_quantized(plain.matrix());
              }).find("layer.weight.absmax holds a scale that is not finite"),
              std::string::npos);
    Stored nested({});
    nested.packed.nested_absmax[0] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_NE(message_of([&] {
                  load_quantized(nested.matrix());
              }).find("layer.weight.nested_absmax holds a scale that is not finite"),
              std::string::npos);
}

}  // namespace
}  // namespace qlora::quant
