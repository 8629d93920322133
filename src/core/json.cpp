#include "qlora/core/json.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <unordered_set>
#include <vector>

#include "qlora/core/error.h"
#include "qlora/core/lfs_pointer.h"
#include "qlora/core/whole_file.h"

namespace qlora {
namespace {

// Line and column (1-based, in characters) of the byte at `offset`.
std::string describe_place(std::string_view text, std::size_t offset) {
    const std::string_view before = text.substr(0, std::min(offset, text.size()));
    const auto line = 1 + std::count(before.begin(), before.end(), '\n');
    const std::size_t line_start = before.rfind('\n') == std::string_view::npos ? 0 : before.rfind('\n') + 1;
    const auto is_first_byte = [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; };
    const auto column = 1 + std::count_if(before.begin() + static_cast<std::ptrdiff_t>(line_start),
                                          before.end(), is_first_byte);
    return "line " + std::to_string(line) + ", column " + std::to_string(column);
}

// The parser's reason without its prefix and without the text it read last, which may be megabytes of a bad
// string.
std::string reason_of(const nlohmann::detail::exception& error) {
    std::string reason = error.what();
    const std::size_t prefix = reason.find("] ");
    if (prefix != std::string::npos) reason.erase(0, prefix + 2);
    if (reason.rfind("parse error at ", 0) == 0) reason.erase(0, reason.find(": ") + 2);
    const std::size_t last_read = reason.find("; last read: ");
    if (last_read != std::string::npos) {
        const std::size_t expected = reason.rfind("; expected ");
        const bool has_expected = expected != std::string::npos && expected > last_read;
        reason.erase(last_read, has_expected ? expected - last_read : std::string::npos);
    }
    constexpr std::size_t kMaxReason = 200;
    return reason.size() > kMaxReason ? reason.substr(0, kMaxReason) + "..." : reason;
}

// Builds the value; the only state besides it is one frame for each open object or array.
class Builder final : public nlohmann::json_sax<Json> {
  public:
    Builder(std::string_view text, const char* const& cursor) : text_(text), cursor_(cursor) {}

    Json take() { return std::move(root_); }
    const std::string& fault() const { return fault_; }

    bool null() override { return put(nullptr); }
    bool boolean(bool value) override { return put(value); }
    bool number_integer(number_integer_t value) override { return put(value); }
    bool number_unsigned(number_unsigned_t value) override { return put(value); }
    bool number_float(number_float_t value, const string_t&) override { return put(value); }
    bool string(string_t& value) override { return put(std::move(value)); }
    bool binary(binary_t&) override { return refuse("binary values are not JSON"); }

    bool start_object(std::size_t) override { return open(Json::object()); }
    bool start_array(std::size_t) override { return open(Json::array()); }
    bool end_object() override { return close(); }
    bool end_array() override { return close(); }

    bool key(string_t& name) override {
        Frame& frame = frames_.back();
        auto& members = frame.value->get_ref<Json::object_t&>();
        if (!frame.is_new(members, name)) return refuse("the key \"" + path_to(name) + "\" is given twice");
        // Appending past ordered_map's own emplace avoids its linear search: vocabularies have 10^5 keys.
        static_cast<Json::object_t::Container&>(members).emplace_back(std::move(name), nullptr);
        return true;
    }

    bool parse_error(std::size_t position, const std::string&,
                     const nlohmann::detail::exception& error) override {
        fault_ = describe_place(text_, position == 0 ? 0 : position - 1) + ": " + reason_of(error);
        return false;
    }

  private:
    struct Frame {
        Json* value;
        std::unordered_set<std::string> names;  // filled once an object is too long for a linear search

        bool is_new(const Json::object_t& members, const std::string& name) {
            constexpr std::size_t kLinearLimit = 16;
            if (members.size() < kLinearLimit) {
                return std::none_of(members.begin(), members.end(),
                                    [&](const auto& m) { return m.first == name; });
            }
            if (names.empty()) {
                for (const auto& member : members) names.insert(member.first);
            }
            return names.insert(name).second;
        }
    };

