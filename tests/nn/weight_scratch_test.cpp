#include "qlora/nn/weight_scratch.h"

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

namespace qlora::nn {
namespace {

/// A matrix full of one number, which a change of its adapter raises.
class Constant final : public ScratchSource {
  public:
    Constant(std::int64_t rows, double value) : rows_(rows), value_(value) {}
    std::vector<std::int64_t> scratch_shape() const override { return {rows_, 3}; }
    void prepare_scratch() const override { prepared_ = value_; }
    std::vector<std::int64_t> scratch_version() const override {
        return {static_cast<std::int64_t>(prepared_)};
    }
    void write_scratch(at::Tensor& out) const override {
        out.fill_(prepared_);
        ++writes;
    }
    std::vector<at::Tensor> scratch_inputs() const override { return {}; }

    void change() { ++value_; }
    bool is_in(const at::Tensor& matrix) const {
        return matrix.size(0) == rows_ && matrix.size(1) == 3 && matrix.eq(value_).all().item<bool>();
    }
    mutable int writes = 0;

  private:
    std::int64_t rows_;
    double value_;
    mutable double prepared_ = 0.0;
};

struct Layers {
    Constant a{2, 100}, b{5, 200}, c{4, 300};
    WeightScratch scratch{{&a, &b, &c}, at::kFloat};

    /// Forward and backward, as a training step asks for them; each must hold right up to the next one's
    /// arrival.
    /// Returns how many of the six had been written when they were asked for.
    int step() {
        int ready = 0;
        const Constant* before = nullptr;
        at::Tensor matrix_before;
        for (const Constant* source : {&a, &b, &c, &c, &b, &a}) {
            const int writes = source->writes;
            const at::Tensor matrix = scratch.acquire(*source);
            if (source->writes == writes) ++ready;
            EXPECT_TRUE(source->is_in(matrix));
            if (before != nullptr && before != source) {
                EXPECT_NE(matrix.data_ptr(), matrix_before.data_ptr());
            }
            before = source;
            matrix_before = matrix;
        }
        return ready;
    }
};

TEST(WeightScratch, the_third_step_finds_every_matrix_ready) {
    Layers layers;
    layers.step();
    layers.step();
    const int a = layers.a.writes, b = layers.b.writes, c = layers.c.writes;
    EXPECT_EQ(layers.step(), 6);
    // b never leaves its buffer; a and c take turns in the other.
    EXPECT_EQ(layers.a.writes - a, 1);
    EXPECT_EQ(layers.b.writes - b, 0);
    EXPECT_EQ(layers.c.writes - c, 1);
}

TEST(WeightScratch, a_changed_adapter_is_never_served_stale) {
    Layers layers;
    for (int step = 0; step < 4; ++step) {
        layers.step();
        layers.a.change();
        layers.c.change();
    }
    layers.step();
}

TEST(WeightScratch, an_order_never_seen_before_is_served_too) {
    Layers layers;
    layers.step();
    for (const Constant* source : {&layers.b, &layers.a, &layers.c, &layers.a, &layers.a, &layers.b}) {
        EXPECT_TRUE(source->is_in(layers.scratch.acquire(*source)));
    }
}

TEST(WeightScratch, a_matrix_at_hand_is_not_written_again) {
    Layers layers;
    layers.scratch.acquire(layers.a);
    layers.scratch.acquire(layers.a);
    EXPECT_EQ(layers.a.writes, 1);
}

}  // namespace
}  // namespace qlora::nn
