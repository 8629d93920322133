#include "cli/trained_template.h"

#include <gtest/gtest.h>

#include "qlora/core/error.h"
#include "support/tiny_model.h"
#include "tokenizer/tiny_tokenizer.h"

namespace qlora::cli {
namespace {

using Ids = std::vector<tokenizer::TokenId>;

data::PromptTemplate with_template(const ModelFolder& folder, data::TemplateName name) {
    data::DataConfig config;
    config.template_ = name;
    return folder.prompt_template(config, {});
}

/// A tiny model whose tokenizer has ChatML's tokens: <|im_start|> is 9, <|im_end|> 10, </s> 11.
class TrainedTemplate : public testing::Test {
  protected:
    TrainedTemplate() {
        test::TinyModel().write(folder_.path());  // its config.json ends at token 2
        Json tokenizer = tokenizer::tiny_json();
        int id = 9;
        for (const char* token : {"<|im_start|>", "<|im_end|>", "</s>"})
            tokenizer["added_tokens"].push_back(tokenizer::added_token(id++, token, true));
        test::write_file(folder_ / "tokenizer.json", tokenizer.dump());
        test::write_file(folder_ / "tokenizer_config.json",
                         R"({"eos_token": "</s>", "chat_template": "own"})");
    }

    Ids stop_ids() const { return model_stop_ids(folder_.path(), models::load_decoder_spec(folder_.path())); }
    void set_generation_config(const std::string& text) {
        test::write_file(folder_ / "generation_config.json", text);
    }

    test::TempDir folder_;
};

TEST_F(TrainedTemplate, AModelStopsWhereItsGenerationConfigSays) {
    EXPECT_EQ(stop_ids(), Ids{2});
    set_generation_config(R"({"eos_token_id": [7, 11]})");
    EXPECT_EQ(stop_ids(), (Ids{7, 11}));
    set_generation_config(R"({"eos_token_id": 5, "top_k": 3})");
    EXPECT_EQ(stop_ids(), Ids{5});
    set_generation_config(R"({"top_k": 3})");
    EXPECT_EQ(stop_ids(), Ids{2});
}

TEST_F(TrainedTemplate, GenerationStopsWhereModelOrTemplateSay) {
    set_generation_config(R"({"eos_token_id": [7, 11]})");
    const ModelFolder folder(folder_.path());
    EXPECT_EQ(folder.stop_ids(with_template(folder, data::TemplateName::kChatml)), (Ids{7, 10, 11}));
    EXPECT_EQ(folder.stop_ids(with_template(folder, data::TemplateName::kNone)), (Ids{7, 11}));
}

TEST_F(TrainedTemplate, ItTakesThePlaceOfTheModelsOwnBesideTheAdapter) {
    const ModelFolder folder(folder_.path());
    const auto chatml = adapter_companions(folder, with_template(folder, data::TemplateName::kChatml));
    EXPECT_NE(chatml.written.at("chat_template.jinja").find("<|im_end|>"), std::string::npos);
    EXPECT_EQ(parse_json(chatml.written.at("tokenizer_config.json"), ""), Json({{"eos_token", "</s>"}}));
    EXPECT_TRUE(adapter_companions(folder, with_template(folder, data::TemplateName::kNone)).written.empty());
}

TEST_F(TrainedTemplate, TheEndTokenIsRecordedWhereTheBaseDoesNotStopAtIt) {
    const auto recorded = [&](data::TemplateName name) {
        const ModelFolder folder(folder_.path());
        return template_metadata(folder, with_template(folder, name));
    };
    using Metadata = std::map<std::string, std::string>;
    EXPECT_EQ(recorded(data::TemplateName::kChatml), (Metadata{{"qlora.end_token_id", "10"}}));
    EXPECT_EQ(recorded(data::TemplateName::kAlpaca), (Metadata{{"qlora.end_token_id", "11"}}));
    EXPECT_EQ(recorded(data::TemplateName::kNone), Metadata{});
    set_generation_config(R"({"eos_token_id": [10, 11]})");
    EXPECT_EQ(recorded(data::TemplateName::kChatml), Metadata{});
}

}  // namespace
}  // namespace qlora::cli
