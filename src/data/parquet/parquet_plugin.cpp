#include "parquet_plugin.h"

#include <arrow/memory_pool.h>
#include <arrow/record_batch.h>
#include <arrow/type.h>
#include <parquet/arrow/reader.h>
#include <parquet/file_reader.h>
#include <parquet/metadata.h>

#include <algorithm>
#include <exception>
#include <new>
#include <set>
#include <string>
#include <utility>

#include "arrow_json.h"
#include "qlora/core/error.h"

namespace qlora::data {
namespace {

/// What Arrow may hold at a time. A batch takes some 16 MiB, a damaged or hostile file may ask for anything.
constexpr std::int64_t kMostArrowBytes = std::int64_t{1} << 30;
constexpr std::int64_t kBatchBytes = std::int64_t{16} << 20;
constexpr std::int64_t kMostBatchRows = 256;  // a dictionary hides how long rows are
/// Column chunks are read through buffers of this size rather than whole.
constexpr std::int64_t kBufferBytes = std::int64_t{256} << 10;

std::string first_line(std::string text) {
    text.resize(std::min(text.find('\n'), text.size()));
    return text;
}

/// What to do about what Arrow says of a file.
std::string advice_on(const std::string& reason) {
    const auto says = [&](const char* words) { return reason.find(words) != std::string::npos; };
    if (says("ecrypt")) return "; it is encrypted: save it without encryption";
    if (says("not supported") || says("not built") || says("mplemented"))
        return "; write it again with pyarrow or datasets, compressed by snappy, zstd or gzip";
    return "; it seems to be damaged: download or copy it again";
}

class ParquetRows final : public RowSource {
  public:
    ParquetRows(const std::string& file, const std::vector<std::string>& message_columns)
        : file_(file),
          message_columns_(message_columns),
          pool_(arrow::system_memory_pool(), kMostArrowBytes) {
        guarded([&] { open(); });
    }

    bool next(RawRow& row) override {
        while (batch_ == nullptr || in_batch_ == batch_->num_rows()) {
            guarded([&] { read_batch(); });
            if (batch_ == nullptr) return false;
        }
        const std::int64_t i = in_batch_++;
        text_.clear();
        row.fault.clear();
        guarded([&] { append(i, row.fault); });
        row.text = text_;
        row.line = ++number_;
        row.element = -1;
        return true;
    }

  private:
    [[noreturn]] void fail(const std::string& reason) const {
        const std::string place = number_ > 0 ? " after row " + std::to_string(number_) : "";
        const bool is_too_large = reason.find("cap exceeded") != std::string::npos;  // of CappedMemoryPool
        throw DataError(file_ + ": the Parquet file cannot be read" + place + ": " +
                        (is_too_large ? "it unpacks to more than 1 GiB at a time"
                                      : first_line(reason) + advice_on(reason)));
    }
    void require(const arrow::Status& status) const {
        if (!status.ok()) fail(status.message());
    }

    /// Arrow both throws and returns its errors.
    template <class Work>
    void guarded(const Work& work) const {
        try {
            work();
        } catch (const Error&) {
            throw;
        } catch (const std::bad_alloc&) {
            fail("it asks for too much memory");
        } catch (const std::exception& error) {
            fail(error.what());
        }
    }

    void open() {
        parquet::ReaderProperties reading(&pool_);
        reading.enable_buffered_stream();
        reading.set_buffer_size(kBufferBytes);
        reading.set_page_checksum_verification(true);
        parquet::ArrowReaderProperties arrow_reading(/*use_threads=*/false);
        arrow_reading.set_pre_buffer(false);
        arrow_reading.set_arrow_extensions_enabled(true);
        parquet::arrow::FileReaderBuilder builder;
        require(builder.OpenFile(file_, /*memory_map=*/false, reading));
        arrow_reading.set_batch_size(batch_rows(*builder.raw_reader()->metadata()));
        builder.memory_pool(&pool_)->properties(arrow_reading);
        require(builder.Build(&reader_));
        check_columns();
    }

    static std::int64_t batch_rows(const parquet::FileMetaData& metadata) {
        std::int64_t bytes = 0;
        for (int group = 0; group < metadata.num_row_groups(); ++group)
            bytes = std::max(bytes, metadata.RowGroup(group)->total_byte_size() /
                                        std::max<std::int64_t>(1, metadata.RowGroup(group)->num_rows()));
        return std::clamp<std::int64_t>(kBatchBytes / std::max<std::int64_t>(1, bytes), 1, kMostBatchRows);
    }

    void check_columns() const {
        std::shared_ptr<arrow::Schema> schema;
        require(reader_->GetSchema(&schema));
        std::set<std::string> names;
        for (const auto& field : schema->fields()) {
            if (!names.insert(field->name()).second)
                throw DataError(file_ + ": the Parquet file has two columns named \"" + field->name() +
                                "\"; rename one of them");
        }
    }

    /// batch_ is null at the end. A batch lies in one row group: where each group has a dictionary of its
    /// own, Arrow cannot read a nested column across them.
    void read_batch() {
        in_batch_ = 0;
        batch_.reset();
        while (batch_ == nullptr) {
            if (batches_ == nullptr) {
                if (group_ == reader_->num_row_groups()) return;
                auto batches = reader_->GetRecordBatchReader({group_});
                require(batches.status());
                batches_ = std::move(*batches);
                ++group_;
            }
            require(batches_->ReadNext(&batch_));
            if (batch_ == nullptr) batches_.reset();
        }
        is_valid_ = batch_->ValidateFull().ok();
    }

    /// Of a batch with invalid values each row is looked at alone, so that the others are kept.
    void append(std::int64_t i, std::string& fault) {
        try {
            if (!is_valid_) {
                const arrow::Status status = batch_->Slice(i, 1)->ValidateFull();
                if (!status.ok()) throw RowFault("a value is damaged: " + first_line(status.message()));
            }
            append_row(text_, *batch_, i, message_columns_);
        } catch (const RowFault& error) {
            constexpr std::size_t kKeptBytes = 4096;
            fault = error.what();
            text_.resize(std::min(text_.size(), kKeptBytes));
            text_.shrink_to_fit();
        }
    }

    std::string file_;
    std::vector<std::string> message_columns_;
    arrow::CappedMemoryPool pool_;
    std::unique_ptr<parquet::arrow::FileReader> reader_;
    std::shared_ptr<arrow::RecordBatchReader> batches_;  // of row group group_ - 1
    int group_ = 0;
    std::shared_ptr<arrow::RecordBatch> batch_;
    bool is_valid_ = true;
    std::int64_t in_batch_ = 0;
    std::int64_t number_ = 0;
    std::string text_;
};

}  // namespace
}  // namespace qlora::data

extern "C" __attribute__((visibility("default"))) qlora::data::RowSource* qlora_open_parquet(
    const char* file, const std::vector<std::string>& message_columns) {
    return new qlora::data::ParquetRows(file, message_columns);
}
