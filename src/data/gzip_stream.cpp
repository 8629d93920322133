#include <zlib.h>

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "compression.h"
#include "qlora/core/error.h"

namespace qlora::data {
namespace {

class GzipStream final : public ByteStream {
  public:
    GzipStream(const std::filesystem::path& file, std::unique_ptr<ByteReader> bytes)
        : file_(file), bytes_(std::move(bytes)) {
        constexpr int kGzipOnly = 16;
        if (inflateInit2(&state_, MAX_WBITS + kGzipOnly) != Z_OK) fail("zlib has no memory");
    }
    ~GzipStream() override { inflateEnd(&state_); }
    GzipStream(const GzipStream&) = delete;
    GzipStream& operator=(const GzipStream&) = delete;

    std::size_t read(char* to, std::size_t size) override {
        std::size_t filled = 0;
        while (filled < size && begins_member()) filled += inflate_some(to + filled, size - filled);
        return filled;
    }

  private:
    [[noreturn]] void fail(const std::string& reason) const {
        throw DataError(file_.string() + ": gzip: " + reason);
    }

    /// False at the end of the file behind a whole member. Padding of zeros may follow one, as on tapes.
    bool begins_member() {
        if (!between_members_) return true;
        for (std::string_view piece = bytes_->peek(); !piece.empty(); piece = bytes_->peek()) {
            const std::size_t zeros = std::min(piece.find_first_not_of('\0'), piece.size());
            bytes_->skip(zeros);
            if (zeros == piece.size()) continue;
            if (piece[zeros] != '\x1f') fail("bytes that are not compressed follow the compressed ones");
            between_members_ = false;
            inflateReset(&state_);
            return true;
        }
        return false;
    }

    std::size_t inflate_some(char* to, std::size_t size) {
        const std::string_view piece = bytes_->peek();
        if (piece.empty()) fail("the file ends inside its compressed data; it seems to be cut");
        const auto room = static_cast<uInt>(std::min<std::size_t>(size, std::numeric_limits<uInt>::max()));
        // zlib writes nothing through next_in.
        state_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(piece.data()));
        state_.avail_in = static_cast<uInt>(piece.size());
        state_.next_out = reinterpret_cast<Bytef*>(to);
        state_.avail_out = room;
        const int result = inflate(&state_, Z_NO_FLUSH);
        bytes_->skip(piece.size() - state_.avail_in);
        if (result == Z_STREAM_END) {
            between_members_ = true;
        } else if (result == Z_MEM_ERROR) {
            fail("zlib has no memory");
        } else if (result != Z_OK && result != Z_BUF_ERROR) {
            fail(std::string("the compressed data is damaged (") +
                 (state_.msg != nullptr ? state_.msg : "no reason given") + ")");
        }
        return room - state_.avail_out;
    }

    std::filesystem::path file_;
    std::unique_ptr<ByteReader> bytes_;
    z_stream state_{};
    bool between_members_ = false;
};

}  // namespace

std::unique_ptr<ByteStream> decompress_gzip(const std::filesystem::path& file,
                                            std::unique_ptr<ByteReader> bytes) {
    return std::make_unique<GzipStream>(file, std::move(bytes));
}

}  // namespace qlora::data
