#pragma once

#include <cstddef>

#include "qlora/kernels/cuda_kernels.h"
#include "qlora/kernels/cuda_layer.h"
#include "qlora/kernels/cuda_loss.h"
#include "qlora/kernels/cuda_optimizer.h"

namespace qlora::kernels {

/// All kernels of one backend, as its plug-in hands them over. Contracts are those of the headers above.
/// Called only where qlora_kernel_interface(), which the plug-in exports too, gives the text that the program
/// was built with: version and hash of these headers.
struct KernelTable {
    const char* backend = nullptr;  ///< "cuda" or "emulated"
    /// 80 for sm_80; 0 where there is no such device.
    int (*compute_capability)(int device);

    void (*quantize_blockwise_nf4)(const QuantizeNf4Params&, int64_t* first_non_finite, void* stream);
    void (*quantize_absmax)(const float* absmax, int64_t blocks, uint8_t* codes, float* nested_absmax,
                            float* offset, void* stream);
    void (*dequantize_blockwise_nf4)(const Nf4View&, int64_t begin, int64_t end, void* out, FloatType type,
                                     void* stream);
    void (*dequantize_rows_nf4)(const DequantizeRowsParams&, void* stream);
    void (*matvec_nf4)(const MatvecNf4Params&, void* stream);

    void (*rms_norm)(const RmsNormParams&, void* stream);
    void (*rms_norm_recompute)(const RmsNormRecomputeParams&, void* stream);
    void (*rms_norm_backward)(const RmsNormBackwardParams&, void* stream);
    void (*layer_norm)(const LayerNormParams&, void* stream);
    void (*layer_norm_recompute)(const LayerNormRecomputeParams&, void* stream);
    void (*layer_norm_backward)(const LayerNormBackwardParams&, void* stream);
    void (*rope)(const RopeParams&, void* stream);
    void (*activate)(const ActivateParams&, void* stream);
    void (*activate_backward)(const ActivateBackwardParams&, void* stream);
    void (*dropout)(const DropoutParams&, void* stream);
    void (*scale_columns)(const ScaleColumnsParams&, void* stream);
    void (*scale_columns_backward)(const ScaleColumnsBackwardParams&, void* stream);

    void (*softmax_cross_entropy)(const CrossEntropyParams&, void* stream);
    void (*score_rows)(const ScoreRowsParams&, void* stream);

    void (*adamw_step)(const AdamwTables&, const AdamwSettings&, void* stream);
    void (*gradient_sum_of_squares)(const AdamwTables&, double* partial, double* sum, void* stream);
};

/// What the plug-in library exports under kKernelTableSymbol.
using KernelTableFunction = const KernelTable* (*)();
inline constexpr const char* kKernelTableSymbol = "qlora_kernel_table";

}  // namespace qlora::kernels

namespace qlora::kernels::QLORA_KERNEL_BACKEND {

const KernelTable& kernel_table();

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND
