// The list of all kernels, and the plug-in's one exported function.
#include "qlora/kernels/kernel_table.h"

#define QLORA_TEXT_OF(name) #name
#define QLORA_TEXT(name) QLORA_TEXT_OF(name)

namespace qlora::kernels::QLORA_KERNEL_BACKEND {

namespace {

int compute_capability([[maybe_unused]] int device) {
    int major = 0, minor = 0;
#if defined(__CUDACC__)
    if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess) {
        static_cast<void>(cudaGetLastError());  // else the next launch would find it
        return 0;
    }
#endif
    return 10 * major + minor;
}

}  // namespace

const KernelTable& kernel_table() {
    static const KernelTable table{.backend = QLORA_TEXT(QLORA_KERNEL_BACKEND),
                                   .compute_capability = compute_capability,
                                   .quantize_blockwise_nf4 = quantize_blockwise_nf4,
                                   .quantize_absmax = quantize_absmax,
                                   .dequantize_blockwise_nf4 = dequantize_blockwise_nf4,
                                   .dequantize_rows_nf4 = dequantize_rows_nf4,
                                   .matvec_nf4 = matvec_nf4,
                                   .rms_norm = rms_norm,
                                   .rms_norm_recompute = rms_norm_recompute,
                                   .rms_norm_backward = rms_norm_backward,
                                   .layer_norm = layer_norm,
                                   .layer_norm_recompute = layer_norm_recompute,
                                   .layer_norm_backward = layer_norm_backward,
                                   .rope = rope,
                                   .activate = activate,
                                   .activate_backward = activate_backward,
                                   .dropout = dropout,
                                   .scale_columns = scale_columns,
                                   .scale_columns_backward = scale_columns_backward,
                                   .softmax_cross_entropy = softmax_cross_entropy,
                                   .score_rows = score_rows,
                                   .adamw_step = adamw_step,
                                   .gradient_sum_of_squares = gradient_sum_of_squares};
    return table;
}

}  // namespace qlora::kernels::QLORA_KERNEL_BACKEND

#if defined(__CUDACC__)
extern "C" __attribute__((visibility("default"))) const qlora::kernels::KernelTable* qlora_kernel_table() {
    return &qlora::kernels::cuda::kernel_table();
}
#endif
