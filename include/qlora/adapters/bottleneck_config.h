#pragma once

#include <optional>
#include <string>
#include <vector>

#include "qlora/adapters/method_fields.h"

namespace qlora::adapters {

/// A number where AdapterHub takes other values too, which `Other` names and refuses.
template <class Other>
struct NumberAlone {
    double value = 0.0;
    bool operator==(const NumberAlone&) const = default;
};
struct FactorsOfLayers {
    static constexpr const char* kWhyNot = "a factor of its own for each layer is not built";
};
struct TrainedScaling {
    static constexpr const char* kWhyNot = "a scaling that trains (\"learned\", \"channel\") is not built";
};

/// AdapterHub's names of what it offers (Pfeiffer et al. 2020; Houlsby et al. 2019; He et al. 2021).
enum class BottleneckKind { kSeq, kDoubleSeq, kPar };
constexpr EnumTable<BottleneckKind, 3> enum_table(BottleneckKind) {
    return {{{"seq_bn", BottleneckKind::kSeq},
             {"double_seq_bn", BottleneckKind::kDoubleSeq},
             {"par_bn", BottleneckKind::kPar}}};
}
constexpr EnumTable<BottleneckKind, 3> enum_aliases(BottleneckKind) {
    return {{{"pfeiffer", BottleneckKind::kSeq},
             {"houlsby", BottleneckKind::kDoubleSeq},
             {"parallel", BottleneckKind::kPar}}};
}
constexpr UnbuiltNames<5> unbuilt_names(BottleneckKind) {
    return {{{"scaled_par_bn", TrainedScaling::kWhyNot},
             {"seq_bn_inv", "invertible adapters are not built"},
             {"double_seq_bn_inv", "invertible adapters are not built"},
             {"compacter", "Compacter's products (PHM layers) are not built"},
             {"compacter++", "Compacter's products (PHM layers) are not built"}}};
}

enum class NonLinearity { kRelu, kSwish, kGelu, kGeluNew, kTanh };
constexpr EnumTable<NonLinearity, 5> enum_table(NonLinearity) {
    return {{{"relu", NonLinearity::kRelu},
             {"swish", NonLinearity::kSwish},
             {"gelu", NonLinearity::kGelu},
             {"gelu_new", NonLinearity::kGeluNew},
             {"tanh", NonLinearity::kTanh}}};
}
constexpr EnumTable<NonLinearity, 2> enum_aliases(NonLinearity) {
    return {{{"silu", NonLinearity::kSwish}, {"gelu_pytorch_tanh", NonLinearity::kGeluNew}}};
}

/// kBert: normal numbers of deviation 0.02. kMamAdapter: uniform ones in +-1 / sqrt(in), then zeros, so that
/// training starts at the base. kHoulsby: normal ones of deviation 0.01 up to twice that.
enum class BottleneckInit { kBert, kMamAdapter, kHoulsby };
constexpr EnumTable<BottleneckInit, 3> enum_table(BottleneckInit) {
    return {{{"bert", BottleneckInit::kBert},
             {"mam_adapter", BottleneckInit::kMamAdapter},
             {"houlsby", BottleneckInit::kHoulsby}}};
}

/// AdapterHub's BnConfig.
struct BottleneckConfig {
    static constexpr const char* kTagName = "peft_type";
    static constexpr PeftType kTag = PeftType::kBottleneck;
    /// AdapterHub's advice.
    static constexpr double kLearningRate = 1e-4;

    PeftType peft_type = kTag;
    std::optional<TaskType> task_type = TaskType::kCausalLm;
    std::optional<std::string> base_model_name_or_path;
    BottleneckKind config = BottleneckKind::kSeq;
    // Where they are missing the kind decides: `completed`.
    std::optional<NumberAlone<FactorsOfLayers>> reduction_factor;
    std::optional<NonLinearity> non_linearity;
    std::optional<NumberAlone<TrainedScaling>> scaling;
    std::optional<BottleneckInit> init_weights;
    std::vector<std::int64_t> leave_out;
    double dropout = 0.0;
    // What the kind means, for a BnConfig that is pasted: checked, then left out.
    std::optional<bool> mh_adapter, output_adapter, is_parallel, original_ln_before;
    /// Of the base, as AdapterHub's file has them; no settings.
    std::int64_t hidden_size = 0;
    std::string model_type, model_class;

    bool operator==(const BottleneckConfig&) const = default;

