#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <map>

#include "qlora/core/error.h"
#include "qlora/kernels/codebook.h"
#include "qlora/kernels/dynamic_code.h"
#include "qlora/quant/bnb_config.h"
#include "qlora/quant/bnb_matrix.h"
#include "qlora/quant/bnb_specs.h"
#include "support/temp_dir.h"

namespace qlora::quant {
namespace {

constexpr const char* kWeight = "layer.weight";
constexpr std::int64_t kRows = 6, kColumns = 43;  // 258 values: 129 bytes, 5 blocks of 64

std::vector<std::byte> bytes_of(const void* data, std::size_t size) {
    const auto* first = static_cast<const std::byte*>(data);
    return {first, first + size};
}

/// The tensors of one matrix, changed at will before they are written.
struct Stored {
    struct Tensor {
        io::TensorSpec spec;
        std::vector<std::byte> bytes;
    };
    std::map<std::string, Tensor> tensors;
    BnbConfig config{.double_quant = true};
    test::TempDir dir;

    explicit Stored(QuantConfig quantization = {}) {
        config.double_quant = quantization.bnb_4bit_use_double_quant;
        const std::string text = bnb_state_text(kRows, kColumns, quantization, 0.25F);
        for (const io::TensorSpec& spec : bnb_specs(kWeight, kRows, kColumns, quantization, text)) {
            std::size_t size = io::size_of(spec.dtype);
            for (const std::int64_t length : spec.shape) size *= static_cast<std::size_t>(length);
            tensors[spec.name] = {spec, std::vector<std::byte>(size)};
        }
        float map[kernels::kNf4Codes];
        for (int code = 0; code < kernels::kNf4Codes; ++code) map[code] = kernels::decode_nf4(code);
        tensors.at(kWeight + std::string(kBnbMap)).bytes = bytes_of(map, sizeof map);
        if (config.double_quant) {
            tensors.at(kWeight + std::string(kBnbNestedMap)).bytes =
                bytes_of(kernels::kSignedDynamicMap.value, sizeof kernels::kSignedDynamicMap.value);
        }
        set_state(text);
    }

    void set_state(const std::string& text) {
        Tensor& state = tensors.at(kWeight + std::string(kBnbState));
        state.spec.shape = {static_cast<std::int64_t>(text.size())};
        state.bytes = bytes_of(text.data(), text.size());
    }

