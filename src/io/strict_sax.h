#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace qlora::io {

/// Base of the JSON readers of this module: event by event, so that a hostile file costs no tree in memory.
/// Every event that a reader does not expect is refused.
class StrictSax : public nlohmann::json_sax<nlohmann::json> {
  public:
    /// Throws CheckpointError "<file>: <message>". `what` says what is read, "the header" say.
    void parse(std::string_view text, const std::string& file, const std::string& what);

    bool null() override { return unexpected("null"); }
    bool boolean(bool) override { return unexpected("a boolean"); }
    bool number_integer(number_integer_t) override { return unexpected("a negative number"); }
    bool number_unsigned(number_unsigned_t) override { return unexpected("a number"); }
    bool number_float(number_float_t, const string_t&) override {
        return unexpected("a number that is no unsigned 64-bit integer");
    }
    bool string(string_t&) override { return unexpected("a string"); }
    bool binary(binary_t&) override { return unexpected("binary data"); }
    bool start_object(std::size_t) override { return unexpected("an object"); }
    bool start_array(std::size_t) override { return unexpected("an array"); }
    bool parse_error(std::size_t position, const std::string& token,
                     const nlohmann::detail::exception& error) override;

  protected:
    /// Where the reader stands and what it wants there, "tensor \"a\": shape: expected an array".
    virtual std::string expectation() const = 0;
    bool refuse(std::string message);
    bool unexpected(const char* found) { return refuse(expectation() + ", found " + found); }

  private:
    std::string what_;
    std::string message_;
};

}  // namespace qlora::io
