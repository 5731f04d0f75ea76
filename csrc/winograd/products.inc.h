// Dense matrix products for any vectors. To be included in an anonymous namespace with the primitives of one
// instruction set (simd/) and
//   LIIF_TARGET          the functions' target attribute
//   kRows, kColumns      rows and vectors of columns that are worked on together, at most

// to[r][n] = sum_k from[r][k] * matrix[k][n] for R rows and V vectors of columns, added up in the order of k.
template <int R, int V>
LIIF_TARGET void multiply(int64_t in, int64_t out, const float* from, const float* matrix, float* to) {
    Vector sum[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
            sum[r][v] = zeros();
        }
    }
    const auto offsets = row_offsets<kRows>(in * static_cast<int64_t>(sizeof(float)));
    for (int64_t k = 0; k < in; ++k, matrix += out) {
        const char* column = reinterpret_cast<const char*>(from + k);
        asm("" : "+r"(column));
        Vector weight[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
            weight[v] = load(matrix + kLanes * v);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            float input;
            std::memcpy(&input, column + offsets[r], sizeof(input));
            const Vector value = spread(input);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) {
                sum[r][v] = fused(value, weight[v], sum[r][v]);
                column = after(sum[r][v], column);
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) {
            store(to + r * out + kLanes * v, sum[r][v]);
        }
    }
}

constexpr auto kMultiply = table_of_rows<kRows, kColumns>([](auto r, auto v) { return &multiply<r, v>; });

void multiply_all(int64_t rows, int64_t in, int64_t out, const float* from, const float* matrix, float* to) {
    for (int64_t n = 0; n < out; n += kColumns * kLanes) {
        const int64_t vectors = std::min<int64_t>(kColumns, (out - n) / kLanes);
        for (int64_t r = 0; r < rows; r += kRows) {
            const int64_t together = std::min<int64_t>(kRows, rows - r);
            kMultiply[static_cast<size_t>(vectors - 1)][static_cast<size_t>(together - 1)](
                in, out, from + r * in, matrix + n, to + r * out + n);
        }
    }
}
