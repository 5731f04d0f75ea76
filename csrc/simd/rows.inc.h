// Plain loops for the compiler's vectoriser, to be included for each instruction set with LIIF_TARGET, its target
// attribute.

LIIF_TARGET void combine(const float* a, float first, const float* x, float second, const float* y, int64_t n,
                         float* out) {
#pragma omp simd
    for (int64_t k = 0; k < n; ++k) {
        out[k] = a[k] + first * x[k] + second * y[k];
    }
}

LIIF_TARGET void first_layer(const float* a, const float* b, float first, const float* x, float second, const float* y,
                             int64_t n, bool with_relu, float* out) {
    if (with_relu) {
#pragma omp simd
        for (int64_t k = 0; k < n; ++k) {
            out[k] = relu(a[k] + b[k] + first * x[k] + second * y[k]);
        }
    } else {
#pragma omp simd
        for (int64_t k = 0; k < n; ++k) {
            out[k] = a[k] + b[k] + first * x[k] + second * y[k];
        }
    }
}

LIIF_TARGET void blend(const float* const* rows, const float* shares, int count, int64_t n, float* out) {
    if (count == 1) {
#pragma omp simd
        for (int64_t k = 0; k < n; ++k) {
            out[k] = shares[0] * rows[0][k];
        }
        return;
    }
#pragma omp simd
    for (int64_t k = 0; k < n; ++k) {
        out[k] = shares[0] * rows[0][k] + shares[1] * rows[1][k] + shares[2] * rows[2][k] + shares[3] * rows[3][k];
    }
}

LIIF_TARGET void linear(const float* x, const float* weight, const float* bias, int64_t in, int64_t out_dim,
                        float* out) {
    int64_t j = 0;
    // Three at a time, as many as a colour has: their sums do not wait for each other.
    for (; j + 3 <= out_dim; j += 3) {
        const float *first = weight + j * in, *second = first + in, *third = second + in;
        float a = 0, b = 0, c = 0;
#pragma omp simd reduction(+ : a, b, c)
        for (int64_t k = 0; k < in; ++k) {
            a += first[k] * x[k];
            b += second[k] * x[k];
            c += third[k] * x[k];
        }
        out[j] = a + bias[j];
        out[j + 1] = b + bias[j + 1];
        out[j + 2] = c + bias[j + 2];
    }
    for (; j < out_dim; ++j) {
        const float* row = weight + j * in;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t k = 0; k < in; ++k) {
            sum += row[k] * x[k];
        }
        out[j] = sum + bias[j];
    }
}

LIIF_TARGET void add_pixel(const float* dz, int64_t stride, int64_t rows, int64_t n, const float* places, float* d_a,
                           float* d_b, float* d_rest) {
    float* const to[] = {d_a, d_b, d_rest, d_rest + n, d_rest + 2 * n, d_rest + 3 * n};
    for (int64_t k = 0; k < n; k += kVector) {
        Sums sum = {}, y = {}, x = {}, h = {}, w = {}, value;
        for (int64_t r = 0; r < rows; ++r) {
            std::memcpy(&value, dz + r * stride + k, sizeof(value));
            sum += value;
            y += places[4 * r] * value;
            x += places[4 * r + 1] * value;
            h += places[4 * r + 2] * value;
            w += places[4 * r + 3] * value;
        }
        const Sums sums[] = {sum, sum, y, x, h, w};
        for (size_t t = 0; t < 6; ++t) {
            if (n - k >= kVector) {
                std::memcpy(&value, to[t] + k, sizeof(value));
                value += sums[t];
                std::memcpy(to[t] + k, &value, sizeof(value));
                continue;
            }
            for (int64_t i = 0; i < n - k; ++i) {
                to[t][k + i] += sums[t][i];
            }
        }
    }
}

LIIF_TARGET void scale(const float* x, float factor, int64_t n, float* out) {
#pragma omp simd
    for (int64_t k = 0; k < n; ++k) {
        out[k] = factor * x[k];
    }
}

LIIF_TARGET void add_row(const float* x, float factor, int64_t n, float* out) {
#pragma omp simd
    for (int64_t k = 0; k < n; ++k) {
        out[k] += factor * x[k];
    }
}

LIIF_TARGET void add_rows(const float* values, int64_t stride, int64_t rows, int64_t n, float* out) {
    for (int64_t r = 0; r < rows; ++r) {
#pragma omp simd
        for (int64_t k = 0; k < n; ++k) {
            out[k] += values[r * stride + k];
        }
    }
}

LIIF_TARGET void mask(float* values, const float* h, int64_t stride, int64_t rows, int64_t n) {
    for (int64_t r = 0; r < rows; ++r) {
#pragma omp simd
        for (int64_t k = 0; k < n; ++k) {
            // Written so that a NaN lets the gradient through, as in PyTorch.
            values[r * stride + k] = h[r * stride + k] <= 0 ? 0 : values[r * stride + k];
        }
    }
}

constexpr RowLoops kLoops = {combine, first_layer, blend, linear, add_pixel, scale, add_row, add_rows, mask};
