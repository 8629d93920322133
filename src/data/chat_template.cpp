#include "chat_template.h"

#include <algorithm>
#include <utility>

#include "answer_text.h"
#include "formats/tool_calls.h"
#include "qlora/core/error.h"
#include "white_space.h"
#include "written_whole.h"

namespace qlora::data {
namespace {

using tokenizer::ByteRange;

bool is_answer(const Message& message) {
    return message.role() == Role::kAssistant;
}

/// The number of turns where there is none.
std::size_t last_answer(const std::vector<Message>& turns) {
    const auto last = std::find_if(turns.rbegin(), turns.rend(), is_answer);
    return last == turns.rend() ? turns.size() : static_cast<std::size_t>(turns.rend() - last) - 1;
}

/// Bytes of the first tokens that two texts have in common.
std::size_t common_bytes(const tokenizer::EncodedText& a, const tokenizer::EncodedText& b) {
    std::size_t bytes = 0;
    for (std::size_t i = 0; i < std::min(a.ids.size(), b.ids.size()) && a.ids[i] == b.ids[i]; ++i) {
        if (a.ranges[i] != b.ranges[i]) break;
        bytes = a.ranges[i].end;
    }
    return bytes;
}

std::vector<ByteRange> plain_ranges(const std::vector<InputRun>& runs) {
    std::vector<ByteRange> out;
    for (const InputRun& run : runs) {
        if (!out.empty() && out.back().end == run.range.begin) {
            out.back().end = run.range.end;
        } else {
            out.push_back(run.range);
        }
    }
    return out;
}

/// Of each of `count` messages, whether something that it says stands in no block.
std::vector<bool> unmarked(std::size_t count, const std::vector<InputRun>& runs, const RenderedRow& row) {
    std::vector<bool> out(count, false);
    for (const InputRun& run : runs) {
        if (run.message == InputRun::kNoMessage) continue;
        const auto block =
            std::partition_point(row.answers.begin(), row.answers.end(),
                                 [&](const AnswerText& answer) { return answer.end < run.range.end; });
        if (block == row.answers.end() || run.range.begin < block->begin) out[run.message] = true;
    }
    return out;
}

/// What stands between the turn before an answer and its own text.
std::string_view gap_before(const MessagePlace& place, std::string_view text) {
    const bool is_empty = place.own.begin == place.own.end;
    return text.substr(place.after, (is_empty ? place.before : place.own.begin) - place.after);
}

std::string answer_of(std::size_t turn) {
    return "the answer in turn " + std::to_string(turn + 1);
}

}  // namespace

ChatTemplate::ChatTemplate(jinja::Template program, const tokenizer::Tokenizer& tokenizer,
                           TemplateInputs inputs, std::vector<std::string> end_tokens)
    : program_(std::move(program)),
      tokenizer_(tokenizer),
      inputs_(std::move(inputs)),
      end_tokens_(std::move(end_tokens)) {
    for (const auto& [name, text] : inputs_.special_tokens.items()) special_names_.push_back(name);
    try {
        if (!inputs_.tools.is_null()) inputs_.tools = formats::normal_tools(inputs_.tools, "data.tools");
    } catch (const DataError& error) {
        throw ConfigError(error.what());
    }
    turn_end_ = find_turn_end();
    if (turn_end_) {
        const std::string spelled = tokenizer_.id_to_token(*turn_end_);
        if (std::find(end_tokens_.begin(), end_tokens_.end(), spelled) == end_tokens_.end())
            end_tokens_.push_back(spelled);
    }
}

ChatTemplate::Turns ChatTemplate::turns_of(const Record& record) const {
    Json others = inputs_.special_tokens;
    const auto given = [](const Json& of_row, const Json& of_run) {
        return of_row.is_null() ? of_run : of_row;
    };
    others["tools"] = given(record.tools, inputs_.tools);
    others["documents"] = given(record.documents, inputs_.documents);
    for (const Json* arguments : {&inputs_.arguments, &record.template_arguments}) {
        if (arguments->is_object()) others.update(*arguments);
    }
    std::vector<Message> messages = chat_turns(record);
    std::vector<const Json*> objects;
    objects.reserve(messages.size());
    for (const Message& message : messages) objects.push_back(&message.object());
    jinja::Conversation read = program_.read(objects, others, {.clock = inputs_.clock, .limits = {}});
    return {.messages = std::move(messages), .record = record, .read = std::move(read)};
}

jinja::Rendering ChatTemplate::run(const Turns& turns, std::size_t messages, bool asks) const {
    return program_.render(turns.read, messages, asks);
}

std::vector<InputRun> ChatTemplate::inputs_of(const jinja::Rendering& rendering) const {
    return input_runs(rendering, special_names_);
}

std::string ChatTemplate::opening(const Turns& turns, std::size_t answer) const {
    const jinja::Rendering prompt = run(turns, answer, true);
    return prompt.text.substr(end_of_input(prompt, special_names_));
}

/// Of what stands before an answer, the bytes that also stand there when one is asked for.
std::size_t ChatTemplate::header_size(std::string_view gap, const std::string& opening) const {
    if (gap == opening) return gap.size();
    return common_bytes(tokenizer_.encode_text(gap), tokenizer_.encode_text(opening));
}

/// The same for an answer to nothing. Many templates read the first turn and so cannot be asked for it: what
/// they write between header and answer is taken from the same answer behind a question.
std::size_t ChatTemplate::first_header_size(const Turns& turns, std::string_view gap) const {
    Record record = turns.record;
    record.messages = {{Role::kUser, "question"}};
    record.messages.insert(record.messages.end(), turns.messages.begin(), turns.messages.end());
    record.input.clear();  // the turns hold it
    const Turns asked = turns_of(record);
    const jinja::Rendering rendering = run(asked, asked.messages.size(), false);
    const MessagePlace place = message_places(2, inputs_of(rendering), rendering.text.size())[1];
    std::string_view between = gap_before(place, rendering.text);
    between.remove_prefix(header_size(between, opening(asked, 1)));
    return gap.size() - (gap.ends_with(between) ? between.size() : 0);
}

AnswerText ChatTemplate::answer_at(const MessagePlace& place, const Turns& turns, std::size_t answer,
                                   bool asks, std::string_view text) const {
    if (!place.is_whole) {
        throw DataError("the chat template writes other turns into " + answer_of(answer) +
                        ", so it cannot be told from them");
    }
    AnswerText out{.message = answer, .after = place.after};
    const bool is_empty = place.own.begin == place.own.end;
    const std::string_view gap = gap_before(place, text);
    out.begin = place.after + gap.size();
    if (asks || is_empty)
        out.begin = place.after +
                    (answer > 0 ? header_size(gap, opening(turns, answer)) : first_header_size(turns, gap));
    const std::size_t said = is_empty ? out.begin : place.own.end;
    std::size_t end = std::string::npos;
    for (const std::string& token : end_tokens_) {
        const std::size_t at = text.substr(0, place.before).find(token, said);
        if (at == std::string::npos || (end != std::string::npos && at + token.size() >= end)) continue;
        end = at + token.size();
    }
    out.ends = end != std::string::npos;
    const bool is_last = place.before == text.size();
    // Without an end token what the last answer is closed by (a call's frame, say) is its own.
    if (!out.ends) end = is_last ? std::max(said, said + strip(text.substr(said)).size()) : said;
    out.end = std::max(out.begin, end);
    return out;
}

void ChatTemplate::mark_by_blocks(const jinja::Rendering& rendering, const std::vector<InputRun>& runs,
                                  const Turns& turns, RenderedRow& row) const {
    std::size_t next = 0;  // the answer that a block is, where it has no input of one
    for (const jinja::ByteRange& block : rendering.generation) {
        std::size_t message = InputRun::kNoMessage;
        auto run = std::partition_point(runs.begin(), runs.end(), [&](const InputRun& before) {
            return before.range.end <= block.begin;
        });
        for (; run != runs.end() && run->range.begin < block.end; ++run) {
            if (run->message == InputRun::kNoMessage) continue;
            const Message& turn = turns.messages[run->message];
            if (!is_answer(turn) && !row.trains_all)
                throw DataError("the chat template marks what turn " + std::to_string(run->message + 1) +
                                " says as an answer ({% generation %}), but its role is \"" +
                                std::string(name_of(turn.role())) + "\"");
            if (is_answer(turn)) message = run->message;
        }
        const bool goes_on = !row.answers.empty() && row.answers.back().end == block.begin;
        if (message == InputRun::kNoMessage && goes_on) message = row.answers.back().message;
        if (message == InputRun::kNoMessage) {
            while (next < turns.messages.size() && !is_answer(turns.messages[next])) ++next;
            // Behind the last answer a template may mark EOS apart.
            message =
                next == turns.messages.size() && !row.answers.empty() ? row.answers.back().message : next;
        }
        if (message >= turns.messages.size())
            throw DataError("the chat template marks text as an answer that is none ({% generation %})");
        next = message + 1;
        const std::string_view text = std::string_view(rendering.text).substr(0, block.end);
        AnswerText answer{.begin = block.begin, .end = block.end, .message = message};
        const auto behind = std::partition_point(runs.begin(), runs.end(), [&](const InputRun& before) {
            return before.range.begin < block.begin;
        });
        if (behind != runs.begin()) answer.after = std::min(std::prev(behind)->range.end, block.begin);
        answer.ends = std::any_of(end_tokens_.begin(), end_tokens_.end(),
                                  [&](const std::string& token) { return text.ends_with(token); });
        answer.switched_off = turns.messages[message].is_switched_off();
        answer.supervised = message >= turns.record.context;
        row.answers.push_back(answer);
    }
    row.is_marked = true;
}

void ChatTemplate::refuse_unread_fields(const Record& record) const {
    std::string names;
    const auto add = [&](const std::string& name) { names += (names.empty() ? "" : ", ") + name; };
    if (!record.tools.is_null() && !mentions("tools")) add("tools");
    if (!record.documents.is_null() && !mentions("documents")) add("documents");
    if (record.template_arguments.is_object()) {
        for (const auto& [name, value] : record.template_arguments.items()) {
            if (!mentions(name)) add("chat_template_kwargs." + name);
        }
    }
    if (names.empty()) return;
    throw DataError("the model's chat template has no place for " + names +
                    ", so it would not be trained; take it out of the row");
}

RenderedRow ChatTemplate::render(const Record& record, TrainOn train_on) const {
    refuse_unread_fields(record);
    const Turns turns = turns_of(record);
    const std::size_t count = turns.messages.size();
    jinja::Rendering rendering = run(turns, count, false);
    const std::vector<InputRun> runs = inputs_of(rendering);
    RenderedRow row;
    row.plain_ranges = plain_ranges(runs);
    row.trains_all = train_on == TrainOn::kAll;
    if (!rendering.generation.empty()) {
        mark_by_blocks(rendering, runs, turns, row);
    } else {
        const std::vector<MessagePlace> places = message_places(count, runs, rendering.text.size());
        const std::size_t last = last_answer(turns.messages);
        for (std::size_t i = 0; i < count; ++i) {
            const Message& message = turns.messages[i];
            if (!is_answer(message)) continue;
            // The exact edge counts where an answer is trained, and where the last one is asked for again.
            const bool asks =
                i == last || row.trains_all ||
                (train_on == TrainOn::kAssistant && i >= record.context && !message.is_switched_off());
            AnswerText answer = answer_at(places[i], turns, i, asks, rendering.text);
            answer.switched_off = message.is_switched_off();
            answer.supervised = i >= record.context;
            row.answers.push_back(answer);
        }
    }
    for (AnswerText& answer : row.answers) {
        if (row.trains_all) answer.supervised = true;
        if (answer.switched_off) answer.supervised = false;
        if (train_on == TrainOn::kLastAssistant && answer.message != row.answers.back().message)
            answer.supervised = false;
    }
    refuse_unwritten(rendering, runs, turns, train_on, row);
    row.text = std::move(rendering.text);
    return row;
}

/// An answer that is trained must be there as the row has it.
void ChatTemplate::refuse_unwritten(const jinja::Rendering& rendering, const std::vector<InputRun>& runs,
                                    const Turns& turns, TrainOn train_on, RenderedRow& row) const {
    const WrittenValues written(rendering);
    const std::size_t last = last_answer(turns.messages);
    std::vector<bool> is_unmarked(turns.messages.size(), false);
    if (row.is_marked) is_unmarked = unmarked(turns.messages.size(), runs, row);
    const auto leave_out = [&](const std::string& name) {
        if (std::find(row.left_out.begin(), row.left_out.end(), name) == row.left_out.end())
            row.left_out.push_back(name);
    };
    for (std::size_t i = 0; i < turns.messages.size(); ++i) {
        const Message& message = turns.messages[i];
        const bool is_trained = is_answer(message) && i >= turns.record.context &&
                                !message.is_switched_off() &&
                                (train_on != TrainOn::kLastAssistant || i == last);
        const std::string fault = fault_of_writing(written, i, message);
        if (fault.empty() && is_trained && !row.trains_all && is_unmarked[i])
            leave_out("answers: {% generation %} leaves out a part");
        if (fault.empty()) continue;
        if (is_trained || train_on == TrainOn::kAll) {
            throw DataError("the chat template of this model " + fault + " of turn " + std::to_string(i + 1) +
                            ", so it would not be trained as the row has it; " +
                            (i == last
                                 ? ""
                                 : "train the last answer alone (data.train_on: last_assistant), or each "
                                   "answer in a row of its own (data.one_row_per_answer), or ") +
                            "take it out of the row");
        }
        leave_out("turns: " + fault);
    }
}

RenderedRow ChatTemplate::render_prompt(const Record& record) const {
    const Turns turns = turns_of(record);
    jinja::Rendering rendering = run(turns, turns.messages.size(), true);
    RenderedRow row;
    row.plain_ranges = plain_ranges(inputs_of(rendering));
    row.text = std::move(rendering.text);
    return row;
}

std::optional<tokenizer::TokenId> ChatTemplate::find_turn_end() const {
    Record probe{.kind = RecordKind::kConversation,
                 .text = {},
                 .messages = {{Role::kUser, "question"},
                              {Role::kAssistant, "answer"},
                              {Role::kUser, "question"},
                              {Role::kAssistant, "answer"}},
                 .input = {},
                 .context = 0,
                 .tools = {},
                 .documents = {},
                 .template_arguments = {},
                 .task = {},
                 .passed_over = {}};
    while (!probe.messages.empty()) {
        try {
            return turn_end_of(turns_of(probe));
        } catch (const DataError&) {
            // Fewer turns then; a template that refuses all says nothing of its end.
            probe.messages.erase(probe.messages.end() - 2, probe.messages.end());
        }
    }
    return std::nullopt;
}

/// A token that is known to end turns, where it stands behind an answer that another turn follows: others
/// before it only close the answer's frame. Else the first control token behind the last answer.
std::optional<tokenizer::TokenId> ChatTemplate::turn_end_of(const Turns& turns) const {
    const jinja::Rendering rendering = run(turns, turns.messages.size(), false);
    const std::vector<InputRun> runs = inputs_of(rendering);
    if (runs.empty()) return std::nullopt;
    const MessagePlace first = message_places(2, runs, rendering.text.size())[1];
    const std::string between = rendering.text.substr(first.own.end, first.before - first.own.end);
    for (const tokenizer::TokenId id : tokenizer_.encode_text(between).ids) {
        const std::string spelled = tokenizer_.id_to_token(id);
        const bool is_known = std::find(end_tokens_.begin(), end_tokens_.end(), spelled) != end_tokens_.end();
        if (is_known && turns.messages.size() > 2) return id;
    }
    for (const tokenizer::TokenId id :
         tokenizer_.encode_text(rendering.text.substr(runs.back().range.end)).ids) {
        if (tokenizer_.is_special(id)) return id;
    }
    return std::nullopt;
}

}  // namespace qlora::data
