#include "qlora/core/fields.h"

#include <gtest/gtest.h>

namespace qlora {
namespace {

enum class Color { kRed, kGreen, kOff };
constexpr EnumTable<Color, 4> enum_table(Color) {
    return {
        {{"red", Color::kRed}, {"green", Color::kGreen}, {"verdant", Color::kGreen}, {"false", Color::kOff}}};
}

struct Sample {
    bool flag = true;
    std::int64_t count = 3;
    double rate = 0.5;
    std::string name = "x";
    std::filesystem::path file = "a/b";
    Color color = Color::kRed;
    std::optional<std::int64_t> limit;
    std::vector<std::int64_t> sizes;
    std::variant<std::monostate, std::string, std::vector<std::string>> targets;
    std::vector<std::pair<std::string, std::int64_t>> ranks;

    bool operator==(const Sample&) const = default;

    template <class Self, class Visitor>
    static void fields(Self& self, Visitor& visit) {
        visit("flag", self.flag, {}, "a switch");
        visit("count", self.count, {.min = 1, .max = 8, .power_of_two = false}, "a count");
        visit("rate", self.rate, {.min = 0, .max = 1, .min_excluded = true, .max_excluded = true}, "a share");
        visit("name", self.name, {}, "a name");
        visit("file", self.file, {.required = true, .free_on_resume = true}, "a file");
        visit("color", self.color, {}, "a color");
        visit("limit", self.limit, {.min = 2}, "a limit");
        visit("sizes", self.sizes, {.min = 1, .power_of_two = true}, "sizes");
        visit("targets", self.targets, {}, "names");
        visit("ranks", self.ranks, {.min = 1}, "ranks");
        visit.fixed("use_magic", false, "magic is not built");
        visit.ignored("written_by", "who wrote it");
    }
};

struct Outcome {
    Sample sample;
    ReadState state;
    std::string text() const { return state.faults.empty() ? "" : state.faults.text("file"); }
};

Outcome read(const std::string& json) {
    Outcome outcome;
    read_fields(parse_json(json, "t"), "s", outcome.sample, outcome.state);
    return outcome;
}

TEST(Fields, reads_every_type) {
    const Outcome got =
        read(R"({"flag": false, "count": 8, "rate": 0.25, "name": "n", "file": "c/d", "color": "green",
        "limit": 2, "sizes": [1, 64], "targets": ["q", "v"], "ranks": {"z": 4, "a": 2},
        "written_by": {"any": 1}})");
    EXPECT_EQ(got.text(), "");
    EXPECT_FALSE(got.sample.flag);
    EXPECT_EQ(got.sample.count, 8);
    EXPECT_EQ(got.sample.rate, 0.25);
    EXPECT_EQ(got.sample.file, "c/d");
    EXPECT_EQ(got.sample.color, Color::kGreen);
    EXPECT_EQ(got.sample.limit, 2);
    EXPECT_EQ(got.sample.sizes, (std::vector<std::int64_t>{1, 64}));
    EXPECT_EQ(std::get<2>(got.sample.targets), (std::vector<std::string>{"q", "v"}));
    EXPECT_EQ(got.sample.ranks.front().first, "z");
    EXPECT_TRUE(got.state.given.contains("s.limit"));
    EXPECT_FALSE(got.state.given.contains("s.use_magic"));
}

TEST(Fields, missing_keys_keep_the_defaults) {
    const Outcome got = read(R"({"file": "a/b"})");
    EXPECT_EQ(got.text(), "");
    EXPECT_EQ(got.sample, Sample{});
}

TEST(Fields, what_is_written_reads_back_equal_in_declared_order) {
    Outcome got =
        read(R"({"file": "f", "targets": "all", "color": false, "rate": 1e-7, "ranks": {"z": 4, "a": 2}})");
    ASSERT_EQ(got.text(), "");
    const Json written = write_fields(got.sample);
    EXPECT_EQ(written.begin().key(), "flag");
    EXPECT_EQ(written["ranks"].dump(), R"({"z":4,"a":2})");
    EXPECT_EQ(written["color"].dump(), "false");
    EXPECT_EQ(read(written.dump()).sample, got.sample);
}

TEST(Fields, a_second_name_of_an_enum_value_is_read_and_the_first_written) {
    const Outcome got = read(R"({"file": "f", "color": "verdant"})");
    EXPECT_EQ(got.sample.color, Color::kGreen);
    EXPECT_EQ(write_fields(got.sample)["color"], "green");
}

struct BadValue {
    const char* json;
    const char* fragment;
};

TEST(Fields, each_wrong_value_is_named_with_its_path) {
    const BadValue cases[] = {
        {R"({"file": "f", "flag": 1})", "s.flag: must be true or false, not 1"},
        {R"({"file": "f", "flag": null})", "s.flag: must be true or false, not null"},
        {R"({"file": "f", "count": 1.5})", "s.count: must be an integer, not 1.5"},
        {R"({"file": "f", "count": 2.0})", "s.count: must be an integer, not 2.0"},
        {R"({"file": "f", "count": true})", "s.count: must be an integer, not true"},
        {R"({"file": "f", "count": "2"})", "s.count: must be an integer, not \"2\""},
        {R"({"file": "f", "count": 0})", "s.count: must be >= 1, <= 8, not 0"},
        {R"({"file": "f", "count": 9})", "s.count: must be >= 1, <= 8, not 9"},
        {R"({"file": "f", "count": 18446744073709551615})", "s.count: must be an integer below 2^63"},
        {R"({"file": "f", "rate": 0})", "s.rate: must be > 0, < 1, not 0"},
        {R"({"file": "f", "rate": 1})", "s.rate: must be > 0, < 1, not 1"},
        {R"({"file": "f", "rate": false})", "s.rate: must be a number, not false"},
        {R"({"file": "f", "name": 3})", "s.name: must be a string, not 3"},
        {R"({"file": ""})", "s.file: must not be empty"},
        {R"({"file": "a\u0000b"})", "s.file: must not contain a NUL character"},
        {R"({"file": ["f"]})", "s.file: must be a path, not [\"f\"]"},
        {R"({})", "s.file: is required"},
        {R"({"file": "f", "color": "rad"})",
         "must be one of \"red\", \"green\", \"verdant\", false, not \"rad\"; did you "
         "mean \"red\"?"},
        {R"({"file": "f", "color": true})", "s.color: must be one of"},
        {R"({"file": "f", "limit": 1})", "s.limit: must be >= 2, not 1"},
        {R"({"file": "f", "limit": "1"})", "s.limit: must be null or an integer, not \"1\""},
        {R"({"file": "f", "sizes": [1, 3, 4]})", "s.sizes: [1] must be >= 1, a power of two, not 3"},
        {R"({"file": "f", "sizes": 4})", "s.sizes: must be a list"},
        {R"({"file": "f", "targets": 4})",
         "s.targets: must be null or a string or a list (each a string), not 4"},
        {R"({"file": "f", "targets": ["a", 4, null]})",
         "s.targets: [1] must be a string, not 4; [2] must be a string"},
        {R"({"file": "f", "ranks": {"q": 0}})", "s.ranks: [\"q\"] must be >= 1, not 0"},
        {R"({"file": "f", "ranks": [1]})", "s.ranks: must be an object"},
        {R"({"file": "f", "use_magic": true})", "s.use_magic: must be false, not true: magic is not built"},
        {R"({"file": "f", "cuont": 1})", "s.cuont: unknown key; did you mean \"count\"?"},
        {R"({"file": "f", "zzz": 1})", "s.zzz: unknown key"},
        {R"([1])", "s: must be an object, not [1]"},
    };
    for (const BadValue& bad : cases) {
        EXPECT_NE(read(bad.json).text().find(bad.fragment), std::string::npos) << bad.json << "\n"
                                                                               << read(bad.json).text();
    }
}

TEST(Fields, an_unbuilt_setting_is_accepted_at_any_value_that_switches_nothing_on) {
    for (const char* json : {"false", "null", "0", "\"\"", "[]", "{}"}) {
        EXPECT_EQ(read(R"({"file": "f", "use_magic": )" + std::string(json) + "}").text(), "") << json;
    }
}

TEST(Fields, all_faults_come_together) {
    const Outcome got = read(R"({"flag": 1, "count": 99, "rate": 7, "colour": "red"})");
    EXPECT_EQ(got.state.faults.size(), 5U) << got.text();
}

TEST(Fields, a_wrong_value_leaves_the_default_and_is_cut_in_the_message) {
    const Outcome got = read(R"({"file": "f", "count": ")" + std::string(5000, 'x') + "\"}");
    EXPECT_EQ(got.sample.count, 3);
    EXPECT_LT(got.text().size(), 200U);
}

