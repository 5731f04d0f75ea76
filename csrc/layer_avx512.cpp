// float32 layers for AVX-512. About half of what a ReLU lets through is zero, and neighbouring rows (the same feature
// pixel seen from nearby queries) have their zeros in nearly the same places. So each block of rows gets a list of the
// inputs that are not zero in all of its rows, and the multiplication walks that list. Skipping exact zeros changes no
// sum (weights are finite).
#include "layer.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>

#include "buffer.h"

#define LIIF_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

namespace liif {
namespace {

constexpr int kVectors = static_cast<int>(kPanel / 16);

// Inputs that are not zero in all rows of the block, in ascending order; returns how many.
LIIF_AVX512 int nonzero_inputs(const float* in, int64_t stride, int rows, int64_t width, int32_t* list) {
    const __m512i step = _mm512_set1_epi32(16);
    __m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512 zero = _mm512_setzero_ps();
    int count = 0;
    for (int64_t k = 0; k < width; k += 16) {
        const __mmask16 inside = width - k >= 16 ? 0xFFFF : static_cast<__mmask16>((1u << (width - k)) - 1);
        __mmask16 alive = 0;
        for (int r = 0; r < rows; ++r) {
            // Unordered: a NaN is not zero.
            alive |= _mm512_cmp_ps_mask(_mm512_loadu_ps(in + r * stride + k), zero, _CMP_NEQ_UQ);
        }
        alive &= inside;
        _mm512_storeu_si512(list + count, _mm512_maskz_compress_epi32(alive, index));
        count += __builtin_popcount(alive);
        index = _mm512_add_epi32(index, step);
    }
    return count;
}

// out[r][0..63] = relu(bias + sum over the list of in[r][k] * panel[k][0..63]). Six rows by four vectors of columns
// keep 24 sums, four weights and one input in the 32 registers; a step does 24 multiply-adds for 10 loads.
template <int R>
LIIF_AVX512 void multiply(const float* in, int64_t in_stride, const int32_t* list, int count, const float* panel,
                          const float* bias, float* out, int64_t out_stride) {
    __m512 sum[R][kVectors];
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
            sum[r][v] = _mm512_load_ps(bias + 16 * v);
        }
    }
    // Six addresses from one pointer: base + stride * {0, 1, 2, 4} and two odd multiples in registers of their own.
    const int64_t offsets[kBlockRows] = {0, in_stride, 2 * in_stride, 3 * in_stride, 4 * in_stride, 5 * in_stride};
    for (int i = 0; i < count; ++i) {
        const int64_t k = list[i];
        const float* column = in + k;
        const float* row = panel + k * kPanel;
        __m512 weight[kVectors];
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
            weight[v] = _mm512_load_ps(row + 16 * v);
        }
#pragma GCC unroll 6
        for (int r = 0; r < R; ++r) {
            const __m512 value = _mm512_set1_ps(column[offsets[r]]);
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) {
                sum[r][v] = _mm512_fmadd_ps(value, weight[v], sum[r][v]);
            }
        }
    }
    const __m512 zero = _mm512_setzero_ps();
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
            // The second operand is returned for NaN, so that a NaN goes on.
            _mm512_store_ps(out + r * out_stride + 16 * v, _mm512_max_ps(zero, sum[r][v]));
        }
    }
}

using Multiply = void (*)(const float*, int64_t, const int32_t*, int, const float*, const float*, float*, int64_t);
constexpr Multiply kMultiply[kBlockRows] = {multiply<1>, multiply<2>, multiply<3>,
                                            multiply<4>, multiply<5>, multiply<6>};

class Avx512Layer final : public Layer {
  public:
    explicit Avx512Layer(const Linear& linear)
        : in_(linear.in),
          out_(linear.out),
          packed_(static_cast<size_t>(padded(out_) * in_)),
          bias_(static_cast<size_t>(padded(out_))) {
        std::memset(packed_.get(), 0, static_cast<size_t>(padded(out_) * in_) * sizeof(float));
        std::memset(bias_.get(), 0, static_cast<size_t>(padded(out_)) * sizeof(float));
        std::memcpy(bias_.get(), linear.bias, static_cast<size_t>(out_) * sizeof(float));
        for (int64_t n = 0; n < out_; ++n) {
            float* panel = packed_.get() + n / kPanel * kPanel * in_ + n % kPanel;
            for (int64_t k = 0; k < in_; ++k) {
                panel[k * kPanel] = linear.weight[n * in_ + k];
            }
        }
    }

    size_t scratch_bytes() const override { return static_cast<size_t>(list_stride()) * sizeof(int32_t); }

    void forward(const Tile& tile, const float* in, float* out, char* scratch) const override {
        const int64_t in_stride = padded(in_), out_stride = padded(out_);
        int32_t* list = reinterpret_cast<int32_t*>(scratch);
        for (const Block& block : tile.blocks) {
            const float* rows = in + block.first * in_stride;
            const int count = nonzero_inputs(rows, in_stride, block.count, in_, list);
            for (int64_t n = 0; n < out_; n += kPanel) {
                kMultiply[block.count - 1](rows, in_stride, list, count, packed_.get() + n * in_, bias_.get() + n,
                                           out + block.first * out_stride + n, out_stride);
            }
        }
    }

  private:
    // Room for a whole vector past the end.
    int64_t list_stride() const { return (in_ + 15) / 16 * 16 + 16; }

    int64_t in_, out_;
    Buffer<float> packed_;  // panels of kPanel columns, each [in, kPanel]
    Buffer<float> bias_;
};

}  // namespace

std::unique_ptr<Layer> make_avx512_layer(const Linear& linear) { return std::make_unique<Avx512Layer>(linear); }

}  // namespace liif
#endif
