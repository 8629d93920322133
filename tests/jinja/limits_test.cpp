// A template of somebody else ends in bounded time, memory and stack, with one sentence.
#include <gtest/gtest.h>
#include <pthread.h>

#include <ctime>
#include <ostream>
#include <thread>

#include "rendered.h"

namespace qlora::jinja {
namespace {

std::string times(std::size_t count, const std::string& text) {
    std::string out;
    for (std::size_t i = 0; i < count; ++i) out += text;
    return out;
}

// Of the thread's own time; a quarter of a second at most on a machine of its own, many times more under
// sanitizers.
#ifdef __SANITIZE_ADDRESS__
constexpr double kSeconds = 60;
constexpr const char* kGrowth = "'a' * 1000";  // ten million small pieces take minutes
#else
constexpr double kSeconds = 1;
constexpr const char* kGrowth = "'a' * 10";
#endif

struct Hostile {
    std::string name;
    std::string source;
    std::string words;  // of the sentence; empty where the template is harmless
};

void PrintTo(const Hostile& hostile, std::ostream* out) {
    *out << hostile.name;
}

std::vector<Hostile> hostile_templates() {
    const std::string doubled =
        "{% set ns = namespace(s='a') %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ "
        "ns.s }}";
    const std::string grown =
        "{% set ns = namespace(s='a') %}{% for i in range(9) %}"
        "{% set ns.s = ns.s | replace('a', " +
        std::string(kGrowth) + ") %}{% endfor %}";
    const std::string holds_itself = "{% set ns = namespace() %}{% set ns.x = [ns] %}";
    const std::string chain = "{% set ns = namespace(x=1) %}{% for i in range(100000) %}";
    return {
        {"recursive_macro", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "deep"},
        {"mutual_macros",
         "{% macro a() %}{% if 1 %}{{ b() | trim }}{% endif %}{% endmacro %}"
         "{% macro b() %}{{ [a()] }}{% endmacro %}{{ a() }}",
         "deep"},
        {"parentheses", "{{ " + times(20000, "(") + "1" + times(20000, ")") + " }}", "nested too deeply"},
        {"brackets", "{{ " + times(20000, "[") + times(20000, "]") + " }}", "nested too deeply"},
        {"braces", "{{ " + times(20000, "{1:") + "1" + times(20000, "}") + " }}", "nested too deeply"},
        {"calls", "{{ " + times(20000, "f(") + times(20000, ")") + " }}", "nested too deeply"},
        {"nots", "{{ " + times(20000, "not ") + "1 }}", "nested too deeply"},
        {"signs", "{{ " + times(20000, "-") + "1 }}", "nested too deeply"},
        {"filters", "{{ 1" + times(20000, "|abs") + " }}", "nested too deeply"},
        {"tests", "{{ 1" + times(20000, " is defined and 1") + " }}", "nested too deeply"},
        {"sum", "{{ 1" + times(20000, "+1") + " }}", "nested too deeply"},
        {"attributes", "{{ a" + times(20000, ".a") + " }}", "nested too deeply"},
        {"conditionals", "{{ 1" + times(20000, " if 1 else 1") + " }}", "nested too deeply"},
        {"ifs", times(5000, "{% if 1 %}") + times(5000, "{% endif %}"), "nested too deeply"},
        {"fors", times(3000, "{% for i in [1] %}") + times(3000, "{% endfor %}"), "nested too deeply"},
        {"set_blocks", times(3000, "{% set x %}") + times(3000, "{% endset %}"), "nested too deeply"},
        {"flat_joins", "{{ 'a'" + times(20000, "~'a'") + " }}", ""},
        {"flat_elifs", "{% if 0 %}" + times(10000, "{% elif 0 %}") + "{% endif %}", ""},
        {"endless_loops",
         "{% for a in range(100000) %}{% for b in range(100000) %}{% for c in range(100000) %}"
         "{% endfor %}{% endfor %}{% endfor %}",
         "steps"},
        {"large_range", "{{ range(10000000000000) }}", "a range of more than 100000"},
        {"large_ranges", "{{ range(-9223372036854775807, 9223372036854775807) }}", "a range of more than"},
        {"repeat", "{{ 'a' * 1000000000 }}", "64 MB"},
        {"repeat_most", "{{ 'ab' * 9223372036854775807 }}", "64 MB"},
        {"repeat_list", "{{ [1] * 1000000000 }}", "a list of more than"},
        {"doubled", doubled, "64 MB"},
        {"grown", grown, "64 MB"},
        {"join", "{% set s = 'a' * 100000 %}{{ range(100000) | join(s) }}", "64 MB"},
        {"output", "{% set s = 'a' * 1000000 %}{% for i in range(100) %}{{ s }}{% endfor %}",
         "writes more than 16 MB"},
        {"indent", "{{ 'a\nb' | indent(1000000000) }}", "64 MB"},
        {"json_indent", "{{ [1] | tojson(indent=1000000000) }}", "64 MB"},
        {"json_indents", "{{ [[[[[[1]]]]]] | tojson(indent=20000000) }}", "64 MB"},
        {"power", "{{ 10**10000000 }}", "'**' is not supported"},
        {"justify", "{{ 'a'.ljust(2000000000) }}", "'ljust' of a value of type str is not supported"},
        {"format_width", "{{ '{:>2000000000}'.format(1) }}", "is not supported"},
        {"percent_width", "{{ '%2000000000d' % 1 }}", "is not supported"},
        {"holds_itself", holds_itself + "{{ ns }}", ""},
        {"holds_itself_json", holds_itself + "{{ ns | tojson }}", "no form in JSON"},
        {"chain_of_lists", chain + "{% set ns.x = [ns.x] %}{% endfor %}", "nested more than"},
        {"chain_of_dicts", chain + "{% set ns.x = {1: ns.x} %}{% endfor %}", "nested more than"},
        {"chain_of_iterators", chain + "{% set ns.x = [ns.x] | map('trim') %}{% endfor %}",
         "nested more than"},
        {"chain_of_namespaces", chain + "{% set ns.x = namespace(x=ns.x) %}{% endfor %}{{ ns }}",
         "nested too deeply"},
        {"quiet_chain_of_namespaces", chain + "{% set ns.x = namespace(x=ns.x) %}{% endfor %}", ""},
        {"chain_of_methods", chain + "{% set ns.x = [1].index %}{% endfor %}", ""},
        {"quadratic_search",
         "{% set s = 'a' * 1000000 %}{% for i in range(1000) %}{{ ('a' * 50000 + 'b') in s }}"
         "{% endfor %}",
         "steps"},
        {"quadratic_index", "{% set s = '한' * 300000 %}{% for i in range(100000) %}{{ s[i] }}{% endfor %}",
         "steps"},
        {"quadratic_unique", "{{ range(100000) | unique | list | length }}", "steps"},
        {"quadratic_equal",
         "{% set s = 'a' * 1000000 %}{% set t = 'a' * 1000000 %}{% for i in range(100000) %}"
         "{% if s == t %}{% endif %}{% endfor %}",
         "steps"},
        {"right_split",
         "{% set s = 'a' * 1000000 %}{% for i in range(10000) %}{% set x = s.rsplit('b', 1) %}"
         "{% endfor %}",
         "steps"},
        {"strips",
         "{% set s = ' ' * 1000000 %}{% for i in range(10000) %}{% set x = s.strip() %}{% endfor %}",
         "steps"},
        {"long_separator",
         "{% set s = 'a' * 500000 %}{% set t = 'a' * 20000 + 'b' %}{% for i in range(10000) %}"
         "{% set x = s.rsplit(t, 1) %}{% endfor %}",
         "steps"},
        {"macro_calls",
         "{% macro m(a, b=1) %}{{ a }}{% endmacro %}{% for i in range(100000) %}{% for j in range(1000) %}"
         "{% set x = m(j) %}{% endfor %}{% endfor %}",
         "steps"},
        {"json_of_lists",
         "{% set l = range(100000) | list %}{% for i in range(1000) %}{% set x = l | tojson %}{% endfor %}",
         "steps"},
        {"texts_of_dicts",
         "{% for i in range(100000) %}{% for j in range(1000) %}{% set x = {'a': i, 'b': [j]} | string %}"
         "{% endfor %}{% endfor %}",
         "steps"},
        {"sorts",
         "{% set l = range(100000) | list %}{% for i in range(1000) %}{% set x = l | sort(reverse=true) %}"
         "{% endfor %}",
         "steps"},
        {"maps",
         "{% for i in range(1000) %}{% set x = range(100000) | map('string') | select('equalto', '1') | list "
         "%}{% endfor %}",
         "steps"},
        {"cases",
         "{% set s = 'aB한' * 100000 %}{% for i in range(10000) %}{% set x = s | upper | title %}{% endfor "
         "%}",
         "steps"},
        {"clocks",
         "{% for i in range(100000) %}{% for j in range(1000) %}{% set x = strftime_now('%A %d %B %Y') %}"
         "{% endfor %}{% endfor %}",
         "steps"},
        {"many_names", times(9000, "{% set a = 1 %}"), ""},
        {"internals", "{{ ''.__class__ }}{{ [].__init__ }}", ""},
        {"internals_of_internals", "{{ ''.__class__.__mro__ }}", "is undefined"},
        {"attr", "{{ '' | attr('__class__') }}", "'attr' is not supported"},
        {"underscore", "{{ namespace(_x=1) }}", "begins with an underscore"},
        {"underscores", "{% set ns = namespace() %}{% set ns.__class__ = 1 %}", "begins with an underscore"},
        {"format_internals", "{{ '{0.__class__}'.format(1) }}", "is not supported"},
        {"overflow", "{{ 9223372036854775807 + 1 }}", "beyond 64 bits"},
        {"overflow_negative", "{{ (-9223372036854775807 - 1) * -1 }}", "beyond 64 bits"},
        {"overflow_division", "{{ (-9223372036854775807 - 1) // -1 }}", "beyond 64 bits"},
        {"modulo_of_least", "{{ (-9223372036854775807 - 1) % -1 }}", ""},
        {"by_zero", "{{ 1 % 0 }}", "division by zero"},
        {"by_zero_floor", "{{ 1 // 0 }}", "division by zero"},
        {"step_zero", "{{ 'abc'[::0] }}", "step of a slice is zero"},
        {"slice_ends",
         "{{ 'abc'[-9223372036854775807:9223372036854775807:9223372036854775807] }}"
         "{{ 'abc'[::-9223372036854775807 - 1] }}{{ [1, 2, 3][::-9223372036854775807 - 1] }}"
         "{{ range(3)[::9223372036854775807] | list }}",
         ""},
        {"open_string", "{{ 'a }}", "a string is not closed"},
        {"open_escape", "{{ 'a\\", "a string is not closed"},
        {"open_comment", "a {# b", "a comment is not closed"},
        {"open_tag", "a {% if", "a tag is not closed"},
        {"open_block", "a\n{% if 1 %}\nb", "'if' is not closed with 'endif'"},
        {"surrogate", "{{ '\\ud800' }}", "surrogate"},
        {"not_utf8", "a\n\xff", "t:2: the template is not UTF-8"},
        {"nul", std::string("a\0b{{ '\\0' }}", 13), ""},
        {"long_source", std::string((1 << 20) + 1, 'a'), "longer than 1 MB"},
        {"times", "{{ strftime_now('%Y' * 100000) | length }}", ""},
        {"time_codes", "{{ strftime_now('%Q') }}", "does not know the code '%Q'"},
        {"time_end", "{{ strftime_now('%') }}", "does not know the code '%'"},
        {"raised", "{{ raise_exception('x' * 10000000) }}", "the template refuses the conversation: xxx"},
    };
}

// The sentence that a template ends with on a thread with a small stack, and the seconds it took.
std::pair<std::string, double> outcome(const std::string& source) {
    struct Job {
        const std::string& source;
        std::string error;
        double seconds = 0;
    } job{source};
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 256 << 10);
    pthread_t thread;
    const int made = pthread_create(
        &thread, &attributes,
        [](void* data) -> void* {
            Job& mine = *static_cast<Job*>(data);
            mine.error = error_of(mine.source);
            timespec used{};
            clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
            mine.seconds = static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) * 1e-9;
            return nullptr;
        },
        &job);
    EXPECT_EQ(made, 0);
    pthread_join(thread, nullptr);
    pthread_attr_destroy(&attributes);
    return {job.error, job.seconds};
}

