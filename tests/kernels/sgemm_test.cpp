#include "qlora/kernels/sgemm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "instruction_sets.h"
#include "qlora/kernels/philox.h"

namespace qlora::kernels::cpu {
namespace {

enum class Layout { kRowMajor, kColumnMajor };

/// A matrix with two values between its lines, which hold NaN: reading one spoils a result.
class Matrix {
  public:
    Matrix(int64_t rows, int64_t columns, Layout layout, uint64_t seed) : rows_(rows), columns_(columns) {
        const bool by_rows = layout == Layout::kRowMajor;
        const int64_t line = by_rows ? columns : rows, lines = by_rows ? rows : columns;
        (by_rows ? row_stride_ : column_stride_) = line + 2;
        values_.assign(static_cast<size_t>(lines * (line + 2) + 1), std::nanf(""));
        PhiloxStream random(seed);
        for (int64_t i = 0; i < rows; ++i) {
            for (int64_t j = 0; j < columns; ++j) at(i, j) = random.uniform() - 0.5F;
        }
    }
    float& at(int64_t i, int64_t j) {
        return values_[static_cast<size_t>(i * row_stride_ + j * column_stride_)];
    }
    float at(int64_t i, int64_t j) const {
        return values_[static_cast<size_t>(i * row_stride_ + j * column_stride_)];
    }
    SgemmMatrix view() const { return {values_.data(), row_stride_, column_stride_}; }
    float* data() { return values_.data(); }
    int64_t rows() const { return rows_; }
    int64_t columns() const { return columns_; }
    int64_t row_stride() const { return row_stride_; }
    /// All memory, gaps too.
    const std::vector<float>& memory() const { return values_; }

  private:
    int64_t rows_, columns_, row_stride_ = 1, column_stride_ = 1;
    std::vector<float> values_;
};

bool same_bits(const Matrix& a, const Matrix& b) {
    return a.memory().size() == b.memory().size() &&
           std::memcmp(a.memory().data(), b.memory().data(), a.memory().size() * sizeof(float)) == 0;
}

Matrix untouched(int64_t rows, int64_t columns) {
    Matrix out(rows, columns, Layout::kRowMajor, 1);
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < columns; ++j) out.at(i, j) = std::nanf("");
    }
    return out;
}

SgemmRight right_of(const Matrix& b, Matrix& out, float alpha = 1.0F, const Matrix* start = nullptr) {
    return {.n = b.columns(),
            .b = b.view(),
            .out = out.data(),
            .out_stride = out.row_stride(),
            .start = start == nullptr ? nullptr : start->view().data,
            .start_stride = start == nullptr ? 0 : start->row_stride(),
            .alpha = alpha};
}

SgemmLeft left_of(const Matrix& a) {
    return {a.rows(), a.columns(), a.view()};
}

/// Largest error against sums in double, as a share of the sum of the terms' magnitudes.
double error_of(const Matrix& a, const Matrix& b, const Matrix& out, float alpha, const Matrix* start) {
    double largest = 0.0;
    for (int64_t i = 0; i < a.rows(); ++i) {
        for (int64_t j = 0; j < b.columns(); ++j) {
            double sum = 0.0, size = 1e-30;
            for (int64_t d = 0; d < a.columns(); ++d) {
                const double term = static_cast<double>(a.at(i, d)) * static_cast<double>(b.at(d, j));
                sum += term;
                size += std::abs(term);
            }
            sum *= alpha;
            size *= std::abs(alpha);
            if (start != nullptr) {
                sum += start->at(i, j);
                size += std::abs(start->at(i, j));
            }
            const double error = std::abs(sum - static_cast<double>(out.at(i, j))) / size;
            if (!(error <= largest)) largest = error;  // also when it is NaN
        }
    }
    return largest;
}

/// Each addition rounds once: at most depth * 2^-24, and far less as roundings cancel.
double bound(int64_t depth) {
    return static_cast<double>(depth + 3) * std::ldexp(1.0, -24);
}

/// `threads` of them, each a real one.
SgemmTeam team_of(int64_t threads) {
    return {threads, [threads](const std::function<void()>& work) {
                std::vector<std::thread> running;
                for (int64_t i = 0; i < threads; ++i) running.emplace_back(work);
                for (std::thread& thread : running) thread.join();
            }};
}

std::vector<InstructionSet> sets_with_sgemm() {
    std::vector<InstructionSet> sets;
    for (InstructionSet set : supported_sets()) {
        if (set != InstructionSet::kPortable) sets.push_back(set);
    }
    return sets;
}

