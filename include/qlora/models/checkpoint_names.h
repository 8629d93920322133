#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "qlora/io/checkpoint.h"
#include "qlora/models/decoder_spec.h"

namespace qlora::models {

/// The parameter that a tensor of this name holds, by whichever spelling of DecoderSpec::renames, and with
/// the prefix ("model.") that all parameters but the head's have where the name lacks it.
std::string parameter_named(const DecoderSpec& config, const std::string& in_file);

/// Whether the name, on disk or of a module, is one of DecoderSpec::foreign.
bool is_foreign(const DecoderSpec& config, const std::string& name);

/// The two names of a tensor: a model's parameter, as transformers writes it, and what a checkpoint calls it.
/// They differ in three kinds of checkpoint, all of which transformers reads too: a decoder that was saved
/// without its head lacks the prefix "model." of all names, one with tied embeddings may hold the head
/// alone, which is then the embedding, and some types have other names on disk (DecoderSpec::renames), which
/// not every file uses. What is beside a parameter (the states of a 4-bit matrix) follows it.
class CheckpointNames {
  public:
    /// Both must live as long.
    CheckpointNames(const io::Checkpoint& checkpoint, const DecoderSpec& config);
    CheckpointNames(const io::Checkpoint& checkpoint, DecoderSpec&& config) = delete;

    /// The tensor that holds a parameter; where none does, the name it would have. Where two do, the one with
    /// the parameter's own name.
    std::string in_file(const std::string& parameter) const;
    /// The parameter that a tensor of the checkpoint holds, or would hold if there were one.
    std::string parameter(const std::string& in_file) const;
    /// The parameter's name in what is made after this checkpoint: with its prefix, and in the spelling that
    /// the checkpoint has.
    std::string written(const std::string& parameter) const;
    /// Whether a tensor of the checkpoint holds the parameter.
    bool holds(const std::string& parameter) const;
    /// A tensor of the checkpoint that is no part of the decoder.
    bool is_foreign(const std::string& in_file) const { return models::is_foreign(*config_, in_file); }

  private:
    void choose_spellings();

    const io::Checkpoint* checkpoint_;
    const DecoderSpec* config_;
    std::string head_, embedding_;  ///< names of the parameters
    bool head_is_embedding_ = false;
    std::map<std::string, std::string> spellings_;  ///< of renamed modules: module prefix -> the one on disk
};

/// The log lines of log_passed_over, and how many tensors of other models the checkpoint holds; once a
/// program.
void log_passed_over(const io::Checkpoint& checkpoint, const DecoderSpec& config);

}  // namespace qlora::models
