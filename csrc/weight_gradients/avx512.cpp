// float32 weight gradients for AVX-512. As in layers/avx512.cpp, outputs whose dz is zero in a whole block of rows are
// skipped: a block's rows of h stay in registers while its other outputs pass by.
#include "weight_gradients/weight_gradient.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "layers/panels.h"

#define LIIF_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

namespace liif {
namespace {

// As in layers/avx512.cpp: vectors of inputs in a panel at most.
constexpr int kPanel = 3;

// Outputs worked on together: their sums for one panel of inputs, 12 KB, stay in the first-level cache for a tile.
constexpr int64_t kSegment = 64;

// Lists the outputs of one segment, from `first`, that are not zero in all rows; returns how many. Writes whole
// vectors.
LIIF_AVX512 int find_outputs(const float* dz, int64_t stride, int rows, int64_t first, int64_t end, int32_t* outputs) {
    const __m512i no_sign = _mm512_set1_epi32(0x7FFFFFFF);
    __m512i index = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(first)),
                                     _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    int count = 0;
    for (int64_t n = first; n < end; n += kVector) {
        __m512i any = _mm512_setzero_si512();
        for (int r = 0; r < rows; ++r) {
            any = _mm512_or_si512(any, _mm512_loadu_si512(dz + r * stride + n));
        }
        const auto inside = static_cast<__mmask16>(end - n >= kVector ? 0xFFFF : (1u << (end - n)) - 1);
        const __mmask16 alive = _mm512_mask_test_epi32_mask(inside, any, no_sign);
        _mm512_storeu_si512(outputs + count, _mm512_maskz_compress_epi32(alive, index));
        count += __builtin_popcount(alive);
        index = _mm512_add_epi32(index, _mm512_set1_epi32(kVector));
    }
    return count;
}

// sum[i][k] += sum_r dz[r][i] * h[r][k] for the outputs i of a list, R rows and V vectors of inputs.
template <int R, int V>
LIIF_AVX512 void multiply(const float* dz, int64_t dz_stride, const int32_t* outputs, int count, const float* h,
                          int64_t h_stride, float* sum) {
    __m512 value[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) {
            value[r][v] = _mm512_load_ps(h + r * h_stride + kVector * v);
        }
    }
    // As in layers/avx512.cpp: one addressing mode for each row.
    int64_t one = dz_stride * static_cast<int64_t>(sizeof(float)), three = 3 * one, five = 5 * one, seven = 7 * one;
    asm("" : "+r"(one), "+r"(three), "+r"(five), "+r"(seven));
    const int64_t offsets[kBlockRows] = {0, one, 2 * one, three, 4 * one, five, 2 * three, seven};
    for (int n = 0; n < count; ++n) {
        const int64_t i = outputs[n];
        const char* column = reinterpret_cast<const char*>(dz + i);
        asm("" : "+r"(column));
        float* to = sum + i * (V * kVector);
        __m512 total[V];
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) {
            total[v] = _mm512_load_ps(to + kVector * v);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const __m512 factor = _mm512_set1_ps(*reinterpret_cast<const float*>(column + offsets[r]));
#pragma GCC unroll 3
            for (int v = 0; v < V; ++v) {
                total[v] = _mm512_fmadd_ps(factor, value[r][v], total[v]);
            }
        }
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) {
            _mm512_store_ps(to + kVector * v, total[v]);
        }
    }
}

using Multiply = void (*)(const float*, int64_t, const int32_t*, int, const float*, int64_t, float*);

template <int V, int... R>
constexpr std::array<Multiply, kBlockRows> for_rows(std::integer_sequence<int, R...>) {
    return {multiply<R + 1, V>...};
}
using Rows = std::make_integer_sequence<int, kBlockRows>;
// Of V vectors and R rows: kMultiply[V - 1][R - 1].
constexpr std::array<std::array<Multiply, kBlockRows>, kPanel> kMultiply = {for_rows<1>(Rows()), for_rows<2>(Rows()),
                                                                            for_rows<3>(Rows())};

class Avx512WeightGradient final : public WeightGradient {
  public:
    Avx512WeightGradient(int64_t in, int64_t out) : in_(in), out_(out), panels_(split_columns(in, kPanel)) {}

    // A list for each block, and its length.
    size_t scratch_bytes() const override {
        return static_cast<size_t>(kTileRows * (kSegment + kVector + 1)) * sizeof(int32_t);
    }

    // sum: panels, each [out, vectors * kVector].
    void add(const Tile& tile, const float* dz, const float* h, float* sum, char* scratch) const override {
        constexpr int64_t kList = kSegment + kVector;  // room for a whole vector past the end
        int32_t *lists = reinterpret_cast<int32_t*>(scratch), *counts = lists + kTileRows * kList;
        const int64_t dz_stride = padded(out_), h_stride = padded(in_);
        const size_t blocks = tile.blocks.size();
        for (int64_t first = 0; first < out_; first += kSegment) {
            const int64_t end = std::min(first + kSegment, out_);
            for (size_t b = 0; b < blocks; ++b) {
                const Block& block = tile.blocks[b];
                counts[b] = find_outputs(dz + block.first * dz_stride, dz_stride, block.count, first, end,
                                         lists + static_cast<int64_t>(b) * kList);
            }
            for (const Panel& panel : panels_) {
                for (size_t b = 0; b < blocks; ++b) {
                    const Block& block = tile.blocks[b];
                    const auto rows = static_cast<size_t>(block.count - 1);
                    kMultiply[static_cast<size_t>(panel.vectors - 1)][rows](
                        dz + block.first * dz_stride, dz_stride, lists + static_cast<int64_t>(b) * kList, counts[b],
                        h + block.first * h_stride + panel.first, h_stride, sum + panel.first * out_);
                }
            }
        }
    }

    void collect(const float* sum, float* weight) const override {
        collect_panels(sum, panels_, in_, out_, kVector, weight);
    }

  private:
    int64_t in_, out_;
    std::vector<Panel> panels_;
};

}  // namespace

std::unique_ptr<WeightGradient> make_avx512_weight_gradient(int64_t in, int64_t out) {
    return std::make_unique<Avx512WeightGradient>(in, out);
}

}  // namespace liif
#endif
