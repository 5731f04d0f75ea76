// Fixed-point layers for AVX-512 VNNI, at twice the multiply-add rate of float32 and, with 13-bit inputs and about
// 12-bit weights at width 256, more accurate than bfloat16. As in layer_avx512.cpp, inputs that are zero in a whole
// block are skipped.
//
// Every row has a scale (its largest input becomes input_max) and every output column one (for its weights). The 32-bit
// sums cannot overflow: |sum| <= input_max * sum_k |w_k|, and a column's scale keeps that below 2^31; rounding can add
// a half to each weight, which column_scale takes off in advance. input_max falls with the square root of the width, so
// that inputs and weights share the 31 bits evenly.
#include "layer.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "buffer.h"

#define LIIF_VNNI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))

namespace liif {
namespace {

constexpr int kVectors = static_cast<int>(kPanel / 16);
float largest_input(int64_t width) {
    return static_cast<float>(std::min(32767.0, std::floor(131071.0 / std::sqrt(static_cast<double>(width)))));
}

// What a column's weights are multiplied by; NaN if one of them is not finite.
float column_scale(const float* weight, int64_t width) {
    double sum = 0, largest = 0;
    for (int64_t k = 0; k < width; ++k) {
        sum += std::fabs(weight[k]);
        largest = std::max<double>(largest, std::fabs(weight[k]));
    }
    if (!std::isfinite(sum)) {
        return NAN;
    }
    const double room = 2147483647.0 / largest_input(width) - 0.5 * static_cast<double>(width);
    const double scale = std::min(room / sum, 32767.0 / largest);
    return scale < 1e30 ? static_cast<float>(scale) : 1.0f;
}

int16_t fixed_point(float value) {
    return static_cast<int16_t>(std::isnan(value) ? 0.0f
                                                  : std::min(std::max(std::nearbyintf(value), -32767.0f), 32767.0f));
}

// Place of a column in a stored row of 32, such that interleaving the 16-bit words of two such rows (vpunpcklwd,
// vpunpckhwd, which work within 128-bit lanes) leaves columns 0-15 in one register and 16-31 in the other.
int64_t stored_place(int64_t column) {
    const int64_t half = column / 16, lane = column % 16 / 4, place = column % 4;
    return lane * 8 + half * 4 + place;
}

// Largest input of a row, or NaN if there is one.
LIIF_VNNI float row_max(const float* in, int64_t width) {
    __m512 largest = _mm512_setzero_ps();
    __mmask16 nan = 0;
    for (int64_t k = 0; k < width; k += 16) {
        const __mmask16 inside = width - k >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << (width - k)) - 1);
        const __m512 value = _mm512_maskz_loadu_ps(inside, in + k);
        largest = _mm512_max_ps(largest, value);
        nan |= _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    }
    return nan ? NAN : _mm512_reduce_max_ps(largest);
}

// A block's inputs as 16-bit numbers without those that are zero in all of its rows: words [rows, word_stride], the
// list of inputs that are left and the scale of each row. Returns their number, made even by a zero.
LIIF_VNNI int quantise(const float* in, int64_t stride, int rows, int64_t width, float input_max, int16_t* words,
                       int64_t word_stride, int32_t* list, float* scales) {
    const __m512 zero = _mm512_setzero_ps();
    __m512 inverse[kBlockRows];
    for (int r = 0; r < rows; ++r) {
        const float largest = row_max(in + r * stride, width);
        scales[r] = largest / input_max;
        inverse[r] = _mm512_set1_ps(largest > 0 ? input_max / largest : 0);
    }
    __m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    int count = 0;
    for (int64_t k = 0; k < width; k += 16) {
        const __mmask16 inside = width - k >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << (width - k)) - 1);
        __m512 value[kBlockRows];
        __mmask16 alive = 0;
        for (int r = 0; r < rows; ++r) {
            value[r] = _mm512_loadu_ps(in + r * stride + k);
            alive |= _mm512_cmp_ps_mask(value[r], zero, _CMP_NEQ_UQ);
        }
        alive &= inside;
        for (int r = 0; r < rows; ++r) {
            const __m512i rounded = _mm512_cvtps_epi32(_mm512_mul_ps(value[r], inverse[r]));
            const __m512i kept = _mm512_maskz_compress_epi32(alive, rounded);
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(words + r * word_stride + count),
                                _mm512_cvtsepi32_epi16(kept));
        }
        _mm512_storeu_si512(list + count, _mm512_maskz_compress_epi32(alive, index));
        count += __builtin_popcount(alive);
        index = _mm512_add_epi32(index, _mm512_set1_epi32(16));
    }
    if (count % 2 != 0) {
        list[count] = 0;
        for (int r = 0; r < rows; ++r) {
            words[r * word_stride + count] = 0;
        }
        ++count;
    }
    return count;
}