    /// Faults of reading it; `check` sees the matrix when there are none.
    std::vector<std::string> read(const std::function<void(const BnbMatrix&)>& check = {}) const {
        std::vector<io::TensorSpec> specs;
        for (const auto& [name, tensor] : tensors) specs.push_back(tensor.spec);
        io::SafetensorsWriter writer(dir / "model.safetensors", specs, {});
        for (const auto& [name, tensor] : tensors) writer.append(tensor.bytes);
        writer.finish();
        const io::Checkpoint checkpoint(dir.path());
        FaultList faults;
        const auto matrix = read_bnb_matrix(checkpoint, kWeight, kRows, kColumns, config, faults);
        EXPECT_EQ(matrix.has_value(), faults.empty());
        if (matrix && check) check(*matrix);
        return faults.faults();
    }
};

TEST(BnbMatrix, what_is_written_is_read_back) {
    for (const bool nested : {false, true}) {
        for (const std::int64_t blocksize : {32, 64, 4096}) {
            const Stored stored({.bnb_4bit_use_double_quant = nested,
                                 .bnb_4bit_compute_dtype = ComputeDtype::kBfloat16,
                                 .bnb_4bit_blocksize = blocksize});
            const auto faults = stored.read([&](const BnbMatrix& matrix) {
                EXPECT_EQ(matrix.rows, kRows);
                EXPECT_EQ(matrix.columns, kColumns);
                EXPECT_EQ(matrix.blocksize, blocksize);
                EXPECT_EQ(matrix.dtype, io::DType::kBF16);
                EXPECT_EQ(matrix.codes->bytes.size(), 129U);
                EXPECT_EQ(matrix.absmax->elements(), (258 + blocksize - 1) / blocksize);
                EXPECT_EQ(matrix.double_quantized(), nested);
                EXPECT_EQ(matrix.nested_offset, nested ? 0.25F : 0.0F);
            });
            EXPECT_TRUE(faults.empty()) << faults.front();
        }
    }
}

TEST(BnbMatrix, codes_may_be_stored_under_another_dtype_that_divides_them) {
    Stored stored;
    stored.config.storage = io::DType::kF16;
    stored.tensors.at(kWeight).spec.dtype = io::DType::kF16;
    stored.tensors.at(kWeight).spec.shape = {64, 1};
    stored.tensors.at(kWeight).bytes.resize(128);
    ASSERT_EQ(stored.read().size(), 1U) << "129 bytes are no whole number of halves";
    Stored bytes;
    bytes.config.storage = io::DType::kI8;
    bytes.tensors.at(kWeight).spec.dtype = io::DType::kI8;
    EXPECT_TRUE(bytes.read().empty());
}

TEST(BnbMatrix, every_missing_tensor_is_named) {
    for (const char* suffix : {"", kBnbAbsmax, kBnbMap, kBnbState, kBnbNestedAbsmax, kBnbNestedMap}) {
        Stored stored;
        stored.tensors.erase(kWeight + std::string(suffix));
        const auto faults = stored.read();
        ASSERT_FALSE(faults.empty());
        bool named = false;
        for (const std::string& fault : faults)
            named = named || fault.starts_with(kWeight + std::string(suffix) + ": is missing");
        EXPECT_TRUE(named) << suffix;
    }
}

TEST(BnbMatrix, all_faults_of_a_state_come_together) {
    Stored stored;
    stored.set_state(R"({"quant_type": "fp4", "blocksize": 63, "dtype": null, "shape": [6, 44],
                         "nested_blocksize": 64, "nested_dtype": "float32", "nested_offset": [], "more": 1})");
    EXPECT_EQ(stored.read().size(), 7U);
    stored.set_state("{}");
    EXPECT_EQ(stored.read().size(), 7U) << "each entry is named";
    for (const char* text : {"", "{", "[]", "null", "{\"blocksize\": 64, \"blocksize\": 64}"}) {
        stored.set_state(text);
        EXPECT_FALSE(stored.read().empty()) << text;
    }
}

TEST(BnbMatrix, maps_of_another_code_are_refused_and_a_last_bit_is_not) {
    const auto change = [](Stored& stored, const char* suffix, std::size_t index, float value) {
        std::memcpy(stored.tensors.at(kWeight + std::string(suffix)).bytes.data() + 4 * index, &value, 4);
    };
    Stored nf4;
    change(nf4, kBnbMap, 3, std::nextafter(kernels::decode_nf4(3), 0.0F));
    EXPECT_EQ(nf4.read().size(), 1U);
    Stored near, far, nan;
    change(near, kBnbNestedMap, 250, std::nextafter(kernels::kSignedDynamicMap.value[250], 0.0F));
    EXPECT_TRUE(near.read().empty());
    change(far, kBnbNestedMap, 250, kernels::kSignedDynamicMap.value[249]);
    EXPECT_EQ(far.read().size(), 1U);
    change(nan, kBnbNestedMap, 0, std::numeric_limits<float>::quiet_NaN());
    EXPECT_EQ(nan.read().size(), 1U);
}

TEST(BnbMatrix, the_state_text_is_what_pythons_json_writes) {
    const std::string start = R"({"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [2, 3])";
    EXPECT_EQ(bnb_state_text(2, 3, {.bnb_4bit_use_double_quant = false}, 1.0F), start + "}");
    const std::pair<float, const char*> offsets[] = {{1.0F, "1.0"},
                                                     {0.0F, "0.0"},
                                                     {0.1F, "0.10000000149011612"},
                                                     {1e-5F, "9.999999747378752e-06"},
                                                     {1e-4F, "9.999999747378752e-05"},
                                                     {1.25e-4F, "0.0001250000059371814"},
                                                     {3e20F, "3.000000060122632e+20"},
                                                     {123456.0F, "123456.0"}};
    for (const auto& [offset, text] : offsets) {
        EXPECT_EQ(bnb_state_text(2, 3, {}, offset),
                  start + R"(, "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": )" +
                      text + "}");
    }
}

