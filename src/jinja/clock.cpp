#include <array>
#include <chrono>
#include <cstdio>
#include <ctime>

#include "functions.h"
#include "messages.h"
#include "qlora/core/code_points.h"

namespace qlora::jinja {
namespace {

constexpr std::array<std::string_view, 7> kDays = {"Sunday",   "Monday", "Tuesday", "Wednesday",
                                                   "Thursday", "Friday", "Saturday"};
constexpr std::array<std::string_view, 12> kMonths = {"January",   "February", "March",    "April",
                                                      "May",       "June",     "July",     "August",
                                                      "September", "October",  "November", "December"};

// What strftime needs beside the fields of LocalTime.
struct Calendar {
    int weekday = 0;   // from Sunday
    int year_day = 0;  // from 0
};

Calendar calendar_of(const LocalTime& time) {
    constexpr std::array<int, 12> before = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
    const bool is_leap = (time.year % 4 == 0 && time.year % 100 != 0) || time.year % 400 == 0;
    Calendar out;
    out.year_day =
        before[static_cast<std::size_t>(time.month - 1)] + time.day - 1 + (is_leap && time.month > 2 ? 1 : 0);
    const int years = time.year - 1;
    out.weekday = (years + years / 4 - years / 100 + years / 400 + out.year_day + 1) % 7;
    return out;
}

// A number of at least `width` digits; `flag` as in glibc's %-d and %_d.
std::string padded(int value, int width, char flag, char fill = '0') {
    std::string out = std::to_string(value);
    if (flag == '-') return out;
    if (flag == '_') fill = ' ';
    if (flag == '0') fill = '0';
    if (static_cast<int>(out.size()) < width)
        out.insert(0, static_cast<std::size_t>(width) - out.size(), fill);
    return out;
}

class TimeFormatter {
  public:
    explicit TimeFormatter(const LocalTime& time) : time_(time), calendar_(calendar_of(time)) {}

    /// Nothing for a code that is not known.
    std::optional<std::string> field(char code, char flag) const {
        const std::string_view day = kDays[static_cast<std::size_t>(calendar_.weekday)];
        const std::string_view month = kMonths[static_cast<std::size_t>(time_.month - 1)];
        const int half = time_.hour % 12 == 0 ? 12 : time_.hour % 12;
        switch (code) {
            case 'Y':
                return padded(time_.year, 1, flag);
            case 'C':
                return padded(time_.year / 100, 2, flag);
            case 'y':
                return padded(time_.year % 100, 2, flag);
            case 'm':
                return padded(time_.month, 2, flag);
            case 'd':
                return padded(time_.day, 2, flag);
            case 'e':
                return padded(time_.day, 2, flag, ' ');
            case 'H':
                return padded(time_.hour, 2, flag);
            case 'k':
                return padded(time_.hour, 2, flag, ' ');
            case 'I':
                return padded(half, 2, flag);
            case 'l':
                return padded(half, 2, flag, ' ');
            case 'M':
                return padded(time_.minute, 2, flag);
            case 'S':
                return padded(time_.second, 2, flag);
            case 'j':
                return padded(calendar_.year_day + 1, 3, flag);
            case 'u':
                return padded(calendar_.weekday == 0 ? 7 : calendar_.weekday, 1, flag);
            case 'w':
                return padded(calendar_.weekday, 1, flag);
            case 'U':
                return padded((calendar_.year_day + 7 - calendar_.weekday) / 7, 2, flag);
            case 'W':
                return padded((calendar_.year_day + 7 - (calendar_.weekday + 6) % 7) / 7, 2, flag);
            default:
                break;
        }
        if (flag != '\0') return {};
        switch (code) {
            case 'A':
                return std::string(day);
            case 'a':
                return std::string(day.substr(0, 3));
            case 'B':
                return std::string(month);
            case 'b':
            case 'h':
                return std::string(month.substr(0, 3));
            case 'p':
                return time_.hour < 12 ? "AM" : "PM";
            case 'P':
                return time_.hour < 12 ? "am" : "pm";
            case 'f':
                return padded(time_.microsecond, 6, '\0');
            case 'n':
                return "\n";
            case 't':
                return "\t";
            case '%':
                return "%";
            case 'z':
            case 'Z':
                return "";  // Python's local time has no zone of its own
            case 'D':
            case 'x':
                return join("m/d/y");
            case 'F':
                return join("Y-m-d");
            case 'T':
            case 'X':
                return join("H:M:S");
            case 'R':
                return join("H:M");
            case 'r':
                return join("I:M:S p");
            case 'c':
                return join("a b e H:M:S Y");
            default:
                return {};
        }
    }

  private:
    // Each letter is a field.
    std::string join(std::string_view pattern) const {
        std::string out;
        for (const char c : pattern) {
            const bool is_field = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
            out += is_field ? field(c, '\0').value_or("") : std::string(1, c);
        }
        return out;
    }

    const LocalTime& time_;
    Calendar calendar_;
};

}  // namespace

LocalTime LocalTime::now() {
    const auto now = std::chrono::system_clock::now();
    const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
    const auto since = std::chrono::duration_cast<std::chrono::microseconds>(now.time_since_epoch()).count();
    std::tm parts{};
    localtime_r(&seconds, &parts);
    return {parts.tm_year + 1900,
            parts.tm_mon + 1,
            parts.tm_mday,
            parts.tm_hour,
            parts.tm_min,
            parts.tm_sec,
            static_cast<int>(since % 1'000'000)};
}

std::string format_time(Runtime& runtime, const LocalTime& time, std::string_view format) {
    const TimeFormatter formatter(time);
    std::string out;
    for (std::size_t i = 0; i < format.size(); ++i) {
        if (format[i] != '%') {
            out += format[i];
            continue;
        }
        runtime.budget.step();
        std::size_t at = i + 1;
        char flag = '\0';
        if (at < format.size() && (format[at] == '-' || format[at] == '_' || format[at] == '0'))
            flag = format[at++];
        const auto field = at < format.size() ? formatter.field(format[at], flag) : std::nullopt;
        if (!field) {
            const std::size_t end = at < format.size() ? at + utf8_length(format[at]) : at;
            runtime.fail("strftime_now does not know the code " + in_quotes(format.substr(i, end - i)));
        }
        out += *field;
        runtime.budget.expect(out.size());
        i = at;
    }
    return out;
}

}  // namespace qlora::jinja
