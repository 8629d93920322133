#include "post_processor.h"

#include <cstdint>
#include <limits>

#include "component_reader.h"

namespace qlora::tokenizer {
namespace {

constexpr auto kTokenIdLimit = static_cast<std::uint64_t>(std::numeric_limits<TokenId>::max());

// The ids that `special_tokens` gives the template's token `name`.
std::vector<TokenId> ids_of(const Json& special_tokens, const std::string& name, const std::string& path,
                            FaultList& faults) {
    std::vector<TokenId> ids;
    const auto found = special_tokens.find(name);
    const Json* list = nullptr;
    if (found != special_tokens.end() && found->is_object()) {
        const auto field = found->find("ids");
        if (field != found->end() && field->is_array()) list = &*field;
    }
    if (list == nullptr) {
        faults.add(path + ".special_tokens", "no ids for '" + name + "', which the template uses");
        return ids;
    }
    for (const Json& id : *list) {
        if (whole_number(id).value_or(kTokenIdLimit) >= kTokenIdLimit) {
            faults.add(path + ".special_tokens", "the ids of '" + name + "' must be whole numbers from 0");
            break;
        }
        ids.push_back(id.get<TokenId>());
    }
    return ids;
}

// The id in [token, id].
std::vector<TokenId> read_pair(ComponentReader& reader, std::string_view field) {
    const Json::array_t& pair = reader.list(field);
    if (pair.size() == 2 && pair[0].is_string() &&
        whole_number(pair[1]).value_or(kTokenIdLimit) < kTokenIdLimit)
        return {pair[1].get<TokenId>()};
    reader.fault(field, "must be a token and its id");
    return {};
}

PostProcessor read_template(ComponentReader& reader) {
    PostProcessor result;
    const Json::array_t& single = reader.list("single");
    reader.find("pair");  // for pairs of texts, which nothing here encodes
    static const Json kNone = Json::object();
    const Json* special_tokens = reader.find("special_tokens");
    if (special_tokens == nullptr || !special_tokens->is_object()) {
        reader.fault("special_tokens", "must be an object");
        special_tokens = &kNone;
    }
    int texts = 0;
    for (const Json& piece : single) {
        const bool is_one = piece.is_object() && piece.size() == 1 && piece.front().is_object() &&
                            piece.front().contains("id") && piece.front().at("id").is_string();
        const std::string kind = is_one ? piece.begin().key() : "";
        const std::string id = is_one ? piece.front().at("id").get<std::string>() : "";
        if (kind == "Sequence" && id == "A") {
            ++texts;
        } else if (kind == "SpecialToken") {
            auto& side = texts == 0 ? result.before : result.after;
            for (const TokenId token : ids_of(*special_tokens, id, reader.path(), reader.faults())) {
                side.push_back(token);
            }
        } else {
            reader.fault("single", "the piece " + piece.dump() + " is neither a SpecialToken nor Sequence A");
        }
    }
    if (texts != 1) reader.fault("single", "must hold Sequence A exactly once");
    return result;
}

}  // namespace

PostProcessor read_post_processor(const Json& json, const std::string& path, FaultList& faults) {
    PostProcessor result;
    if (json.is_null()) return result;
    ComponentReader reader(json, path, faults);
    const std::string type = reader.type();
    if (type.empty()) return result;
    if (type == "ByteLevel") {
        // Moves offsets only, never ids.
        for (const char* field : {"add_prefix_space", "trim_offsets", "use_regex"})
            reader.boolean(field, true);
    } else if (type == "TemplateProcessing") {
        result = read_template(reader);
    } else if (type == "RobertaProcessing") {
        for (const char* field : {"add_prefix_space", "trim_offsets"}) reader.boolean(field, true);
        result = {read_pair(reader, "cls"), read_pair(reader, "sep")};
    } else if (type == "Sequence") {
        std::size_t index = 0;
        for (const Json& step : reader.list("processors")) {
            const std::string place = path + ".processors[" + std::to_string(index++) + "]";
            if (step.is_null()) faults.add("", place + " must be an object");
            PostProcessor next = read_post_processor(step, place, faults);
            result.before.insert(result.before.begin(), next.before.begin(), next.before.end());
            result.after.insert(result.after.end(), next.after.begin(), next.after.end());
        }
    } else {
        reader.refuse_type(type, "ByteLevel, RobertaProcessing, TemplateProcessing and Sequence");
    }
    return result;
}

}  // namespace qlora::tokenizer