    // The slot of the next value: the root, a new array element, or the member whose key came last.
    Json& slot() {
        if (frames_.empty()) return root_;
        Json& parent = *frames_.back().value;
        if (parent.is_array()) return parent.get_ref<Json::array_t&>().emplace_back();
        return parent.get_ref<Json::object_t&>().back().second;
    }

    template <class T>
    bool put(T&& value) {
        slot() = std::forward<T>(value);
        return true;
    }

    bool open(Json empty) {
        if (frames_.size() >= static_cast<std::size_t>(kMaxJsonDepth)) {
            return refuse("nested deeper than " + std::to_string(kMaxJsonDepth) + " levels");
        }
        Json& place = slot();
        place = std::move(empty);
        frames_.push_back({&place, {}});
        return true;
    }

    bool close() {
        frames_.pop_back();
        return true;
    }

    bool refuse(const std::string& message) {
        fault_ = describe_place(text_, static_cast<std::size_t>(cursor_ - text_.data()) - 1) + ": " + message;
        return false;
    }

    std::string path_to(const std::string& name) const {
        std::string path;
        const auto append = [&](const std::string& key) {
            if (!path.empty()) path += '.';
            path += key;
        };
        for (std::size_t i = 0; i + 1 < frames_.size(); ++i) {
            const Json& parent = *frames_[i].value;
            if (parent.is_array()) {
                path += "[" + std::to_string(parent.size() - 1) + "]";
            } else {
                append(parent.get_ref<const Json::object_t&>().back().first);
            }
        }
        append(name);
        return path;
    }

    std::string_view text_;
    const char* const& cursor_;  // how far the lexer has read, for faults it does not report itself
    std::vector<Frame> frames_;
    Json root_;
    std::string fault_;
};

// Input iterator that shares its position, because the parser tells a handler no place.
class CountingIterator {
  public:
    using iterator_category = std::input_iterator_tag;
    using value_type = char;
    using difference_type = std::ptrdiff_t;
    using pointer = const char*;
    using reference = const char&;

    CountingIterator(const char* at, const char** cursor) : at_(at), cursor_(cursor) {}
    reference operator*() const { return *at_; }
    CountingIterator& operator++() {
        ++at_;
        if (cursor_ != nullptr) *cursor_ = at_;
        return *this;
    }
    CountingIterator operator++(int) {
        CountingIterator before = *this;
        ++*this;
        return before;
    }
    bool operator==(const CountingIterator& other) const { return at_ == other.at_; }
    bool operator!=(const CountingIterator& other) const { return at_ != other.at_; }

  private:
    const char* at_;
    const char** cursor_;
};

}  // namespace

Json parse_json(std::string_view text, const std::string& name) {
    // The parser takes a NUL byte for the end of the text and would ignore what follows it.
    const std::size_t nul = text.find('\0');
    if (nul != std::string_view::npos) {
        throw ConfigError(name + ": " + describe_place(text, nul) + ": a NUL byte is not JSON");
    }
    const char* cursor = text.data();
    Builder builder(text, cursor);
    const CountingIterator begin(text.data(), &cursor);
    const CountingIterator end(text.data() + text.size(), nullptr);
    if (!Json::sax_parse(begin, end, &builder)) throw ConfigError(name + ": " + builder.fault());
    return builder.take();
}

Json read_json_file(const std::filesystem::path& file) {
    std::error_code status;
    if (std::filesystem::is_directory(file, status)) {
        throw ConfigError(file.string() + ": is a folder, a JSON file is needed");
    }
    const auto text = [&] {
        try {
            return read_whole_file(file);
        } catch (const ReadError& error) {
            throw ConfigError(error.what());
        }
    }();
    if (const std::string pointer = fault_of_lfs_pointer(text); !pointer.empty())
        throw ConfigError(file.string() + ": " + pointer);
    return parse_json(text, file.string());
}

}  // namespace qlora
