#include "qlora/models/checkpoint_names.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "qlora/core/error.h"
#include "qlora/models/base_loader.h"
#include "qlora/models/quantize_checkpoint.h"
#include "support/model_spellings.h"

namespace qlora::models {
namespace {

using qlora::test::TempDir;
using qlora::test::TinyModel;
using Tensors = std::map<std::string, qlora::test::TinyTensor>;

std::string error_of(const std::filesystem::path& folder) {
    try {
        load_base(io::Checkpoint(folder), load_decoder_spec(folder), {});
    } catch (const CheckpointError& error) {
        return error.what();
    }
    return "accepted";
}

/// Every tensor of two models is the same to the bit.
void expect_equal(const std::filesystem::path& folder, const std::filesystem::path& other) {
    const auto one = load_base(io::Checkpoint(folder), load_decoder_spec(folder), {});
    const auto two = load_base(io::Checkpoint(other), load_decoder_spec(other), {});
    for (std::size_t i = 0; i < one->linears().size(); ++i) {
        const nn::Linear &a = *one->linears()[i], &b = *two->linears()[i];
        EXPECT_TRUE(a.weight().dense().equal(b.weight().dense())) << a.path();
        if (a.has_bias()) {
            EXPECT_TRUE(a.bias().equal(b.bias())) << a.path();
        }
    }
    for (std::size_t i = 0; i < one->norms().size(); ++i)
        EXPECT_TRUE(one->norms()[i]->weight().equal(two->norms()[i]->weight())) << one->norms()[i]->path();
    EXPECT_TRUE(one->embedding().dense().equal(two->embedding().dense()));
    EXPECT_TRUE(one->output_matrix().dense().equal(two->output_matrix().dense()));
}

TEST(CheckpointNames, are_the_parameters_own_where_the_file_has_them) {
    const TinyModel tiny;
    const TempDir dir;
    tiny.write(dir.path());
    const io::Checkpoint checkpoint(dir.path());
    const DecoderSpec decoder = load_decoder_spec(dir.path());
    const CheckpointNames names(checkpoint, decoder);
    for (const std::string& name : checkpoint.names()) {
        EXPECT_EQ(names.in_file(name), name);
        EXPECT_EQ(names.parameter(name), name);
        EXPECT_TRUE(names.holds(name));
    }
    EXPECT_FALSE(names.holds("model.layers.2.mlp.up_proj.weight"));
}

TEST(CheckpointNames, of_a_decoder_saved_without_its_head_lack_the_prefix) {
    const TinyModel tiny{.tie = true};
    const TempDir dir;
    TinyModel::write(dir.path(), tiny.config(), test::without_prefix(tiny.tensors()));
    const io::Checkpoint checkpoint(dir.path());
    const DecoderSpec decoder = load_decoder_spec(dir.path());
    const CheckpointNames names(checkpoint, decoder);
    EXPECT_EQ(names.in_file("model.norm.weight"), "norm.weight");
    EXPECT_EQ(names.parameter("norm.weight"), "model.norm.weight");
    EXPECT_EQ(names.parameter("layers.0.mlp.up_proj.weight.absmax"),
              "model.layers.0.mlp.up_proj.weight.absmax");
    EXPECT_EQ(names.parameter("lm_head.weight"), "lm_head.weight");
    EXPECT_FALSE(names.holds("lm_head.weight"));
}

TEST(CheckpointNames, of_a_tied_head_alone_are_those_of_the_embedding) {
    const TinyModel tiny{.tie = true};
    const TempDir dir;
    TinyModel::write(dir.path(), tiny.config(), test::with_head_alone(tiny.tensors()));
    const io::Checkpoint checkpoint(dir.path());
    const DecoderSpec decoder = load_decoder_spec(dir.path());
    const CheckpointNames names(checkpoint, decoder);
    EXPECT_EQ(names.in_file("model.embed_tokens.weight"), "lm_head.weight");
    EXPECT_EQ(names.parameter("lm_head.weight"), "model.embed_tokens.weight");
    EXPECT_TRUE(names.holds("model.embed_tokens.weight"));
    EXPECT_FALSE(names.holds("lm_head.weight"));
}

TEST(CheckpointNames, other_spellings_load_the_same_model_and_are_quantized_to_the_same_file) {
    for (const test::Spelling& spelling : test::spellings()) {
        const TinyModel tiny{.tie = spelling.tied, .bias = true};
        const TempDir usual, other;
        tiny.write(usual.path());
        TinyModel::write(other.path(), tiny.config(), spelling.change(tiny.tensors()));
        expect_equal(usual.path(), other.path());

        const std::filesystem::path one = usual / "4bit", two = other / "4bit";
        quantize_checkpoint(
            {.model = usual.path(), .output = one, .config = {}, .companions = {}, .stop_requested = {}});
        quantize_checkpoint(
            {.model = other.path(), .output = two, .config = {}, .companions = {}, .stop_requested = {}});
        EXPECT_EQ(io::Checkpoint(one).fingerprint(), io::Checkpoint(two).fingerprint()) << spelling.name;
    }
}

TEST(CheckpointNames, weights_in_4_bits_may_lack_the_prefix_too) {
    const TinyModel tiny;
    const TempDir dir;
    tiny.write(dir.path());
    const std::filesystem::path stored = dir / "4bit", bare = dir / "bare";
    quantize_checkpoint(
        {.model = dir.path(), .output = stored, .config = {}, .companions = {}, .stop_requested = {}});
    test::copy_renamed(stored, bare, test::bare_name);
    expect_equal(stored, bare);
}

TEST(CheckpointNames, a_tensor_under_both_names_is_refused) {
    const TinyModel tiny;
    const TempDir dir;
    Tensors tensors = tiny.tensors();
    tensors["norm.weight"] = tensors["model.norm.weight"];
    TinyModel::write(dir.path(), tiny.config(), tensors);
    const std::string error = error_of(dir.path());
    EXPECT_NE(error.find("norm.weight: is model.norm.weight under another name"), std::string::npos) << error;
    EXPECT_EQ(error.find("not a parameter"), std::string::npos) << error;
}

/// The ways in which transformers reads a model of pictures and text.
struct PartSpelling {
    std::string decoder, head, vision;
};
const PartSpelling kPartSpellings[] = {
    {"language_model.model.", "language_model.lm_head.", ""},  // which it writes
    {"model.language_model.", "lm_head.", "model."},
    {"language_model.", "lm_head.", ""},
    {"model.language_model.model.", "lm_head.", "model."},
};

TEST(CheckpointNames, of_a_part_beside_a_vision_tower_have_several_spellings) {
    for (const PartSpelling& spelling : kPartSpellings) {
        for (const bool tied : {false, true}) {
            const TinyModel tiny{.model_type = "mistral", .tie = tied};
            const TempDir usual, part;
            tiny.write(usual.path());
            TinyModel::write(
                part.path(), test::around_text(tiny.config()),
                test::beside_vision(tiny.tensors(), spelling.decoder, spelling.head, spelling.vision));
            expect_equal(usual.path(), part.path());

            const io::Checkpoint checkpoint(part.path());
            const DecoderSpec decoder = load_decoder_spec(part.path());
            const CheckpointNames names(checkpoint, decoder);
            const std::string norm = "model.language_model.norm.weight";
            EXPECT_EQ(names.in_file(norm), spelling.decoder + "norm.weight");
            EXPECT_EQ(names.parameter(spelling.decoder + "norm.weight.absmax"), norm + ".absmax");
            EXPECT_EQ(names.holds("lm_head.weight"), !tied);
            EXPECT_TRUE(names.is_foreign(spelling.vision + "vision_tower.patch_conv.weight"));
            EXPECT_FALSE(names.is_foreign(spelling.decoder + "norm.weight"));
        }
    }
}

/// The name that a tensor has where the file does not hold it: a head that an adapter untied, or one missing.
TEST(CheckpointNames, what_a_file_lacks_is_spelled_like_the_rest_of_it) {
    for (const auto& [decoder_prefix, head, vision] : kPartSpellings) {
        const TinyModel tiny{.model_type = "mistral", .tie = true};
        const TempDir dir;
        TinyModel::write(dir.path(), test::around_text(tiny.config()),
                         test::beside_vision(tiny.tensors(), decoder_prefix, head, vision));
        const io::Checkpoint checkpoint(dir.path());
        const DecoderSpec decoder = load_decoder_spec(dir.path());
        const CheckpointNames names(checkpoint, decoder);
        const bool old = decoder_prefix == "language_model.model.";
        if (old) {
            EXPECT_EQ(names.written("lm_head.weight"), "language_model.lm_head.weight");
        } else if (decoder_prefix == "model.language_model.") {
            EXPECT_EQ(names.written("lm_head.weight"), "lm_head.weight");
        }
        EXPECT_EQ(names.written("model.language_model.norm.weight"), decoder_prefix == "language_model."
                                                                         ? "language_model.model.norm.weight"
                                                                         : decoder_prefix + "norm.weight");
    }
}

/// Where config.json leaves out whether the head is tied, the file's own head counts; transformers does so.
TEST(CheckpointNames, a_part_that_does_not_say_it_is_tied_may_have_a_head_of_its_own) {
    for (const bool tied : {false, true}) {
        const TinyModel tiny{.model_type = "mistral", .tie = tied};
        const auto [decoder_prefix, head, vision] = kPartSpellings[0];
        Json config = test::around_text(tiny.config());
        config.erase("tie_word_embeddings");
        const TempDir usual, part;
        tiny.write(usual.path());
        TinyModel::write(part.path(), config,
                         test::beside_vision(tiny.tensors(), decoder_prefix, head, vision));
        EXPECT_EQ(load_decoder_spec(part.path()).tie_word_embeddings, tied);
        expect_equal(usual.path(), part.path());
    }
}

/// Its linears would become bitsandbytes' too, so the list names them; the tensors stay as they are.
TEST(CheckpointNames, a_vision_tower_is_copied_into_the_4_bit_folder_and_named_as_dense) {
    const TinyModel tiny{.model_type = "mistral"};
    const auto [decoder_prefix, head, vision] = kPartSpellings[0];
    const TempDir dir;
    TinyModel::write(dir.path(), test::around_text(tiny.config()),
                     test::beside_vision(tiny.tensors(), decoder_prefix, head, vision));
    const std::filesystem::path stored = dir / "4bit";
    quantize_checkpoint(
        {.model = dir.path(), .output = stored, .config = {}, .companions = {}, .stop_requested = {}});
    const io::Checkpoint before(dir.path()), after(stored);
    for (const char* name : {"vision_tower.patch_conv.weight", "multi_modal_projector.norm.weight"}) {
        EXPECT_EQ(after.at(name).dtype, before.at(name).dtype);
        EXPECT_TRUE(std::ranges::equal(after.at(name).bytes, before.at(name).bytes));
    }
    EXPECT_TRUE(after.contains("language_model.model.layers.0.mlp.up_proj.weight.absmax"));
    EXPECT_TRUE(after.contains("language_model.lm_head.weight"));
    const Json config = read_json_file(stored / "config.json");
    EXPECT_EQ(config["quantization_config"]["llm_int8_skip_modules"],
              Json::array({"lm_head", "vision_tower", "model.vision_tower", "multi_modal_projector",
                           "model.multi_modal_projector"}));
    EXPECT_EQ(config["text_config"], test::around_text(tiny.config())["text_config"]);
    load_base(after, load_decoder_spec(stored), {});
}

/// transformers would fill it with random numbers.
TEST(CheckpointNames, an_untied_model_without_its_head_is_refused) {
    const TinyModel tiny;
    const TempDir dir;
    Tensors tensors = test::without_prefix(tiny.tensors());
    tensors.erase("lm_head.weight");
    TinyModel::write(dir.path(), tiny.config(), tensors);
    const std::string error = error_of(dir.path());
    EXPECT_NE(error.find("lm_head.weight: is missing"), std::string::npos) << error;
    EXPECT_NE(error.find("tie_word_embeddings"), std::string::npos) << error;
}

}  // namespace
}  // namespace qlora::models
