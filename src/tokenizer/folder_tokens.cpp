#include "folder_tokens.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "component_reader.h"
#include "folder_files.h"

namespace qlora::tokenizer {
namespace {

constexpr const char* kRoles[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                  "pad_token", "cls_token", "mask_token"};

std::optional<TokenId> id_from_text(const std::string& text) {
    if (text.empty() || text.size() > 8 || text.find_first_not_of("0123456789") != std::string::npos) {
        return std::nullopt;
    }
    return static_cast<TokenId>(std::stol(text));
}

// As a JSON string or as {"content": ..., "lstrip": ...}.
std::optional<FolderToken> special_token(const Json& value, const std::string& place) {
    const std::optional<std::string> content = token_content(value);
    if (!content || content->empty()) return std::nullopt;
    const auto flag = [&](const char* name) {
        return value.is_object() && value.contains(name) && value.at(name) == true;
    };
    AddedToken token;
    token.content = *content;
    token.single_word = flag("single_word");
    token.lstrip = flag("lstrip");
    token.rstrip = flag("rstrip");
    token.normalized = flag("normalized");
    token.special = true;
    return FolderToken{std::move(token), place};
}

bool is_role(const std::string& key) {
    constexpr std::string_view kEnd = "_token";
    return key.size() > kEnd.size() && key.compare(key.size() - kEnd.size(), kEnd.size(), kEnd) == 0;
}

}  // namespace

TokenFiles read_token_files(const std::filesystem::path& folder) {
    return {read_optional_object(folder, "tokenizer_config.json"),
            read_optional_object(folder, "special_tokens_map.json"),
            read_optional_object(folder, "added_tokens.json"), read_optional_object(folder, "config.json")};
}

std::vector<FolderToken> role_tokens(const TokenFiles& files) {
    std::vector<std::string> roles(std::begin(kRoles), std::end(kRoles));
    for (const Json* file : {&files.config, &files.map}) {
        for (const auto& [key, value] : file->items()) {
            // Besides the seven, models have roles of their own ("image_token").
            if (is_role(key) && std::find(roles.begin(), roles.end(), key) == roles.end())
                roles.push_back(key);
        }
    }
    std::vector<FolderToken> tokens;
    for (const std::string& role : roles) {
        const Json* value = special_token_value(files.config, files.map, role);
        if (value == nullptr) continue;
        if (auto token = special_token(*value, role)) tokens.push_back(std::move(*token));
    }
    return tokens;
}

// As transformers puts them together: additional_special_tokens is the older name and counts where there is
// no list of the newer one; an object of named tokens goes before both; special_tokens_map.json is read only
// where the configuration has no added_tokens_decoder.
std::vector<FolderToken> listed_tokens(const TokenFiles& files, bool older_name) {
    constexpr const char* kExtra = "extra_special_tokens";
    constexpr const char* kOlder = "additional_special_tokens";
    const auto find = [](const Json& object, const char* name) -> const Json* {
        const auto value = object.find(name);
        return value == object.end() || !value->is_structured() || value->empty() ? nullptr : &*value;
    };
    std::vector<FolderToken> tokens;
    const auto add = [&](const Json* values, const char* place) {
        if (values == nullptr) return;
        for (const Json& value : *values) {
            if (auto token = special_token(value, place)) tokens.push_back(std::move(*token));
        }
    };
    const Json* list = find(files.config, kExtra);
    const Json* older = find(files.config, kOlder);
    if (list == nullptr) list = std::exchange(older, nullptr);
    if (list != nullptr && list->is_object()) add(std::exchange(list, nullptr), kExtra);
    const Json* more = nullptr;
    if (!files.config.contains("added_tokens_decoder")) {
        more = find(files.map, kExtra);
        if (more != nullptr && more->is_object()) {
            add(std::exchange(more, nullptr), kExtra);
            list = nullptr;
        }
        if (const Json* mapped = find(files.map, kOlder)) older = mapped;
    }
    add(list, kExtra);
    add(more, kExtra);
    if (older_name && list == nullptr && more == nullptr) add(older, kOlder);
    return tokens;
}

std::vector<FolderToken> numbered_tokens(const TokenFiles& files, FaultList& faults) {
    std::set<std::string> special;
    for (const auto& named : {role_tokens(files), listed_tokens(files)}) {
        for (const FolderToken& token : named) special.insert(token.token.content);
    }
    std::vector<FolderToken> tokens;
    const auto add = [&](AddedToken token, const std::string& place) {
        if (token.content.empty()) return faults.add(place, "the content is missing or empty");
        tokens.push_back({std::move(token), place});
    };
    if (const auto decoder = files.config.find("added_tokens_decoder"); decoder != files.config.end()) {
        const std::string name = "tokenizer_config.json added_tokens_decoder";
        if (!decoder->is_object()) faults.add(name, "must be an object");
        for (const auto& [key, fields] : decoder->items()) {
            const std::string place = name + "." + key;
            const std::optional<TokenId> id = id_from_text(key);
            if (!id) {
                faults.add(place, "the key must be an id");
                continue;
            }
            ComponentReader reader(fields, place, faults);
            reader.find("__type");  // "AddedToken", in files of some versions
            AddedToken token;
            token.id = *id;
            token.content = reader.string("content", "");
            token.single_word = reader.boolean("single_word", false);
            token.lstrip = reader.boolean("lstrip", false);
            token.rstrip = reader.boolean("rstrip", false);
            token.special = reader.boolean("special", false);
            token.normalized = reader.boolean("normalized", !token.special);
            add(std::move(token), place);
        }
    } else {
        for (const auto& [content, id] : files.added_ids.items()) {
            const std::string place = "added_tokens.json " + content;
            if (whole_number(id).value_or(INT32_MAX) >= INT32_MAX) {
                faults.add(place, "the id must be a whole number from 0");
                continue;
            }
            AddedToken token;
            token.id = id.get<TokenId>();
            token.content = content;
            token.special = special.count(content) != 0;
            token.normalized = !token.special;
            add(std::move(token), place);
        }
    }
    std::stable_sort(tokens.begin(), tokens.end(),
                     [](const auto& a, const auto& b) { return a.token.id < b.token.id; });
    return tokens;
}

}  // namespace qlora::tokenizer
