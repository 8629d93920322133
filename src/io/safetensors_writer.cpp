#include <algorithm>
#include <nlohmann/json.hpp>

#include "messages.h"
#include "qlora/core/atomic_file.h"
#include "qlora/core/utf8.h"
#include "safetensors_header.h"

namespace qlora::io {

namespace {

constexpr std::uint64_t kMaxDataBytes = std::uint64_t{1} << 62;  ///< so that offsets cannot overflow

/// Escaped as the safetensors package escapes: control characters, quote and backslash only.
std::string json_string(const std::string& text) {
    return nlohmann::json(text).dump();
}

bool is_utf8(const std::string& text) {
    return find_invalid_utf8(text) == std::string::npos;
}

/// Byte sizes of the tensors; throws CheckpointError with all faults when a file with these specs could not
/// be read.
std::vector<std::uint64_t> checked_sizes(const std::string& file, const std::vector<TensorSpec>& specs,
                                         const std::map<std::string, std::string>& metadata) {
    ListedFaults faults;
    std::vector<std::uint64_t> sizes;
    std::vector<std::string> names;
    std::uint64_t total = 0;
    for (const TensorSpec& spec : specs) {
        const std::string place = "tensor " + shown(spec.name);
        names.push_back(spec.name);
        if (const std::string fault = fault_of_name(spec.name); !fault.empty()) faults.add(place, fault);
        if (spec.name == kMetadataKey) faults.add(place, "the name is reserved by the format");
        if (!is_utf8(spec.name)) faults.add(place, "the name is not UTF-8");
        if (spec.shape.size() > kMaxRank) faults.add(place, "too many dimensions");
        const std::optional<std::uint64_t> size = checked_byte_size(spec.dtype, spec.shape);
        sizes.push_back(size.value_or(0));
        if (!size || sizes.back() > kMaxDataBytes - total) {
            faults.add(place, "a negative dimension, or sizes that overflow");
        } else {
            total += sizes.back();
        }
    }
    if (specs.size() > kMaxEntries) faults.add("", "more than " + std::to_string(kMaxEntries) + " tensors");
    std::sort(names.begin(), names.end());
    for (auto twice = names.begin(); (twice = std::adjacent_find(twice, names.end())) != names.end();
         ++twice) {
        faults.add("tensor " + shown(*twice), "given twice");
    }
    if (metadata.size() > kMaxEntries)
        faults.add("", "more than " + std::to_string(kMaxEntries) + " metadata entries");
    for (const auto& [key, value] : metadata) {
        if (key.find('\0') != std::string::npos) faults.add("metadata " + shown(key), "NUL in the key");
        if (!is_utf8(key) || !is_utf8(value)) faults.add("metadata " + shown(key), "not UTF-8");
    }
    faults.throw_if_any(file + ": cannot be written");
    return sizes;
}

/// Length and header, padded with spaces so that the data begins at a multiple of 8.
std::string header_bytes(const std::string& file, const std::vector<TensorSpec>& specs,
                         const std::vector<std::uint64_t>& sizes,
                         const std::map<std::string, std::string>& metadata) {
    std::string json = "{";
    if (!metadata.empty()) {
        for (const auto& [key, value] : metadata) {
            json += json.size() == 1 ? json_string(std::string(kMetadataKey)) + ":{" : ",";
            json += json_string(key) + ":" + json_string(value);
        }
        json += "}";
    }
    std::uint64_t offset = 0;
    for (std::size_t i = 0; i < specs.size(); ++i) {
        if (json.size() > 1) json += ",";
        json += json_string(specs[i].name) + ":{\"dtype\":\"";
        json += name_of(specs[i].dtype);
        json += "\",\"shape\":[";
        for (std::size_t d = 0; d < specs[i].shape.size(); ++d) {
            if (d > 0) json += ",";
            json += std::to_string(specs[i].shape[d]);
        }
        json += "],\"data_offsets\":[" + std::to_string(offset);
        offset += sizes[i];
        json += "," + std::to_string(offset) + "]}";
    }
    json += "}";
    json.append((8 - json.size() % 8) % 8, ' ');
    if (json.size() > kMaxHeaderBytes) {
        throw CheckpointError(file + ": cannot be written: the header would have " +
                              std::to_string(json.size()) + " bytes, over the format's limit of " +
                              std::to_string(kMaxHeaderBytes));
    }
    std::string out;
    for (int shift = 0; shift < 64; shift += 8) out += static_cast<char>(json.size() >> shift & 0xFF);
    return out + json;
}

}  // namespace

struct SafetensorsWriter::Impl {
    Impl(const std::filesystem::path& path, std::vector<TensorSpec> all_specs,
         const std::map<std::string, std::string>& metadata)
        : specs(std::move(all_specs)),
          sizes(checked_sizes(path.string(), specs, metadata)),
          header(header_bytes(path.string(), specs, sizes, metadata)),
          file(path, total_bytes()) {
        file.write(header);
    }

    std::uint64_t total_bytes() const {
        std::uint64_t total = header.size();
        for (const std::uint64_t size : sizes) total += size;
        return total;
    }

    /// Moves on to the next tensor that still wants bytes.
    void skip_full() {
        while (current < specs.size() && filled == sizes[current]) {
            ++current;
            filled = 0;
        }
    }

    Error misuse(const std::string& message) const {
        return Error(ExitCode::kInternal, file.path().string() + ": " + message);
    }

    std::vector<TensorSpec> specs;
    std::vector<std::uint64_t> sizes;
    std::string header;
    AtomicFile file;
    std::size_t current = 0;   ///< the tensor that is being written
    std::uint64_t filled = 0;  ///< bytes of it so far
};

SafetensorsWriter::SafetensorsWriter(std::filesystem::path path, std::vector<TensorSpec> specs,
                                     std::map<std::string, std::string> metadata)
    : impl_(std::make_unique<Impl>(path, std::move(specs), metadata)) {}

SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::append(std::span<const std::byte> bytes) {
    if (bytes.empty()) return;
    impl_->skip_full();
    if (impl_->current == impl_->specs.size()) throw impl_->misuse("bytes appended after the last tensor");
    if (bytes.size() > impl_->sizes[impl_->current] - impl_->filled) {
        throw impl_->misuse("too many bytes appended to tensor " + shown(impl_->specs[impl_->current].name));
    }
    impl_->file.write(bytes);
    impl_->filled += bytes.size();
}

void SafetensorsWriter::finish() {
    impl_->skip_full();
    if (impl_->current < impl_->specs.size()) {
        throw impl_->misuse("finished before tensor " + shown(impl_->specs[impl_->current].name) +
                            " was complete");
    }
    impl_->file.commit();
}

std::vector<TensorSpec> sorted_for_safetensors(std::vector<TensorSpec> specs) {
    std::sort(specs.begin(), specs.end(), [](const TensorSpec& a, const TensorSpec& b) {
        const std::size_t rank_a = safetensors_rank(a.dtype);
        const std::size_t rank_b = safetensors_rank(b.dtype);
        return rank_a != rank_b ? rank_a > rank_b : a.name < b.name;
    });
    return specs;
}

}  // namespace qlora::io
