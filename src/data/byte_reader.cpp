#include "byte_reader.h"

#include <utility>

namespace qlora::data {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{64} << 10;

}  // namespace

ByteReader::ByteReader(std::unique_ptr<ByteStream> stream)
    : stream_(std::move(stream)), buffer_(kPieceBytes) {}

std::string_view ByteReader::peek() {
    if (begin_ == end_) {
        begin_ = 0;
        end_ = stream_->read(buffer_.data(), buffer_.size());
        if (hash_ != nullptr) hash_->update(std::string_view(buffer_.data(), end_));
    }
    return {buffer_.data() + begin_, end_ - begin_};
}

void ByteReader::hash_into(Xxh3& hash) {
    hash_ = nullptr;
    hash.update(peek());
    hash_ = &hash;
}

void ByteReader::drain() {
    while (!peek().empty()) begin_ = end_;
}

}  // namespace qlora::data
