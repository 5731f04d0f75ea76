// float32 layers for AVX2, which skip inputs that are zero in a whole block as layers/avx512.cpp does. Blocks of four
// rows share more zeros than larger ones; a panel of weights stays in the first-level cache while all of a tile's
// blocks pass by.
#include "layers/layer.h"

#if defined(__x86_64__)
#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "buffer.h"
#include "layers/panels.h"
#include "simd/avx2.h"

namespace liif {
namespace {

// Four rows by three vectors keep 12 sums, three weights and one input in the 16 registers.
constexpr int kRows = 4;
constexpr int kPanel = 3;

// Floats of a stored row of a panel.
constexpr int64_t kRow = kPanel * kLanes;

// What a block multiplies: one step for each input that is not zero in all of its rows.
struct Steps {
    int32_t* inputs;   // which input
    int32_t* weights;  // where its row of a panel starts
    int count;
};

LIIF_AVX2 void find_steps(const float* in, int64_t stride, int rows, int64_t width, Steps& steps) {
    const __m256i row = _mm256_set1_epi32(kRow), lanes = _mm256_set1_epi32(kLanes);
    __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    int count = 0;
    for (int64_t k = 0; k < width; k += kLanes) {
        __m256i any = _mm256_setzero_si256();
        for (int r = 0; r < rows; ++r) {
            any = _mm256_or_si256(any, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + r * stride + k)));
        }
        const unsigned alive = not_zero(_mm256_slli_epi32(any, 1)) & first_lanes(width - k);
        const __m256i found = _mm256_permutevar8x32_epi32(index, to_front(alive));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(steps.inputs + count), found);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(steps.weights + count), _mm256_mullo_epi32(found, row));
        count += __builtin_popcount(alive);
        index = _mm256_add_epi32(index, lanes);
    }
    steps.count = count;
}

// out[r][n] = relu(bias[n] + sum over the list of in[r][k] * panel[k][n]) for R rows and V vectors of columns; or, with
// `active`, that sum where active > 0 and else zero.
template <int R, int V>
LIIF_AVX2 void multiply(const float* in, int64_t in_stride, const Steps& steps, const float* panel, const float* bias,
                        const float* active, float* out, int64_t out_stride) {
    __m256 sum[R][V];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) {
            sum[r][v] = _mm256_load_ps(bias + kLanes * v);
        }
    }
    // As in layers/avx512.cpp: one addressing mode for each row.
    int64_t one = in_stride * static_cast<int64_t>(sizeof(float)), three = 3 * one;
    asm("" : "+r"(one), "+r"(three));
    const int64_t offsets[kRows] = {0, one, 2 * one, three};
    const int32_t *inputs = steps.inputs, *weights = steps.weights;
    for (int i = 0, count = steps.count; i < count; ++i) {
        const char* column = reinterpret_cast<const char*>(in + inputs[i]);
        asm("" : "+r"(column));
        const float* row = panel + weights[i];
        __m256 weight[V];
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) {
            weight[v] = _mm256_load_ps(row + kLanes * v);
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            const __m256 value = _mm256_broadcast_ss(reinterpret_cast<const float*>(column + offsets[r]));
#pragma GCC unroll 3
            for (int v = 0; v < V; ++v) {
                sum[r][v] = _mm256_fmadd_ps(value, weight[v], sum[r][v]);
            }
        }
    }
    const __m256 zero = _mm256_setzero_ps();
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) {
            const int64_t at = r * out_stride + kLanes * v;
            // Not `less or equal`, and the second operand of the maximum: NaN goes on.
            const __m256 end =
                active ? _mm256_and_ps(_mm256_cmp_ps(_mm256_load_ps(active + at), zero, _CMP_NLE_UQ), sum[r][v])
                       : _mm256_max_ps(zero, sum[r][v]);
            _mm256_store_ps(out + at, end);
        }
    }
}

using Multiply = void (*)(const float*, int64_t, const Steps&, const float*, const float*, const float*, float*,
                          int64_t);

template <int V, int... R>
constexpr std::array<Multiply, kRows> for_rows(std::integer_sequence<int, R...>) {
    return {multiply<R + 1, V>...};
}
using Rows = std::make_integer_sequence<int, kRows>;
// Of V vectors and R rows: kMultiply[V - 1][R - 1].
constexpr std::array<std::array<Multiply, kRows>, kPanel> kMultiply = {for_rows<1>(Rows()), for_rows<2>(Rows()),
                                                                       for_rows<3>(Rows())};

class Avx2Layer final : public Layer {
  public:
    explicit Avx2Layer(const Linear& linear)
        : in_(linear.in),
          out_(linear.out),
          panels_(split_columns(linear.out, kPanel, kLanes)),
          packed_(pack_panels(linear, panels_, kRow, kLanes)),
          bias_(pad_bias(linear)) {}

    int block_rows() const override { return kRows; }

    // Two lists for each block.
    size_t scratch_bytes() const override { return static_cast<size_t>(2 * kTileRows * list()) * sizeof(int32_t); }

    void forward(const Tile& tile, const float* in, const float* active, float* out, char* scratch) const override {
        const int64_t in_stride = padded(in_), out_stride = padded(out_);
        std::array<Steps, kTileRows> steps;
        for (size_t b = 0; b < tile.blocks.size(); ++b) {
            const Block& block = tile.blocks[b];
            int32_t* lists = reinterpret_cast<int32_t*>(scratch) + 2 * static_cast<int64_t>(b) * list();
            steps[b] = {lists, lists + list(), 0};
            find_steps(in + block.first * in_stride, in_stride, block.count, in_, steps[b]);
        }
        for (size_t p = 0; p < panels_.size(); ++p) {
            const int64_t first = panels_[p].first;
            for (size_t b = 0; b < tile.blocks.size(); ++b) {
                const Block& block = tile.blocks[b];
                const int64_t at = block.first * out_stride + first;
                kMultiply[static_cast<size_t>(panels_[p].vectors - 1)][static_cast<size_t>(block.count - 1)](
                    in + block.first * in_stride, in_stride, steps[b], panel(p), bias_.get() + first,
                    active ? active + at : nullptr, out + at, out_stride);
            }
        }
    }

  private:
    float* panel(size_t p) const { return packed_.get() + static_cast<int64_t>(p) * kRow * in_; }
    // Room for a whole vector past the end.
    int64_t list() const { return padded(in_) + kVector; }

    int64_t in_, out_;
    std::vector<Panel> panels_;
    Buffer<float> packed_;  // panels, each [in, kRow]
    Buffer<float> bias_;
};

}  // namespace

std::unique_ptr<Layer> make_avx2_layer(const Linear& linear) { return std::make_unique<Avx2Layer>(linear); }

}  // namespace liif
#endif
