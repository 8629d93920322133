#include "qlora/io/model_folder.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <system_error>
#include <vector>

#include "messages.h"
#include "qlora/core/error.h"
#include "qlora/core/json.h"
#include "qlora/core/optional_file.h"

namespace qlora::io {

namespace fs = std::filesystem;

namespace {

constexpr const char* kConfigFile = "config.json";
constexpr const char* kAdapterConfigFile = "adapter_config.json";
constexpr const char* kWanted = "a folder in Hugging Face's form is needed (config.json, *.safetensors)";

bool is_folder(const fs::path& path) {
    std::error_code ignored;
    return fs::is_directory(path, ignored);
}

/// Names of one kind, cut when there are many.
class NameList {
  public:
    void add(const std::string& name) {
        constexpr std::size_t kMostText = 200;
        if (text_.size() < kMostText) text_ += (text_.empty() ? "" : ", ") + shown(name);
    }
    bool empty() const { return text_.empty(); }
    const std::string& text() const { return text_; }

  private:
    std::string text_;
};

/// What lies in a folder.
struct Contents {
    bool nothing = true;
    bool config = false, weights = false, adapter = false;
    NameList shards, other_safetensors, pickles, ggufs;
    std::vector<std::string> folders;

    void add(const fs::path& path) {
        const std::string name = path.filename().string();
        nothing = false;
        config |= name == kConfigFile;
        weights |= name == kModelFile || name == kModelIndexFile;
        adapter |= name == kAdapterConfigFile || name.starts_with("adapter_model.");
        if (is_pickle(name)) pickles.add(name);
        if (name.ends_with(".gguf")) ggufs.add(name);
        if (is_folder(path)) folders.push_back(name);
        if (name.ends_with(".safetensors"))
            (name.starts_with("model-") ? shards : other_safetensors).add(name);
    }
};

// The snapshot that a folder of the hub's cache (models--organisation--name) stands for: that of its main
// branch, or the only one.
std::optional<fs::path> snapshot_in(const fs::path& cache_folder) {
    const fs::path snapshots = cache_folder / "snapshots";
    std::string revision;
    std::ifstream(cache_folder / "refs" / "main") >> revision;
    if (!revision.empty() && is_folder(snapshots / revision)) return snapshots / revision;
    std::error_code error;
    std::optional<fs::path> only;
    for (const fs::directory_entry& entry : fs::directory_iterator(snapshots, error)) {
        if (only) return std::nullopt;
        only = entry.path();
    }
    return only;
}

std::optional<fs::path> hub_cache() {
    const auto variable = [](const char* name) -> std::optional<fs::path> {
        const char* value = std::getenv(name);
        if (value == nullptr || *value == '\0') return std::nullopt;
        return fs::path(value);
    };
    if (const auto cache = variable("HF_HUB_CACHE")) return cache;
    if (const auto home = variable("HF_HOME")) return *home / "hub";
    if (const auto home = variable("HOME")) return *home / ".cache" / "huggingface" / "hub";
    return std::nullopt;
}

// "organisation/name" when neither of the last two parts of a path is there and both could be such a name.
std::optional<std::string> hub_name(const fs::path& path) {
    const fs::path absolute = fs::absolute(path).lexically_normal();
    const fs::path parent = absolute.parent_path();
    if (is_there(parent) || !is_folder(parent.parent_path())) return std::nullopt;
    const std::string organisation = parent.filename().string(), name = absolute.filename().string();
    const auto fits = [](const std::string& part) {
        return !part.empty() &&
               part.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") ==
                   std::string::npos;
    };
    if (!fits(organisation) || !fits(name)) return std::nullopt;
    return organisation + "/" + name;
}

std::string fault_of_missing(const fs::path& path) {
    const std::string start = "there is no " + path.string();
    if (!path.empty() && path.begin()->string().starts_with("~")) {
        return start +
               "; the shell replaces ~ only at the beginning of a word that is not in quotes: write "
               "the path out";
    }
    const std::optional<std::string> name = hub_name(path);
    if (!name) return start;
    if (const auto cache = hub_cache()) {
        std::string folder = "models--" + *name;
        folder.replace(folder.find('/'), 1, "--");
        if (const auto snapshot = snapshot_in(*cache / folder))
            return start + "; " + *name + " lies in the cache of the Hugging Face Hub: give " +
                   snapshot->string();
    }
    return start + "; if " + *name +
           " is a name on the Hugging Face Hub: nothing is downloaded here, so get it first (hf download " +
           *name + " --local-dir FOLDER) and give that folder";
}

std::string fault_of_file(const fs::path& path) {
    const std::string start = path.string() + " is a ";
    if (path.extension() == ".gguf") return start + "GGUF file; " + kWanted;
    if (is_pickle(path)) {
        return start + "pickle file, which can run code when it is read; " + kConvertPickles +
               " and give the folder";
    }
    const std::string folder = fs::absolute(path).lexically_normal().parent_path().string();
    return start + "file; " + kWanted +
           (is_there(fs::path(folder) / kConfigFile) ? ": give " + folder : std::string());
}

// The base model that an adapter's own settings name, in words; empty where they do not.
std::string base_of(const fs::path& adapter) {
    try {
        const Json config = read_json_file(adapter / kAdapterConfigFile);
        for (const char* key : {"base_model_name_or_path", "model_name"}) {  // PEFT's, AdapterHub's
            const auto base = config.find(key);
            if (base != config.end() && base->is_string()) return " (" + base->get<std::string>() + ")";
        }
    } catch (const Error&) {  // the adapter is not what is read here
    }
    return {};
}

std::string fault_of_weights(const fs::path& folder, const Contents& contents) {
    const std::string start = folder.string() + ": has neither " + kModelFile + " nor " + kModelIndexFile;
    if (contents.adapter) {
        return folder.string() +
               ": is an adapter, no base model; give it as the adapter (model.adapter, "
               "--adapter) and the base it was trained on" +
               base_of(folder) + " as the model";
    }
    if (!contents.shards.empty())
        return start + ", only shards without their index (" + contents.shards.text() +
               "); was a download cut?";
    if (!contents.other_safetensors.empty())
        return start + "; it holds " + contents.other_safetensors.text() +
               ", which is no base model by its name";
    if (!contents.pickles.empty())
        return start + ", only pickle files (" + contents.pickles.text() +
               "), which can run code when they are read; " + kConvertPickles;
    if (!contents.ggufs.empty()) return start + ", only GGUF (" + contents.ggufs.text() + "); " + kWanted;
    return start + "; is it the right folder?";
}

// A folder that holds the one that was meant.
std::string fault_of_outer_folder(const fs::path& folder, const Contents& contents) {
    if (contents.config || contents.weights) return {};
    const auto& folders = contents.folders;
    if (std::find(folders.begin(), folders.end(), "snapshots") != folders.end()) {
        const auto snapshot = snapshot_in(folder);
        return folder.string() + ": is a folder of the Hugging Face cache; the model is in " +
               (snapshot ? snapshot->string() : (folder / "snapshots" / "REVISION").string());
    }
    for (const std::string& inner : folders) {
        if (is_there(folder / inner / kConfigFile))
            return folder.string() + ": has no " + kConfigFile + ", but its folder " + shown(inner) +
                   " has one; give " + (folder / inner).string();
    }
    return {};
}

std::string fault_of_folder(const fs::path& folder) {
    std::error_code error;
    Contents contents;
    for (fs::directory_iterator entry(folder, error); !error && entry != fs::directory_iterator();
         entry.increment(error))
        contents.add(entry->path());
    if (error) return folder.string() + ": cannot list the folder: " + error.message();
    if (contents.nothing) return folder.string() + ": is an empty folder; was a download cut?";
    std::sort(contents.folders.begin(), contents.folders.end());
    if (std::string fault = fault_of_outer_folder(folder, contents); !fault.empty()) return fault;
    if (!contents.weights) return fault_of_weights(folder, contents);
    if (!contents.config) return folder.string() + ": has no " + kConfigFile + "; was a download cut?";
    const std::string fault = fault_of_dangling_link(folder / kConfigFile);
    return fault.empty() ? fault : (folder / kConfigFile).string() + ": " + fault;
}

}  // namespace

bool is_there(const fs::path& path) {
    std::error_code ignored;
    return fs::symlink_status(path, ignored).type() != fs::file_type::not_found;
}

bool is_pickle(const fs::path& file) {
    const std::string extension = file.extension().string();
    return extension == ".bin" || extension == ".pt" || extension == ".pth" || extension == ".ckpt";
}

std::string fault_of_model_folder(const fs::path& path) {
    if (const std::string fault = fault_of_dangling_link(path); !fault.empty())
        return path.string() + ": " + fault;
    if (!is_there(path)) return fault_of_missing(path);
    std::error_code error;
    if (fs::is_directory(path, error)) return fault_of_folder(path);
    return error ? path.string() + ": " + error.message() : fault_of_file(path);
}

void require_model_folder(const fs::path& path) {
    const std::string fault = fault_of_model_folder(path);
    if (!fault.empty()) throw CheckpointError(fault);
}

}  // namespace qlora::io
