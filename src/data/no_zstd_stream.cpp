// Instead of zstd_stream.cpp where the build has no libzstd.
#include "compression.h"
#include "qlora/core/error.h"

namespace qlora::data {

std::unique_ptr<ByteStream> decompress_zstd(const std::filesystem::path& file, std::unique_ptr<ByteReader>) {
    throw DataError(
        file.string() +
        ": is compressed by zstd, which this build cannot read: run scripts/setup.sh and build again, "
        "or decompress it (zstd -d)");
}

}  // namespace qlora::data