TEST(Fields, a_key_of_another_section_is_pointed_to) {
    Outcome got;
    got.state.all_paths = {"s.count", "data.max_length"};
    read_fields(parse_json(R"({"file": "f", "max_length": 1})", "t"), "s", got.sample, got.state);
    EXPECT_NE(got.text().find("did you mean \"data.max_length\"?"), std::string::npos) << got.text();
}

TEST(Fields, documentation_lists_each_setting_with_default_and_range) {
    const std::vector<FieldInfo> infos = list_fields<Sample>();
    ASSERT_EQ(infos.size(), 11U);
    EXPECT_EQ(infos[1].name, "count");
    EXPECT_EQ(infos[1].default_text, "3");
    EXPECT_EQ(infos[1].range, ">= 1, <= 8");
    EXPECT_EQ(infos[4].default_text, "required");
    EXPECT_TRUE(infos[4].free_on_resume);
    EXPECT_EQ(infos[5].kind, R"("red" | "green" | "verdant" | false)");
    EXPECT_TRUE(infos.back().fixed);
}

Json overridden(const std::string& text, const std::string& root_text = "{}") {
    Json root = parse_json(root_text, "t");
    FaultList faults;
    apply_override(text, {"model", "training"}, root, faults);
    return faults.empty() ? root : Json(faults.text("t"));
}

