#pragma once

#include <string>

#include "qlora/io/checkpoint.h"
#include "qlora/models/decoder_spec.h"

namespace qlora::models {

/// The two names of a tensor: a model's parameter, as transformers writes it, and what a checkpoint calls it.
/// They differ in two kinds of checkpoint, both of which transformers reads too: a decoder that was saved
/// without its head lacks the prefix "model." of all names, and one with tied embeddings may hold the head
/// alone, which is then the embedding. What is beside a parameter (the states of a 4-bit matrix) follows it.
class CheckpointNames {
  public:
    /// The checkpoint must live as long.
    CheckpointNames(const io::Checkpoint& checkpoint, const DecoderSpec& config);

    /// The tensor that holds a parameter; `parameter` itself where none does. Where two do, the one with the
    /// parameter's own name.
    std::string in_file(const std::string& parameter) const;
    /// The parameter that a tensor of the checkpoint holds, or would hold if there were one.
    std::string parameter(const std::string& in_file) const;
    /// Whether a tensor of the checkpoint holds the parameter.
    bool holds(const std::string& parameter) const;

  private:
    const io::Checkpoint* checkpoint_;
    std::string head_, embedding_;  ///< names of the parameters
    bool head_is_embedding_ = false;
};

}  // namespace qlora::models
