#include "qlora/quant/bnb_matrix.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "qlora/io/shape_text.h"
#include "qlora/kernels/block_layout.h"
#include "qlora/kernels/codebook.h"
#include "qlora/kernels/dynamic_code.h"

namespace qlora::quant {
namespace {

constexpr const char* kFp4State = ".quant_state.bitsandbytes__fp4";
/// Entries of the dynamic map computed on another machine differ by a unit in the last place.
constexpr float kMapTolerance = 1e-6F;

float float_at(const io::TensorView& view, std::size_t index) {
    float value = 0;
    std::memcpy(&value, view.bytes.data() + index * sizeof value, sizeof value);
    return value;
}

/// Reads the tensors of one matrix; every fault is told, the first stops nothing.
class MatrixReader {
  public:
    MatrixReader(const io::Checkpoint& checkpoint, std::string weight, const BnbConfig& config,
                 FaultList& faults)
        : checkpoint_(checkpoint), weight_(std::move(weight)), config_(config), faults_(faults) {}

    std::optional<BnbMatrix> read(std::int64_t rows, std::int64_t columns) {
        out_.rows = rows;
        out_.columns = columns;
        if (is_dense()) {
            fault("", "is stored dense, although quantization_config.llm_int8_skip_modules does not name it");
            return std::nullopt;
        }
        read_state();
        read_codes();
        if (const io::TensorView* map = find(kBnbMap, io::DType::kF32, kernels::kNf4Codes)) check_map(*map);
        if (config_.double_quant) {
            read_nested();
        } else {
            out_.absmax = find(kBnbAbsmax, io::DType::kF32, blocks());
            for (const char* suffix : {kBnbNestedAbsmax, kBnbNestedMap}) {
                if (checkpoint_.contains(weight_ + suffix)) {
                    fault(suffix,
                          "is there, although quantization_config says bnb_4bit_use_double_quant: "
                          "false");
                }
            }
        }
        if (!good_) return std::nullopt;
        return out_;
    }

  private:
    void fault(const std::string& suffix, const std::string& message) {
        faults_.add(weight_ + suffix, message);
        good_ = false;
    }

    bool is_dense() const {
        if (!checkpoint_.contains(weight_)) return false;
        const io::TensorView& view = checkpoint_.at(weight_);
        const std::vector<std::string> states = bnb_state_names(weight_);
        return view.shape == std::vector<std::int64_t>{out_.rows, out_.columns} &&
               std::none_of(states.begin(), states.end(),
                            [&](const std::string& name) { return checkpoint_.contains(name); });
    }

    /// Blocks of the matrix; unknown (0) while its blocksize is.
    std::int64_t blocks() const {
        return out_.blocksize == 0 ? 0 : kernels::block_count(out_.rows * out_.columns, out_.blocksize);
    }

    /// A vector of `length` (0: any) values of `dtype`; null and a fault when it is not that.
    const io::TensorView* find(const char* suffix, io::DType dtype, std::int64_t length) {
        if (!checkpoint_.contains(weight_ + suffix)) {
            fault(suffix, "is missing");
            return nullptr;
        }
        const io::TensorView& view = checkpoint_.at(weight_ + suffix);
        bool fits = true;
        if (view.dtype != dtype) {
            fault(suffix, "has dtype " + std::string(io::name_of(view.dtype)) + ", must be " +
                              std::string(io::name_of(dtype)));
            fits = false;
        }
        if (view.shape.size() != 1 || (length != 0 && view.shape[0] != length)) {
            const std::string wanted = length == 0 ? "one dimension" : io::shape_text({length});
            fault(suffix, "has shape " + io::shape_text(view.shape) + ", must have " + wanted);
            fits = false;
        }
        return fits ? &view : nullptr;
    }

    void read_codes() {
        if (!checkpoint_.contains(weight_)) {
            fault("", "is missing (expected the 4-bit codes of " + io::shape_text({out_.rows, out_.columns}) +
                          ")");
            return;
        }
        const io::TensorView& view = checkpoint_.at(weight_);
        if (view.dtype != config_.storage) {
            fault("", "has dtype " + std::string(io::name_of(view.dtype)) +
                          ", quantization_config.bnb_4bit_quant_storage asks for " +
                          std::string(io::name_of(config_.storage)));
            return;
        }
        const std::int64_t bytes = kernels::packed_bytes(out_.rows * out_.columns);
        const auto width = static_cast<std::int64_t>(io::size_of(view.dtype));
        if (view.shape != std::vector<std::int64_t>{bytes / width, 1} || bytes % width != 0) {
            fault("", "has shape " + io::shape_text(view.shape) + ", the 4-bit codes of " +
                          io::shape_text({out_.rows, out_.columns}) + " have " +
                          io::shape_text({bytes / width, 1}));
        }
        out_.codes = &view;
    }

    void check_map(const io::TensorView& map) {
        for (int code = 0; code < kernels::kNf4Codes; ++code) {
            if (float_at(map, static_cast<std::size_t>(code)) == kernels::decode_nf4(code)) continue;
            fault(kBnbMap, "is not the code-book of NF4 (entry " + std::to_string(code) + " differs)");
            return;
        }
    }