// sum + the two products of 16-bit words in each 32-bit lane. Not the intrinsic: around it GCC 12 copies and spills the
// sums in every step.
LIIF_VNNI inline __m512i dot_add(__m512i sum, __m512i a, __m512i b) {
    asm("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
}

constexpr int kAhead = 4;  // inputs; the list is readable past its end, and any address may be prefetched

LIIF_VNNI inline void prefetch(const int16_t* row) {
    _mm_prefetch(reinterpret_cast<const char*>(row), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(row + kPanel / 2), _MM_HINT_T0);
}

// out[r][0..63] = relu(bias + row scale * column scale * sum over the list of words[r][i] * panel[list[i]][0..63]).
template <int R>
LIIF_VNNI void multiply(const int16_t* words, int64_t word_stride, const int32_t* list, int count, const float* scales,
                        const int16_t* panel, const float* column_scale, const float* bias, float* out,
                        int64_t out_stride) {
    __m512i sum[R][kVectors];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
            sum[r][v] = _mm512_setzero_si512();
        }
    }
    const int64_t offsets[kBlockRows] = {
        0, word_stride, 2 * word_stride, 3 * word_stride, 4 * word_stride, 5 * word_stride};
    for (int i = 0; i < count; i += 2) {
        const int16_t* first = panel + static_cast<int64_t>(list[i]) * kPanel;
        const int16_t* second = panel + static_cast<int64_t>(list[i + 1]) * kPanel;
        prefetch(panel + static_cast<int64_t>(list[i + kAhead]) * kPanel);
        prefetch(panel + static_cast<int64_t>(list[i + kAhead + 1]) * kPanel);
        __m512i weight[kVectors];
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; v += 2) {
            const __m512i a = _mm512_load_si512(first + 16 * v);
            const __m512i b = _mm512_load_si512(second + 16 * v);
            weight[v] = _mm512_unpacklo_epi16(a, b);
            weight[v + 1] = _mm512_unpackhi_epi16(a, b);
        }
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) {
            int32_t pair;
            std::memcpy(&pair, words + offsets[r] + i, sizeof(pair));
            const __m512i value = _mm512_set1_epi32(pair);
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) {
                sum[r][v] = dot_add(sum[r][v], value, weight[v]);
            }
        }
    }
    const __m512 zero = _mm512_setzero_ps();
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
        const __m512 row_scale = _mm512_set1_ps(scales[r]);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
            const __m512 scale = _mm512_mul_ps(row_scale, _mm512_load_ps(column_scale + 16 * v));
            const __m512 value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][v]), scale, _mm512_load_ps(bias + 16 * v));
            // The second operand is returned for NaN, so that a NaN goes on.
            _mm512_store_ps(out + r * out_stride + 16 * v, _mm512_max_ps(zero, value));
        }
    }
}

using Multiply = void (*)(const int16_t*, int64_t, const int32_t*, int, const float*, const int16_t*, const float*,
                          const float*, float*, int64_t);
constexpr Multiply kMultiply[kBlockRows] = {multiply<1>, multiply<2>, multiply<3>,
                                            multiply<4>, multiply<5>, multiply<6>};

class VnniLayer final : public Layer {
  public:
    explicit VnniLayer(const Linear& linear)
        : in_(linear.in),
          out_(linear.out),
          input_max_(largest_input(linear.in)),
          packed_(static_cast<size_t>(padded(out_) * in_)),
          column_scale_(static_cast<size_t>(padded(out_))),
          bias_(static_cast<size_t>(padded(out_))) {
        std::memset(packed_.get(), 0, static_cast<size_t>(padded(out_) * in_) * sizeof(int16_t));
        std::memset(column_scale_.get(), 0, static_cast<size_t>(padded(out_)) * sizeof(float));
        std::memset(bias_.get(), 0, static_cast<size_t>(padded(out_)) * sizeof(float));
        std::memcpy(bias_.get(), linear.bias, static_cast<size_t>(out_) * sizeof(float));
        for (int64_t n = 0; n < out_; ++n) {
            const float* weight = linear.weight + n * in_;
            const float scale = column_scale(weight, in_);
            column_scale_[static_cast<size_t>(n)] = 1 / scale;
            const int64_t column = n % kPanel;
            int16_t* panel = packed_.get() + n / kPanel * kPanel * in_ + column / 32 * 32 + stored_place(column % 32);
            for (int64_t k = 0; k < in_; ++k) {
                panel[k * kPanel] = fixed_point(weight[k] * scale);
            }
        }
    }

    size_t scratch_bytes() const override {
        return static_cast<size_t>(list_stride()) * (kBlockRows * sizeof(int16_t) + sizeof(int32_t));
    }

    void forward(const Tile& tile, const float* in, float* out, char* scratch) const override {
        const int64_t in_stride = padded(in_), out_stride = padded(out_);
        int16_t* words = reinterpret_cast<int16_t*>(scratch);
        int32_t* list = reinterpret_cast<int32_t*>(words + kBlockRows * list_stride());
        float scales[kBlockRows];
        for (const Block& block : tile.blocks) {
            const int count = quantise(in + block.first * in_stride, in_stride, block.count, in_, input_max_, words,
                                       list_stride(), list, scales);
            for (int64_t n = 0; n < out_; n += kPanel) {
                kMultiply[block.count - 1](words, list_stride(), list, count, scales, packed_.get() + n * in_,
                                           column_scale_.get() + n, bias_.get() + n, out + block.first * out_stride + n,
                                           out_stride);
            }
        }
    }

  private:
    // Room for a whole vector past the end.
    int64_t list_stride() const { return (in_ + 15) / 16 * 16 + 16; }

    int64_t in_, out_;
    float input_max_;
    Buffer<int16_t> packed_;  // panels of kPanel columns, each [in, kPanel] with columns placed by stored_place
    Buffer<float> column_scale_;
    Buffer<float> bias_;
};

}  // namespace

std::unique_ptr<Layer> make_vnni_layer(const Linear& linear) { return std::make_unique<VnniLayer>(linear); }

}  // namespace liif
#endif
