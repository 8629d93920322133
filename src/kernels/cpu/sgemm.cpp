#include "qlora/kernels/sgemm.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <new>
#include <stdexcept>
#include <vector>

#include "paths.h"
#include "sgemm_path.h"

namespace qlora::kernels::cpu {
namespace {

/// Columns of a piece of work: packed, they stay in a core's second cache.
constexpr int64_t kColumnsAtOnce = 96;
/// Rows that one panel is multiplied with before the next: whole tiles, which stay in the second cache.
constexpr int64_t kRowsAtOnce = 64;
/// Pieces of work for each thread: several, so that all threads end at about the same time.
constexpr int64_t kPiecesPerThread = 3;
/// A piece of fewer rows would spend more on packing its columns again than it gains in balance.
constexpr int64_t kLeastRows = 64;

int64_t pieces(int64_t size, int64_t piece) {
    return (size + piece - 1) / piece;
}

const SgemmPath* path() {
#if defined(__x86_64__)
    switch (instruction_set()) {
        case InstructionSet::kAvx512:
            return &avx512::kSgemm;
        case InstructionSet::kAvx2:
            return &avx2::kSgemm;
        case InstructionSet::kPortable:
            break;
    }
#endif
    return nullptr;
}

constexpr std::align_val_t kCacheLine{64};

SgemmBuffer buffer_of(int64_t size) {
    return SgemmBuffer(
        static_cast<float*>(::operator new(static_cast<std::size_t>(size) * sizeof(float), kCacheLine)));
}

/// Memory for packed panels, kept by its thread: making it anew would cost page faults in every product.
class Buffer {
  public:
    float* get(int64_t size) {
        if (size > size_) {
            data_.reset();
            size_ = 0;
            data_ = buffer_of(size);
            size_ = size;
        }
        return data_.get();
    }

  private:
    SgemmBuffer data_;
    int64_t size_ = 0;
};

/// Columns of one right factor side by side, as wide as a tile.
struct Panel {
    const SgemmRight* right;
    int64_t first, columns;
    int64_t registers;  ///< that hold a row
    int64_t offset;     ///< of its columns among those that are packed with it
};

/// A range of k, the summed dimension, that one tile adds up in registers: [first, first + count).
struct Depths {
    int64_t first, count;
};

/// Calls f(depths) for the parts of a sum of k terms.
template <class F>
void for_each_depths(int64_t k, F&& f) {
    const int64_t steps = pieces(k, kSgemmDepth), most = pieces(pieces(k, steps), 8) * 8;
    for (int64_t d = 0; d < k; d += most) f(Depths{d, std::min(most, k - d)});
}

void pack(const SgemmPath& path, const SgemmMatrix& b, const Panel& panel, Depths depths, float* to) {
    const float* from = b.data + depths.first * b.row_stride + panel.first * b.column_stride;
    path.pack[panel.registers - 1]({from, b.column_stride, b.row_stride, panel.columns}, depths.count, to);
}

/// Columns of tiles side by side, which go down the rows together, some rows at a time: their part of the
/// left factor is read once for all.
class TileColumns {
  public:
    TileColumns(const SgemmPath& path, const SgemmLeft& left, Depths depths, int64_t first_row)
        : path_(path), left_(left), depths_(depths), first_row_(first_row) {}

    /// `b`: the panel's packed columns from the first of the depths on.
    void add(const Panel& panel, const float* b) {
        const SgemmRight& right = *panel.right;
        const SgemmMatrix& a = left_.a;
        float* const out = right.out + first_row_ * right.out_stride + panel.first;
        // The earlier ranges of k have left their sum in the result.
        const bool goes_on = depths_.first > 0;
        const float* const start = goes_on || right.start == nullptr
                                       ? nullptr
                                       : right.start + first_row_ * right.start_stride + panel.first;
        tiles_[count_++] = {path_.tiles[panel.registers - 1],
                            {.depth = depths_.count,
                             .a = a.data + first_row_ * a.row_stride + depths_.first * a.column_stride,
                             .row_stride = a.row_stride,
                             .depth_stride = a.column_stride,
                             .b = b,
                             .out = out,
                             .out_stride = right.out_stride,
                             .start = goes_on ? out : start,
                             .start_stride = goes_on ? right.out_stride : right.start_stride,
                             .alpha = right.alpha,
                             .rows = 0,
                             .columns = panel.columns}};
    }

    void multiply(int64_t end_row) {
        for (int64_t row = first_row_; row < end_row; row += kRowsAtOnce) {
            for (std::size_t i = 0; i < count_; ++i) {
                SgemmTiles& tiles = tiles_[i].tiles;
                tiles.rows = std::min(kRowsAtOnce, end_row - row);
                tiles_[i].run(tiles);
                tiles.a += kRowsAtOnce * tiles.row_stride;
                tiles.out += kRowsAtOnce * tiles.out_stride;
                if (tiles.start != nullptr) tiles.start += kRowsAtOnce * tiles.start_stride;
            }
        }
    }

