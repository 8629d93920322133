#include <zstd.h>
#include <zstd_errors.h>

#include <string>
#include <utility>

#include "compression.h"
#include "qlora/core/error.h"

namespace qlora::data {
namespace {

constexpr int kMostWindowBits = 27;  // what the zstd program too accepts unasked

class ZstdStream final : public ByteStream {
  public:
    ZstdStream(const std::filesystem::path& file, std::unique_ptr<ByteReader> bytes)
        : file_(file), bytes_(std::move(bytes)), state_(ZSTD_createDStream(), ZSTD_freeDStream) {
        if (state_ == nullptr) fail("zstd has no memory");
        ZSTD_DCtx_setParameter(state_.get(), ZSTD_d_windowLogMax, kMostWindowBits);
    }

    std::size_t read(char* to, std::size_t size) override {
        ZSTD_outBuffer out{to, size, 0};
        while (out.pos < size) {
            const std::string_view piece = bytes_->peek();
            if (piece.empty() && between_frames_) break;
            ZSTD_inBuffer in{piece.data(), piece.size(), 0};
            const std::size_t before = out.pos;
            const std::size_t wanted = ZSTD_decompressStream(state_.get(), &out, &in);
            bytes_->skip(in.pos);
            if (ZSTD_isError(wanted) != 0) fail_by(ZSTD_getErrorCode(wanted));
            between_frames_ = wanted == 0;
            // Without input it may still have output to give.
            if (piece.empty() && out.pos == before && !between_frames_)
                fail("the file ends inside its compressed data; it seems to be cut");
        }
        return out.pos;
    }

  private:
    [[noreturn]] void fail(const std::string& reason) const {
        throw DataError(file_.string() + ": zstd: " + reason);
    }
    [[noreturn]] void fail_by(ZSTD_ErrorCode code) const {
        if (code == ZSTD_error_frameParameter_windowTooLarge)
            fail("it needs a window of more than 128 MiB; compress it without --long");
        if (code == ZSTD_error_prefix_unknown)
            fail("bytes that are not compressed follow the compressed ones");
        if (code == ZSTD_error_dictionary_wrong)
            fail("it was compressed with a dictionary; compress it without");
        fail(std::string("the compressed data is damaged (") + ZSTD_getErrorString(code) + ")");
    }

    std::filesystem::path file_;
    std::unique_ptr<ByteReader> bytes_;
    std::unique_ptr<ZSTD_DStream, std::size_t (*)(ZSTD_DStream*)> state_;
    bool between_frames_ = true;
};

}  // namespace

std::unique_ptr<ByteStream> decompress_zstd(const std::filesystem::path& file,
                                            std::unique_ptr<ByteReader> bytes) {
    return std::make_unique<ZstdStream>(file, std::move(bytes));
}

}  // namespace qlora::data
