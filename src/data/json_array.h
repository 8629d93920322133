#pragma once

#include <memory>

#include "byte_reader.h"
#include "row_source.h"
#include "row_text.h"

namespace qlora::data {

/// The elements of an array of records, cut out by their brackets, so that one bad element spoils no other
/// and has its line. Damage to the array itself (it ends early, text follows it) is a last row with a fault.
class JsonArray final : public RowSource {
  public:
    /// `bytes` begins with the array, perhaps behind white space; DataError with the place in `file` where it
    /// does not.
    JsonArray(const std::filesystem::path& file, std::unique_ptr<ByteReader> bytes);
    bool next(RawRow& row) override;

  private:
    bool find_next_element();
    bool read_element();
    char skip_blanks();
    bool finish(const std::string& fault);

    std::unique_ptr<ByteReader> bytes_;
    RowText gathered_;
    std::string fault_;       // of the array
    std::int64_t line_ = 1;   // where the next byte is
    std::int64_t begin_ = 1;  // where the current element begins
    std::int64_t element_ = -1;
    bool done_ = false;
};

}  // namespace qlora::data