TEST(Override, takes_json_or_else_a_bare_string) {
    EXPECT_EQ(overridden("training.seed=7")["training"]["seed"], 7);
    EXPECT_EQ(overridden("training.lr=1e-3")["training"]["lr"], 1e-3);
    EXPECT_EQ(overridden("training.x=null")["training"]["x"], nullptr);
    EXPECT_EQ(overridden("training.x=true")["training"]["x"], true);
    EXPECT_EQ(overridden("training.x=cosine")["training"]["x"], "cosine");
    EXPECT_EQ(overridden("training.x=\"7\"")["training"]["x"], "7");
    EXPECT_EQ(overridden("training.x=a=b.c")["training"]["x"], "a=b.c");
    EXPECT_EQ(overridden("training.x=")["training"]["x"], "");
    EXPECT_EQ(overridden("training.x=[\"q\", 1]")["training"]["x"].dump(), "[\"q\",1]");
}

TEST(Override, changes_only_its_key) {
    EXPECT_EQ(overridden("training.b=9", R"({"training": {"a": 1, "b": 2, "c": 3}})").dump(),
              R"({"training":{"a":1,"b":9,"c":3}})");
}

TEST(Override, refuses_what_it_cannot_place) {
    EXPECT_NE(overridden("seed=7").dump().find("section.key=value"), std::string::npos);
    EXPECT_NE(overridden("training.seed").dump().find("section.key=value"), std::string::npos);
    EXPECT_NE(overridden("training.=7").dump().find("section.key=value"), std::string::npos);
    EXPECT_NE(overridden("trainin.seed=7").dump().find("did you mean \\\"training\\\"?"), std::string::npos);
    EXPECT_NE(overridden("training.x=[1,").dump().find("--set training.x: line 1"), std::string::npos);
}

}  // namespace
}  // namespace qlora
