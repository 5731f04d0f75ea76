// float32 weight gradients for AVX2 that skip each dz that is zero. FMAs take their rows of h from the first-level
// cache, which gives two vectors a cycle, as many as are multiplied: an output's sums for a whole panel of inputs stay
// in registers while the rows whose dz is not zero pass by.
#include "weight_gradients/weight_gradient.h"

#if defined(__x86_64__)
#include <algorithm>
#include <array>
#include <vector>

#include "layers/panels.h"
#include "simd/avx2.h"
#include "simd/dispatch.h"

namespace liif {
namespace {

using namespace avx2;

// Vectors of inputs in a panel at most: with one factor they fit into the 16 registers.
constexpr int64_t kPanel = 8;
// Rows worked on together, a bit each. A panel of their h takes 16 KB, which the first-level cache keeps.
constexpr int64_t kTogether = 64;

// Eight rows of eight values -> eight columns of eight.
LIIF_AVX2 inline void transpose(__m256 (&x)[kLanes]) {
    __m256 pair[kLanes], four[kLanes];
#pragma GCC unroll 4
    for (int i = 0; i < kLanes; i += 2) {
        pair[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
        pair[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < kLanes; i += 4) {
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) {
            four[i + 2 * j] = _mm256_shuffle_ps(pair[i + j], pair[i + j + 2], 0x44);
            four[i + 2 * j + 1] = _mm256_shuffle_ps(pair[i + j], pair[i + j + 2], 0xEE);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        x[i] = _mm256_permute2f128_ps(four[i], four[i + 4], 0x20);
        x[i + 4] = _mm256_permute2f128_ps(four[i], four[i + 4], 0x31);
    }
}

// Eight rows and columns of dz, zero behind the last row, -> eight columns kTogether apart, and in `alive` of each a
// bit from `first` on for each value that is not zero.
LIIF_AVX2 inline void transpose_eight(const float* dz, int64_t stride, int64_t rows, int64_t first, float* columns,
                                      uint64_t* alive) {
    __m256 x[kLanes];
#pragma GCC unroll 8
    for (int64_t i = 0; i < kLanes; ++i) {
        x[i] = i < rows ? _mm256_loadu_ps(dz + i * stride) : _mm256_setzero_ps();
    }
    transpose(x);
#pragma GCC unroll 8
    for (int64_t i = 0; i < kLanes; ++i) {
        _mm256_store_ps(columns + i * kTogether, x[i]);
        const uint64_t found = nonzero_floats(_mm256_castps_si256(x[i]));
        alive[i] |= found << first;
    }
}

// dz [rows, out] -> columns [padded(out), kTogether], and of each a bit for each value that is not zero.
LIIF_AVX2 void transpose_rows(const float* dz, int64_t stride, int64_t rows, int64_t out, float* columns,
                              uint64_t* alive) {
    std::fill_n(alive, padded(out), uint64_t{0});
    // A cache line of each row at a time: rows may stand a power of two apart, of which the cache keeps few.
    for (int64_t n = 0; n < out; n += kVector) {
        for (int64_t r = 0; r < rows; r += kLanes) {
            for (int64_t m = n; m < n + kVector; m += kLanes) {
                transpose_eight(dz + r * stride + m, stride, rows - r, r, columns + m * kTogether + r, alive + m);
            }
        }
    }
}

void copy_panel(const float* h, int64_t stride, int64_t rows, int64_t width, float* panel) {
    for (int64_t r = 0; r < rows; ++r) {
        std::copy_n(h + r * stride, width, panel + r * width);
    }
}

// sum[n][k] += sum_r columns[n][r] * panel[r][k] over the rows that are alive, for V vectors of inputs k.
template <int V>
LIIF_AVX2 void multiply(const float* columns, const uint64_t* alive, int64_t out, const float* panel, float* sum) {
    for (int64_t n = 0; n < out; ++n, columns += kTogether, sum += V * kLanes) {
        __m256 total[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
            total[v] = _mm256_load_ps(sum + kLanes * v);
        }
        for (uint64_t left = alive[n]; left; left &= left - 1) {
            const int64_t r = __builtin_ctzll(left);
            const __m256 factor = _mm256_broadcast_ss(columns + r);
            const float* row = panel + r * (V * kLanes);
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) {
                total[v] = _mm256_fmadd_ps(factor, _mm256_load_ps(row + kLanes * v), total[v]);
            }
        }
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
            _mm256_store_ps(sum + kLanes * v, total[v]);
        }
    }
}

// Of V vectors: kMultiply[V - 1].
constexpr auto kMultiply = table<kPanel>([](auto v) { return &multiply<v>; });

class Avx2WeightGradient final : public WeightGradient {
  public:
    Avx2WeightGradient(int64_t in, int64_t out) : in_(in), out_(out), panels_(split_columns(in, kPanel, kLanes)) {}

    size_t scratch_bytes() const override {
        const int64_t width = padded(out_);
        return static_cast<size_t>(width) * sizeof(uint64_t) +
               static_cast<size_t>(kTogether * (width + kPanel * kLanes)) * sizeof(float);
    }

    // sum: panels, each [out, vectors * kLanes].
    void add(const Tile& tile, const float* dz, const float* h, float* sum, char* scratch) const override {
        const int64_t dz_stride = padded(out_), h_stride = padded(in_);
        float *columns = reinterpret_cast<float*>(scratch), *rows_of_h = columns + kTogether * dz_stride;
        uint64_t* alive = reinterpret_cast<uint64_t*>(rows_of_h + kTogether * kPanel * kLanes);
        for (int64_t first = 0; first < tile.rows; first += kTogether) {
            const int64_t rows = std::min(kTogether, tile.rows - first);
            transpose_rows(dz + first * dz_stride, dz_stride, rows, out_, columns, alive);
            for (const Panel& panel : panels_) {
                copy_panel(h + first * h_stride + panel.first, h_stride, rows, panel.vectors * kLanes, rows_of_h);
                kMultiply[static_cast<size_t>(panel.vectors - 1)](columns, alive, out_, rows_of_h,
                                                                  sum + panel.first * out_);
            }
        }
    }

    void collect(const float* sum, float* weight) const override {
        collect_panels(sum, panels_, in_, out_, kLanes, weight);
    }

  private:
    int64_t in_, out_;
    std::vector<Panel> panels_;
};

}  // namespace

std::unique_ptr<WeightGradient> make_avx2_weight_gradient(int64_t in, int64_t out) {
    return std::make_unique<Avx2WeightGradient>(in, out);
}

}  // namespace liif
#endif
