// Fixed-point weight gradients for AVX2. Every column of a tile, of dz as of h, has a scale: its largest value becomes
// kLargest. Sums over a tile's rows are exact in 32 bits.
#include "weight_gradient.h"

#if defined(__x86_64__)
#include <algorithm>

#include "avx2.h"
#include "rows.h"

namespace liif {
namespace {

constexpr float kLargest = 4095;
static_assert(kTileRows * 4095 * 4095 <= 2147483647);
constexpr int64_t kPairs = kTileRows / 2;
// Four outputs by two vectors of inputs keep eight sums, two inputs, one factor and one product in the 16 registers.
constexpr int kOutputs = 4;
constexpr int kPanel = 2;
static_assert(kPanel * kLanes == kVector);

// Eight columns of `from`, as pairs of rows that share 32 bits, every `step` words of 32 bits; where a row is missing,
// 0. scales gets what turns the words back into values: NaN or infinity where a value is one.
LIIF_AVX2 void quantise(int64_t rows, const float* from, int64_t stride, int64_t step, int32_t* to, float* scales) {
    __m256i largest = _mm256_setzero_si256();
    for (int64_t r = 0; r < rows; ++r) {
        // Bits without the sign compare as absolute values do, and a NaN is larger than all.
        const __m256i bits = _mm256_castps_si256(_mm256_load_ps(from + r * stride));
        largest = _mm256_max_epu32(largest, _mm256_slli_epi32(bits, 1));
    }
    const __m256 bound = _mm256_castsi256_ps(_mm256_srli_epi32(largest, 1)), limit = _mm256_set1_ps(kLargest);
    // A smaller bound would have an infinite factor.
    const __m256 some = _mm256_cmp_ps(bound, _mm256_set1_ps(1e-33f), _CMP_NLE_UQ);
    const __m256 factor = _mm256_and_ps(some, _mm256_div_ps(limit, bound));
    _mm256_store_ps(scales, _mm256_div_ps(bound, limit));
    for (int64_t r = 0; r < rows; r += 2) {
        const float* row = from + r * stride;
        const __m256i low = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_load_ps(row), factor));
        __m256i high = _mm256_setzero_si256();
        if (r + 1 < rows) {
            high = _mm256_slli_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(_mm256_load_ps(row + stride), factor)), 16);
        }
        _mm256_store_si256(reinterpret_cast<__m256i*>(to + r / 2 * step), _mm256_blend_epi16(low, high, 0xAA));
    }
}

// sum[i][k] += scale of output i * scale of input k * sum_r dz[r][i] * h[r][k] for `outputs` of the kOutputs and a
// panel of inputs; h has a panel in a row, dz one vector.
LIIF_AVX2 void multiply(int64_t pairs, const int32_t* dz, const float* dz_scales, const int32_t* h,
                        const float* h_scales, int outputs, float* sum, int64_t stride) {
    __m256i total[kOutputs][kPanel];
#pragma GCC unroll 4
    for (int i = 0; i < kOutputs; ++i) {
        total[i][0] = total[i][1] = _mm256_setzero_si256();
    }
    for (int64_t p = 0; p < pairs; ++p) {
        const auto* row = reinterpret_cast<const __m256i*>(h) + p * kPanel;
        const __m256i first = _mm256_load_si256(row), second = _mm256_load_si256(row + 1);
#pragma GCC unroll 4
        for (int i = 0; i < kOutputs; ++i) {
            const __m256i factor = _mm256_set1_epi32(dz[p * kLanes + i]);
            total[i][0] = _mm256_add_epi32(total[i][0], _mm256_madd_epi16(factor, first));
            total[i][1] = _mm256_add_epi32(total[i][1], _mm256_madd_epi16(factor, second));
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < kOutputs; ++i) {
        if (i == outputs) {
            return;
        }
#pragma GCC unroll 2
        for (int v = 0; v < kPanel; ++v) {
            float* to = sum + i * stride + kLanes * v;
            const __m256 scale = _mm256_mul_ps(_mm256_set1_ps(dz_scales[i]), _mm256_load_ps(h_scales + kLanes * v));
            _mm256_store_ps(to, _mm256_fmadd_ps(_mm256_cvtepi32_ps(total[i][v]), scale, _mm256_load_ps(to)));
        }
    }
}

class MaddWeightGradient final : public WeightGradient {
  public:
    MaddWeightGradient(int64_t in, int64_t out) : in_(in), out_(out) {}

    size_t scratch_bytes() const override {
        return static_cast<size_t>(kPairs * (kVector + padded(out_)) + kVector + padded(out_)) * sizeof(int32_t);
    }

    // sum: [out, padded(in)].
    void add(const Tile& tile, const float* dz, const float* h, float* sum, char* scratch) const override {
        const int64_t rows = tile.rows, pairs = (rows + 1) / 2;
        int32_t *columns = reinterpret_cast<int32_t*>(scratch), *panel = columns + kPairs * padded(out_);
        float *dz_scales = reinterpret_cast<float*>(panel + kPairs * kVector), *h_scales = dz_scales + padded(out_);
        for (int64_t n = 0; n < out_; n += kLanes) {
            quantise(rows, dz + n, padded(out_), kLanes, columns + n * kPairs, dz_scales + n);
        }
        for (int64_t k = 0; k < in_; k += kVector) {
            for (int64_t v = 0; v < kVector; v += kLanes) {
                quantise(rows, h + k + v, padded(in_), kVector, panel + v, h_scales + v);
            }
            for (int64_t n = 0; n < out_; n += kOutputs) {
                const int64_t vector = n / kLanes * kLanes;
                multiply(pairs, columns + vector * kPairs + (n - vector), dz_scales + n, panel, h_scales,
                         static_cast<int>(std::min<int64_t>(kOutputs, out_ - n)), sum + n * padded(in_) + k,
                         padded(in_));
            }
        }
    }

    void collect(const float* sum, float* weight) const override {
        for (int64_t n = 0; n < out_; ++n) {
            add_row(sum + n * padded(in_), 1.0f, in_, weight + n * in_);
        }
    }

  private:
    int64_t in_, out_;
};

}  // namespace

std::unique_ptr<WeightGradient> make_madd_weight_gradient(int64_t in, int64_t out) {
    return std::make_unique<MaddWeightGradient>(in, out);
}

}  // namespace liif
#endif
