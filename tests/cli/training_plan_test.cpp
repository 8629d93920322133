#include "cli/training_plan.h"

#include <gtest/gtest.h>

#include "support/tiny_model.h"

namespace qlora::cli {
namespace {

data::Dataset with_longest(std::int64_t tokens) {
    data::Dataset out;
    out.statistics.longest = tokens;
    return out;
}

TEST(PositionWarning, is_given_where_a_row_passes_what_the_model_has_seen) {
    models::DecoderSpec model = models::parse_decoder_spec(test::TinyModel{}.config(), "config.json");
    const data::Dataset fits = with_longest(256), longer = with_longest(300);
    EXPECT_EQ(position_warning(model, fits, nullptr), "");
    EXPECT_EQ(position_warning(model, fits, &fits), "");
    for (const std::string& text :
         {position_warning(model, longer, nullptr), position_warning(model, fits, &longer)}) {
        EXPECT_NE(text.find("300 tokens"), std::string::npos) << text;
        EXPECT_NE(text.find("256 positions (max_position_embeddings"), std::string::npos) << text;
        EXPECT_NE(text.find("data.max_length: 256"), std::string::npos) << text;
        EXPECT_EQ(text.find("linear"), std::string::npos) << text;
    }
    model.ropes = {{.frequencies = {.type = models::RopeType::kLinear, .factor = 4.0}}};
    EXPECT_NE(position_warning(model, longer, nullptr).find("linear scaling of its rope, 4 times"),
              std::string::npos);
}

}  // namespace
}  // namespace qlora::cli