class Sgemm : public testing::TestWithParam<InstructionSet> {
  protected:
    UseInstructionSet use_{GetParam()};
};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(Sgemm);
INSTANTIATE_TEST_SUITE_P(Sets, Sgemm, testing::ValuesIn(sets_with_sgemm()), set_name);

constexpr Layout kLayouts[] = {Layout::kRowMajor, Layout::kColumnMajor};

TEST_P(Sgemm, EqualsSumsInDoubleForSizesAroundEveryTile) {
    for (const int64_t m : {1, 3, 4, 5, 7, 8, 9, 17}) {
        for (const int64_t n : {1, 7, 8, 9, 15, 16, 17, 23, 24, 25, 31, 33, 47, 48, 49, 95, 97}) {
            for (const int64_t k : {1, 7, 8, 9, 30}) {
                for (const Layout of_a : kLayouts) {
                    for (const Layout of_b : kLayouts) {
                        const Matrix a(m, k, of_a, 2), b(k, n, of_b, 3);
                        Matrix out = untouched(m, n);
                        sgemm(left_of(a), right_of(b, out));
                        ASSERT_LE(error_of(a, b, out, 1.0F, nullptr), bound(k)) << m << " " << n << " " << k;
                    }
                }
            }
        }
    }
}

TEST_P(Sgemm, WritesNothingBesidesTheResult) {
    const Matrix a(5, 9, Layout::kRowMajor, 2), b(9, 21, Layout::kRowMajor, 3);
    Matrix out = untouched(5, 21);
    sgemm(left_of(a), right_of(b, out));
    for (int64_t i = 0; i < 5; ++i) {
        for (int64_t gap = 0; gap < 2; ++gap) {
            EXPECT_TRUE(std::isnan(out.memory()[static_cast<size_t>(i * out.row_stride() + 21 + gap)]));
        }
    }
}

TEST_P(Sgemm, AddsDeepProductsInSteps) {
    for (const int64_t k : {639, 640, 641, 650, 1280, 1290, 1921}) {
        for (const Layout layout : kLayouts) {
            const Matrix a(11, k, layout, 2), b(k, 50, layout, 3), start(11, 50, Layout::kRowMajor, 4);
            Matrix out = untouched(11, 50);
            sgemm(left_of(a), right_of(b, out, -0.75F, &start));
            EXPECT_LE(error_of(a, b, out, -0.75F, &start), bound(k)) << k;
        }
    }
}

TEST_P(Sgemm, AddsToTheResultItself) {
    const Matrix a(20, 600, Layout::kRowMajor, 2), b(600, 70, Layout::kColumnMajor, 3);
    const Matrix start(20, 70, Layout::kRowMajor, 4);
    Matrix apart = untouched(20, 70), in_place = start;
    sgemm(left_of(a), right_of(b, apart, 2.0F, &start));
    sgemm(left_of(a), right_of(b, in_place, 2.0F, &in_place));
    EXPECT_TRUE(same_bits(apart, in_place));
}

TEST_P(Sgemm, SeveralRightFactorsGiveWhatEachGivesAlone) {
    const Matrix a(70, 530, Layout::kRowMajor, 2);
    std::vector<Matrix> factors, together, alone;
    for (const int64_t n : {130, 1, 16, 47}) {
        factors.emplace_back(530, n, n == 16 ? Layout::kRowMajor : Layout::kColumnMajor, 3 + n);
        together.push_back(untouched(70, n));
        alone.push_back(untouched(70, n));
    }
    std::vector<SgemmRight> rights;
    for (size_t i = 0; i < factors.size(); ++i) {
        const float alpha = 0.5F + static_cast<float>(i);
        rights.push_back(right_of(factors[i], together[i], alpha));
        sgemm(left_of(a), right_of(factors[i], alone[i], alpha));
    }
    sgemm(left_of(a), rights, team_of(2));
    for (size_t i = 0; i < factors.size(); ++i) EXPECT_TRUE(same_bits(together[i], alone[i])) << i;
}

