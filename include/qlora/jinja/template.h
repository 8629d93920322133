#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "qlora/core/error.h"
#include "qlora/core/json.h"

namespace qlora::jinja {

/// What strftime_now tells: a fixed local time, so that all renderings of a run tell the same.
struct LocalTime {
    int year = 1970;
    int month = 1;  // 1 to 12
    int day = 1;    // 1 to 31
    int hour = 0;
    int minute = 0;
    int second = 0;
    int microsecond = 0;

    /// The clock of this machine in its time zone.
    static LocalTime now();
};

/// Bounds on one template and one rendering. Real templates stay far below each of them.
struct Limits {
    std::size_t source_bytes = std::size_t{1} << 20;
    int nesting = 200;  // of the syntax tree, and of values
    int calls = 100;    // macros that call macros
    std::int64_t steps = 10'000'000;
    std::size_t output_bytes = std::size_t{16} << 20;
    std::size_t live_bytes = std::size_t{64} << 20;
    std::size_t list_items = 100'000;                  // of a list or range that a template makes
    std::size_t stack_bytes = std::size_t{144} << 10;  // of the thread's stack, while parsing or rendering
};

struct Environment {
    LocalTime clock;
    Limits limits;
};

/// Where a piece of rendered text comes from.
struct Origin {
    enum class Kind : std::uint8_t {
        kTemplate,  // the template's own text, and what it computes
        kMessage,   // a value inside messages[message]
        kInput,     // a value inside another variable: tools, documents, bos_token, an argument
    };
    Kind kind = Kind::kTemplate;
    std::size_t message = 0;
    /// JSON pointer from the message ("/content", "/tool_calls/0/function/name"), or from the variables
    /// ("/tools/0/name", "/bos_token").
    std::string pointer;
    /// The text is the member's name, not its value.
    bool is_key = false;

    bool operator==(const Origin&) const = default;
};

/// A range of bytes of the rendered text.
struct ByteRange {
    std::size_t begin = 0;
    std::size_t end = 0;

    bool operator==(const ByteRange&) const = default;
};

struct Part {
    ByteRange range;
    std::size_t origin = 0;  // index into Rendering::origins

    bool operator==(const Part&) const = default;
};

struct Rendering {
    std::string text;  // UTF-8
    /// Cover the text without a gap, in order; neighbours differ in their origin.
    std::vector<Part> parts;
    std::vector<Origin> origins;  // the first is the template's
    /// What {% generation %} blocks wrote, wherever the block stands: one range for each run of a block's
    /// text.
    std::vector<ByteRange> generation;

    const Origin& origin_of(const Part& part) const { return origins[part.origin]; }
};

/// A template that cannot be parsed; the message is `name:line: reason`.
class SyntaxError : public CheckpointError {
  public:
    using CheckpointError::CheckpointError;
};

/// A rendering that failed; the message is `name:line: reason`.
class RenderError : public DataError {
  public:
    enum class Kind {
        kRefused,  // the template called raise_exception
        kFault,    // a wrong operation, where jinja2 would raise an error, or one that is not supported
        kBudget,   // one of the Limits
    };
    RenderError(Kind kind, int line, const std::string& message)
        : DataError(message), kind_(kind), line_(line) {}
    Kind kind() const { return kind_; }
    int line() const { return line_; }

  private:
    Kind kind_;
    int line_;
};

struct Program;
class Runtime;

/// Variables that a template has read, for several renderings: of a conversation and of its beginnings, say.
/// One thread at a time may render it.
class Conversation {
  public:
    Conversation(Conversation&&) noexcept;
    ~Conversation();

  private:
    friend class Template;
    struct Read;
    explicit Conversation(std::unique_ptr<Read> read);

    std::unique_ptr<Read> read_;
};

/// A chat template as transformers' apply_chat_template runs it: jinja2's immutable sandbox with trim_blocks,
/// lstrip_blocks, loop controls and {% generation %}. What transformers' templates never use is refused by
/// name. May be rendered by several threads at once.
class Template {
  public:
    /// `name` (a file's name, say) begins each message of an error. Throws SyntaxError.
    static Template parse(std::string_view source, const std::string& name, const Limits& limits = {});

    /// `variables` is an object: messages, and what else the template may see (tools, documents,
    /// add_generation_prompt, bos_token, arguments of the caller). As in transformers, tools and documents
    /// that are absent are none, members of a message that are null are left out, and reasoning that stands
    /// under one of the names reasoning_content, thinking or reasoning can be read as reasoning_content and
    /// as thinking, with the origin of the one that is there. Throws RenderError.
    Rendering render(const Json& variables, const Environment& environment) const;

    /// Reads variables once, the messages as a list of objects beside the others. Throws RenderError.
    Conversation read(const std::vector<const Json*>& messages, const Json& others,
                      const Environment& environment) const;
    /// What render gives for the first `messages` messages, with `add_generation_prompt` unless the variables
    /// that were read say otherwise. Each rendering has the whole of the limits, less what the variables
    /// take.
    Rendering render(const Conversation& conversation, std::size_t messages,
                     bool add_generation_prompt) const;

    bool has_generation_blocks() const;
    /// The template names this variable, and so may use it.
    bool mentions(std::string_view variable) const;

  private:
    explicit Template(std::shared_ptr<const Program> program);

    std::shared_ptr<const Program> program_;
};

}  // namespace qlora::jinja
