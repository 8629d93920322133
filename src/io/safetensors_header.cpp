#include "safetensors_header.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "messages.h"
#include "qlora/core/lfs_pointer.h"
#include "strict_sax.h"

namespace qlora::io {

namespace {

constexpr std::size_t kLengthBytes = 8;

/// A tensor as the header states it, before anything but its form has been checked.
struct Entry {
    std::string name;
    std::optional<std::string> dtype;
    std::optional<std::vector<std::uint64_t>> shape;
    std::optional<std::vector<std::uint64_t>> offsets;  ///< begin, end; from the first byte after the header
};

std::string place_of(const std::string& name) {
    return "tensor " + shown(name);
}

class HeaderReader : public StrictSax {
  public:
    std::vector<Entry> entries;
    std::map<std::string, std::string> metadata;

    bool start_object(std::size_t) override {
        switch (state_) {
            case State::kStart:
                state_ = State::kTop;
                return true;
            case State::kMetadataValue:
                state_ = State::kMetadata;
                return true;
            case State::kTensorValue:
                state_ = State::kTensor;
                return true;
            default:
                return unexpected("an object");
        }
    }

    bool end_object() override {
        state_ = state_ == State::kTop ? State::kEnd : State::kTop;
        return true;
    }

    bool start_array(std::size_t) override {
        if (state_ == State::kShapeValue) {
            entries.back().shape.emplace();
            state_ = State::kShape;
        } else if (state_ == State::kOffsetsValue) {
            entries.back().offsets.emplace();
            state_ = State::kOffsets;
        } else {
            return unexpected("an array");
        }
        return true;
    }

    bool end_array() override {
        if (state_ == State::kOffsets && entries.back().offsets->size() != 2) {
            return refuse(place_of(entries.back().name) + ": data_offsets must be two numbers");
        }
        state_ = State::kTensor;
        return true;
    }

    bool key(string_t& name) override {
        switch (state_) {
            case State::kTop:
                return top_key(name);
            case State::kTensor:
                return tensor_key(name);
            default:
                return metadata_key(name);
        }
    }

    bool string(string_t& value) override {
        if (state_ == State::kDtypeValue) {
            entries.back().dtype = std::move(value);
            state_ = State::kTensor;
        } else if (state_ == State::kMetadataText) {
            metadata[key_] = std::move(value);
            state_ = State::kMetadata;
        } else {
            return unexpected("a string");
        }
        return true;
    }

    bool number_unsigned(number_unsigned_t value) override {
        if (state_ == State::kShape) {
            if (entries.back().shape->size() == kMaxRank) {
                return refuse(place_of(entries.back().name) + ": more than " + std::to_string(kMaxRank) +
                              " dimensions");
            }
            entries.back().shape->push_back(value);
        } else if (state_ == State::kOffsets) {
            if (entries.back().offsets->size() == 2) {
                return refuse(place_of(entries.back().name) + ": data_offsets must be two numbers");
            }
            entries.back().offsets->push_back(value);
        } else {
            return unexpected("a number");
        }
        return true;
    }

  protected:
    std::string expectation() const override {
        switch (state_) {
            case State::kStart:
                return "the header must be an object";
            case State::kMetadataValue:
                return "__metadata__ must be an object";
            case State::kMetadataText:
                return "__metadata__: " + shown(key_) + " must be a string";
            case State::kTensorValue:
                return place_of(entries.back().name) + ": must be an object";
            case State::kDtypeValue:
                return place_of(entries.back().name) + ": dtype must be a string";
            case State::kShapeValue:
            case State::kShape:
                return place_of(entries.back().name) + ": shape must be an array of unsigned numbers";
            default:
                return place_of(entries.back().name) + ": data_offsets must be two unsigned numbers";
        }
    }

  private:
    enum class State {
        kStart,
        kTop,
        kMetadataValue,
        kMetadata,
        kMetadataText,
        kTensorValue,
        kTensor,
        kDtypeValue,
        kShapeValue,
        kShape,
        kOffsetsValue,
        kOffsets,
        kEnd
    };

    bool top_key(std::string& name) {
        if (name == kMetadataKey) {
            if (std::exchange(has_metadata_, true)) return refuse("__metadata__ stands twice in the header");
            state_ = State::kMetadataValue;
            return true;
        }
        if (const std::string fault = fault_of_name(name); !fault.empty())
            return refuse(place_of(name) + ": " + fault);
        if (entries.size() == kMaxEntries) {
            return refuse("more than " + std::to_string(kMaxEntries) + " tensors in the header");
        }
        entries.push_back({std::move(name), {}, {}, {}});
        state_ = State::kTensorValue;
        return true;
    }

