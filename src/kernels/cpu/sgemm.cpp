#include "qlora/kernels/sgemm.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <new>
#include <stdexcept>
#include <vector>

#include "paths.h"
#include "sgemm_path.h"

namespace qlora::kernels::cpu {
namespace {

/// Columns of a piece of work: packed, they stay in a core's second cache.
constexpr int64_t kColumnsAtOnce = 96;
/// Pieces of work that there shall be for each thread, so that all end at about the same time.
constexpr int64_t kPiecesPerThread = 3;
/// Rows of a piece that are worth packing columns for once more.
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

/// Memory for packed panels, kept by its thread: making it anew would cost page faults in every product.
class Buffer {
  public:
    float* get(int64_t size) {
        if (size > size_) {
            data_.reset();
            size_ = 0;
            data_.reset(
                static_cast<float*>(::operator new(static_cast<std::size_t>(size) * sizeof(float), kLine)));
            size_ = size;
        }
        return data_.get();
    }

  private:
    static constexpr std::align_val_t kLine{64};
    struct Free {
        void operator()(float* data) const { ::operator delete(data, kLine); }
    };
    std::unique_ptr<float, Free> data_;
    int64_t size_ = 0;
};

/// Columns of one right factor side by side, as wide as a tile.
struct Panel {
    const SgemmRight* right;
    int64_t first, columns;
    int64_t registers;  ///< that hold a row
    int64_t offset;     ///< of its columns among those that are packed with it
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

/// One group of columns for some rows.
class Work {
  public:
    Work(const SgemmPath& path, const SgemmLeft& left, const Group& group, int64_t begin_row, int64_t end_row)
        : path_(path), left_(left), group_(group), begin_row_(begin_row), end_row_(end_row) {}

    void run() const {
        static thread_local Buffer packed;
        const int64_t steps = pieces(left_.k, kSgemmDepth);
        const int64_t depth = pieces(pieces(left_.k, steps), 8) * 8;
        float* const b = packed.get(group_.width * depth);
        for (int64_t d = 0; d < left_.k; d += depth) multiply(d, std::min(depth, left_.k - d), b);
    }

  private:
    void multiply(int64_t first_depth, int64_t depth, float* packed) const {
        for (const Panel& panel : group_.panels) {
            const SgemmMatrix& b = panel.right->b;
            const float* from = b.data + first_depth * b.row_stride + panel.first * b.column_stride;
            path_.pack[panel.registers - 1]({from, b.column_stride, b.row_stride, panel.columns}, depth,
                                            packed + panel.offset * depth);
        }
        for (int64_t row = begin_row_; row < end_row_; row += path_.rows) {
            for (const Panel& panel : group_.panels) {
                multiply(first_depth, depth, packed + panel.offset * depth, row, panel);
            }
        }
    }

    void multiply(int64_t first_depth, int64_t depth, const float* b, int64_t row, const Panel& panel) const {
        const SgemmRight& right = *panel.right;
        const SgemmMatrix& a = left_.a;
        float* const out = right.out + row * right.out_stride + panel.first;
        const float* start = out;
        int64_t start_stride = right.out_stride;
        if (first_depth == 0) {
            start = right.start == nullptr ? nullptr : right.start + row * right.start_stride + panel.first;
            start_stride = right.start_stride;
        }
        path_.tile[panel.registers - 1]({.depth = depth,
                                         .a = a.data + row * a.row_stride + first_depth * a.column_stride,
                                         .row_stride = a.row_stride,
                                         .depth_stride = a.column_stride,
                                         .b = b,
                                         .out = out,
                                         .out_stride = right.out_stride,
                                         .start = start,
                                         .start_stride = start_stride,
                                         .alpha = right.alpha,
                                         .rows = std::min(path_.rows, end_row_ - row),
                                         .columns = panel.columns});
    }

    const SgemmPath& path_;
    const SgemmLeft& left_;
    const Group& group_;
    int64_t begin_row_, end_row_;
};

/// Rows of a piece of work: as many as can be, but enough pieces for all threads.
int64_t rows_of_work(int64_t m, int64_t groups, int64_t threads, int64_t tile_rows) {
    if (threads == 1) return m;
    const int64_t parts = std::min(pieces(threads * kPiecesPerThread, groups), pieces(m, kLeastRows));
    return pieces(pieces(m, parts), tile_rows) * tile_rows;
}

void check(const SgemmMatrix& matrix, int64_t rows, int64_t columns) {
    const bool row_major = matrix.column_stride == 1 && (rows <= 1 || matrix.row_stride >= columns);
    const bool column_major = matrix.row_stride == 1 && (columns <= 1 || matrix.column_stride >= rows);
    if (!row_major && !column_major) throw std::invalid_argument("sgemm: strides that fit no matrix");
}

/// A product without terms.
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
    const SgemmPath* const chosen = path();
    if (chosen == nullptr) throw std::logic_error("sgemm: no path for this machine; see has_sgemm()");
    if (left.m < 0 || left.k < 0) throw std::invalid_argument("sgemm: a negative size");
    check(left.a, left.m, left.k);
    for (const SgemmRight& right : rights) {
        if (right.n < 0) throw std::invalid_argument("sgemm: a negative size");
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
    const std::vector<Group> groups = groups_of(rights, chosen->lanes);
    if (groups.empty()) return;
    const auto count = static_cast<int64_t>(groups.size());
    const int64_t rows = rows_of_work(left.m, count, team.threads, chosen->rows);
    const int64_t parts = pieces(left.m, rows);
    std::atomic<int64_t> next{0};
    team.run([&] {
        for (int64_t i = next.fetch_add(1); i < count * parts; i = next.fetch_add(1)) {
            const int64_t first = i % parts * rows;
            Work(*chosen, left, groups[static_cast<std::size_t>(i / parts)], first,
                 std::min(left.m, first + rows))
                .run();
        }
    });
}

void sgemm(const SgemmLeft& left, const SgemmRight& right) {
    static const SgemmTeam alone = {1, [](const std::function<void()>& work) { work(); }};
    sgemm(left, {&right, 1}, alone);
}

}  // namespace qlora::kernels::cpu