class HostileTemplate : public testing::TestWithParam<Hostile> {};

TEST_P(HostileTemplate, EndsWithOneSentence) {
    const auto [error, seconds] = outcome(GetParam().source);
    if (GetParam().words.empty()) {
        EXPECT_EQ(error, "");
    } else {
        EXPECT_NE(error.find(GetParam().words), std::string::npos) << error;
    }
    EXPECT_LE(error.size(), 400u);
    EXPECT_EQ(error.find('\n'), std::string::npos);
    EXPECT_LT(seconds, kSeconds);
}

INSTANTIATE_TEST_SUITE_P(All, HostileTemplate, testing::ValuesIn(hostile_templates()),
                         [](const auto& made) { return made.param.name; });

TEST(Limits, AMessageCannotEndTheTerminalsLine) {
    const Json chat = {{"messages", {{{"role", "\x1b[31mred\r\n\xe2\x80\xae" + std::string(1000, 'y')}}}}};
    const std::string error = error_of("{{ raise_exception('no ' + messages[0].role) }}", chat);
    EXPECT_NE(error.find("no \\x1b[31mred\\r\\n\\u202eyyy"), std::string::npos) << error;
    EXPECT_LE(error.size(), 50u + 300u);
}

TEST(Limits, EachHasItsPlace) {
    Environment small;
    small.limits.steps = 100;
    EXPECT_EQ(error_of("\n{% for i in range(1000) %}{% endfor %}", Json::object(), small),
              "t:2: the template takes more than 100 steps");
    small = {};
    small.limits.nesting = 4;
    EXPECT_NE(error_of("{{ [[[[[1]]]]] }}", Json::object(), small).find("at most 4 levels"),
              std::string::npos);
    small = {};
    small.limits.calls = 2;
    EXPECT_NE(error_of("{% macro m(n) %}{% if n %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(2) }}",
                       Json::object(), small),
              "");
    EXPECT_EQ(error_of("{% macro m(n) %}{% if n %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(1) }}",
                       Json::object(), small),
              "");
    small = {};
    small.limits.list_items = 3;
    EXPECT_EQ(error_of("{{ [1, 2, 3] }}{{ 'a b c'.split() }}{{ range(3) }}", Json::object(), small), "");
    for (const char* source : {"{{ [1, 2, 3, 4] }}", "{{ 'a b c d'.split() }}", "{{ 'abcd' | list }}",
                               "{{ range(4) }}", "{{ [1, 2] + [1, 2] }}", "{{ [1, 2] * 2 }}"})
        EXPECT_NE(error_of(source, Json::object(), small).find("more than 3 items"), std::string::npos)
            << source;
}