TEST_P(Sgemm, NoBitDependsOnThreadsLayoutOrInstructionSet) {
    struct Size {
        int64_t k, n;
    };
    // The last has groups of columns enough for two threads, so that rows stay together.
    for (const auto [k, n] : {Size{20, 205}, Size{1100, 205}, Size{20, 605}}) {
        const Matrix a(333, k, Layout::kRowMajor, 2), b(k, n, Layout::kRowMajor, 3);
        Matrix expected = untouched(333, n);
        {
            const UseInstructionSet first(sets_with_sgemm().front());
            sgemm(left_of(a), right_of(b, expected, 3.0F));
        }
        const Matrix a_t(333, k, Layout::kColumnMajor, 2), b_t(k, n, Layout::kColumnMajor, 3);
        for (const int64_t threads : {1, 2, 5}) {
            for (const Matrix* left : {&a, &a_t}) {
                for (const Matrix* right : {&b, &b_t}) {
                    Matrix out = untouched(333, n);
                    const SgemmRight factor = right_of(*right, out, 3.0F);
                    sgemm(left_of(*left), {&factor, 1}, team_of(threads));
                    EXPECT_TRUE(same_bits(out, expected))
                        << k << " deep, " << n << " wide, " << threads << " threads";
                }
            }
        }
        // A row's bits do not depend on the others, nor a column's.
        Matrix part = untouched(10, 30);
        const SgemmMatrix whole_a = a.view(), whole_b = b.view();
        SgemmRight columns = right_of(b, part, 3.0F);
        columns.n = 30;
        columns.b.data = whole_b.data + 100;
        sgemm({10, k, {whole_a.data + 7 * whole_a.row_stride, whole_a.row_stride, 1}}, columns);
        for (int64_t i = 0; i < 10; ++i) {
            for (int64_t j = 0; j < 30; ++j) EXPECT_EQ(part.at(i, j), expected.at(7 + i, 100 + j));
        }
    }
}

TEST_P(Sgemm, PartsOfAPackedFactorGiveTheBitsOfThePartsAlone) {
    for (const int64_t k : {64, 1300}) {
        for (const Layout layout : kLayouts) {
            const int64_t n = 210;
            const Matrix a(13, k, Layout::kRowMajor, 2), b(k, n, layout, 3);
            const SgemmPacked packed(k, n, b.view());
            for (const SgemmPart part :
                 {SgemmPart{0, k, 0, n}, SgemmPart{0, k, 0, 1}, SgemmPart{5, k - 5, 48, 50},
                  SgemmPart{k - 1, 1, 96, 48}, SgemmPart{9, 40, 144, 66}, SgemmPart{3, k - 3, 192, 18},
                  SgemmPart{0, k, 192, 3}, SgemmPart{1, 30, 48, 0}}) {
                for (const bool adds : {false, true}) {
                    Matrix expected(13, part.columns, Layout::kRowMajor, 4), out = expected;
                    const SgemmLeft left = {13, part.rows, a.view()};
                    SgemmRight alone = right_of(b, expected, 1.0F, adds ? &expected : nullptr);
                    alone.n = part.columns;
                    alone.b.data +=
                        part.first_row * alone.b.row_stride + part.first_column * alone.b.column_stride;
                    sgemm(left, alone);
                    packed.multiply(left, part, adds, out.data(), out.row_stride());
                    EXPECT_TRUE(same_bits(out, expected))
                        << k << ": rows " << part.first_row << " + " << part.rows << ", columns "
                        << part.first_column << " + " << part.columns;
                }
            }
        }
    }
}

TEST_P(Sgemm, APackedFactorKeepsThePathItWasPackedFor) {
    const Matrix a(9, 70, Layout::kRowMajor, 2), b(70, 50, Layout::kRowMajor, 3);
    Matrix expected = untouched(9, 50), out = untouched(9, 50);
    sgemm(left_of(a), right_of(b, expected));
    const SgemmPacked packed(70, 50, b.view());
    const UseInstructionSet other(InstructionSet::kPortable);
    packed.multiply(left_of(a), {0, 70, 0, 50}, false, out.data(), out.row_stride());
    EXPECT_TRUE(same_bits(out, expected));
}

TEST_P(Sgemm, RefusesPartsThatAPackedFactorDoesNotHave) {
    const Matrix a(3, 4, Layout::kRowMajor, 2), b(4, 60, Layout::kRowMajor, 3);
    const SgemmPacked packed(4, 60, b.view());
    Matrix out = untouched(3, 60);
    for (const SgemmPart part : {SgemmPart{0, 3, 0, 60}, SgemmPart{1, 4, 0, 60}, SgemmPart{-1, 4, 0, 60},
                                 SgemmPart{0, 4, 0, 61}, SgemmPart{0, 4, 24, 10}, SgemmPart{0, 4, -48, 10},
                                 SgemmPart{0, 4, 0, -1}, SgemmPart{0, 4, 48, 13}}) {
        EXPECT_THROW(packed.multiply(left_of(a), part, false, out.data(), out.row_stride()),
                     std::invalid_argument)
            << part.first_row << " " << part.rows << " " << part.first_column << " " << part.columns;
    }
    EXPECT_THROW(packed.multiply(left_of(a), {0, 4, 0, 60}, false, out.data(), 59), std::invalid_argument);
    EXPECT_THROW(SgemmPacked(-1, 60, b.view()), std::invalid_argument);
    EXPECT_THROW(SgemmPacked(4, 60, {b.view().data, 59, 1}), std::invalid_argument);
}