    bool tensor_key(const std::string& name) {
        const Entry& entry = entries.back();
        bool twice = false;
        if (name == "dtype") {
            twice = entry.dtype.has_value();
            state_ = State::kDtypeValue;
        } else if (name == "shape") {
            twice = entry.shape.has_value();
            state_ = State::kShapeValue;
        } else if (name == "data_offsets") {
            twice = entry.offsets.has_value();
            state_ = State::kOffsetsValue;
        } else {
            return refuse(place_of(entry.name) + ": unknown key " + shown(name));
        }
        return !twice || refuse(place_of(entry.name) + ": " + name + " stands twice");
    }

    bool metadata_key(std::string& name) {
        if (name.find('\0') != std::string::npos)
            return refuse("__metadata__: NUL in the key " + shown(name));
        if (metadata.contains(name)) return refuse("__metadata__: " + shown(name) + " stands twice");
        if (metadata.size() == kMaxEntries) {
            return refuse("__metadata__: more than " + std::to_string(kMaxEntries) + " entries");
        }
        key_ = std::move(name);
        state_ = State::kMetadataText;
        return true;
    }

    State state_ = State::kStart;
    bool has_metadata_ = false;
    std::string key_;  ///< of the metadata entry that is read
};

/// The text of the header; the rules of its length and its ends.
std::string_view header_text(std::span<const std::byte> bytes, const std::string& file) {
    const auto refuse = [&](const std::string& reason) { throw CheckpointError(file + ": " + reason); };
    const std::string pointer =
        fault_of_lfs_pointer({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    if (!pointer.empty()) refuse(pointer);
    if (bytes.size() < kLengthBytes) {
        refuse("only " + std::to_string(bytes.size()) +
               " bytes, too short for a safetensors file; was a download cut?");
    }
    std::uint64_t length = 0;
    for (std::size_t i = kLengthBytes; i-- > 0;)
        length = length << 8 | std::to_integer<std::uint64_t>(bytes[i]);
    if (length > kMaxHeaderBytes) {
        refuse("header length " + std::to_string(length) + " is over the limit of " +
               std::to_string(kMaxHeaderBytes) + "; not a safetensors file?");
    }
    if (length > bytes.size() - kLengthBytes) {
        refuse("the header should have " + std::to_string(length) + " bytes, the file has only " +
               std::to_string(bytes.size() - kLengthBytes) + " after the length; was a download cut?");
    }
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, length);
    if (text.empty() || text.front() != '{')
        refuse("the header does not start with '{'; not a safetensors file?");
    if (const std::size_t last = text.find_last_not_of(' '); text[last] != '}') {
        refuse("the header ends in something other than '}' and spaces, at byte " + std::to_string(last));
    }
    return text;
}

/// The tensors whose bytes a file no longer has: one fault of the file, however many they are.
struct CutTensors {
    std::size_t count = 0;
    std::string first;  ///< the one that ends first
    std::uint64_t first_end = 0, last_end = 0;

    void add(const std::string& name, std::uint64_t end) {
        if (count++ == 0 || end < first_end) {
            first = name;
            first_end = end;
        }
        last_end = std::max(last_end, end);
    }
    std::string text(std::size_t bytes) const {
        std::string out = "data_offsets end at " + std::to_string(first_end) + ", the file has only " +
                          std::to_string(bytes) + " bytes of data; was a download cut?";
        if (count > 1) {
            out += " (" + std::to_string(count) + " tensors are cut off or missing, up to byte " +
                   std::to_string(last_end) + ")";
        }
        return out;
    }
};

/// Checks all that can be said of one tensor alone; appends it, or returns the first fault. One whose bytes
/// are beyond the file goes to `cut`.
std::string take(const Entry& entry, std::span<const std::byte> data, std::vector<TensorView>& tensors,
                 CutTensors& cut) {
    if (!entry.dtype) return "dtype is missing";
    if (!entry.shape) return "shape is missing";
    if (!entry.offsets) return "data_offsets is missing";
    const std::optional<DType> dtype = dtype_from_name(*entry.dtype);
    if (!dtype) return "dtype " + shown(*entry.dtype) + " is not known or not supported";
    std::vector<std::int64_t> shape;
    for (const std::uint64_t size : *entry.shape) {
        if (size > std::uint64_t{std::numeric_limits<std::int64_t>::max()}) return "a dimension is too large";
        shape.push_back(static_cast<std::int64_t>(size));
    }
    const std::optional<std::uint64_t> size = checked_byte_size(*dtype, shape);
    if (!size) return "the shape is too large: its size overflows";
    const std::uint64_t begin = entry.offsets->front();
    const std::uint64_t end = entry.offsets->back();
    if (begin > end) {
        return "data_offsets run backwards: " + std::to_string(begin) + " to " + std::to_string(end);
    }
    if (end > data.size()) {
        cut.add(entry.name, end);
        return {};
    }
    if (end - begin != *size) {
        return "dtype and shape need " + std::to_string(*size) + " bytes, data_offsets give " +
               std::to_string(end - begin);
    }
    tensors.push_back({entry.name, *dtype, std::move(shape), data.subspan(begin, end - begin)});
    return {};
}

/// File order; the header may list tensors in any order.
void sort_by_offset(std::vector<TensorView>& tensors) {
    std::stable_sort(tensors.begin(), tensors.end(), [](const TensorView& a, const TensorView& b) {
        return std::pair(a.bytes.data(), a.bytes.size()) < std::pair(b.bytes.data(), b.bytes.size());
    });
}

/// Every byte of the data must belong to exactly one of the tensors, which are in file order.
void check_layout(const std::vector<TensorView>& tensors, std::span<const std::byte> data,
                  const std::string& file) {
    const std::byte* position = data.data();
    for (const TensorView& tensor : tensors) {
        const std::byte* begin = tensor.bytes.data();
        if (begin != position) {
            throw CheckpointError(file + ": " + place_of(tensor.name) + ": begins at byte " +
                                  std::to_string(begin - data.data()) + " of the data, " +
                                  (begin > position ? "after a gap" : "inside another tensor") +
                                  " (the tensors before it end at " + std::to_string(position - data.data()) +
                                  ")");
        }
        position += tensor.bytes.size();
    }
    if (const std::ptrdiff_t rest = data.data() + data.size() - position; rest != 0) {
        throw CheckpointError(file + ": " + std::to_string(rest) +
                              " bytes after the last tensor belong to none");
    }
}

/// Places of the tensors by name; no name may stand twice.
std::vector<std::size_t> sort_by_name(const std::vector<TensorView>& tensors, const std::string& file) {
    std::vector<std::size_t> places(tensors.size());
    std::iota(places.begin(), places.end(), std::size_t{0});
    std::sort(places.begin(), places.end(),
              [&](std::size_t a, std::size_t b) { return tensors[a].name < tensors[b].name; });
    ListedFaults faults;
    for (std::size_t i = 1; i < places.size(); ++i) {
        const std::string& name = tensors[places[i]].name;
        if (name == tensors[places[i - 1]].name) faults.add(place_of(name), "stands twice in the header");
    }
    faults.throw_if_any(file);
    return places;
}

}  // namespace

SafetensorsHeader parse_safetensors(std::span<const std::byte> bytes, const std::string& file) {
    const std::string_view text = header_text(bytes, file);
    HeaderReader reader;
    reader.parse(text, file, "the header");
    const std::span<const std::byte> data = bytes.subspan(kLengthBytes + text.size());

    SafetensorsHeader header;
    ListedFaults faults;
    CutTensors cut;
    for (const Entry& entry : reader.entries) {
        const std::string fault = take(entry, data, header.tensors, cut);
        if (!fault.empty()) faults.add(place_of(entry.name), fault);
    }
    if (cut.count > 0) faults.add(place_of(cut.first), cut.text(data.size()));
    faults.throw_if_any(file);
    header.metadata = std::move(reader.metadata);
    sort_by_offset(header.tensors);
    header.by_name = sort_by_name(header.tensors, file);
    check_layout(header.tensors, data, file);
    return header;
}

std::optional<std::uint64_t> checked_byte_size(DType dtype, std::span<const std::int64_t> shape) {
    auto size = static_cast<std::int64_t>(size_of(dtype));
    bool empty = false;
    for (const std::int64_t dimension : shape) {
        if (dimension < 0) return std::nullopt;
        if (dimension == 0) {
            empty = true;
        } else if (__builtin_mul_overflow(size, dimension, &size)) {
            return std::nullopt;
        }
    }
    return empty ? 0 : static_cast<std::uint64_t>(size);
}

std::string fault_of_name(std::string_view name) {
    if (name.size() > kMaxNameBytes)
        return "the name is longer than " + std::to_string(kMaxNameBytes) + " bytes";
    if (name.find('\0') != std::string_view::npos) return "NUL in the name";
    return {};
}

}  // namespace qlora::io
