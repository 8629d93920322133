#include "qlora/io/checkpoint.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <set>
#include <system_error>

#include "kept_fingerprint.h"
#include "messages.h"
#include "qlora/core/hash.h"
#include "qlora/core/optional_file.h"
#include "qlora/io/model_folder.h"
#include "shard_index.h"

namespace qlora::io {

namespace fs = std::filesystem;

namespace {

constexpr const char* kSingleFile = kModelFile;
constexpr const char* kIndexFile = kModelIndexFile;
constexpr std::size_t kReadAhead = std::size_t{64} << 20;

/// Why a shard cannot have this name in the index; empty when it can.
std::string fault_of_shard_name(const std::string& name) {
    if (name.empty()) return "the shard has no name";
    if (name.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos || name == "." ||
        name == "..") {
        return "a shard must be a plain file name inside the folder";
    }
    if (is_pickle(name))
        return std::string("is a pickle file, which can run code when it is read; ") + kConvertPickles;
    if (!name.ends_with(".safetensors")) return "a shard must be a .safetensors file";
    return {};
}

/// The total N of a name `<stem>-00001-of-N.safetensors`, with its stem and digits, to check that a series is
/// whole.
struct SeriesPlace {
    std::string stem;
    std::string total;
};

std::optional<SeriesPlace> series_of(const std::string& name) {
    const std::size_t end = name.rfind(".safetensors");
    const std::size_t of = name.rfind("-of-", end);
    if (end == std::string::npos || of == std::string::npos || of < 6) return std::nullopt;
    const std::string total = name.substr(of + 4, end - of - 4);
    const std::string number = name.substr(of - 5, 5);
    const auto digits = [](const std::string& text) {
        return text.size() == 5 && text.find_first_not_of("0123456789") == std::string::npos;
    };
    if (!digits(total) || !digits(number) || name[of - 6] != '-') return std::nullopt;
    return SeriesPlace{name.substr(0, of - 5), total};
}

/// An index that names shards 1 and 3 of 3 has lost the tensors of shard 2.
void check_series(const std::set<std::string>& shards, ListedFaults& faults) {
    std::map<std::pair<std::string, std::string>, std::size_t> named;
    for (const std::string& shard : shards) {
        if (const auto place = series_of(shard)) ++named[{place->stem, place->total}];
    }
    for (const auto& [series, count] : named) {
        const std::size_t total = std::stoul(series.second);
        if (count != total) {
            faults.add(kIndexFile, "names " + std::to_string(count) + " of the " + std::to_string(total) +
                                       " shards " +
                                       shown(series.first + "*-of-" + series.second + ".safetensors"));
        }
    }
}

/// Opens one file of the folder; nullopt and a fault when it cannot be used.
std::optional<SafetensorsFile> open_shard(const fs::path& folder, const std::string& name,
                                          ListedFaults& faults) {
    const fs::path file = folder / name;
    if (!is_there(file)) {
        faults.add(shown(name), "the file is missing; was a download cut?");
    } else if (const std::string fault = fault_of_dangling_link(file); !fault.empty()) {
        faults.add(shown(name), fault);
    } else {
        try {
            return SafetensorsFile(file);
        } catch (const CheckpointError& error) {
            faults.add("", error.what());
        }
    }
    return std::nullopt;
}

/// Shard names that can be opened safely; faults for the others.
std::set<std::string> checked_shard_names(const std::map<std::string, std::string>& weight_map,
                                          ListedFaults& faults) {
    std::set<std::string> good, bad;
    for (const auto& [tensor, shard] : weight_map) {
        if (good.contains(shard) || bad.contains(shard)) continue;
        const std::string fault = fault_of_shard_name(shard);
        (fault.empty() ? good : bad).insert(shard);
        if (!fault.empty()) {
            faults.add(kIndexFile, "tensor " + shown(tensor) + " in " + shown(shard) + ": " + fault);
        }
    }
    return good;
}

/// Index and shards must name the same tensors in the same places.
void check_against_index(const std::map<std::string, std::string>& weight_map,
                         const std::vector<SafetensorsFile>& shards, ListedFaults& faults) {
    std::map<std::string, const SafetensorsFile*> opened;
    std::map<std::string, std::string> home;  // tensor to the first shard that holds it
    for (const SafetensorsFile& shard : shards) {
        const std::string file = shard.path().filename().string();
        opened[file] = &shard;
        for (const TensorView& tensor : shard.tensors()) {
            const std::string place = "tensor " + shown(tensor.name);
            const auto [first, fresh] = home.emplace(tensor.name, file);
            const auto indexed = weight_map.find(tensor.name);
            if (!fresh) {
                faults.add(place, "stands in both " + shown(first->second) + " and " + shown(file));
            } else if (indexed == weight_map.end()) {
                faults.add(place, "stands in " + shown(file) + " but not in " + kIndexFile);
            }
        }
    }
    for (const auto& [tensor, shard] : weight_map) {
        const auto file = opened.find(shard);
        if (file == opened.end() || file->second->find(tensor) != nullptr) continue;
        const auto elsewhere = home.find(tensor);
        faults.add(
            "tensor " + shown(tensor),
            std::string(kIndexFile) + " says it is in " + shown(shard) + ", which " +
                (elsewhere == home.end() ? "does not hold it"
                                         : "does not hold it (it is in " + shown(elsewhere->second) + ")"));
    }
}

std::vector<SafetensorsFile> open_sharded(const fs::path& folder) {
    ListedFaults faults;
    std::map<std::string, std::string> weight_map;
    try {
        if (const std::string fault = fault_of_dangling_link(folder / kIndexFile); !fault.empty())
            throw CheckpointError((folder / kIndexFile).string() + ": " + fault);
        weight_map = read_shard_index(folder / kIndexFile);
    } catch (const ResourceError&) {
        throw;
    } catch (const Error& error) {
        throw CheckpointError(error.what());
    }
    const std::set<std::string> names = checked_shard_names(weight_map, faults);
    check_series(names, faults);
    if (is_there(folder / kSingleFile) && !names.contains(kSingleFile)) {
        faults.add(kIndexFile, std::string("does not name ") + kSingleFile +
                                   ", which lies beside it: which of the two is the model? Remove the other");
    }
    std::vector<SafetensorsFile> shards;
    for (const std::string& name : names) {
        if (auto shard = open_shard(folder, name, faults)) shards.push_back(std::move(*shard));
    }
    check_against_index(weight_map, shards, faults);
    faults.throw_if_any(folder.string());
    return shards;
}

std::vector<SafetensorsFile> open_single(const fs::path& folder) {
    ListedFaults faults;
    std::vector<SafetensorsFile> files;
    if (auto file = open_shard(folder, kSingleFile, faults)) files.push_back(std::move(*file));
    faults.throw_if_any(folder.string());
    if (files.front().tensors().empty())
        throw CheckpointError(files.front().path().string() + ": holds no tensors");
    return files;
}

/// Little-endian, 8 bytes: the framing of `fingerprint`.
void update_number(Xxh3& hash, std::uint64_t value) {
    std::array<std::byte, 8> bytes{};
    for (std::byte& byte : bytes) {
        byte = static_cast<std::byte>(value & 0xFF);
        value >>= 8;
    }
    hash.update(bytes);
}

void update_text(Xxh3& hash, std::string_view text) {
    update_number(hash, text.size());
    hash.update(text);
}

}  // namespace

Checkpoint::Checkpoint(const fs::path& folder) : folder_(folder) {
    if (is_there(folder / kIndexFile)) {
        shards_ = open_sharded(folder);
    } else if (is_there(folder / kSingleFile)) {
        shards_ = open_single(folder);
    } else {
        require_model_folder(folder);
    }
    for (std::size_t i = 0; i < shards_.size(); ++i) {
        for (const TensorView& tensor : shards_[i].tensors()) by_name_[tensor.name] = {i, &tensor};
    }
    for (const auto& [name, place] : by_name_) names_.push_back(name);
}

bool Checkpoint::contains(const std::string& name) const {
    return by_name_.contains(name);
}

const TensorView& Checkpoint::at(const std::string& name) const {
    const auto place = by_name_.find(name);
    if (place == by_name_.end()) throw CheckpointError(folder_.string() + ": has no tensor " + shown(name));
    return *place->second.second;
}

void Checkpoint::release(const std::string& name) const {
    const TensorView& tensor = at(name);
    shards_[by_name_.at(name).first].release(tensor);
}

std::string Checkpoint::fingerprint(const std::function<void(const TensorView&)>& visit) const {
    if (!visit && !fingerprint_.empty()) return fingerprint_;
    Xxh3 hash;
    update_number(hash, by_name_.size());
    auto ahead = by_name_.begin();
    std::size_t ahead_bytes = 0;
    for (const auto& [name, place] : by_name_) {
        // The order of names leads from shard to shard: what comes next is read while this is hashed.
        for (; ahead != by_name_.end() && ahead_bytes < kReadAhead; ++ahead) {
            const auto& [shard, coming] = ahead->second;
            shards_[shard].prefetch(*coming, kReadAhead);
            ahead_bytes += coming->bytes.size();
        }
        ahead_bytes -= place.second->bytes.size();
        const TensorView& tensor = *place.second;
        update_text(hash, name);
        update_text(hash, name_of(tensor.dtype));
        update_number(hash, tensor.shape.size());
        for (const std::int64_t size : tensor.shape) update_number(hash, static_cast<std::uint64_t>(size));
        update_number(hash, tensor.bytes.size());
        hash.update(tensor.bytes);
        if (visit) visit(tensor);
        shards_[place.first].release(tensor);
    }
    fingerprint_ = hash.hex();
    return fingerprint_;
}

std::string Checkpoint::fingerprint_kept_in(const fs::path& file, std::uint64_t least) const {
    std::uint64_t bytes = 0;
    for (const SafetensorsFile& shard : shards_) bytes += shard.identity().size;
    if (bytes < least || !fingerprint_.empty()) return fingerprint();
    if (const auto kept = read_kept_fingerprint(file, shards_)) fingerprint_ = *kept;
    if (!fingerprint_.empty()) return fingerprint_;
    keep_fingerprint(file, shards_, fingerprint());
    return fingerprint_;
}

std::optional<std::string> Checkpoint::metadata(const std::string& key) const {
    std::optional<std::string> value;
    for (const SafetensorsFile& shard : shards_) {
        const auto found = shard.metadata().find(key);
        if (found == shard.metadata().end() || (value && *value != found->second)) return std::nullopt;
        value = found->second;
    }
    return value;
}

}  // namespace qlora::io