  private:
    struct Entry {
        void (*run)(const SgemmTiles& tiles);
        SgemmTiles tiles;
    };
    static constexpr std::size_t kMostTiles = kColumnsAtOnce / kSgemmLeastLanes;

    const SgemmPath& path_;
    const SgemmLeft& left_;
    Depths depths_;
    int64_t first_row_;
    std::array<Entry, kMostTiles> tiles_;
    std::size_t count_ = 0;
};

/// Panels that are packed together, and how many columns they are wide.
struct Group {
    std::vector<Panel> panels;
    int64_t width = 0;
};

std::vector<Group> groups_of(std::span<const SgemmRight> rights, int64_t lanes) {
    const int64_t widest = kSgemmWidest * lanes;
    std::vector<Group> groups;
    for (const SgemmRight& right : rights) {
        for (int64_t first = 0; first < right.n; first += widest) {
            const int64_t columns = std::min(widest, right.n - first);
            const int64_t registers = pieces(columns, lanes), width = registers * lanes;
            if (groups.empty() || groups.back().width + width > kColumnsAtOnce) groups.emplace_back();
            Group& group = groups.back();
            group.panels.push_back({&right, first, columns, registers, group.width});
            group.width += width;
        }
    }
    return groups;
}

/// Packs one group of columns and multiplies rows [begin_row, end_row) with it.
void multiply_group(const SgemmPath& path, const SgemmLeft& left, const Group& group, int64_t begin_row,
                    int64_t end_row) {
    static thread_local Buffer buffer;
    for_each_depths(left.k, [&](Depths depths) {
        float* const packed = buffer.get(group.width * depths.count);
        TileColumns tiles(path, left, depths, begin_row);
        for (const Panel& panel : group.panels) {
            float* const b = packed + panel.offset * depths.count;
            pack(path, panel.right->b, panel, depths, b);
            tiles.add(panel, b);
        }
        tiles.multiply(end_row);
    });
}

/// A piece of work: some rows of one group.
struct Piece {
    const Group* group;
    int64_t begin_row, end_row;
};

/// Groups of one panel each in place of the last `count`.
void split_last(std::vector<Group>& groups, std::size_t count, int64_t lanes) {
    count = std::min(count, groups.size());
    const std::vector<Group> last(groups.end() - static_cast<std::ptrdiff_t>(count), groups.end());
    groups.resize(groups.size() - count);
    for (const Group& group : last) {
        for (Panel panel : group.panels) {
            panel.offset = 0;
            groups.push_back({.panels = {panel}, .width = panel.registers * lanes});
        }
    }
}

/// Pieces with as many rows as can be, but enough of them for all threads. The last ones are smaller, so that
/// a thread which falls behind keeps the others waiting for less: first by their columns, which costs
/// nothing, then by their rows, for which columns are packed twice.
std::vector<Piece> pieces_of(const SgemmPath& path, std::vector<Group>& groups, int64_t m, int64_t threads) {
    const auto count = static_cast<int64_t>(groups.size());
    const int64_t parts =
        threads == 1 ? 1 : std::min(pieces(threads * kPiecesPerThread, count), pieces(m, kLeastRows));
    if (threads > 1 && parts == 1) split_last(groups, static_cast<std::size_t>(threads), path.lanes);
    const auto whole_tiles = [&](int64_t rows) { return pieces(rows, path.rows) * path.rows; };
    std::vector<Piece> work;
    const auto add = [&](const Group& group, int64_t begin, int64_t end, int64_t rows) {
        for (; begin < end; begin += rows) work.push_back({&group, begin, std::min(end, begin + rows)});
    };
    const int64_t rows = whole_tiles(pieces(m, parts));
    for (const Group& group : groups) add(group, 0, m, rows);
    if (threads == 1 || rows < 2 * kLeastRows) return work;
    const std::size_t last = std::min(work.size(), static_cast<std::size_t>(threads));
    const std::vector<Piece> halved(work.end() - static_cast<std::ptrdiff_t>(last), work.end());
    work.resize(work.size() - last);
    const int64_t half = whole_tiles(pieces(rows, 2));
    for (const Piece& piece : halved) add(*piece.group, piece.begin_row, piece.end_row, half);
    return work;
}

void check(const SgemmMatrix& matrix, int64_t rows, int64_t columns) {
    if (rows < 0 || columns < 0) throw std::invalid_argument("sgemm: a negative size");
    const bool row_major = matrix.column_stride == 1 && (rows <= 1 || matrix.row_stride >= columns);
    const bool column_major = matrix.row_stride == 1 && (columns <= 1 || matrix.column_stride >= rows);
    if (!row_major && !column_major) throw std::invalid_argument("sgemm: strides that fit no matrix");
}

const SgemmPath& needed_path() {
    if (path() == nullptr) throw std::logic_error("sgemm: no path for this machine; see has_sgemm()");
    return *path();
}

/// The result where k is 0 and there is nothing to add up: out = start.
void only_start(int64_t m, const SgemmRight& right) {
    for (int64_t row = 0; row < m; ++row) {
        float* out = right.out + row * right.out_stride;
        if (right.start == nullptr) {
            std::fill_n(out, right.n, 0.0F);
        } else if (right.start != right.out) {
            std::copy_n(right.start + row * right.start_stride, right.n, out);
        }
    }
}

}  // namespace

bool has_sgemm() {
    return path() != nullptr;
}

void sgemm(const SgemmLeft& left, std::span<const SgemmRight> rights, const SgemmTeam& team) {
    const SgemmPath* const chosen = &needed_path();
    check(left.a, left.m, left.k);
    for (const SgemmRight& right : rights) {
        check(right.b, left.k, right.n);
        if (left.m > 1 &&
            (right.out_stride < right.n || (right.start != nullptr && right.start_stride < right.n))) {
            throw std::invalid_argument("sgemm: rows of the result overlap");
        }
    }
    if (left.m == 0) return;
    if (left.k == 0) {
        for (const SgemmRight& right : rights) only_start(left.m, right);
        return;
    }
    std::vector<Group> groups = groups_of(rights, chosen->lanes);
    if (groups.empty()) return;
    const std::vector<Piece> work = pieces_of(*chosen, groups, left.m, team.threads);
    std::atomic<std::size_t> next{0};
    team.run([&] {
        for (std::size_t i = next.fetch_add(1); i < work.size(); i = next.fetch_add(1)) {
            multiply_group(*chosen, left, *work[i].group, work[i].begin_row, work[i].end_row);
        }
    });
}

void sgemm(const SgemmLeft& left, const SgemmRight& right) {
    static const SgemmTeam alone = {1, [](const std::function<void()>& work) { work(); }};
    sgemm(left, {&right, 1}, alone);
}

void SgemmFree::operator()(float* data) const {
    ::operator delete(data, kCacheLine);
}

SgemmPacked::SgemmPacked(int64_t k, int64_t n, const SgemmMatrix& b) : path_(&needed_path()), k_(k), n_(n) {
    check(b, k, n);
    const SgemmRight right = {.n = n, .b = b, .out = nullptr, .out_stride = n};
    packed_ = buffer_of(k * pieces(n, path_->lanes) * path_->lanes);
    for (const Group& group : groups_of({&right, 1}, path_->lanes)) {
        for (const Panel& panel : group.panels) {
            pack(*path_, b, panel, {0, k}, packed_.get() + panel.first * k);
        }
    }
}

void SgemmPacked::multiply(const SgemmLeft& left, const SgemmPart& part, bool adds, float* out,
                           int64_t out_stride) const {
    check(left.a, left.m, left.k);
    const bool is_inside = part.first_row >= 0 && part.rows == left.k && part.first_row + part.rows <= k_ &&
                           part.first_column >= 0 && part.first_column % kSgemmColumnStep == 0 &&
                           part.columns >= 0 && part.first_column + part.columns <= n_;
    if (!is_inside) throw std::invalid_argument("sgemm: a part that the packed factor does not have");
    if (left.m > 1 && out_stride < part.columns) {
        throw std::invalid_argument("sgemm: rows of the result overlap");
    }
    const SgemmRight right = {.n = part.columns,
                              .b = {},
                              .out = out,
                              .out_stride = out_stride,
                              .start = adds ? out : nullptr,
                              .start_stride = out_stride};
    if (left.k == 0) return only_start(left.m, right);
    const int64_t widest = kSgemmWidest * path_->lanes;
    for (const Group& group : groups_of({&right, 1}, path_->lanes)) {
        for_each_depths(left.k, [&](Depths depths) {
            TileColumns tiles(*path_, left, depths, 0);
            for (Panel panel : group.panels) {
                const int64_t first = part.first_column + panel.first;
                // The panel's own width: `part` may end inside it, but it was packed whole.
                panel.registers = pieces(std::min(widest, n_ - first), path_->lanes);
                tiles.add(panel, packed_.get() + first * k_ +
                                     (part.first_row + depths.first) * panel.registers * path_->lanes);
            }
            tiles.multiply(left.m);
        });
    }
}

}  // namespace qlora::kernels::cpu
