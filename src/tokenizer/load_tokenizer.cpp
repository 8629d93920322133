#include <filesystem>
#include <utility>

#include "folder_files.h"
#include "json_tokenizer.h"
#include "qlora/core/error.h"
#include "qlora/core/hash.h"
#include "qlora/core/optional_file.h"
#include "qlora/tokenizer/tokenizer.h"
#include "sentencepiece_tokenizer.h"

namespace qlora::tokenizer {
namespace {

// The file that holds the vocabulary. tokenizer.json goes first where there are both.
std::filesystem::path vocabulary_file(const std::filesystem::path& folder) {
    for (const char* name : {"tokenizer.json", "tokenizer.model"}) {
        if (optional_file_exists(folder / name)) return folder / name;
    }
    std::string message = folder.string() + ": has neither tokenizer.json nor tokenizer.model";
    for (const auto& [file, source] : {std::pair("vocab.json", "vocab.json and merges.txt"),
                                       std::pair("tekken.json", "tekken.json (Mistral's own format)")}) {
        if (!optional_file_exists(folder / file)) continue;
        message +=
            "; save tokenizer.json from " + std::string(source) + " with transformers (save_pretrained)";
        break;
    }
    throw CheckpointError(message);
}

// An id in generation_config.json or config.json; the first one of a list.
std::optional<TokenId> id_in(const Json& config, const std::string& field, const Tokenizer& tokenizer) {
    const auto found = config.find(field);
    if (found == config.end()) return std::nullopt;
    const Json& id = found->is_array() && !found->empty() ? found->front() : *found;
    if (!id.is_number_integer()) return std::nullopt;
    const auto value = id.get<std::int64_t>();
    // -1 and the like mean "none"; an id past the vocabulary has no token to stand for.
    if (value < 0 || value >= tokenizer.vocab_size()) return std::nullopt;
    return static_cast<TokenId>(value);
}

}  // namespace

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& folder) {
    const std::filesystem::path file = vocabulary_file(folder);
    if (file.filename() != "tokenizer.json") return SentencePieceTokenizer::load(folder);
    try {
        return JsonTokenizer::load(file);
    } catch (const CheckpointError& error) {
        if (!optional_file_exists(folder / "tokenizer.model")) throw;
        throw CheckpointError(std::string(error.what()) +
                              "; without this file, the folder's tokenizer.model is read instead");
    }
}

SpecialTokens load_special_tokens(const std::filesystem::path& folder, const Tokenizer& tokenizer) {
    const Json config = read_optional_object(folder, "tokenizer_config.json");
    const Json map = read_optional_object(folder, "special_tokens_map.json");
    const Json generation = read_optional_object(folder, "generation_config.json");
    const Json model = read_optional_object(folder, "config.json");
    const bool by_json = vocabulary_file(folder).filename() == "tokenizer.json";
    FaultList faults;
    const auto resolve = [&](const std::string& role, const char* usual,
                             bool required) -> std::optional<TokenId> {
        if (const std::optional<std::string> name = special_token_name(config, map, role + "_token")) {
            const std::optional<TokenId> id = tokenizer.token_to_id(*name);
            if (id || !required) return id;
            faults.add(role + "_token", "'" + *name + "' is not in the tokenizer's vocabulary");
            return std::nullopt;
        }
        for (const Json* file : {&generation, &model}) {
            if (const std::optional<TokenId> id = id_in(*file, role + "_token_id", tokenizer)) return id;
        }
        // transformers' Llama tokenizer has names of its own for a bare tokenizer.model.
        if (by_json || usual == nullptr) return std::nullopt;
        return tokenizer.token_to_id(usual);
    };
    SpecialTokens tokens;
    tokens.bos = resolve("bos", "<s>", true);
    tokens.eos = resolve("eos", "</s>", true);
    // Padding never reaches a model here, so a pad token without an id is no fault.
    tokens.pad = resolve("pad", nullptr, false);
    faults.throw_if_any<CheckpointError>(folder.string());
    return tokens;
}

std::vector<std::filesystem::path> tokenizer_files(const std::filesystem::path& folder) {
    constexpr const char* kNames[] = {"tokenizer.json",
                                      "tokenizer.model",
                                      "tokenizer_config.json",
                                      "special_tokens_map.json",
                                      "added_tokens.json",
                                      "chat_template.jinja",
                                      "vocab.json",
                                      "merges.txt"};
    return existing_files(folder, kNames);
}

std::string tokenizer_fingerprint(const std::filesystem::path& folder) {
    return hash_file(vocabulary_file(folder));
}

}  // namespace qlora::tokenizer
