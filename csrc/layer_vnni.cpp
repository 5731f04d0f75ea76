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
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <utility>

#include "buffer.h"
#include "panels.h"
#include "vnni.h"

namespace liif {
namespace {

float largest_input(int64_t width) {
    return static_cast<float>(std::min(32767.0, std::floor(131071.0 / std::sqrt(static_cast<double>(width)))));
}

// What a column's weights are multiplied by; NaN if one of them is not finite.
float column_scale(const float* weight, int64_t width) {
    double sum = 0, largest = 0;
#pragma omp simd reduction(+ : sum) reduction(max : largest)
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
    const float bounded = value > -32767.0f ? std::min(value, 32767.0f) : -32767.0f;
    return static_cast<int16_t>(std::lrintf(bounded));
}

// 16-bit words of a stored row of a panel: pairs of vectors share 32 words, the last one has 32 for itself.
constexpr int64_t kRow = (kPanel + 1) / 2 * 32;

// Place of a column in a stored row, such that interleaving the words of two rows (vpunpcklwd, vpunpckhwd, which work
// within 128-bit lanes) leaves columns 0-15 in one register and 16-31 in the other.
int64_t stored_place(int64_t column) {
    const int64_t half = column % 32 / 16, lane = column % 16 / 4, place = column % 4;
    return column / 32 * 32 + lane * 8 + half * 4 + place;
}

constexpr int kAhead = 4;  // inputs

// A block's inputs in fixed point, without those that are zero in all of its rows.
struct Quantised {
    int16_t* words;    // [rows, stride]
    int32_t* weights;  // where each input's row of a panel starts, with zeros behind the last
    float* scales;     // of each row
    int count;         // inputs, made even by a zero
};

LIIF_VNNI inline __mmask16 lanes(int64_t left) {
    return left >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << std::max<int64_t>(left, 0)) - 1);
}

template <int R>
LIIF_VNNI void quantise(const float* in, int64_t stride, int64_t width, float input_max, int64_t word_stride,
                        Quantised& out) {
    // Bits without the sign compare as absolute values do, and a NaN is larger than all.
    __m512i largest[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
        largest[r] = _mm512_setzero_si512();
    }
    __m512i start = _mm512_mullo_epi32(_mm512_set1_epi32(kRow),
                                       _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    const __m512i next = _mm512_set1_epi32(16 * kRow);
    __mmask16* alive = reinterpret_cast<__mmask16*>(out.words + R * word_stride);
    int count = 0;
    for (int64_t k = 0; k < width; k += 16) {
        __m512i any = _mm512_setzero_si512();
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const __m512i bits = _mm512_slli_epi32(_mm512_maskz_loadu_epi32(lanes(width - k), in + r * stride + k), 1);
            largest[r] = _mm512_max_epu32(largest[r], bits);
            any = _mm512_or_si512(any, bits);
        }
        alive[k / 16] = _mm512_test_epi32_mask(any, any);
        _mm512_storeu_si512(out.weights + count, _mm512_maskz_compress_epi32(alive[k / 16], start));
        count += __builtin_popcount(alive[k / 16]);
        start = _mm512_add_epi32(start, next);
    }
    alive[(width + 15) / 16] = 0;

    __m512 factor[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
        const uint32_t bits = _mm512_reduce_max_epu32(largest[r]) >> 1;
        float value;
        std::memcpy(&value, &bits, sizeof(value));
        out.scales[r] = value / input_max;
        // A smaller value would have an infinite factor.
        factor[r] = _mm512_set1_ps(value > 1e-33f ? input_max / value : 0);
    }
    // Where _mm512_packs_epi32, which works within 128-bit lanes, puts its first operand's elements; the second's come
    // four places later.
    const __m512i packed = _mm512_setr_epi32(0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
    const __m512i packed_high = _mm512_add_epi32(packed, _mm512_set1_epi32(4));
    int16_t* to = out.words;
    for (int64_t k = 0; k < width; k += 32) {
        const __mmask16 low = alive[k / 16], high = alive[k / 16 + 1];
        alignas(64) int16_t order[48];
        const int low_count = __builtin_popcount(low);
        _mm256_store_si256(reinterpret_cast<__m256i*>(order),
                           _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(low, packed)));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(order + low_count),
                            _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(high, packed_high)));
        const __m512i keep = _mm512_load_si512(order);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const float* row = in + r * stride + k;
            const __m512 first = _mm512_maskz_loadu_ps(low, row), second = _mm512_maskz_loadu_ps(high, row + 16);
            const __m512i words = _mm512_packs_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(first, factor[r])),
                                                     _mm512_cvtps_epi32(_mm512_mul_ps(second, factor[r])));
            _mm512_storeu_si512(to + r * word_stride, _mm512_permutexvar_epi16(keep, words));
        }
        to += low_count + __builtin_popcount(high);
    }
    for (int r = 0; r < R; ++r) {
        out.words[r * word_stride + count] = 0;
    }
    _mm512_storeu_si512(out.weights + count, _mm512_setzero_si512());
    out.count = count + count % 2;
}