TEST_P(Sgemm, PacksEmptyFactors) {
    const Matrix a(3, 0, Layout::kRowMajor, 2), b(0, 60, Layout::kRowMajor, 3);
    Matrix out = untouched(3, 60);
    SgemmPacked(0, 60, b.view()).multiply(left_of(a), {0, 0, 0, 60}, false, out.data(), out.row_stride());
    EXPECT_EQ(out.at(2, 59), 0.0F);
}

TEST_P(Sgemm, InfinitiesAndNaNsStayInTheirRowsAndColumns) {
    Matrix a(13, 40, Layout::kRowMajor, 2), b(40, 60, Layout::kRowMajor, 3);
    a.at(12, 3) = std::numeric_limits<float>::infinity();
    b.at(5, 59) = std::nanf("");
    Matrix out = untouched(13, 60);
    sgemm(left_of(a), right_of(b, out));
    for (int64_t i = 0; i < 13; ++i) {
        for (int64_t j = 0; j < 60; ++j)
            EXPECT_EQ(std::isfinite(out.at(i, j)), i != 12 && j != 59) << i << " " << j;
    }
}

TEST_P(Sgemm, KeepsTheSignOfZero) {
    Matrix a(4, 1, Layout::kRowMajor, 2), b(1, 16, Layout::kRowMajor, 3), start(4, 16, Layout::kRowMajor, 4);
    for (int64_t i = 0; i < 4; ++i) a.at(i, 0) = -0.0F;
    for (int64_t j = 0; j < 16; ++j) b.at(0, j) = 1.0F;
    for (int64_t i = 0; i < 4; ++i) {
        for (int64_t j = 0; j < 16; ++j) start.at(i, j) = -0.0F;
    }
    Matrix out = untouched(4, 16);
    // 0 + (-0 * 1) = 0 and 0 + -0 = 0, as every sum that starts from zero.
    sgemm(left_of(a), right_of(b, out, 1.0F, &start));
    EXPECT_FALSE(std::signbit(out.at(3, 15)));
}

TEST_P(Sgemm, TakesEmptyMatrices) {
    const Matrix nothing(3, 0, Layout::kRowMajor, 2), empty(0, 5, Layout::kRowMajor, 3);
    const Matrix start(3, 5, Layout::kRowMajor, 4);
    Matrix zeros = untouched(3, 5), copied = untouched(3, 5);
    sgemm(left_of(nothing), right_of(empty, zeros));
    sgemm(left_of(nothing), right_of(empty, copied, 1.0F, &start));
    for (int64_t i = 0; i < 3; ++i) {
        for (int64_t j = 0; j < 5; ++j) {
            EXPECT_EQ(zeros.at(i, j), 0.0F);
            EXPECT_EQ(copied.at(i, j), start.at(i, j));
        }
    }
    Matrix none = untouched(0, 5);
    sgemm({0, 5, empty.view()}, right_of(Matrix(5, 5, Layout::kRowMajor, 3), none));
    sgemm(left_of(start), std::vector<SgemmRight>{}, team_of(2));
}

TEST_P(Sgemm, RefusesWhatIsNoMatrix) {
    const Matrix a(3, 4, Layout::kRowMajor, 2), b(4, 5, Layout::kRowMajor, 3);
    Matrix out = untouched(3, 5);
    const SgemmRight good = right_of(b, out);
    SgemmRight bad = good;
    bad.b = {b.view().data, 7, 2};
    EXPECT_THROW(sgemm(left_of(a), bad), std::invalid_argument);
    bad = good;
    bad.out_stride = 4;
    EXPECT_THROW(sgemm(left_of(a), bad), std::invalid_argument);
    bad = good;
    bad.n = -1;
    EXPECT_THROW(sgemm(left_of(a), bad), std::invalid_argument);
    EXPECT_THROW(sgemm({3, 4, {a.view().data, 3, 1}}, good), std::invalid_argument);
    EXPECT_THROW(sgemm({-1, 4, a.view()}, good), std::invalid_argument);
}

TEST(SgemmPath, IsMissingWithoutVectors) {
    const UseInstructionSet use(InstructionSet::kPortable);
    EXPECT_FALSE(has_sgemm());
    const Matrix a(1, 1, Layout::kRowMajor, 2);
    Matrix out = untouched(1, 1);
    EXPECT_THROW(sgemm(left_of(a), right_of(a, out)), std::logic_error);
    EXPECT_THROW(SgemmPacked(1, 1, a.view()), std::logic_error);
}

}  // namespace
}  // namespace qlora::kernels::cpu
