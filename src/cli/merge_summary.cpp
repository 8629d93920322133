#include "merge_summary.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "qlora/core/log.h"

namespace qlora::cli {
namespace {

using adapters::LayerMeasure;
using adapters::MergeBase;

/// Ratios of update to quantization error over the layers.
struct Ratios {
    const LayerMeasure* worst = nullptr;    ///< the smallest
    const LayerMeasure* typical = nullptr;  ///< nearest to the mean
    double mean = 0;
    std::int64_t drowned = 0;  ///< layers whose update is smaller than the error
};

Ratios ratios_of(const adapters::MergeReport& report) {
    std::vector<const LayerMeasure*> layers;
    for (const LayerMeasure& layer : report.layers) {
        if (layer.ratio()) layers.push_back(&layer);
    }
    Ratios out;
    if (layers.empty()) return out;
    for (const LayerMeasure* layer : layers) {
        out.mean += *layer->ratio() / static_cast<double>(layers.size());
        out.drowned += *layer->ratio() < 1 ? 1 : 0;
    }
    const auto smallest = [](const auto& key) {
        return [key](const LayerMeasure* a, const LayerMeasure* b) { return key(*a) < key(*b); };
    };
    out.worst = *std::min_element(layers.begin(), layers.end(),
                                  smallest([](const LayerMeasure& layer) { return *layer.ratio(); }));
    out.typical = *std::min_element(layers.begin(), layers.end(), smallest([&](const LayerMeasure& layer) {
                                        return std::abs(*layer.ratio() - out.mean);
                                    }));
    return out;
}

struct Rounding {
    std::int64_t changed = 0;
    std::int64_t rounded_back = 0;
    double share() const {
        return changed == 0 ? 0.0 : static_cast<double>(rounded_back) / static_cast<double>(changed);
    }
};

Rounding rounding_of(const adapters::MergeReport& report) {
    Rounding out;
    for (const LayerMeasure& layer : report.layers) {
        out.changed += layer.changed;
        out.rounded_back += layer.rounded_back;
    }
    return out;
}

void log_layer(const char* what, const LayerMeasure& layer) {
    spdlog::info("  {}: {}: |update| {:.4g}, |quantization error| {:.4g}, ratio {:.3g}", what, layer.path,
                 layer.delta, layer.quantization_error, *layer.ratio());
}

/// The choice between the two bases, with the numbers it should be made by.
void log_base_choice(const adapters::MergeReport& report, const adapters::MergeRequest& request,
                     const Ratios& ratios) {
    const bool original = request.base == MergeBase::kOriginal;
    const bool trained_on_nf4 = report.trained_on && report.trained_on->load_in_4bit;
    if (trained_on_nf4 && original) {
        spdlog::info(
            "the adapter was trained on the base's NF4 values and is added to the original weights; the two "
            "differ by the quantization errors above, to which the adapter may have adapted. --base "
            "dequantized gives the model that was trained; compare both with qlora-eval");
    }
    const bool may_matter = trained_on_nf4 || !report.trained_on;
    if (ratios.drowned > 0 && may_matter) {
        spdlog::warn(
            "in {} of {} layers the quantization error is larger than the update, so the choice of --base "
            "changes the model more than the fine-tuning did{}",
            ratios.drowned, report.layers.size(),
            trained_on_nf4 ? "" : " (if the adapter was trained on a 4-bit base, which it does not say)");
    }
}

}  // namespace

void log_merge_summary(const adapters::MergeReport& report, const adapters::MergeRequest& request) {
    spdlog::info("merged {} layers, replaced {} tensors, {} tensors in all: {}", report.layers.size(),
                 report.replaced.size(), report.tensors, report.output.string());
    if (report.untied) {
        spdlog::info(
            "the output head and the embedding were tied and are now two tensors, because the adapter "
            "trained "
            "one of them; config.json says tie_word_embeddings: false");
    }
    for (const LayerMeasure& layer : report.layers) {
        spdlog::debug("{}: |update| {:.4g}, |quantization error| {:.4g}, rounded back {} of {}", layer.path,
                      layer.delta, layer.quantization_error, layer.rounded_back, layer.changed);
    }
    const Ratios ratios = ratios_of(report);
    if (ratios.worst != nullptr) {
        spdlog::info(
            "update against quantization error (NF4, blocksize {}{}), Frobenius norms, mean ratio {:.3g}:",
            report.measured_with.bnb_4bit_blocksize,
            report.measured_with.bnb_4bit_use_double_quant ? ", double quantization" : "", ratios.mean);
        log_layer("worst layer", *ratios.worst);
        log_layer("layer nearest the mean", *ratios.typical);
        log_base_choice(report, request, ratios);
    }
    const Rounding rounding = rounding_of(report);
    if (!report.layers.empty() && rounding.changed == 0) {
        spdlog::warn("every update is zero: was the adapter trained?");
    }
    spdlog::info("{:.2f} % of the changed weights were rounded back to the base's value",
                 100 * rounding.share());
    if (rounding.share() > 0.5) {
        spdlog::warn(
            "more than half of the changed weights were rounded back to the base's value, so the merged "
            "model "
            "may have lost much of the fine-tuning; use --dtype float32, or keep the adapter beside the "
            "base");
    }
}

Json merge_result(const adapters::MergeReport& report, const adapters::MergeRequest& request) {
    const Ratios ratios = ratios_of(report);
    const Rounding rounding = rounding_of(report);
    Json ratio = {{"mean", nullptr}, {"worst", nullptr}, {"worst_layer", nullptr}};
    if (ratios.worst != nullptr) {
        ratio = {
            {"mean", ratios.mean}, {"worst", *ratios.worst->ratio()}, {"worst_layer", ratios.worst->path}};
    }
    return {{"output", report.output.string()},
            {"base", FieldType<MergeBase>::write(request.base)},
            {"dtype", FieldType<adapters::MergeDtype>::write(request.dtype)},
            {"tensors", report.tensors},
            {"merged", report.layers.size()},
            {"replaced", report.replaced.size()},
            {"untied", report.untied},
            {"update_to_quantization_error", ratio},
            {"changed_weights", rounding.changed},
            {"rounded_back", rounding.share()}};
}

}  // namespace qlora::cli
