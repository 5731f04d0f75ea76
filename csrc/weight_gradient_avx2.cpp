// float32 weight gradients for AVX2. As in weight_gradient_avx512.cpp, outputs whose dz is zero in a whole block of
// rows are skipped: a block's rows of h stay in registers while its other outputs pass by.
#include "weight_gradient_skipping.h"

#if defined(__x86_64__)
#include <array>
#include <utility>

#include "avx2.h"

namespace liif {
namespace {

// Six rows of two vectors keep 12 inputs, two sums and one factor in the 16 registers.
constexpr int kRows = 6;
constexpr int kPanel = 2;

LIIF_AVX2 int find_outputs(const float* dz, int64_t stride, int rows, int64_t first, int64_t end, int32_t* outputs) {
    __m256i index =
        _mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(first)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    int count = 0;
    for (int64_t n = first; n < end; n += kLanes) {
        __m256i any = _mm256_setzero_si256();
        for (int r = 0; r < rows; ++r) {
            any = _mm256_or_si256(any, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(dz + r * stride + n)));
        }
        const unsigned alive = not_zero(_mm256_slli_epi32(any, 1)) & first_lanes(end - n);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(outputs + count),
                            _mm256_permutevar8x32_epi32(index, to_front(alive)));
        count += __builtin_popcount(alive);
        index = _mm256_add_epi32(index, _mm256_set1_epi32(kLanes));
    }
    return count;
}

template <int R, int V>
LIIF_AVX2 void multiply(const float* dz, int64_t dz_stride, const int32_t* outputs, int count, const float* h,
                        int64_t h_stride, float* sum) {
    __m256 value[R][V];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) {
            value[r][v] = _mm256_load_ps(h + r * h_stride + kLanes * v);
        }
    }
    // As in layer_avx512.cpp: one addressing mode for each row.
    int64_t one = dz_stride * static_cast<int64_t>(sizeof(float)), three = 3 * one, five = 5 * one;
    asm("" : "+r"(one), "+r"(three), "+r"(five));
    const int64_t offsets[kRows] = {0, one, 2 * one, three, 4 * one, five};
    for (int n = 0; n < count; ++n) {
        const int64_t i = outputs[n];
        const char* column = reinterpret_cast<const char*>(dz + i);
        asm("" : "+r"(column));
        float* to = sum + i * (V * kLanes);
        __m256 total[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) {
            total[v] = _mm256_load_ps(to + kLanes * v);
        }
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) {
            const __m256 factor = _mm256_broadcast_ss(reinterpret_cast<const float*>(column + offsets[r]));
#pragma GCC unroll 2
            for (int v = 0; v < V; ++v) {
                total[v] = _mm256_fmadd_ps(factor, value[r][v], total[v]);
            }
        }
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) {
            _mm256_store_ps(to + kLanes * v, total[v]);
        }
    }
}

using Multiply = void (*)(const float*, int64_t, const int32_t*, int, const float*, int64_t, float*);

template <int V, int... R>
constexpr std::array<Multiply, kRows> for_rows(std::integer_sequence<int, R...>) {
    return {multiply<R + 1, V>...};
}
using Rows = std::make_integer_sequence<int, kRows>;
// Of V vectors and R rows: kMultiply[V - 1][R - 1].
constexpr std::array<std::array<Multiply, kRows>, kPanel> kMultiply = {for_rows<1>(Rows()), for_rows<2>(Rows())};

struct Kernel {
    static constexpr int64_t kPanel = liif::kPanel, kWide = kLanes;
    static constexpr auto& find_outputs = liif::find_outputs;
    static constexpr auto& kMultiply = liif::kMultiply;
};

}  // namespace

std::unique_ptr<WeightGradient> make_avx2_weight_gradient(int64_t in, int64_t out) {
    return std::make_unique<SkippingWeightGradient<Kernel>>(in, out);
}

}  // namespace liif
#endif
