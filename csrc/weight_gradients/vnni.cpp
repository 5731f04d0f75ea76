// Fixed-point weight gradients for AVX-512 VNNI, at twice the multiply-add rate of float32. Every column of a tile, of
// dz as of h, has a scale: its largest value becomes kLargest. Sums over a tile's rows are exact in 32 bits.
#include "weight_gradients/weight_gradient.h"

#if defined(__x86_64__)
#include <algorithm>
#include <vector>

#include "layers/panels.h"
#include "simd/avx512.h"
#include "simd/dispatch.h"
#include "simd/rows.h"

namespace liif {
namespace {

using namespace avx512;

constexpr float kLargest = 4095;
static_assert(kTileRows * 4095 * 4095 <= 2147483647);
constexpr int64_t kPairs = kTileRows / 2;
constexpr int kOutputs = 8;  // worked on together
constexpr int kPanel = 3;    // vectors of inputs at most

// 16 columns of `from`, as pairs of rows that share 32 bits, every `step` words of 32 bits; where a row is missing, 0.
// scales gets what turns the words back into values: NaN or infinity where a value is one.
LIIF_VNNI void quantise(int64_t rows, const float* from, int64_t stride, int64_t step, int32_t* to, float* scales) {
    __m512i largest = _mm512_setzero_si512();
    for (int64_t r = 0; r < rows; ++r) {
        // Bits without the sign compare as absolute values do, and a NaN is larger than all.
        largest = _mm512_max_epu32(largest, _mm512_slli_epi32(_mm512_loadu_si512(from + r * stride), 1));
    }
    const __m512 bound = _mm512_castsi512_ps(_mm512_srli_epi32(largest, 1)), limit = _mm512_set1_ps(kLargest);
    // A smaller bound would have an infinite factor.
    const __mmask16 some = _mm512_cmp_ps_mask(bound, _mm512_set1_ps(1e-33f), _CMP_NLE_UQ);
    const __m512 factor = _mm512_maskz_div_ps(some, limit, bound);
    _mm512_store_ps(scales, _mm512_div_ps(bound, limit));
    for (int64_t r = 0; r < rows; r += 2) {
        const float* row = from + r * stride;
        const __m512i low = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_load_ps(row), factor));
        __m512i high = _mm512_setzero_si512();
        if (r + 1 < rows) {
            high = _mm512_slli_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(_mm512_load_ps(row + stride), factor)), 16);
        }
        _mm512_store_si512(to + r / 2 * step, _mm512_mask_blend_epi16(0xAAAAAAAA, low, high));
    }
}

// sum[i][k] += scale of output i * scale of input k * sum_r dz[r][i] * h[r][k] for `outputs` of the kOutputs and V
// vectors of inputs; h has V vectors in a row, dz one.
template <int V>
LIIF_VNNI void multiply(int64_t pairs, const int32_t* dz, const float* dz_scales, const int32_t* h,
                        const float* h_scales, int outputs, float* sum, int64_t stride) {
    __m512i total[kOutputs][V];
#pragma GCC unroll 8
    for (int i = 0; i < kOutputs; ++i) {
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) {
            total[i][v] = _mm512_setzero_si512();
            _mm_prefetch(reinterpret_cast<const char*>(sum + std::min(i, outputs - 1) * stride + kVector * v),
                         _MM_HINT_T0);
        }
    }
    for (int64_t p = 0; p < pairs; ++p) {
        __m512i value[V];
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) {
            value[v] = _mm512_load_si512(h + (p * V + v) * kVector);
        }
#pragma GCC unroll 8
        for (int i = 0; i < kOutputs; ++i) {
            const __m512i factor = _mm512_set1_epi32(dz[p * kVector + i]);
#pragma GCC unroll 3
            for (int v = 0; v < V; ++v) {
                total[i][v] = dot_add(total[i][v], factor, value[v]);
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kOutputs; ++i) {
        if (i == outputs) {
            return;
        }
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) {
            float* to = sum + i * stride + kVector * v;
            const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(dz_scales[i]), _mm512_load_ps(h_scales + kVector * v));
            _mm512_store_ps(to, _mm512_fmadd_ps(_mm512_cvtepi32_ps(total[i][v]), scale, _mm512_load_ps(to)));
        }
    }
}

class VnniWeightGradient final : public WeightGradient {
  public:
    VnniWeightGradient(int64_t in, int64_t out) : in_(in), out_(out), panels_(split_columns(in, kPanel)) {}

    size_t scratch_bytes() const override {
        return static_cast<size_t>((kPairs + 1) * (padded(in_) + padded(out_))) * sizeof(int32_t);
    }

    // sum: [out, padded(in)].
    void add(const Tile& tile, const float* dz, const float* h, float* sum, char* scratch) const override {
        const int64_t rows = tile.rows;
        int32_t *columns = reinterpret_cast<int32_t*>(scratch), *panels = columns + kPairs * padded(out_);
        float* dz_scales = reinterpret_cast<float*>(panels + kPairs * padded(in_));
        float* h_scales = dz_scales + padded(out_);
        for (int64_t n = 0; n < out_; n += kVector) {
            quantise(rows, dz + n, padded(out_), kVector, columns + n * kPairs, dz_scales + n);
        }
        for (const Panel& part : panels_) {
            int32_t* panel = panels + part.first * kPairs;
            for (int64_t v = 0; v < part.vectors; ++v) {
                const int64_t k = part.first + v * kVector;
                quantise(rows, h + k, padded(in_), part.vectors * kVector, panel + v * kVector, h_scales + k);
            }
            constexpr auto kMultiply = table<kPanel>([](auto v) { return &multiply<v>; });
            for (int64_t n = 0; n < out_; n += kOutputs) {
                const int64_t vector = n / kVector * kVector;
                kMultiply[part.vectors - 1]((rows + 1) / 2, columns + vector * kPairs + (n - vector), dz_scales + n,
                                            panel, h_scales + part.first,
                                            static_cast<int>(std::min<int64_t>(kOutputs, out_ - n)),
                                            sum + n * padded(in_) + part.first, padded(in_));
            }
        }
    }

    void collect(const float* sum, float* weight) const override {
        for (int64_t n = 0; n < out_; ++n) {
            loops.add_row(sum + n * padded(in_), 1.0f, in_, weight + n * in_);
        }
    }

  private:
    int64_t in_, out_;
    std::vector<Panel> panels_;
};

}  // namespace

std::unique_ptr<WeightGradient> make_vnni_weight_gradient(int64_t in, int64_t out) {
    return std::make_unique<VnniWeightGradient>(in, out);
}

}  // namespace liif
#endif
