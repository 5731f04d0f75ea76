// float32 weight gradients for AVX-512. As in layers/skipping.inc.h, outputs whose dz is zero in a whole block of rows
// are skipped: a block's rows of h stay in registers while its other outputs pass by.
#include "weight_gradients/weight_gradient.h"

#if defined(__x86_64__)
#include <algorithm>
#include <array>
#include <vector>

#include "layers/panels.h"
#include "simd/avx512.h"
#include "simd/dispatch.h"

namespace liif {
namespace {

using namespace avx512;

// As in layers/avx512.cpp: vectors of inputs in a panel at most.
constexpr int kPanel = 3;

// Outputs worked on together: their sums for one panel of inputs, 12 KB, stay in the first-level cache for a tile.
constexpr int64_t kSegment = 64;

// Lists the outputs of one segment, from `first`, that are not zero in all rows; returns how many. Writes whole
// vectors.
LIIF_AVX512 int find_outputs(const float* dz, int64_t stride, int rows, int64_t first, int64_t end, int32_t* outputs) {
    Bits index = add_bits(spread_bits(static_cast<int>(first)), lane_numbers());
    int count = 0;
    for (int64_t n = first; n < end; n += kVector) {
        Bits any = no_bits();
        for (int r = 0; r < rows; ++r) {
            any = either(any, load_bits(dz + r * stride + n));
        }
        const Mask alive = nonzero_floats(any) & first_lanes(end - n);
        store_bits(outputs + count, to_front(alive, index));
        count += __builtin_popcount(alive);
        index = add_bits(index, spread_bits(kVector));
    }
    return count;
}

// sum[i][k] += sum_r dz[r][i] * h[r][k] for the outputs i of a list, R rows and V vectors of inputs.
template <int R, int V>
LIIF_AVX512 void multiply(const float* dz, int64_t dz_stride, const int32_t* outputs, int count, const float* h,
                          int64_t h_stride, float* sum) {
    Vector value[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) {
            value[r][v] = load(h + r * h_stride + kVector * v);
        }
    }
    const auto offsets = row_offsets<kBlockRows>(dz_stride * static_cast<int64_t>(sizeof(float)));
    for (int n = 0; n < count; ++n) {
        const int64_t i = outputs[n];
        const char* column = reinterpret_cast<const char*>(dz + i);
        asm("" : "+r"(column));
        float* to = sum + i * (V * kVector);
        Vector total[V];
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) {
            total[v] = load(to + kVector * v);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const Vector factor = spread(*reinterpret_cast<const float*>(column + offsets[r]));
#pragma GCC unroll 3
            for (int v = 0; v < V; ++v) {
                total[v] = fused(factor, value[r][v], total[v]);
            }
        }
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) {
            store(to + kVector * v, total[v]);
        }
    }
}

constexpr auto kMultiply = table_of_rows<kBlockRows, kPanel>([](auto r, auto v) { return &multiply<r, v>; });

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
