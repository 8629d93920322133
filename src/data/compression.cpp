#include "compression.h"

#include <stdexcept>
#include <utility>

namespace qlora::data {

Compression compression_of(std::string_view beginning) {
    // The third byte of gzip is the method, and there is one only.
    if (beginning.starts_with("\x1f\x8b\x08")) return Compression::kGzip;
    if (beginning.starts_with("\x28\xb5\x2f\xfd")) return Compression::kZstd;
    // A skippable frame, as some programs put before the others: 0x184D2A50 to 0x184D2A5F.
    const bool is_skippable = beginning.size() >= 4 && (beginning[0] & 0xf0) == 0x50 &&
                              beginning.substr(1).starts_with("\x2a\x4d\x18");
    return is_skippable ? Compression::kZstd : Compression::kNone;
}

std::unique_ptr<ByteStream> decompress(Compression compression, const std::filesystem::path& file,
                                       std::unique_ptr<ByteReader> bytes) {
    switch (compression) {
        case Compression::kGzip:
            return decompress_gzip(file, std::move(bytes));
        case Compression::kZstd:
            return decompress_zstd(file, std::move(bytes));
        case Compression::kNone:
            break;
    }
    throw std::logic_error("nothing to decompress");
}

}  // namespace qlora::data
