// float32 layers for AVX-512. Half or more of what leaves a ReLU is zero, and neighbouring rows (the same feature pixel
// seen from nearby queries) have their zeros in nearly the same places. So each block of rows gets a list of the inputs
// that are not zero in all of its rows, and the multiplication walks that list. Skipping exact zeros changes no sum,
// except that an infinite weight times zero, NaN in a full product, is left out.
#include "layers/layer.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "buffer.h"
#include "layers/panels.h"

#define LIIF_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

namespace liif {
namespace {

// Vectors of columns in a panel at most. Eight rows by three vectors keep 24 sums, three weights and one input in the
// 32 registers; a step does 24 multiply-adds for 11 loads.
constexpr int kPanel = 3;

// Floats of a stored row of a panel.
constexpr int64_t kRow = kPanel * kVector;

constexpr int kAhead = 4;  // steps

// What a block multiplies: one step for each input that is not zero in all of its rows.
struct Steps {
    int32_t* inputs;   // which input
    int32_t* weights;  // where its row of a panel starts, with zeros behind the last
    int count;
};

LIIF_AVX512 void find_steps(const float* in, int64_t stride, int rows, int64_t width, Steps& steps) {
    const __m512i sixteen = _mm512_set1_epi32(16), row = _mm512_set1_epi32(kRow);
    const __m512i no_sign = _mm512_set1_epi32(0x7FFFFFFF), zero = _mm512_setzero_si512();
    __m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    int count = 0;
    for (int64_t k = 0; k < width; k += 16) {
        __m512i any = zero;
        for (int r = 0; r < rows; ++r) {
            any = _mm512_or_si512(any, _mm512_loadu_si512(in + r * stride + k));
        }
        const auto inside = static_cast<__mmask16>(width - k >= 16 ? 0xFFFF : (1u << (width - k)) - 1);
        const __mmask16 alive = _mm512_mask_test_epi32_mask(inside, any, no_sign);
        const __m512i found = _mm512_maskz_compress_epi32(alive, index);
        _mm512_storeu_si512(steps.inputs + count, found);
        _mm512_storeu_si512(steps.weights + count, _mm512_mullo_epi32(found, row));
        count += __builtin_popcount(alive);
        index = _mm512_add_epi32(index, sixteen);
    }
    _mm512_storeu_si512(steps.weights + count, zero);
    steps.count = count;
}

// out[r][n] = relu(bias[n] + sum over the list of in[r][k] * panel[k][n]) for R rows and V vectors of columns; or, with
// `active`, that sum where active > 0 and else zero.
template <int R, int V>
LIIF_AVX512 void multiply(const float* in, int64_t in_stride, const Steps& steps, const float* panel, const float* bias,
                          const float* active, float* out, int64_t out_stride) {
    __m512 sum[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) {
            sum[r][v] = _mm512_load_ps(bias + kVector * v);
        }
    }
    // Every row is one addressing mode away from the same pointer: stride * {0, 1, 2, 4} or an odd multiple of its own.
    // The empty asm keeps the compiler from rewriting that as a chain of additions, for which no issue slots are left.
    int64_t one = in_stride * static_cast<int64_t>(sizeof(float)), three = 3 * one, five = 5 * one, seven = 7 * one;
    asm("" : "+r"(one), "+r"(three), "+r"(five), "+r"(seven));
    const int64_t offsets[kBlockRows] = {0, one, 2 * one, three, 4 * one, five, 2 * three, seven};
    const int32_t *inputs = steps.inputs, *weights = steps.weights;
    for (int i = 0, count = steps.count; i < count; ++i) {
        const char* column = reinterpret_cast<const char*>(in + inputs[i]);
        asm("" : "+r"(column));
        const float* row = panel + weights[i];
        const float* later = panel + weights[i + kAhead];
        __m512 weight[V];
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) {
            _mm_prefetch(reinterpret_cast<const char*>(later + kVector * v), _MM_HINT_T0);
            weight[v] = _mm512_load_ps(row + kVector * v);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            float input;
            std::memcpy(&input, column + offsets[r], sizeof(input));
            const __m512 value = _mm512_set1_ps(input);
#pragma GCC unroll 3
            for (int v = 0; v < V; ++v) {
                sum[r][v] = _mm512_fmadd_ps(value, weight[v], sum[r][v]);
            }
        }
    }
    const __m512 zero = _mm512_setzero_ps();
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) {
            const int64_t at = r * out_stride + kVector * v;
            // Not `less or equal`, and the second operand of the maximum: NaN goes on.
            const __m512 end =
                active
                    ? _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(_mm512_load_ps(active + at), zero, _CMP_NLE_UQ), sum[r][v])
                    : _mm512_max_ps(zero, sum[r][v]);
            _mm512_store_ps(out + at, end);
        }
    }
}

using Multiply = void (*)(const float*, int64_t, const Steps&, const float*, const float*, const float*, float*,
                          int64_t);

template <int V, int... R>
constexpr std::array<Multiply, kBlockRows> for_rows(std::integer_sequence<int, R...>) {
    return {multiply<R + 1, V>...};
}
using Rows = std::make_integer_sequence<int, kBlockRows>;
// Of V vectors and R rows: kMultiply[V - 1][R - 1].
constexpr std::array<std::array<Multiply, kBlockRows>, kPanel> kMultiply = {for_rows<1>(Rows()), for_rows<2>(Rows()),
                                                                            for_rows<3>(Rows())};

class Avx512Layer final : public Layer {
  public:
    explicit Avx512Layer(const Linear& linear)
        : in_(linear.in),
          out_(linear.out),
          panels_(split_columns(linear.out, kPanel)),
          packed_(pack_panels(linear, panels_, kRow, kVector)),
          bias_(pad_bias(linear)) {}

    size_t scratch_bytes() const override { return static_cast<size_t>(2 * step_stride()) * sizeof(int32_t); }

    void forward(const Tile& tile, const float* in, const float* active, float* out, char* scratch) const override {
        const int64_t in_stride = padded(in_), out_stride = padded(out_);
        int32_t* inputs = reinterpret_cast<int32_t*>(scratch);
        Steps steps{inputs, inputs + step_stride(), 0};
        for (const Block& block : tile.blocks) {
            const float* from = in + block.first * in_stride;
            float* to = out + block.first * out_stride;
            const float* keep = active ? active + block.first * out_stride : nullptr;
            find_steps(from, in_stride, block.count, in_, steps);
            for (size_t p = 0; p < panels_.size(); ++p) {
                const int64_t first = panels_[p].first;
                kMultiply[panels_[p].vectors - 1][block.count - 1](from, in_stride, steps, panel(p),
                                                                   bias_.get() + first, keep ? keep + first : nullptr,
                                                                   to + first, out_stride);
            }
        }
    }

  private:
    float* panel(size_t p) const { return packed_.get() + static_cast<int64_t>(p) * kRow * in_; }
    // Room for a whole vector past the end.
    int64_t step_stride() const { return padded(in_) + kVector; }

    int64_t in_, out_;
    std::vector<Panel> panels_;
    Buffer<float> packed_;  // panels, each [in, kRow]
    Buffer<float> bias_;
};

}  // namespace

std::unique_ptr<Layer> make_avx512_layer(const Linear& linear) { return std::make_unique<Avx512Layer>(linear); }

}  // namespace liif
#endif
