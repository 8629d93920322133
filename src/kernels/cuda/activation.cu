// The activations of an MLP, gated or not, and their gradients: one thread a piece of eight outputs, which it
// computes from registers, so that gradients may take the place of what they are computed from.
#include "pieces.cuh"
#include "qlora/kernels/activation_math.h"
#include "qlora/kernels/cuda_layer.h"

namespace qlora::kernels::QLORA_KERNEL_BACKEND {

namespace {

/// Rows of `entered` are so many times as long as those of the result.
template <class Form>
inline constexpr int kParts = Form::kGated ? 2 : 1;

template <class Form, class Elements, bool kVectors>
__global__ void __launch_bounds__(kPieceThreads)
    activate_pieces(ActivateParams params, unsigned pieces, unsigned per_row) {
    const unsigned index = blockIdx.x * kPieceThreads + threadIdx.x;
    if (index >= pieces) return;
    const int64_t row = index / per_row, at = index % per_row * static_cast<int64_t>(kPiece);
    const int64_t left = params.size - at, gate_at = row * kParts<Form> * params.size + at;
    float gate[kPiece], y[kPiece];
    load_values<Elements, kVectors>(params.entered, gate_at, left, gate);
    if constexpr (Form::kGated) {
        load_values<Elements, kVectors>(params.entered, gate_at + params.size, left, y);
#pragma unroll
        for (int i = 0; i < kPiece; ++i) {
            y[i] = Elements::rounded(activated<Form::kKind, OneLane>(gate[i]).value) * y[i];
        }
    } else {
#pragma unroll
        for (int i = 0; i < kPiece; ++i) y[i] = activated<Form::kKind, OneLane>(gate[i]).value;
    }
    store_values<Elements, kVectors>(params.y, row * params.y_stride + at, left, y);
}

template <class Form, class Elements, bool kVectors>
__global__ void __launch_bounds__(kPieceThreads)
    activate_backward_pieces(ActivateBackwardParams params, unsigned pieces, unsigned per_row) {
    const unsigned index = blockIdx.x * kPieceThreads + threadIdx.x;
    if (index >= pieces) return;
    const int64_t row = index / per_row, at = index % per_row * static_cast<int64_t>(kPiece);
    const int64_t left = params.size - at, gate_at = row * kParts<Form> * params.size + at;
    float dy[kPiece], gate[kPiece], y[kPiece];
    load_values<Elements, kVectors>(params.dy, row * params.size + at, left, dy);
    load_values<Elements, kVectors>(params.entered, gate_at, left, gate);
    if constexpr (Form::kGated) {
        float up[kPiece];
        load_values<Elements, kVectors>(params.entered, gate_at + params.size, left, up);
#pragma unroll
        for (int i = 0; i < kPiece; ++i) {
            const Activated<OneLane> act = activated<Form::kKind, OneLane>(gate[i]);
            const float value = Elements::rounded(act.value);
            y[i] = value * up[i];
            gate[i] = Elements::rounded(dy[i] * up[i]) * act.slope;
            up[i] = dy[i] * value;
        }
        store_values<Elements, kVectors>(params.d_entered, gate_at + params.size, left, up);
    } else {
#pragma unroll
        for (int i = 0; i < kPiece; ++i) {
            const Activated<OneLane> act = activated<Form::kKind, OneLane>(gate[i]);
            y[i] = act.value;
            gate[i] = dy[i] * act.slope;
        }
    }
    store_values<Elements, kVectors>(params.d_entered, gate_at, left, gate);
    if (params.y != nullptr) {
        store_values<Elements, kVectors>(params.y, row * params.y_stride + at, left, y);
    }
}

/// Calls action(form, Elements, whole pieces).
template <class Action>
void with_forms(Activation kind, bool gated, FloatType type, bool vectors, const Action& action) {
    const bool exists = with_activation_form(kind, gated, [&](auto form) {
        with_pieces(type, vectors, [&](auto elements, auto whole) { action(form, elements, whole); });
    });
    require(exists, "an activation that does not exist");
}

}  // namespace

void activate(const ActivateParams& params, Stream stream) {
    require(params.rows >= 0 && params.size >= 0, "activate: a size is negative");
    require(params.y_stride >= params.size, "activate: rows of y that overlap");
    const std::size_t bytes = static_cast<std::size_t>(float_bytes(params.type));
    require(is_aligned(params.entered, bytes) && is_aligned(params.y, bytes),
            "activate: a tensor that is not aligned to its element");
    const int64_t per_row = pieces_of(params.size);
    const unsigned pieces = piece_count(params.rows, per_row);
    if (pieces == 0) return;
    const bool vectors = has_whole_pieces(params.entered, params.size, params.size, params.type) &&
                         has_whole_pieces(params.y, params.size, params.y_stride, params.type);
    const LaunchConfig config{dim3(grid_size(pieces, kPieceThreads)), dim3(kPieceThreads)};
    with_forms(params.kind, params.gated, params.type, vectors, [&](auto form, auto elements, auto whole) {
        launch<activate_pieces<decltype(form), decltype(elements), decltype(whole)::value>>(
            config, stream, params, pieces, static_cast<unsigned>(per_row));
    });
}

void activate_backward(const ActivateBackwardParams& params, Stream stream) {
    require(params.rows >= 0 && params.size >= 0, "activate_backward: a size is negative");
    require(params.y == nullptr || params.y_stride >= params.size,
            "activate_backward: rows of y that overlap");
    const std::size_t bytes = static_cast<std::size_t>(float_bytes(params.type));
    require(is_aligned(params.dy, bytes) && is_aligned(params.entered, bytes) &&
                is_aligned(params.d_entered, bytes) && is_aligned(params.y, bytes),
            "activate_backward: a tensor that is not aligned to its element");
    const int64_t per_row = pieces_of(params.size);
    const unsigned pieces = piece_count(params.rows, per_row);
    if (pieces == 0) return;
    const bool vectors =
        has_whole_pieces(params.dy, params.size, params.size, params.type) &&
        has_whole_pieces(params.entered, params.size, params.size, params.type) &&
        has_whole_pieces(params.d_entered, params.size, params.size, params.type) &&
        (params.y == nullptr || has_whole_pieces(params.y, params.size, params.y_stride, params.type));
    const LaunchConfig config{dim3(grid_size(pieces, kPieceThreads)), dim3(kPieceThreads)};
    with_forms(params.kind, params.gated, params.type, vectors, [&](auto form, auto elements, auto whole) {
        launch<activate_backward_pieces<decltype(form), decltype(elements), decltype(whole)::value>>(
            config, stream, params, pieces, static_cast<unsigned>(per_row));
    });
}

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