LIIF_VNNI inline void prefetch(const int16_t* row) { _mm_prefetch(reinterpret_cast<const char*>(row), _MM_HINT_T0); }

// out[r][n] = relu(bias[n] + row scale * column scale[n] * sum over the list of words[r][i] * panel[list[i]][n]) for R
// rows and V vectors of columns; or, with `active`, that sum where active > 0 and else zero.
template <int R, int V>
LIIF_VNNI void multiply(const Quantised& in, int64_t word_stride, const int16_t* panel, const float* column_scale,
                        const float* bias, const float* active, float* out, int64_t out_stride) {
    __m512i sum[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) {
            sum[r][v] = _mm512_setzero_si512();
        }
    }
    // As in layer_avx512.cpp: one addressing mode for each row.
    int64_t one = word_stride * static_cast<int64_t>(sizeof(int16_t)), three = 3 * one, five = 5 * one, seven = 7 * one;
    asm("" : "+r"(one), "+r"(three), "+r"(five), "+r"(seven));
    const int64_t offsets[kBlockRows] = {0, one, 2 * one, three, 4 * one, five, 2 * three, seven};
    const int32_t* weights = in.weights;
    for (int i = 0, count = in.count; i < count; i += 2) {
        const char* words = reinterpret_cast<const char*>(in.words + i);
        asm("" : "+r"(words));
        const int16_t *first = panel + weights[i], *second = panel + weights[i + 1];
        asm("" : "+r"(second));
        const int16_t *later = panel + weights[i + kAhead], *latest = panel + weights[i + kAhead + 1];
        __m512i weight[V];
#pragma GCC unroll 2
        for (int v = 0; v < V; v += 2) {
            prefetch(later + kVector * v);
            prefetch(latest + kVector * v);
            const __m512i a = _mm512_load_si512(first + kVector * v), b = _mm512_load_si512(second + kVector * v);
            weight[v] = _mm512_unpacklo_epi16(a, b);
            if (v + 1 < V) {
                weight[v + 1] = _mm512_unpackhi_epi16(a, b);
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            int32_t pair;
            std::memcpy(&pair, words + offsets[r], sizeof(pair));
            const __m512i value = _mm512_set1_epi32(pair);
#pragma GCC unroll 3
            for (int v = 0; v < V; ++v) {
                sum[r][v] = dot_add(sum[r][v], value, weight[v]);
            }
        }
    }
    const __m512 zero = _mm512_setzero_ps();
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) {
        const __m512 scale = _mm512_load_ps(column_scale + kVector * v), offset = _mm512_load_ps(bias + kVector * v);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const __m512 row = _mm512_mul_ps(_mm512_set1_ps(in.scales[r]), scale);
            const __m512 value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[r][v]), row, offset);
            const int64_t at = r * out_stride + kVector * v;
            // Not `less or equal`, and the second operand of the maximum: NaN goes on.
            const __m512 end =
                active ? _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(_mm512_load_ps(active + at), zero, _CMP_NLE_UQ), value)
                       : _mm512_max_ps(zero, value);
            _mm512_store_ps(out + at, end);
        }
    }
}

using Quantise = void (*)(const float*, int64_t, int64_t, float, int64_t, Quantised&);
using Multiply = void (*)(const Quantised&, int64_t, const int16_t*, const float*, const float*, const float*, float*,
                          int64_t);

template <int... R>
constexpr std::array<Quantise, kBlockRows> quantise_rows(std::integer_sequence<int, R...>) {
    return {quantise<R + 1>...};
}
template <int V, int... R>
constexpr std::array<Multiply, kBlockRows> multiply_rows(std::integer_sequence<int, R...>) {
    return {multiply<R + 1, V>...};
}
using Rows = std::make_integer_sequence<int, kBlockRows>;
// Of V vectors and R rows: kMultiply[V - 1][R - 1].
constexpr std::array<Quantise, kBlockRows> kQuantise = quantise_rows(Rows());
constexpr std::array<std::array<Multiply, kBlockRows>, kPanel> kMultiply = {
    multiply_rows<1>(Rows()), multiply_rows<2>(Rows()), multiply_rows<3>(Rows())};

class VnniLayer final : public Layer {
  public:
    explicit VnniLayer(const Linear& linear)
        : in_(linear.in),
          out_(linear.out),
          input_max_(largest_input(linear.in)),
          panels_(split_columns(linear.out)),
          packed_(panels_.size() * static_cast<size_t>(kRow * in_)),
          column_scale_(static_cast<size_t>(padded(out_))),
          bias_(static_cast<size_t>(padded(out_))) {
        std::fill_n(packed_.get(), panels_.size() * static_cast<size_t>(kRow * in_), int16_t{0});
        std::fill_n(column_scale_.get(), padded(out_), 0.0f);
        std::fill_n(bias_.get(), padded(out_), 0.0f);
        if (linear.bias) {
            std::copy_n(linear.bias, out_, bias_.get());
        }
        for (size_t p = 0; p < panels_.size(); ++p) {
            const int64_t first = panels_[p].first, end = std::min(first + panels_[p].vectors * kVector, out_);
            for (int64_t n = first; n < end; ++n) {
                const float* weight = linear.weight + n * in_;
                const float scale = column_scale(weight, in_);
                column_scale_[static_cast<size_t>(n)] = 1 / scale;
                int16_t* column = panel(p) + stored_place(n - first);
                for (int64_t k = 0; k < in_; ++k) {
                    column[k * kRow] = fixed_point(weight[k] * scale);
                }
            }
        }
    }

    size_t scratch_bytes() const override {
        return static_cast<size_t>((kBlockRows + 1) * word_stride()) * sizeof(int16_t) +
               static_cast<size_t>(word_stride()) * sizeof(int32_t);
    }

    void forward(const Tile& tile, const float* in, const float* active, float* out, char* scratch) const override {
        const int64_t in_stride = padded(in_), out_stride = padded(out_);
        int16_t* words = reinterpret_cast<int16_t*>(scratch);
        float scales[kBlockRows];
        Quantised block_in{words, reinterpret_cast<int32_t*>(words + (kBlockRows + 1) * word_stride()), scales, 0};
        for (const Block& block : tile.blocks) {
            float* to = out + block.first * out_stride;
            const float* keep = active ? active + block.first * out_stride : nullptr;
            kQuantise[block.count - 1](in + block.first * in_stride, in_stride, in_, input_max_, word_stride(),
                                       block_in);
            for (size_t p = 0; p < panels_.size(); ++p) {
                const int64_t first = panels_[p].first;
                kMultiply[panels_[p].vectors - 1][block.count - 1](
                    block_in, word_stride(), panel(p), column_scale_.get() + first, bias_.get() + first,
                    keep ? keep + first : nullptr, to + first, out_stride);
            }
        }
    }

  private:
    int16_t* panel(size_t p) const { return packed_.get() + static_cast<int64_t>(p) * kRow * in_; }
    // Room for a whole vector past the end.
    int64_t word_stride() const { return (in_ + 31) / 32 * 32 + 32; }

    int64_t in_, out_;
    float input_max_;
    std::vector<Panel> panels_;
    Buffer<int16_t> packed_;  // panels, each [in, kRow] with columns placed by stored_place
    Buffer<float> column_scale_;
    Buffer<float> bias_;
};

}  // namespace

std::unique_ptr<Layer> make_vnni_layer(const Linear& linear) { return std::make_unique<VnniLayer>(linear); }

}  // namespace liif
#endif
