#include "qlora/data/sft_dataset.h"

#include <algorithm>

#include "dataset_builder.h"
#include "qlora/core/error.h"
#include "qlora/core/hash.h"
#include "qlora/data/data_files.h"

namespace qlora::data {
namespace {

/// Numbers the rows of all files, and passes over those that are not wanted.
class NumberedRows final : public RowSource {
  public:
    /// `only`: null or rising numbers.
    explicit NumberedRows(const std::vector<std::int64_t>* only) : only_(only) {}

    void set_file(RowSource& rows) { rows_ = &rows; }
    bool next(RawRow& row) override {
        while (rows_->next(row)) {
            row.number = passed_++;
            if (only_ == nullptr || std::binary_search(only_->begin(), only_->end(), row.number)) return true;
        }
        return false;
    }
    /// Rows read, wanted or not.
    std::int64_t passed() const { return passed_; }

  private:
    const std::vector<std::int64_t>* only_;
    RowSource* rows_ = nullptr;
    std::int64_t passed_ = 0;
};

std::string combine(const std::vector<std::string>& file_hashes) {
    Xxh3 hash;
    for (const std::string& file_hash : file_hashes) hash.update(file_hash + "\n");
    return hash.hex();
}

std::string listed(const std::vector<std::string>& faults, std::int64_t count) {
    std::string out;
    for (const std::string& fault : faults) out += "\n  " + fault;
    const auto shown = static_cast<std::int64_t>(faults.size());
    if (count > shown) out += "\n  and " + std::to_string(count - shown) + " more";
    return out;
}

std::string fault_of_rows(const Dataset& dataset) {
    const std::int64_t bad = dataset.statistics.rejected;
    if (bad == 0) return {};
    std::vector<std::string> rows;
    for (const RejectedRow& row : dataset.rejected) rows.push_back(row.place + ": " + row.reason);
    return std::to_string(bad) + " of " + std::to_string(dataset.statistics.read) +
           " rows cannot be used; mend them, or set data.on_bad_row to \"skip\":" + listed(rows, bad);
}

/// Files that cannot be read to their end.
std::string fault_of_files(std::vector<std::string> files) {
    const auto count = static_cast<std::int64_t>(files.size());
    if (count < 2) return count == 0 ? "" : files.front();
    files.resize(std::min(files.size(), kListedBadRows));
    return std::to_string(count) + " files cannot be read:" + listed(files, count);
}

void refuse_faults(const std::vector<std::string>& files, const Dataset& dataset, OnBadRow on_bad_row) {
    const std::string rows = on_bad_row == OnBadRow::kStop ? fault_of_rows(dataset) : "";
    const std::string message = fault_of_files(files);
    if (!message.empty() || !rows.empty())
        throw DataError(message + (message.empty() || rows.empty() ? "" : "\n") + rows);
}

void refuse_nothing_kept(const DatasetStatistics& statistics, std::int64_t max_length) {
    if (statistics.kept > 0) return;
    throw DataError("no row is left of " + std::to_string(statistics.read) +
                    " read: " + std::to_string(statistics.rejected) + " rejected, " +
                    std::to_string(statistics.too_long) + " longer than data.max_length (" +
                    std::to_string(max_length) + "), " + std::to_string(statistics.no_supervised) +
                    " without a token to train on");
}

}  // namespace

Dataset load_dataset(const std::vector<std::filesystem::path>& files, const DataConfig& config,
                     const PromptTemplate& prompt_template, std::int64_t embedding_rows,
                     const RowReading& reading) {
    const RowEncoder encoder(config, prompt_template, embedding_rows);
    DatasetBuilder builder(config, prompt_template, reading.keeps_texts);
    const auto add = [&](const RawRow& raw, const EncodedRecord& encoded) {
        builder.add(raw, encoded);
        if (!reading.on_row) return;
        for (const EncodedPart& part : encoded.parts)
            reading.on_row({raw.number, encoded.place, part.record, part.row});
    };
    NumberedRows rows(reading.only);
    std::vector<std::string> hashes, faults;
    for (const std::filesystem::path& file : data_files(files)) {
        try {
            Xxh3 hash;
            const std::int64_t before = rows.passed();
            const std::unique_ptr<RowSource> rows_of_file = open_rows(file, hash, config.columns);
            rows.set_file(*rows_of_file);
            encoder.encode_file(rows, file.string(), reading.threads, add);
            if (rows.passed() == before) throw DataError(file.string() + ": holds no rows");
            hashes.push_back(hash.hex());
        } catch (const DataError& error) {
            faults.emplace_back(error.what());
        }
    }
    Dataset dataset = builder.take();
    dataset.fingerprint = combine(hashes);
    refuse_faults(faults, dataset, config.on_bad_row);
    refuse_nothing_kept(dataset.statistics, config.max_length);
    return dataset;
}

std::int64_t held_bytes(const std::vector<Example>& examples) {
    std::size_t bytes = examples.capacity() * sizeof(Example);
    for (const Example& example : examples) {
        bytes += example.ids.capacity() * sizeof(example.ids[0]) + example.supervised.capacity();
        for (const std::string* text : {&example.place, &example.prompt, &example.expected, &example.task}) {
            const bool is_inside = text->capacity() <= std::string().capacity();
            if (!is_inside) bytes += text->capacity() + 1;
        }
    }
    return static_cast<std::int64_t>(bytes);
}

}  // namespace qlora::data
