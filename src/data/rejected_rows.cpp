#include "qlora/core/atomic_file.h"
#include "qlora/core/json.h"
#include "qlora/data/sft_dataset.h"

namespace qlora::data {

void write_rejected(const std::filesystem::path& file, const std::vector<RejectedRow>& rejected) {
    AtomicFile out(file);
    for (const RejectedRow& row : rejected) {
        const Json line = {{"fault", row.place + ": " + row.reason}, {"text", row.text}};
        // A bad row is often no UTF-8; the file is valid JSON all the same.
        out.write(line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
    }
    out.commit();
}

}  // namespace qlora::data
