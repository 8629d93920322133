// Which memory a product on a device may write behind its input.
#include "device/emulated.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/allclose.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "qlora/ops/device.h"
#include "qlora/ops/projection.h"

namespace qlora::ops {
namespace {

constexpr std::int64_t kTokens = 11, kIn = 24, kOut = 16, kRank = 3;
const std::int64_t kAppended = appended_columns(kRank);

class Weight final : public FrozenWeight {
  public:
    std::int64_t out_features() const override { return kOut; }
    std::int64_t in_features() const override { return kIn; }
    at::Tensor dense_rows(std::int64_t first, std::int64_t count) const override {
        return values_.narrow(0, first, count);
    }
    const at::Tensor& values() const { return values_; }

  private:
    at::Tensor values_ = at::randn({kOut, kIn});
};

struct Layer {
    Weight weight;
    LowRank adapter{
        .a = at::randn({kRank, kIn}), .b = at::randn({kOut, kRank}), .scaling = 0.5, .dropout = {}};

    Projections projections() const {
        at::Tensor wide = at::zeros({kOut, kIn + kAppended}), a = at::zeros({kAppended, kIn});
        wide.narrow(1, 0, kIn).copy_(weight.values());
        wide.narrow(1, kIn, kRank).copy_(adapter.b * adapter.scaling);
        a.narrow(0, 0, kRank).copy_(adapter.a);
        Projections out;
        out.parts.push_back(
            {.weight = &weight, .trained_weight = {}, .bias = {}, .update = {.low_rank = adapter}});
        out.weights = Extended{.operands = [=] { return DeviceOperands{.weight = wide, .a = a}; },
                               .a = [=] { return a; }};
        return out;
    }
    at::Tensor expected(const at::Tensor& x) const {
        return at::mm(x, weight.values().t()) +
               at::mm(at::mm(x, adapter.a.t()), adapter.b.t()) * adapter.scaling;
    }
};

class RoomyRowsOfADevice : public testing::Test {
  protected:
    const CpuKernelsGuard guard_{kernels::emulated::kernel_table()};
    const at::AutoGradMode no_gradients_{false};
    Layer layer_;
};

TEST_F(RoomyRowsOfADevice, a_slice_whose_stride_fits_by_chance_keeps_its_neighbour) {
    const at::Tensor fused = at::randn({kTokens, kIn + kAppended});
    const at::Tensor before = fused.clone();
    const at::Tensor x = fused.narrow(1, 0, kIn);
    const at::Tensor y = project(layer_.projections(), x);
    EXPECT_TRUE(fused.equal(before));
    EXPECT_TRUE(at::allclose(y, layer_.expected(x), 1e-4, 1e-4));
}

TEST_F(RoomyRowsOfADevice, room_that_was_handed_over_is_used) {
    const Projections projections = layer_.projections();
    const at::Tensor like = at::empty({kTokens, kIn});
    const RoomyRows x = projection_input(projections, like, kIn);
    ASSERT_TRUE(x.wide().defined());
    x.rows().copy_(at::randn({kTokens, kIn}));
    const at::Tensor y = project(projections, x);
    EXPECT_TRUE(at::allclose(y, layer_.expected(x.rows()), 1e-4, 1e-4));
    const at::Tensor low = at::mm(x.rows(), layer_.adapter.a.t());
    EXPECT_TRUE(at::allclose(x.wide().narrow(1, kIn, kRank), low, 1e-4, 1e-4));
}

TEST_F(RoomyRowsOfADevice, other_rows_than_the_ones_with_room_are_refused) {
    const RoomyRows x = projection_input(layer_.projections(), at::empty({kTokens, kIn}), kIn);
    EXPECT_THROW(x.holding(at::randn({kTokens, kIn})), c10::Error);
}

}  // namespace
}  // namespace qlora::ops
