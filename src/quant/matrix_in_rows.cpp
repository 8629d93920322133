#include "qlora/quant/matrix_in_rows.h"

#include "qlora/core/error.h"
#include "qlora/quant/tensor_bytes.h"

namespace qlora::quant {

MatrixInRows::MatrixInRows(const io::TensorView& stored, bool in_columns) : view_(stored) {
    if (!in_columns) return;
    // Looked for here, where rows and columns are still the file's.
    if (!all_finite(stored)) {
        throw CheckpointError("tensor " + stored.name +
                              " holds a value that is not finite; the checkpoint is damaged");
    }
    copy_ = tensor_from_view(stored).t().contiguous();
    view_.shape = copy_.sizes().vec();
    view_.bytes = bytes_of(copy_);
}

}  // namespace qlora::quant
