#include "qlora/adapters/bottleneck_config.h"

#include "name_checks.h"

namespace qlora::adapters {

BottleneckPlaces places_of(BottleneckKind kind) {
    return {.mh_adapter = kind == BottleneckKind::kDoubleSeq,
            .output_adapter = true,
            .is_parallel = kind == BottleneckKind::kPar,
            .original_ln_before = kind == BottleneckKind::kSeq};
}

BottleneckConfig completed(BottleneckConfig config) {
    const bool is_par = config.config == BottleneckKind::kPar;
    const bool is_double = config.config == BottleneckKind::kDoubleSeq;
    if (!config.reduction_factor) config.reduction_factor.emplace(is_par ? 2.0 : 16.0);
    if (!config.non_linearity) config.non_linearity = is_double ? NonLinearity::kSwish : NonLinearity::kRelu;
    if (!config.scaling) config.scaling.emplace(is_par ? 4.0 : 1.0);
    if (!config.init_weights)
        config.init_weights = is_par ? BottleneckInit::kMamAdapter : BottleneckInit::kBert;
    config.mh_adapter = config.output_adapter = config.is_parallel = config.original_ln_before = std::nullopt;
    return config;
}

void check_config(const BottleneckConfig& config, const std::string& path, FaultList& faults) {
    const BottleneckPlaces places = places_of(config.config);
    const auto check = [&](const char* name, const std::optional<bool>& given, bool meant) {
        if (!given || *given == meant) return;
        faults.add(path_to(path, name), std::string("is ") + (*given ? "true" : "false") + ", which " +
                                            std::string(enum_name(config.config)) +
                                            " does not mean; `config` chooses between seq_bn, double_seq_bn "
                                            "and par_bn");
    };
    check("mh_adapter", config.mh_adapter, places.mh_adapter);
    check("output_adapter", config.output_adapter, places.output_adapter);
    check("is_parallel", config.is_parallel, places.is_parallel);
    check("original_ln_before", config.original_ln_before, places.original_ln_before);
}

}  // namespace qlora::adapters
