// What is not supported is named, with its line.
#include <gtest/gtest.h>

#include "rendered.h"

namespace qlora::jinja {
namespace {

TEST(Syntax, TagsFiltersTestsAndNamesAreNamedWithTheirLine) {
    EXPECT_EQ(error_of("a\n{% include 'x' %}"), "t:2: the tag 'include' is not supported");
    EXPECT_EQ(error_of("{% call(x) f() %}{% endcall %}"), "t:1: the tag 'call' is not supported");
    EXPECT_EQ(error_of("\n\n{{ x | wordwrap }}"), "t:3: the filter 'wordwrap' is not supported");
    EXPECT_EQ(error_of("\n{{ x is sameas y }}"), "t:2: the test 'sameas' is not supported");
    EXPECT_EQ(error_of("{{ cycler(1) }}"), "t:1: the name 'cycler' is not supported");
    EXPECT_EQ(error_of("{% for i in x recursive %}{% endfor %}"),
              "t:1: a loop with 'recursive' is not supported");
    EXPECT_EQ(error_of("{{ 2 ** 3 }}"), "t:1: the operator '**' is not supported");
    EXPECT_EQ(error_of("{{ 'a' % 1 }}"), "t:1: the operator '%' on a string is not supported");
}

TEST(Syntax, UnknownFiltersOfABranchWaitUntilItRuns) {
    EXPECT_EQ(text_of("{% if 0 %}{{ x | from_json }}{{ x is odder }}{% endif %}ok"), "ok");
    EXPECT_EQ(text_of("{{ 'ok' if 1 else x | from_json }}"), "ok");
    EXPECT_EQ(error_of("{% if 1 %}\n{{ x | from_json }}{% endif %}"),
              "t:2: the filter 'from_json' is not supported");
    EXPECT_EQ(error_of("{% if 0 %}{% for i in x %}{{ i | from_json }}{% endfor %}{% endif %}"),
              "t:1: the filter 'from_json' is not supported");
}

TEST(Syntax, FaultsSayWhatIsExpected) {
    EXPECT_EQ(error_of("{% if x %}\n{% for i in x %}\n{% endif %}"),
              "t:3: the tag 'endif' closes nothing that is open; open is 'for'");
    EXPECT_EQ(error_of("{{ a b }}"), "t:1: expected '}}', not 'b'");
    EXPECT_EQ(error_of("{{ (a }}"), "t:1: unexpected '}', expected ')'");
    EXPECT_EQ(error_of("{% break %}"), "t:1: the tag 'break' stands outside of a loop");
    EXPECT_EQ(error_of("{% set x.y %}"), "t:1: expected '=', not '%}'");
}

TEST(Faults, NameWhatIsUndefined) {
    EXPECT_EQ(error_of("\n{{ x.y }}"), "t:2: 'x' is undefined, so it has no 'y'");
    EXPECT_EQ(error_of("{{ functions | length + functions }}"), "t:1: 'functions' is undefined");
    EXPECT_EQ(error_of("{{ f(1) }}"), "t:1: 'f' is undefined");
    EXPECT_EQ(error_of("{{ [].append(1) }}"),
              "t:1: the method 'append' changes a value, which a template may not do");
    EXPECT_EQ(error_of("{{ 'a'.zfill(3) }}"), "t:1: 'zfill' of a value of type str is not supported");
    EXPECT_EQ(error_of("{{ [1] | map('upper') }}"),
              "t:1: a value of type generator has no text of its own: use |list");
    EXPECT_EQ(error_of("{{ 'a' + 1 }}"), "t:1: the operator '+' cannot take values of types str and int");
}

TEST(Faults, AMacroEndsWithTheBlockThatDefinesIt) {
    EXPECT_EQ(error_of("{% set ns = namespace() %}{% for i in [1] %}{% macro m() %}{{ i }}{% endmacro %}"
                       "{% set ns.m = m %}{% endfor %}{{ ns.m() }}"),
              "t:1: the macro 'm' is called after the block that defines it has ended");
}

TEST(Clock, IsTheOneOfTheEnvironment) {
    Environment environment;
    environment.clock = {2024, 12, 29, 15, 4, 5, 60};
    const auto at = [&](const std::string& format) {
        return render("{{ strftime_now('" + format + "') }}", Json::object(), environment).text;
    };
    EXPECT_EQ(at("%d %B %Y"), "29 December 2024");
    EXPECT_EQ(at("%A %a %j %U %W %u %w"), "Sunday Sun 364 52 52 7 0");
    EXPECT_EQ(at("%-d/%-m/%y %I:%M:%S %p.%f"), "29/12/24 03:04:05 PM.000060");
    environment.clock = LocalTime::now();
    EXPECT_GE(environment.clock.year, 2024);
}

}  // namespace
}  // namespace qlora::jinja
