// Element-wise work on rows: the first layer's update, the blend, the last layer, and their backward.
#pragma once

#include <cstdint>

namespace liif {

struct RowLoops {
    // out = a + first * x + second * y over n values.
    void (*combine)(const float* a, float first, const float* x, float second, const float* y, int64_t n, float* out);

    // Like combine, with a + b for a; then, if relu, negative values become zero (NaN stays).
    void (*first_layer)(const float* a, const float* b, float first, const float* x, float second, const float* y,
                        int64_t n, bool relu, float* out);

    // out = sum_r shares[r] * rows[r] over n values; count rows, 1 or 4.
    void (*blend)(const float* const* rows, const float* shares, int count, int64_t n, float* out);

    // out[j] = bias[j] + sum_k weight[j][k] * x[k].
    void (*linear)(const float* x, const float* weight, const float* bias, int64_t in, int64_t out_dim, float* out);

    // The backward of `first_layer` for rows of one pixel with dz [rows, n], `stride` apart, and places [rows, 4]: adds
    // their sum to d_a and to d_b, and to d_rest [4, n] their sums with each column of places as factors.
    void (*add_pixel)(const float* dz, int64_t stride, int64_t rows, int64_t n, const float* places, float* d_a,
                      float* d_b, float* d_rest);

    // out = factor * x over n values.
    void (*scale)(const float* x, float factor, int64_t n, float* out);

    // out += factor * x over n values.
    void (*add_row)(const float* x, float factor, int64_t n, float* out);

    // out[k] += sum_r values[r][k].
    void (*add_rows)(const float* values, int64_t stride, int64_t rows, int64_t n, float* out);

    // values[r][k] = 0 unless h[r][k] > 0, both with the same stride: the backward of a ReLU whose result is h.
    void (*mask)(float* values, const float* h, int64_t stride, int64_t rows, int64_t n);
};

// Those of the best instructions that this processor has.
extern const RowLoops& loops;

}  // namespace liif
