#include "qlora/data_report/scripts.h"

#include <algorithm>
#include <vector>

#include "folded_text.h"
#include "qlora/core/code_points.h"

namespace qlora::data_report {
namespace {

struct Block {
    char32_t first, last;
    std::string_view script;
};

// Rising. Signs and digits among them are no letters and are left out before the table is asked.
constexpr Block kBlocks[] = {
    {0x41, 0x24F, "Latin"},       {0x250, 0x2AF, "Latin"},       {0x370, 0x3FF, "Greek"},
    {0x400, 0x52F, "Cyrillic"},   {0x530, 0x58F, "Armenian"},    {0x590, 0x5FF, "Hebrew"},
    {0x600, 0x6FF, "Arabic"},     {0x700, 0x74F, "Syriac"},      {0x750, 0x77F, "Arabic"},
    {0x780, 0x7BF, "Thaana"},     {0x7C0, 0x7FF, "Nko"},         {0x870, 0x8FF, "Arabic"},
    {0x900, 0x97F, "Devanagari"}, {0x980, 0x9FF, "Bengali"},     {0xA00, 0xA7F, "Gurmukhi"},
    {0xA80, 0xAFF, "Gujarati"},   {0xB00, 0xB7F, "Oriya"},       {0xB80, 0xBFF, "Tamil"},
    {0xC00, 0xC7F, "Telugu"},     {0xC80, 0xCFF, "Kannada"},     {0xD00, 0xD7F, "Malayalam"},
    {0xD80, 0xDFF, "Sinhala"},    {0xE00, 0xE7F, "Thai"},        {0xE80, 0xEFF, "Lao"},
    {0xF00, 0xFFF, "Tibetan"},    {0x1000, 0x109F, "Myanmar"},   {0x10A0, 0x10FF, "Georgian"},
    {0x1100, 0x11FF, "Hangul"},   {0x1200, 0x139F, "Ethiopic"},  {0x13A0, 0x13FF, "Cherokee"},
    {0x1780, 0x17FF, "Khmer"},    {0x1800, 0x18AF, "Mongolian"}, {0x1C80, 0x1C8F, "Cyrillic"},
    {0x1C90, 0x1CBF, "Georgian"}, {0x1E00, 0x1EFF, "Latin"},     {0x1F00, 0x1FFF, "Greek"},
    {0x2C60, 0x2C7F, "Latin"},    {0x2D00, 0x2D2F, "Georgian"},  {0x2D80, 0x2DDF, "Ethiopic"},
    {0x2DE0, 0x2DFF, "Cyrillic"}, {0x2E80, 0x2FDF, "Han"},       {0x3005, 0x3007, "Han"},
    {0x3041, 0x30FF, "Kana"},     {0x3100, 0x312F, "Bopomofo"},  {0x3130, 0x318F, "Hangul"},
    {0x31F0, 0x31FF, "Kana"},     {0x3400, 0x4DBF, "Han"},       {0x4E00, 0x9FFF, "Han"},
    {0xA640, 0xA69F, "Cyrillic"}, {0xA720, 0xA7FF, "Latin"},     {0xA960, 0xA97F, "Hangul"},
    {0xAB30, 0xAB6F, "Latin"},    {0xAC00, 0xD7FF, "Hangul"},    {0xF900, 0xFAFF, "Han"},
    {0xFB00, 0xFB06, "Latin"},    {0xFB1D, 0xFB4F, "Hebrew"},    {0xFB50, 0xFDFF, "Arabic"},
    {0xFE70, 0xFEFF, "Arabic"},   {0xFF21, 0xFF5A, "Latin"},     {0xFF66, 0xFF9F, "Kana"},
    {0xFFA0, 0xFFDC, "Hangul"},   {0x1B000, 0x1B16F, "Kana"},    {0x20000, 0x3FFFF, "Han"},
};

constexpr std::size_t kFewestLetters = 10;

}  // namespace

std::string_view script_of(char32_t code) {
    const bool is_other_sign = !is_word_character(code) || (code >= '0' && code <= '9');
    if (is_other_sign) return {};
    const auto begins_after = [](char32_t value, const Block& block) { return value < block.first; };
    const Block* after = std::upper_bound(std::begin(kBlocks), std::end(kBlocks), code, begins_after);
    if (after == std::begin(kBlocks)) return {};
    const Block& block = *(after - 1);
    return code <= block.last ? block.script : std::string_view();
}

bool is_written_without_blanks(char32_t code) {
    constexpr std::string_view kScripts[] = {"Han", "Kana", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan"};
    if (code < 0x80) return false;
    const std::string_view script = script_of(code);
    return std::find(std::begin(kScripts), std::end(kScripts), script) != std::end(kScripts);
}

std::string_view main_script(std::string_view text) {
    std::vector<std::pair<std::string_view, std::size_t>> counts;
    std::size_t letters = 0;
    for (std::size_t i = 0; i < text.size(); i += utf8_length(text[i])) {
        const std::string_view script = script_of(decode_utf8(text, i));
        if (script.empty()) continue;
        ++letters;
        const auto known = std::find_if(counts.begin(), counts.end(),
                                        [&](const auto& count) { return count.first == script; });
        if (known == counts.end()) {
            counts.emplace_back(script, 1);
        } else {
            ++known->second;
        }
    }
    if (letters < kFewestLetters) return {};
    const auto count_of = [&](std::string_view script) {
        for (const auto& [name, count] : counts)
            if (name == script) return count;
        return std::size_t{0};
    };
    // Japanese mixes both; a Chinese text may quote a word of kana.
    const std::size_t kana = count_of("Kana"), han = count_of("Han");
    if (2 * (kana + han) > letters && 10 * kana >= kana + han) return "Japanese";
    for (const auto& [name, count] : counts)
        if (2 * count > letters) return name;
    return {};
}

ScriptPairs find_other_scripts(std::span<const Row> rows, Findings& findings) {
    ScriptPairs pairs;
    for (std::size_t i = 0; i < rows.size(); ++i) {
        const std::vector<Turn>& turns = rows[i].turns;
        for (std::size_t turn = 1; turn < turns.size(); ++turn) {
            if (!turns[turn].trained) continue;
            const std::string_view prompt = main_script(turns[turn - 1].text);
            const std::string_view answer = main_script(turns[turn].text);
            if (prompt.empty() || answer.empty()) continue;
            ++pairs[{std::string(prompt), std::string(answer)}];
            if (prompt == answer) continue;
            findings.add(i, {.kind = FindingKind::kOtherScript,
                             .weight = 1,
                             .turn = static_cast<std::int64_t>(turn),
                             .figures = {{"prompt", prompt}, {"answer", answer}}});
        }
    }
    return pairs;
}

}  // namespace qlora::data_report