TEST(Limits, WhatIsDroppedCountsNoLonger) {
    Environment small;
    small.limits.live_bytes = 1 << 20;
    EXPECT_EQ(
        error_of("{% for i in range(1000) %}{% set s = 'a' * 10000 %}{% endfor %}", Json::object(), small),
        "");
    EXPECT_NE(
        error_of(
            "{% set ns = namespace(s=[]) %}{% for i in range(1000) %}{% set ns.s = ns.s + ['a' * 10000] %}"
            "{% endfor %}",
            Json::object(), small),
        "");
}

TEST(Limits, KindsOfErrors) {
    const auto kind_of = [](const std::string& source) {
        try {
            render(source);
        } catch (const RenderError& error) {
            return error.kind();
        }
        throw std::logic_error("no error");
    };
    EXPECT_EQ(kind_of("{{ raise_exception('a') }}"), RenderError::Kind::kRefused);
    EXPECT_EQ(kind_of("{{ 1 + 'a' }}"), RenderError::Kind::kFault);
    EXPECT_EQ(kind_of("{{ 'a' * 1000000000 }}"), RenderError::Kind::kBudget);
}

TEST(Template, IsRenderedByManyThreadsAtOnce) {
    const Template chat = Template::parse(
        "{% macro m(x) %}<{{ x }}>{% endmacro %}{% for m_ in messages %}{{ m(m_.content) }}{{ 'lit' * 3 }}{% "
        "endfor %}",
        "t");
    const Json variables = {{"messages", {{{"content", "a"}}, {{"content", "b"}}}}};
    std::vector<std::string> texts(4);
    std::vector<std::thread> threads;
    for (std::string& text : texts)
        threads.emplace_back([&] {
            for (int i = 0; i < 200; ++i) text = chat.render(variables, Environment()).text;
        });
    for (std::thread& thread : threads) thread.join();
    for (const std::string& text : texts) EXPECT_EQ(text, "<a>litlitlit<b>litlitlit");
}

}  // namespace
}  // namespace qlora::jinja
