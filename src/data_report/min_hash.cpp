#include "min_hash.h"

#include <algorithm>

#include "text_hash.h"

namespace qlora::data_report {
namespace {

constexpr std::size_t kGram = 5;
constexpr std::size_t kBandBins = 5;
constexpr std::size_t kBands = kBins / kBandBins;
constexpr std::size_t kBucketRows = 8;
constexpr int kBinBits = 7;
static_assert(std::size_t{1} << kBinBits == kBins);

std::uint64_t hash_of_gram(std::u32string_view gram) {
    std::uint64_t hash = gram.size();
    for (const char32_t code : gram) hash = hash * 0xD6E8FEB86659FD93U + code + 1;
    return spread(hash);
}

std::uint64_t band_key(const Signature& signature, std::size_t band) {
    TextHash hash;
    hash.add(std::uint64_t{band});
    for (std::size_t i = 0; i < kBandBins; ++i) hash.add(std::uint64_t{signature[band * kBandBins + i]});
    return hash.value();
}

}  // namespace

std::vector<std::uint64_t> shingles_of(std::u32string_view folded) {
    std::vector<std::uint64_t> out;
    if (folded.empty()) return out;
    const std::size_t grams = folded.size() < kGram ? 1 : folded.size() - kGram + 1;
    out.reserve(grams);
    for (std::size_t i = 0; i < grams; ++i) out.push_back(hash_of_gram(folded.substr(i, kGram)));
    std::sort(out.begin(), out.end());
    out.erase(std::unique(out.begin(), out.end()), out.end());
    return out;
}

double jaccard(const std::vector<std::uint64_t>& a, const std::vector<std::uint64_t>& b) {
    std::size_t both = 0;
    for (auto left = a.begin(), right = b.begin(); left != a.end() && right != b.end();) {
        if (*left == *right) ++both;
        const bool moves_left = *left <= *right;
        const bool moves_right = *right <= *left;
        left += moves_left;
        right += moves_right;
    }
    const std::size_t either = a.size() + b.size() - both;
    return either > 0 ? static_cast<double>(both) / static_cast<double>(either) : 0;
}

Signature sign(const std::vector<std::uint64_t>& shingles) {
    constexpr std::uint64_t kEmpty = ~std::uint64_t{0};
    std::array<std::uint64_t, kBins> least;
    least.fill(kEmpty);
    for (const std::uint64_t hash : shingles) {
        std::uint64_t& bin = least[hash >> (64 - kBinBits)];
        bin = std::min(bin, hash);
    }
    Signature out;
    for (std::size_t bin = 0; bin < kBins; ++bin) {
        // Which bin an empty one borrows from depends on its number alone, so equal sets borrow alike.
        std::size_t from = bin;
        for (std::uint64_t attempt = 1; least[from] == kEmpty; ++attempt)
            from = spread(bin << 32 | attempt) >> (64 - kBinBits);
        out[bin] = static_cast<std::uint32_t>(least[from]);
    }
    return out;
}

double agreement(const Signature& a, const Signature& b) {
    std::size_t equal = 0;
    for (std::size_t bin = 0; bin < kBins; ++bin) equal += a[bin] == b[bin];
    return static_cast<double>(equal) / static_cast<double>(kBins);
}

void SimilarityIndex::add(std::int64_t row, const Signature& signature) {
    for (std::size_t band = 0; band < kBands; ++band) {
        std::vector<std::int64_t>& bucket = buckets_[band_key(signature, band)];
        if (bucket.size() < kBucketRows) bucket.push_back(row);
    }
}

std::vector<std::int64_t> SimilarityIndex::candidates(const Signature& signature) const {
    std::vector<std::int64_t> out;
    for (std::size_t band = 0; band < kBands; ++band) {
        const auto bucket = buckets_.find(band_key(signature, band));
        if (bucket != buckets_.end()) out.insert(out.end(), bucket->second.begin(), bucket->second.end());
    }
    std::sort(out.begin(), out.end());
    out.erase(std::unique(out.begin(), out.end()), out.end());
    return out;
}

}  // namespace qlora::data_report
