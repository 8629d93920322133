#include "shard_index.h"

#include <utility>

#include "messages.h"
#include "qlora/core/lfs_pointer.h"
#include "qlora/core/mapped_file.h"
#include "safetensors_header.h"
#include "strict_sax.h"

namespace qlora::io {

namespace {

constexpr std::size_t kMaxIndexBytes = 100'000'000;

/// Depths: 0 outside, 1 the index, 2 inside one of its values.
class IndexReader : public StrictSax {
  public:
    std::map<std::string, std::string> weight_map;
    bool has_weight_map = false;

    bool null() override { return value("null"); }
    bool boolean(bool) override { return value("a boolean"); }
    bool number_integer(number_integer_t) override { return value("a number"); }
    bool number_unsigned(number_unsigned_t) override { return value("a number"); }
    bool number_float(number_float_t, const string_t&) override { return value("a number"); }

    bool string(string_t& text) override {
        if (!in_weight_map_ || depth_ != 2) return value("a string");
        weight_map[key_] = std::move(text);
        return true;
    }

    bool start_object(std::size_t) override {
        if (in_weight_map_ && depth_ == 2) return unexpected("an object");
        ++depth_;
        return true;
    }

    bool start_array(std::size_t) override {
        if (depth_ == 0 || in_weight_map_) return unexpected("an array");
        ++depth_;
        return true;
    }

    bool end_object() override { return end(); }
    bool end_array() override { return end(); }

    bool key(string_t& name) override {
        if (depth_ == 1) {
            in_weight_map_ = name == "weight_map";
            if (in_weight_map_ && std::exchange(has_weight_map, true))
                return refuse("weight_map stands twice");
        } else if (depth_ == 2 && in_weight_map_) {
            if (const std::string fault = fault_of_name(name); !fault.empty()) {
                return refuse("weight_map: tensor " + shown(name) + ": " + fault);
            }
            if (weight_map.contains(name))
                return refuse("weight_map: tensor " + shown(name) + " stands twice");
            key_ = std::move(name);
        }
        return true;
    }

  protected:
    std::string expectation() const override {
        if (depth_ == 0) return "the index must be an object";
        if (depth_ == 1) return "weight_map must be an object";
        return "weight_map: tensor " + shown(key_) + " must have a file name";
    }

  private:
    bool value(const char* kind) { return depth_ == 0 || in_weight_map_ ? unexpected(kind) : true; }

    bool end() {
        if (--depth_ == 1) in_weight_map_ = false;
        return true;
    }

    int depth_ = 0;
    bool in_weight_map_ = false;
    std::string key_;
};

}  // namespace

std::map<std::string, std::string> read_shard_index(const std::filesystem::path& file) {
    const MappedFile mapped(file);
    const std::span<const std::byte> bytes = mapped.bytes();
    if (bytes.size() > kMaxIndexBytes) {
        throw CheckpointError(file.string() + ": larger than " + std::to_string(kMaxIndexBytes) +
                              " bytes; not an index?");
    }
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (const std::string pointer = fault_of_lfs_pointer(text); !pointer.empty())
        throw CheckpointError(file.string() + ": " + pointer);
    IndexReader reader;
    reader.parse(text, file.string(), "the index");
    if (!reader.has_weight_map) throw CheckpointError(file.string() + ": has no weight_map");
    if (reader.weight_map.empty()) throw CheckpointError(file.string() + ": weight_map is empty");
    return std::move(reader.weight_map);
}

}  // namespace qlora::io
