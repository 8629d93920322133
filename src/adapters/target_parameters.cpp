#include "target_parameters.h"

namespace qlora::adapters {
namespace {

using models::spec::Experts;

constexpr const char* kEntry = "gate_up_proj";
constexpr const char* kOutput = "down_proj";

std::string last_part(const std::string& path) {
    return path.substr(path.rfind('.') + 1);
}

RawParameter entry_of(const Experts& experts) {
    RawParameter out{.info = {.path = experts.path + "." + kEntry,
                              .experts = static_cast<std::int64_t>(experts.experts.size())},
                     .module = experts.path,
                     .outer = experts.path + "." + kOutput};
    for (std::size_t e = 0; e < experts.experts.size(); ++e) {
        std::int64_t row = 0;
        for (const models::spec::Linear& linear : experts.experts[e].entry) {
            out.parts.push_back({&linear, static_cast<std::int64_t>(e), row});
            row += linear.out;
            out.info.in_features = linear.in;
        }
        out.info.out_features = row;
    }
    return out;
}

RawParameter output_of(const Experts& experts) {
    RawParameter out{.info = {.path = experts.path + "." + kOutput,
                              .experts = static_cast<std::int64_t>(experts.experts.size()),
                              .in_features = experts.experts.front().output.in,
                              .out_features = experts.experts.front().output.out},
                     .module = experts.path,
                     .outer = {}};
    for (std::size_t e = 0; e < experts.experts.size(); ++e)
        out.parts.push_back({&experts.experts[e].output, static_cast<std::int64_t>(e), 0});
    return out;
}

RawParameter router_of(const Experts& experts) {
    return {.info = {.path = experts.router.weight(),
                     .experts = 1,
                     .in_features = experts.router.in,
                     .out_features = experts.router.out},
            .module = experts.router.path,
            .outer = {},
            .parts = {{&experts.router, 0, 0}}};
}

template <class F>
void for_each_experts(const models::DecoderSpec& decoder, F&& f) {
    for (const models::spec::Layer& layer : decoder.layers) {
        for (const models::spec::Branch& branch : layer.branches) {
            if (const auto* experts = std::get_if<Experts>(&branch.block)) f(*experts);
        }
    }
}

}  // namespace

std::vector<RawParameter> raw_parameters(const models::DecoderSpec& decoder) {
    std::vector<RawParameter> out;
    for_each_experts(decoder, [&](const Experts& experts) {
        out.push_back(router_of(experts));
        out.push_back(entry_of(experts));
        out.push_back(output_of(experts));
    });
    return out;
}

std::vector<FormerLinears> former_linears(const models::DecoderSpec& decoder) {
    std::vector<FormerLinears> out;
    for_each_experts(decoder, [&](const Experts& experts) {
        if (!out.empty() || !experts.known_by_linears) return;
        const models::spec::Mlp& expert = experts.experts.front();
        NameList entry;
        for (const models::spec::Linear& linear : expert.entry) entry.push_back(last_part(linear.path));
        out = {{last_part(experts.router.path) + ".weight", {last_part(experts.router.path)}},
               {kEntry, std::move(entry)},
               {kOutput, {last_part(expert.output.path)}}};
    });
    return out;
}

}  // namespace qlora::adapters
