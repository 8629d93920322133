#pragma once

#include <cstdint>
#include <optional>

#include "config_reader.h"
#include "qlora/models/decoder_spec.h"

/// Reads what config.json says of rotary embeddings as transformers 5 does. What it would fail on, pass over
/// or do in a way that is not built is a fault.
namespace qlora::models {

struct RopeSizes {
    std::int64_t head_dim = 0;
    std::int64_t max_positions = 0;  ///< max_position_embeddings
};

/// What transformers' class for an architecture says where config.json does not, and where it looks.
struct RopeDefaults {
    double theta = 10000.0;
    const char* theta_key = "rope_theta";  ///< beside the section, for one without a rope_theta
    /// The share of a head's dimensions that turn. None: whole heads, as the architecture's rope of type
    /// default heeds no share.
    std::optional<double> partial = {};
    const char* partial_key = "partial_rotary_factor";  ///< beside the section
    bool pairs = false;                                 ///< see spec::Rope
    spec::Rope::Rounding rounding = spec::Rope::Rounding::kAnglesAndProducts;
    /// original_max_position_embeddings where the architecture has it as a key of its own, which then counts
    /// instead of the one in the section.
    std::optional<std::int64_t> original_positions = {};
    bool only_longrope = false;   ///< of the scalings, and "su" and "yarn" are names of it (phi3)
    bool scales_queries = false;  ///< it acts on llama_4_scaling_beta (ministral3)
    Json section = {};            ///< rope_parameters where config.json has no section at all
};

/// Of all layers that turn: from `rope_scaling` where it says anything, else from `rope_parameters`.
spec::Rope read_rope(ConfigReader& config, const RopeSizes& sizes, const RopeDefaults& defaults = {});

struct LayerTypeDefaults {
    double full_theta = 10000.0;
    double sliding_theta = 10000.0;
    const char* sliding_theta_key = nullptr;  ///< beside the section; null: there is none
};
struct RopesByLayerType {
    spec::Rope full, sliding;
};
/// Of architectures whose rope_parameters hold a section for each layer type (gemma3, olmo3): rope_scaling
/// and a rope_theta beside the sections are of the layers with full attention alone.
RopesByLayerType read_ropes_by_layer_type(ConfigReader& config, const RopeSizes& sizes,
                                          const LayerTypeDefaults& defaults);

}  // namespace qlora::models
