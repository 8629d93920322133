#pragma once

#include <memory>
#include <utility>

#include "byte_reader.h"
#include "row_source.h"
#include "row_text.h"

namespace qlora::data {

/// One record a line. Lines end in LF or CRLF, the last one perhaps in nothing; lines of white space are
/// passed over, but counted.
class JsonLines final : public RowSource {
  public:
    explicit JsonLines(std::unique_ptr<ByteReader> bytes) : bytes_(std::move(bytes)) {}
    bool next(RawRow& row) override;

  private:
    bool read_line();
    void trim_line();

    std::unique_ptr<ByteReader> bytes_;
    RowText gathered_;
    std::string_view line_;
    std::string fault_;
    std::size_t consumed_ = 0;  // bytes of the current piece that line_ still points into
    std::int64_t number_ = 0;
};

}  // namespace qlora::data