    void read_nested() {
        out_.absmax = find(kBnbAbsmax, io::DType::kU8, blocks());
        out_.nested_absmax = find(kBnbNestedAbsmax, io::DType::kF32, kernels::nested_block_count(blocks()));
        out_.nested_map = find(kBnbNestedMap, io::DType::kF32, 256);
        if (out_.nested_map == nullptr) return;
        for (std::size_t i = 0; i < 256; ++i) {
            const float difference = float_at(*out_.nested_map, i) - kernels::kSignedDynamicMap.value[i];
            if (std::abs(difference) <= kMapTolerance) continue;  // false for NaN
            fault(kBnbNestedMap,
                  "is not the signed dynamic map of bitsandbytes (entry " + std::to_string(i) + " differs)");
            return;
        }
    }

    void read_state() {
        if (checkpoint_.contains(weight_ + kFp4State)) {
            fault(kFp4State, "holds fp4 weights; only nf4 is supported");
            return;
        }
        const io::TensorView* view = find(kBnbState, io::DType::kU8, 0);
        if (view == nullptr) return;
        Json state;
        try {
            state = parse_json({reinterpret_cast<const char*>(view->bytes.data()), view->bytes.size()},
                               weight_ + kBnbState);
        } catch (const Error& error) {
            faults_.add("", error.what());
            good_ = false;
            return;
        }
        if (!state.is_object()) return fault(kBnbState, "must hold a JSON object");
        read_plain_entries(state);
        read_nested_entries(state);
        for (const auto& [key, value] : state.items()) {
            if (std::find(kEntries.begin(), kEntries.end(), key) == kEntries.end())
                fault(kBnbState, "has an unknown entry " + Json(key).dump());
        }
    }

    /// The entry, or null and a fault.
    const Json& entry(const Json& state, const char* key) {
        static const Json kNull;
        if (state.contains(key) && !state.at(key).is_null()) return state.at(key);
        fault(kBnbState, std::string("has no ") + key);
        return kNull;
    }

    /// A fault unless the entry has this one value.
    void require(const Json& state, const char* key, const Json& wanted) {
        const Json& value = entry(state, key);
        if (value.is_null() || value == wanted) return;
        fault(kBnbState, std::string(key) + " is " + value.dump() + ", must be " + wanted.dump());
    }

    void read_plain_entries(const Json& state) {
        require(state, "quant_type", "nf4");
        if (const Json& value = entry(state, "blocksize"); !value.is_null()) {
            if (value.is_number_integer() && kernels::is_valid_blocksize(value.get<std::int64_t>())) {
                out_.blocksize = value.get<std::int64_t>();
            } else {
                fault(kBnbState, "blocksize is " + value.dump() + ", must be a power of two, 32 to 4096");
            }
        }
        const Json& shape = entry(state, "shape");
        const Json wanted = Json::array({out_.rows, out_.columns});
        if (!shape.is_null() && shape != wanted) {
            fault(kBnbState, "shape is " + shape.dump() + ", config.json asks for " + wanted.dump());
        }
        const Json& dtype = entry(state, "dtype");
        if (dtype == "float32") {
            out_.dtype = io::DType::kF32;
        } else if (dtype == "float16") {
            out_.dtype = io::DType::kF16;
        } else if (dtype == "bfloat16") {
            out_.dtype = io::DType::kBF16;
        } else if (!dtype.is_null()) {
            fault(kBnbState, "dtype is " + dtype.dump() + ", must be float32, float16 or bfloat16");
        }
    }

    void read_nested_entries(const Json& state) {
        if (!config_.double_quant) {
            for (const char* key : {"nested_blocksize", "nested_dtype", "nested_offset"}) {
                if (!state.contains(key)) continue;
                fault(kBnbState, std::string("has ") + key +
                                     ", although quantization_config says bnb_4bit_use_double_quant: false");
            }
            return;
        }
        require(state, "nested_blocksize", kernels::kNestedBlocksize);
        require(state, "nested_dtype", "float32");
        const Json& offset = entry(state, "nested_offset");
        if (offset.is_null()) return;
        if (offset.is_number()) out_.nested_offset = static_cast<float>(offset.get<double>());
        if (!offset.is_number() || !std::isfinite(out_.nested_offset)) {
            fault(kBnbState, "nested_offset is " + offset.dump() + ", must be a number");
        }
    }

    static constexpr std::array<std::string_view, 7> kEntries = {
        "quant_type", "blocksize", "dtype", "shape", "nested_blocksize", "nested_dtype", "nested_offset"};

    const io::Checkpoint& checkpoint_;
    std::string weight_;
    const BnbConfig& config_;
    FaultList& faults_;
    BnbMatrix out_;
    bool good_ = true;
};

}  // namespace

std::vector<std::string> bnb_state_names(const std::string& weight) {
    std::vector<std::string> out;
    for (const char* suffix : {kBnbAbsmax, kBnbMap, kBnbNestedAbsmax, kBnbNestedMap, kBnbState, kFp4State}) {
        out.push_back(weight + suffix);
    }
    return out;
}

std::optional<BnbMatrix> read_bnb_matrix(const io::Checkpoint& checkpoint, const std::string& weight,
                                         std::int64_t rows, std::int64_t columns, const BnbConfig& config,
                                         FaultList& faults) {
    return MatrixReader(checkpoint, weight, config, faults).read(rows, columns);
}

}  // namespace qlora::quant
