#include "qlora/train/run_state.h"

#include "qlora/core/error.h"

namespace qlora::train {
namespace {

template <class T>
void write_value(Json& out, const T& value) {
    out = value;
}
template <class T>
void write_value(Json& out, const std::optional<T>& value) {
    out = value ? Json(*value) : Json(nullptr);
}
template <class T>
void read_value(const Json& in, T& value) {
    value = in.get<T>();
}
template <class T>
void read_value(const Json& in, std::optional<T>& value) {
    value = in.is_null() ? std::nullopt : std::optional<T>(in.get<T>());
}

}  // namespace

Json RunState::to_json() const {
    Json out = Json::object();
    fields(*this, [&](const char* name, const auto& value) { write_value(out[name], value); });
    return out;
}

RunState RunState::from_json(const Json& json, const std::string& name) {
    RunState state;
    try {
        fields(state, [&](const char* key, auto& value) { read_value(json.at(key), value); });
    } catch (const Json::exception& error) {
        throw CheckpointError(name + ": is not a run state of this version (" + error.what() + ")");
    }
    return state;
}

}  // namespace qlora::train
