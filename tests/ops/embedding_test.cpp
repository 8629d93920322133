#include "qlora/ops/embedding.h"
#include "qlora/ops/embedding_low_rank.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include "ops/reference.h"

namespace qlora::ops {
namespace {

using namespace test;

const at::Tensor& sample_ids() {
    static const at::Tensor ids = at::tensor(at::ArrayRef<std::int64_t>{3, 0, 3, 9, 3, 5}, at::kLong);
    return ids;
}

TEST(Embedding, rows_are_copied_bit_for_bit) {
    const at::Tensor table = gaussian({10, 7}, 1);
    EXPECT_TRUE(embedding(table, sample_ids(), at::kFloat, -1).equal(table.index_select(0, sample_ids())));
    const at::Tensor half = table.to(at::kHalf);
    EXPECT_TRUE(embedding(half, sample_ids(), at::kFloat, -1)
                    .equal(half.to(at::kFloat).index_select(0, sample_ids())));
    const at::Tensor rounded = embedding(table, sample_ids(), at::kBFloat16, 3);
    EXPECT_TRUE(rounded.equal(table.to(at::kBFloat16).index_select(0, sample_ids())));
}

TEST(Embedding, gradients_of_repeated_rows_add_up) {
    expect_equal_with_gradients(
        {gaussian({10, 7}, 1)}, [](const auto& in) { return embedding(in[0], sample_ids(), at::kFloat, -1); },
        [](const auto& in) { return in[0].index_select(0, sample_ids()); },
        2e-7);  // sums of at most 3 values
}

/// As peft's lora.Embedding writes it.
at::Tensor with_adapter(const at::Tensor& rows, const at::Tensor& a, const at::Tensor& b, double scale) {
    return rows + at::mm(a.t().index_select(0, sample_ids()), b.t()) * 0.7 * scale;
}

TEST(EmbeddingLowRank, rows_and_gradients_equal_autograd_in_fp64) {
    for (const double scale : {1.0, 1.7}) {
        expect_equal_with_gradients(
            {gaussian({6, 7}, 1), gaussian({3, 10}, 2), gaussian({7, 3}, 3)},
            [&](const auto& in) {
                return add_embedding_low_rank(in[0], sample_ids(), {.a = in[1], .b = in[2], .scaling = 0.7},
                                              -1, scale);
            },
            [&](const auto& in) { return with_adapter(in[0], in[1], in[2], scale); },
            1e-6);  // sums of at most 7 products, then of 3 places
    }
}

TEST(EmbeddingLowRank, bf16_is_rounded_once_and_the_padding_column_gets_no_gradient) {
    const at::Tensor rows = gaussian({6, 7}, 1).to(at::kBFloat16);
    const at::Tensor a = gaussian({3, 10}, 2).requires_grad_(), b = gaussian({7, 3}, 3).requires_grad_();
    const at::Tensor sum =
        add_embedding_low_rank(rows, sample_ids(), {.a = a, .b = b, .scaling = 0.7}, 3, 1.7);
    const at::Tensor exact = with_adapter(rows.to(at::kFloat), a.detach(), b.detach(), 1.7);
    EXPECT_EQ(sum.scalar_type(), at::kBFloat16);
    EXPECT_LE(difference(sum.detach(), exact), kBf16Rounding);
    torch::autograd::backward({sum}, {gaussian({6, 7}, 4).to(at::kBFloat16)});
    EXPECT_FALSE(a.grad().select(1, 3).any().item<bool>());
    EXPECT_TRUE(a.grad().select(1, 5).any().item<bool>());
    EXPECT_FALSE(a.grad().select(1, 1).any().item<bool>());
}

TEST(Embedding, the_padding_row_gets_no_gradient_as_in_torch) {
    for (const std::int64_t padding : {0, 3, 9}) {
        const at::Tensor table = gaussian({10, 7}, 1).requires_grad_(),
                         peer = table.detach().clone().requires_grad_();
        const at::Tensor g = gaussian({6, 7}, 2);
        torch::autograd::backward({embedding(table, sample_ids(), at::kFloat, padding)}, {g});
        torch::autograd::backward({at::embedding(peer, sample_ids(), padding)}, {g});
        EXPECT_LE(difference(table.grad(), peer.grad()), 2e-7);
        EXPECT_FALSE(table.grad()[padding].any().item<bool>());
        EXPECT_TRUE(table.grad()[5].any().item<bool>());
    }
}

TEST(Embedding, rows_and_gradients_are_scaled) {
    expect_equal_with_gradients(
        {gaussian({10, 7}, 1)},
        [](const auto& in) { return embedding(in[0], sample_ids(), at::kFloat, -1, 1.7); },
        [](const auto& in) { return in[0].index_select(0, sample_ids()) * 1.7; },
        4e-7);  // a product, then sums of at most 3 values
    // In 16 bits rows and products are rounded, as in transformers.
    const at::Tensor table = gaussian({10, 7}, 1);
    EXPECT_TRUE(embedding(table, sample_ids(), at::kBFloat16, -1, 1.7)
                    .equal(table.to(at::kBFloat16).index_select(0, sample_ids()) * 1.7));
}

/// Ids 10, 11 and 12 are further rows of a table of 10.
const at::Tensor& ids_with_further_rows() {
    static const at::Tensor ids =
        at::tensor(at::ArrayRef<std::int64_t>{10, 11, 3, 9, 10, 11, 0, 11}, at::kLong);
    return ids;
}

TEST(Embedding, further_rows_go_on_where_the_table_ends) {
    const auto ours = [](const auto& in) {
        return embedding(in[0], ids_with_further_rows(), at::kFloat, -1, 1.7, {.rows = in[1], .scale = 0.6});
    };
    expect_equal_with_gradients(
        {gaussian({10, 7}, 1), gaussian({3, 7}, 2)}, ours,
        [](const auto& in) {
            return at::cat({in[0] * 1.7, in[1] * 0.6}).index_select(0, ids_with_further_rows());
        },
        4e-7);  // a product, then sums of at most 3 values
    // In 16 bits both are rounded, and the gradient of what is a parameter is not.
    const at::Tensor table = gaussian({10, 7}, 1), rows = gaussian({3, 7}, 2).requires_grad_();
    const at::Tensor y = embedding(table, ids_with_further_rows(), at::kBFloat16, -1, 1.0, {.rows = rows});
    EXPECT_TRUE(y.equal(at::cat({table, rows}).to(at::kBFloat16).index_select(0, ids_with_further_rows())));
    const at::Tensor g = gaussian({8, 7}, 3).to(at::kBFloat16);
    y.backward(g);
    const at::Tensor exact = g.to(at::kFloat);
    EXPECT_TRUE(rows.grad()[1].equal(exact[1] + exact[5] + exact[7])) << "in the order of the places";
    EXPECT_FALSE(rows.grad()[2].any().item<bool>());
}

TEST(Embedding, a_frozen_table_asks_for_no_gradient) {
    EXPECT_FALSE(embedding(gaussian({10, 7}, 1), sample_ids(), at::kFloat, -1).requires_grad());
}

TEST(Embedding, a_bf16_run_trains_an_fp32_table) {
    const at::Tensor table = gaussian({10, 7}, 1).requires_grad_();
    const at::Tensor g = gaussian({6, 7}, 2).to(at::kBFloat16);
    torch::autograd::backward({embedding(table, sample_ids(), at::kBFloat16, -1)}, {g});
    EXPECT_EQ(table.grad().scalar_type(), at::kFloat);
    const at::Tensor expected = at::zeros({10, 7}).index_add_(0, sample_ids(), g.to(at::kFloat));
    EXPECT_LE(difference(table.grad(), expected), 2e-7);  // summed in fp32, not in bf16
}

}  // namespace
}  // namespace qlora::ops
