#include "added_vocabulary.h"

#include <algorithm>
#include <utility>

#include "component_reader.h"

namespace qlora::tokenizer {
namespace {

constexpr std::string_view kModelFile = "tokenizer.model";

}  // namespace

void AddedVocabulary::read_list(const Json& list, const ModelVocabulary& model, FaultList& faults) {
    if (list.is_null()) return;
    if (!list.is_array()) return faults.add("added_tokens", "must be a list");
    for (std::size_t i = 0; i < list.size(); ++i) {
        ComponentReader reader(list[i], "added_tokens[" + std::to_string(i) + "]", faults);
        const std::size_t faults_before = faults.size();
        AddedToken token;
        token.id = static_cast<TokenId>(std::min<std::size_t>(reader.count("id"), INT32_MAX - 1));
        token.content = reader.string("content");
        token.single_word = reader.boolean("single_word");
        token.lstrip = reader.boolean("lstrip");
        token.rstrip = reader.boolean("rstrip");
        token.normalized = reader.boolean("normalized");
        token.special = reader.boolean("special");
        if (faults.size() == faults_before) add(std::move(token), model, reader.path(), faults);
    }
}

// A token that the folder's other files describe otherwise than the vocabulary takes their flags, yet stays
// special once it is; one that the vocabulary lacks is added behind its own.
void AddedVocabulary::read_files(const TokenFiles& files, const ModelVocabulary& model,
                                 const std::string& file, FaultList& faults) {
    const std::vector<FolderToken> with_role = role_tokens(files);
    const auto has_role = [&](const std::string& content) {
        return std::any_of(with_role.begin(), with_role.end(),
                           [&](const FolderToken& token) { return token.token.content == content; });
    };
    const bool changes_flags = files.config.contains("added_tokens_decoder");
    for (auto& [token, place] : numbered_tokens(files, faults)) {
        const auto known = by_content_.find(token.content);
        if (known == by_content_.end()) {
            token.special = token.special || has_role(token.content);
            add(std::move(token), model, place, faults);
        } else if (token.id != known->second) {
            faults.add(place, "'" + token.content + "' has the id " + std::to_string(known->second) + " in " +
                                  file + ", not " + std::to_string(token.id));
        } else if (AddedToken& mine = tokens_[by_id_.at(token.id)]; changes_flags && token != mine) {
            token.special = token.special || mine.special || has_role(token.content);
            mine = std::move(token);
        }
    }
    const auto add_missing = [&](AddedToken token, const std::string& place) {
        if (by_content_.count(token.content) != 0) return;
        token.id = id_to_add(token.content, model);
        add(std::move(token), model, place, faults);
    };
    for (const auto& [token, role] : with_role) {
        // A model that knows no such end or start has a wrong name in its configuration.
        const bool must_be_known = role == "bos_token" || role == "eos_token";
        if (!must_be_known || model.token_to_id(token.content)) add_missing(token, role);
    }
    const bool older_name = file != kModelFile;
    for (const auto& [token, list] : listed_tokens(files, older_name)) add_missing(token, list);
}

TokenId AddedVocabulary::id_to_add(const std::string& content, const ModelVocabulary& model) const {
    return model.token_to_id(content).value_or(std::max(static_cast<TokenId>(model.size()), id_limit_));
}

void AddedVocabulary::add(AddedToken token, const ModelVocabulary& model, const std::string& place,
                          FaultList& faults) {
    if (token.content.empty()) return faults.add(place, "the content is empty");
    if (by_content_.count(token.content) != 0) {
        return faults.add(place, "'" + token.content + "' is listed twice");
    }
    const TokenId expected = id_to_add(token.content, model);
    const std::string& holder = model.id_to_token(token.id);
    if (!holder.empty() && holder != token.content) {
        return faults.add(place, "the id " + std::to_string(token.id) + " of '" + token.content +
                                     "' belongs to '" + holder + "' in the vocabulary");
    }
    if (token.id != expected) {
        return faults.add(place, "the id of '" + token.content + "' must be " + std::to_string(expected) +
                                     ", which the vocabulary and the tokens before it imply, not " +
                                     std::to_string(token.id));
    }
    first_id_ = tokens_.empty() ? token.id : std::min(first_id_, token.id);
    id_limit_ = std::max(id_limit_, token.id + 1);
    by_id_.emplace(token.id, tokens_.size());
    by_content_.emplace(token.content, token.id);
    tokens_.push_back(std::move(token));
}

void AddedVocabulary::build_matchers(const Normalizer* normalizer, FaultList& faults) {
    // Where two spellings become the same, a special token wins.
    for (const bool special : {true, false}) {
        for (AddedToken& token : tokens_) {
            if (token.special != special) continue;
            token.decoded = token.content;
            if (!token.normalized) {
                raw_matcher_.add(token, token.content);
                continue;
            }
            if (normalizer != nullptr) token.decoded = normalizer->normalize(token.content);
            if (token.decoded.empty()) {
                faults.add("added_tokens", "the normalizer leaves nothing of '" + token.content + "'");
            } else {
                normalized_matcher_.add(token, token.decoded);
            }
        }
    }
}

std::vector<AddedVocabulary::Segment> AddedVocabulary::split(std::string_view text,
                                                             const Normalizer* normalizer,
                                                             const TextMarks& marks) const {
    std::vector<Segment> segments;
    const auto judge_raw = [&](const AddedToken& token, std::size_t begin, std::size_t end) {
        return marks.judge(token, {begin, end});
    };
    for (const auto& raw : raw_matcher_.split(text, judge_raw)) {
        AlignedText part(text.substr(raw.begin, raw.end - raw.begin), raw.begin, marks);
        if (raw.token) {
            segments.push_back({std::move(part), raw.token, raw.spelling, raw.begin == 0});
            continue;
        }
        if (normalizer != nullptr) normalizer->apply(part);
        const auto source_of = [&](std::size_t begin, std::size_t end) {
            return marks.tracks() ? part.source(begin, end) : ByteRange{};
        };
        const auto judge = [&](const AddedToken& token, std::size_t begin, std::size_t end) {
            return marks.judge(token, source_of(begin, end));
        };
        for (const auto& piece : normalized_matcher_.split(part.text(), judge)) {
            segments.push_back({part.slice(piece.begin, piece.end), piece.token,
                                source_of(piece.spelling.begin, piece.spelling.end),
                                raw.begin == 0 && piece.begin == 0});
        }
    }
    return segments;
}

const AddedToken* AddedVocabulary::find(TokenId id) const {
    if (id < first_id_ || id >= id_limit_) return nullptr;
    const auto found = by_id_.find(id);
    return found == by_id_.end() ? nullptr : &tokens_[found->second];
}

std::optional<TokenId> AddedVocabulary::find(std::string_view content) const {
    const auto found = by_content_.find(std::string(content));
    return found == by_content_.end() ? std::nullopt : std::optional(found->second);
}

}  // namespace qlora::tokenizer
