#pragma once

#include <torch/csrc/autograd/custom_function.h>

#include <utility>

namespace qlora::ops {

/// Carries what is no tensor in the saved data of an autograd node.
template <class Value>
struct ValueHolder : torch::CustomClassHolder {
    explicit ValueHolder(Value held) : value(std::move(held)) {}
    Value value;
};

template <class Value>
void save_value(torch::autograd::AutogradContext* ctx, const char* key, Value value) {
    ctx->saved_data[key] =
        c10::IValue::make_capsule(c10::make_intrusive<ValueHolder<Value>>(std::move(value)));
}

template <class Value>
const Value& saved_value(torch::autograd::AutogradContext* ctx, const char* key) {
    return c10::static_intrusive_pointer_cast<ValueHolder<Value>>(ctx->saved_data[key].toCapsule())->value;
}

}  // namespace qlora::ops
