#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace qlora::data_report {

/// Hashes of the different 5-grams of code points of a folded text, rising; of a shorter text the text
/// itself, of an empty one none.
std::vector<std::uint64_t> shingles_of(std::u32string_view folded);

/// |a and b| / |a or b| of two rising lists; 0 where both are empty.
double jaccard(const std::vector<std::uint64_t>& a, const std::vector<std::uint64_t>& b);

/// The least hash of the shingles in each of 128 bins (one permutation), an empty bin holding that of another
/// one. Two signatures agree in a bin about as often as their shingles' Jaccard similarity says.
inline constexpr std::size_t kBins = 128;
using Signature = std::array<std::uint32_t, kBins>;
/// `shingles` must not be empty.
Signature sign(const std::vector<std::uint64_t>& shingles);
double agreement(const Signature& a, const Signature& b);

/// Finds signatures that may be alike: those that agree in all bins of one of 25 bands of 5. Texts with a
/// similarity of 0.8 are found with a probability above 0.9999. Of the signatures that fall in one bucket
/// only the first eight are kept, which bounds the time on data whose rows are all much alike.
class SimilarityIndex {
  public:
    void add(std::int64_t row, const Signature& signature);
    /// The rows that were added and may be alike, rising.
    std::vector<std::int64_t> candidates(const Signature& signature) const;

  private:
    std::unordered_map<std::uint64_t, std::vector<std::int64_t>> buckets_;
};

}  // namespace qlora::data_report
