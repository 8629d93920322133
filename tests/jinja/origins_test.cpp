// Each character of a rendering says where it comes from, whatever the template did with it.
#include <gtest/gtest.h>

#include "rendered.h"

namespace qlora::jinja {
namespace {

const Json kChat = {
    {"messages",
     {{{"role", "user"}, {"content", " a<b>\"한\n "}},
      {{"role", "assistant"},
       {"content", "x y"},
       {"tool_calls",
        {{{"function", {{"name", "f"}, {"arguments", {{"k", "v"}, {"n", 5}, {"t", true}}}}}}}}}}},
    {"bos_token", "<s>"}};

std::string origins(const std::string& source) {
    return with_origins(render(source, kChat));
}

struct Case {
    const char* source;
    const char* expected;
};

class OriginOf : public testing::TestWithParam<Case> {};

TEST_P(OriginOf, EachCharacter) {
    EXPECT_EQ(origins(GetParam().source), GetParam().expected);
}

INSTANTIATE_TEST_SUITE_P(
    Operations, OriginOf,
    testing::Values(
        Case{"t{{ messages[1].content }}t", "t<1/content:x y>t"},
        Case{"{{ bos_token }}{{ 'lit' }}", "<*/bos_token:<s>>lit"},
        Case{"{{ '[' + messages[1].content + ']' }}", "[<1/content:x y>]"},
        Case{"{{ '[' ~ messages[1].content ~ 1 }}", "[<1/content:x y>1"},
        Case{"{{ messages[1].content * 2 }}", "<1/content:x yx y>"},
        Case{"{{ messages[0].content.strip() }}", "<0/content:a<b>\"한>"},
        Case{"{{ messages[0].content | trim | upper }}", "<0/content:A<B>\"한>"},
        Case{"{{ messages[1].content[1:] }}{{ messages[1].content[::-1] }}{{ messages[1].content[0] }}",
             "<1/content: yy xx>"},
        Case{"{{ messages[1].content.split(' ') | join('-') }}", "<1/content:x>-<1/content:y>"},
        Case{"{{ messages[1].content.split() | last }}", "<1/content:y>"},
        Case{"{{ messages[1].content.replace(' ', '_') }}", "<1/content:x>_<1/content:y>"},
        Case{"{{ messages[1].content | replace('x', messages[0].role) }}", "<0/role:user><1/content: y>"},
        Case{"{{ 'a-b' | replace('-', messages[1].content) }}", "a<1/content:x y>b"},
        Case{"{{ messages[1].content | title }}{{ messages[1].content.capitalize() }}", "<1/content:X YX y>"},
        Case{"{{ messages[1].content | list }}", "['<1/content:x>', '<1/content: >', '<1/content:y>']"},
        Case{"{{ [messages[0].content] }}", "['<0/content: a<b>\"한\\n >']"},
        Case{"{{ messages[0].content | tojson }}", "\"<0/content: a<b>\\\"한\\n >\""},
        Case{"{{ messages[0].content | tojson(ensure_ascii=true) }}", "\"<0/content: a<b>\\\"\\ud55c\\n >\""},
        Case{"{{ messages[1].tool_calls[0].function.arguments | tojson }}",
             "{\"<1/tool_calls/0/function/arguments/k:#k>\": \"<1/tool_calls/0/function/arguments/k:v>\", "
             "\"<1/tool_calls/0/function/arguments/n:#n>\": <1/tool_calls/0/function/arguments/n:5>, "
             "\"<1/tool_calls/0/function/arguments/t:#t>\": <1/tool_calls/0/function/arguments/t:true>}"},
        Case{"{% for k, v in messages[1].tool_calls[0].function.arguments | items %}{{ k }}={{ v }};{% "
             "endfor %}",
             "<1/tool_calls/0/function/arguments/k:#k>=<1/tool_calls/0/function/arguments/k:v>;"
             "<1/tool_calls/0/function/arguments/n:#n>=<1/tool_calls/0/function/arguments/n:5>;"
             "<1/tool_calls/0/function/arguments/t:#t>=<1/tool_calls/0/function/arguments/t:True>;"},
        Case{"{{ '{}!{}'.format(messages[1].content, 2) }}", "<1/content:x y>!2"},
        Case{"{{ messages[1].content | indent(2, true) }}", "  <1/content:x y>"},
        Case{"{{ ('<'|safe) + messages[0].content.strip() }}", "<<0/content:a&lt;b&gt;&#34;한>"},
        Case{"{% set x %}[{{ messages[1].content }}]{% endset %}{{ x }}", "[<1/content:x y>]"},
        Case{"{% macro m(a) %}({{ a }}){% endmacro %}{{ m(messages[1].content) | upper }}",
             "(<1/content:X Y>)"},
        Case{"{% filter upper %}a{{ messages[1].content }}{% endfilter %}", "A<1/content:X Y>"},
        Case{"{% set ns = namespace(t='') %}{% for m in messages %}{% set ns.t = ns.t + m.role %}{% endfor "
             "%}{{ ns.t }}",
             "<0/role:user><1/role:assistant>"},
        Case{"{{ messages | map(attribute='role') | join(',') }}", "<0/role:user>,<1/role:assistant>"},
        Case{"{{ messages[1].tool_calls[0].function.arguments.n + 1 }}", "6"},
        Case{"{{ messages[1].content | length }}{{ 'x' in messages[1].content }}", "3True"}));

TEST(Origins, OfAControlTokenThatIsPutTogetherFromAMessage) {
    const Json chat = {{"messages", {{{"role", "im_start"}, {"content", "|im_end|"}}}}};
    const Rendering rendering =
        render("{{ '<|' + messages[0].role + '|>' }}{{ '<' ~ messages[0].content ~ '>' }}", chat);
    EXPECT_EQ(rendering.text, "<|im_start|><|im_end|>");
    EXPECT_EQ(with_origins(rendering), "<|<0/role:im_start>|><<0/content:|im_end|>>");
}

TEST(Origins, PartsCoverTheTextAndNeighboursDiffer) {
    const Rendering rendering =
        render("a{{ messages }}b{{ messages[0].content }}{{ messages[0].content }}", kChat);
    std::size_t end = 0;
    for (std::size_t i = 0; i < rendering.parts.size(); ++i) {
        EXPECT_EQ(rendering.parts[i].range.begin, end);
        if (i > 0) {
            EXPECT_NE(rendering.parts[i].origin, rendering.parts[i - 1].origin);
        }
        end = rendering.parts[i].range.end;
    }
    EXPECT_EQ(end, rendering.text.size());
    EXPECT_EQ(rendering.origins.front(), Origin{});
}

TEST(Origins, AMembersNameIsWrittenAsAPointer) {
    const Json chat = {{"messages", {{{"a/b~c", {{"", "v"}}}}}}};
    const Rendering rendering = render("{{ messages[0]['a/b~c'][''] }}", chat);
    EXPECT_EQ(rendering.origin_of(rendering.parts.at(0)).pointer, "/a~1b~0c/");
}

TEST(Input, NullsOfAMessageAreLeftOutAndAbsentToolsAreNone) {
    const Json chat = {{"messages", {{{"content", nullptr}, {"deep", {{"x", nullptr}}}}}}};
    EXPECT_EQ(
        text_of("{{ messages }}{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}", chat),
        "[{'deep': {'x': None}}]TrueTrueFalse");
}

TEST(Input, ReasoningHasTheOriginOfTheFieldThatIsThere) {
    for (const std::string name : {"reasoning_content", "thinking", "reasoning"}) {
        const Json chat = {{"messages", {{{"role", "a"}, {name, "why"}}}}};
        EXPECT_EQ(
            with_origins(render("{{ messages[0].reasoning_content }},{{ messages[0].thinking }}", chat)),
            "<0/" + name + ":why>,<0/" + name + ":why>");
    }
    const Json both = {{"messages", {{{"thinking", "t"}, {"reasoning_content", "r"}}}}};
    EXPECT_EQ(text_of("{{ messages[0] }}", both), "{'thinking': 't', 'reasoning_content': 'r'}");
    const Json older = {{"messages", {{{"role", "a"}, {"reasoning", "r"}}}}};
    EXPECT_EQ(text_of("{{ messages[0] | list }}", older),
              "['thinking', 'role', 'reasoning', 'reasoning_content']");
}

TEST(Input, WhatIsNotAConversationIsRefused) {
    EXPECT_EQ(error_of("x", {{"messages", 5}}), "t:1: the messages are no list");
    EXPECT_EQ(error_of("x", {{"messages", {1}}}), "t:1: a message is no object");
    EXPECT_EQ(error_of("x", {{"n", 18446744073709551615u}}), "t:1: the integer at '/n' is beyond 64 bits");
    EXPECT_EQ(error_of("x", {{"s", "\xff"}}), "t:1: the text at '/s' is not UTF-8");
}

TEST(Generation, RangesHoldInMacrosSetBlocksAndFilters) {
    const std::string block = "{% generation %}x{% endgeneration %}";
    EXPECT_EQ(generated(render("AAA" + block + "C")), "|x|");
    EXPECT_EQ(render("AAA" + block + "C").generation, (std::vector<ByteRange>{{3, 4}}));
    EXPECT_EQ(render("B{% macro m() %}AAA" + block + "{% endmacro %}{{ m() }}C").generation,
              (std::vector<ByteRange>{{4, 5}}));
    EXPECT_EQ(render("{% set s %}AA" + block + "{% endset %}B{{ s }}C").generation,
              (std::vector<ByteRange>{{3, 4}}));
    EXPECT_EQ(generated(render("{% filter upper %}AA" + block + "{% endfilter %}")), "|X|");
    EXPECT_EQ(generated(render("{% set s %} " + block + " {% endset %}{{ s | trim | tojson }}")), "|x|");
    EXPECT_EQ(generated(render("{% set s %}" + block + "{% endset %}{{ s }}-{{ s }}")), "|x|x|");
}

TEST(Generation, EachBlockIsARangeOfItsOwn) {
    const std::string loop =
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}";
    EXPECT_EQ(generated(render(loop, kChat)), "| a<b>\"한\n |x y|");
    EXPECT_EQ(generated(render("{% generation %}{% endgeneration %}a")), "|");
    EXPECT_TRUE(Template::parse(loop, "t").has_generation_blocks());
    EXPECT_FALSE(Template::parse("generation", "t").has_generation_blocks());
}

TEST(Mentions, VariablesThatAreRead) {
    const Template chat = Template::parse("{% if enable_thinking %}{{ x.tools }}{% endif %}", "t");
    EXPECT_TRUE(chat.mentions("enable_thinking"));
    EXPECT_FALSE(chat.mentions("tools"));
}

}  // namespace
}  // namespace qlora::jinja
