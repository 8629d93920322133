// The proof on token ids, and where a checkpoint keeps its chat template.
#include <gtest/gtest.h>

#include <cstddef>
#include <optional>
#include <string>

#include "data/template_samples.h"
#include "qlora/core/error.h"
#include "qlora/data/prompt_template.h"
#include "support/temp_dir.h"

namespace {

using namespace qlora;
using namespace qlora::data;
using namespace qlora::data::test;

TEST(MaskProof, FindsEachKindOfWrongMask) {
    const PromptTemplate chatml = named(TemplateName::kChatml);
    const Record record = conversation(kTwoTurns);
    const EncodedRow good = chatml.encode(chatml.render(record, TrainOn::kAssistant));
    EXPECT_NO_THROW(prove_answer_mask(good, chatml, TrainOn::kAssistant));
    EXPECT_FALSE(prompt_difference(record, good, chatml).has_value());
    for (std::size_t i = 1; i < good.ids.size(); ++i) {
        EncodedRow flipped = good;
        flipped.supervised[i] ^= 1;
        EXPECT_THROW(prove_answer_mask(flipped, chatml, TrainOn::kAssistant), DataError) << i;
    }
    EncodedRow no_end = good;
    no_end.ids[no_end.answers[0].end - 1] = 'x';
    EXPECT_THROW(prove_answer_mask(no_end, chatml, TrainOn::kAssistant), DataError);
    EncodedRow control_inside = good;
    control_inside.ids[control_inside.answers[1].begin] = FakeTokenizer::kImStart;
    EXPECT_THROW(prove_answer_mask(control_inside, chatml, TrainOn::kAssistant), DataError);
    EncodedRow overlap = good;
    overlap.answers[1].begin = overlap.answers[0].begin;
    EXPECT_THROW(prove_answer_mask(overlap, chatml, TrainOn::kAssistant), DataError);
    EncodedRow other_prompt = good;
    other_prompt.ids[2] = 'x';
    const std::optional<PromptDifference> difference = prompt_difference(record, other_prompt, chatml);
    ASSERT_TRUE(difference.has_value());
    EXPECT_TRUE(difference->trained.starts_with("xer\n")) << difference->trained;
    EXPECT_TRUE(difference->inferred.starts_with("ser\n")) << difference->inferred;
}

TEST(ChatTemplateFile, JinjaFileWinsOverTheConfig) {
    const qlora::test::TempDir folder;
    EXPECT_EQ(read_chat_template(folder.path()), std::nullopt);
    qlora::test::write_file(folder / "tokenizer_config.json", R"({"chat_template": "from config"})");
    EXPECT_EQ(read_chat_template(folder.path()), "from config");
    qlora::test::write_file(
        folder / "tokenizer_config.json",
        R"({"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]})");
    EXPECT_EQ(read_chat_template(folder.path()), "d");
    qlora::test::write_file(folder / "chat_template.jinja", "from file");
    EXPECT_EQ(read_chat_template(folder.path()), "from file");
    std::filesystem::remove(folder / "chat_template.jinja");
    std::filesystem::create_symlink("../blobs/gone", folder / "chat_template.jinja");
    EXPECT_THROW(read_chat_template(folder.path()), CheckpointError) << "a link that leads nowhere";
}

}  // namespace