    template <class Self, class Visitor>
    static void fields(Self& self, Visitor& visit) {
        visit("config", self.config, {},
              "where the small networks stand: behind the MLP's sum, behind both blocks, beside the MLP");
        bn_fields(self, visit);
        method_fields(self, visit);
        visit.fixed("modules_to_save", nullptr, "whole modules beside bottlenecks are not built");
    }

    /// Those of BnConfig.
    template <class Self, class Visitor>
    static void bn_fields(Self& self, Visitor& visit) {
        visit("reduction_factor", self.reduction_factor,
              {.min = 0, .min_excluded = true, .default_text = "16, of par_bn 2"},
              "the networks are hidden_size / reduction_factor wide, rounded down, at least 1");
        visit("non_linearity", self.non_linearity, {.default_text = "\"relu\", of double_seq_bn \"swish\""},
              "between their two linears");
        visit("scaling", self.scaling, {.default_text = "1, of par_bn 4"}, "factor on what they add");
        visit("init_weights", self.init_weights, {.default_text = "\"bert\", of par_bn \"mam_adapter\""},
              "how they start; with mam_adapter the model starts as the base");
        visit("leave_out", self.leave_out, {.min = 0}, "layers without them, from 0");
        visit("dropout", self.dropout, {.min = 0, .max = 1, .max_excluded = true}, "on what they add");
        constexpr const char* kOfKind = "as `config` means it; it may be given, but not differ";
        visit("mh_adapter", self.mh_adapter, {}, kOfKind);
        visit("output_adapter", self.output_adapter, {}, kOfKind);
        visit("is_parallel", self.is_parallel, {}, kOfKind);
        visit("original_ln_before", self.original_ln_before, {}, kOfKind);
        visit.fixed("original_ln_after", true, "the stream goes on with what the block adds to it");
        visit.fixed("residual_before_ln", true, "what they make is added to the block's output");
        visit.fixed("adapter_residual_before_ln", false, "norms of their own are not built");
        visit.fixed("ln_before", false, "norms of their own are not built");
        visit.fixed("ln_after", false, "norms of their own are not built");
        visit.fixed("use_gating", false, "gates are not built");
        visit.fixed("inv_adapter", nullptr, "invertible adapters are not built");
        visit.fixed("inv_adapter_reduction_factor", nullptr, "invertible adapters are not built");
        visit.fixed("cross_adapter", false, "models with cross-attention are not there");
        visit.fixed("init_weights_seed", nullptr, "training.seed is what they start from");
        visit.fixed("stochastic_depth", 0.0, "layers are not dropped");
        constexpr const char* kPhm = "Compacter's products (PHM layers) are not built";
        visit.fixed("phm_layer", false, kPhm);
        visit.fixed("phm_dim", 4, kPhm);
        visit.fixed("phm_rank", 1, kPhm);
        visit.fixed("phm_bias", true, kPhm);
        visit.fixed("phm_c_init", "normal", kPhm);
        visit.fixed("phm_init_range", 0.0001, kPhm);
        visit.fixed("learn_phm", true, kPhm);
        visit.fixed("shared_phm_rule", true, kPhm);
        visit.fixed("factorized_phm_rule", false, kPhm);
        visit.fixed("factorized_phm_W", true, kPhm);
        visit.fixed("shared_W_phm", false, kPhm);
        visit.fixed("hypercomplex_nonlinearity", "glorot-uniform", kPhm);
    }
};

/// Where a kind has its networks and what they read.
struct BottleneckPlaces {
    bool mh_adapter, output_adapter;  ///< behind attention, behind the MLP
    bool is_parallel;                 ///< they read the stream before the block
    bool original_ln_before;          ///< else: the stream behind it, not the block's output alone
};
BottleneckPlaces places_of(BottleneckKind kind);

/// With what the kind decides filled in.
BottleneckConfig completed(BottleneckConfig config);

void check_config(const BottleneckConfig& config, const std::string& path, FaultList& faults);

}  // namespace qlora::adapters

namespace qlora {

template <class Other>
struct FieldType<adapters::NumberAlone<Other>> {
    static std::string kind() { return FieldType<double>::kind(); }
    static bool fits(const Json& value) {
        return value.is_number() || value.is_string() || value.is_object();
    }
    static std::string read(const Json& value, const FieldRule& rule, adapters::NumberAlone<Other>& out) {
        if (!value.is_number()) return wrong_type(kind(), value) + ": " + Other::kWhyNot;
        return FieldType<double>::read(value, rule, out.value);
    }
    static Json write(const adapters::NumberAlone<Other>& number) { return number.value; }
};

}  // namespace qlora