TEST(BnbConfig, what_is_written_is_read_back) {
    for (const bool nested : {false, true}) {
        FaultList faults;
        const BnbConfig config =
            read_bnb_config(bnb_config_json({.bnb_4bit_use_double_quant = nested}), faults);
        EXPECT_TRUE(faults.empty());
        EXPECT_EQ(config.double_quant, nested);
        EXPECT_EQ(config.storage, io::DType::kU8);
        EXPECT_FALSE(config.skips("model.layers.0.mlp.up_proj"));
    }
}

TEST(BnbConfig, anything_else_is_refused_by_name) {
    const std::pair<const char*, Json> changes[] = {{"quant_method", "awq"},
                                                    {"quant_method", 4},
                                                    {"load_in_8bit", true},
                                                    {"load_in_4bit", false},
                                                    {"load_in_4bit", "true"},
                                                    {"bnb_4bit_quant_type", "fp4"},
                                                    {"bnb_4bit_use_double_quant", nullptr},
                                                    {"bnb_4bit_quant_storage", "int4"},
                                                    {"llm_int8_skip_modules", "lm_head"},
                                                    {"llm_int8_skip_modules", Json::array({1})},
                                                    {"llm_int8_skip_modules", Json::array({"layers.[01]"})},
                                                    {"bnb_2bit", true}};
    for (const auto& [key, value] : changes) {
        Json section = bnb_config_json({});
        section[key] = value;
        FaultList faults;
        read_bnb_config(section, faults);
        ASSERT_FALSE(faults.empty()) << key << ' ' << value;
        EXPECT_TRUE(faults.faults().front().starts_with("quantization_config." + std::string(key))) << key;
    }
    FaultList faults;
    read_bnb_config(Json::array(), faults);
    EXPECT_EQ(faults.size(), 1U);
}

TEST(BnbConfig, names_are_skipped_as_in_transformers) {
    const BnbConfig config{.skip_modules = {"lm_head", "model.layers.1", "v_proj"}};
    EXPECT_TRUE(config.skips("lm_head"));
    EXPECT_TRUE(config.skips("model.layers.1.mlp.up_proj"));
    EXPECT_FALSE(config.skips("model.layers.11.mlp.up_proj"));
    EXPECT_TRUE(config.skips("model.layers.11.self_attn.v_proj"));
    EXPECT_FALSE(config.skips("model.layers.11.self_attn.v_proj.other"));
}

TEST(QuantConfig, contradictions_name_setting_and_both_values) {
    const QuantConfig stored{.bnb_4bit_blocksize = 128};
    EXPECT_TRUE(contradictions(stored, stored).empty());
    QuantConfig wanted = stored;
    wanted.bnb_4bit_compute_dtype = ComputeDtype::kBfloat16;
    EXPECT_TRUE(contradictions(wanted, stored).empty()) << "not a matter of what is stored";
    EXPECT_EQ(contradictions({.bnb_4bit_use_double_quant = false}, stored),
              (std::vector<std::string>{"bnb_4bit_use_double_quant: false, stored is true",
                                        "bnb_4bit_blocksize: 64, stored is 128"}));
    EXPECT_EQ(contradictions({.load_in_4bit = false}, stored),
              (std::vector<std::string>{"load_in_4bit: false, stored is true"}));
}

}  // namespace
}  // namespace qlora::quant
