// float32 weight gradients that skip outputs whose dz is zero in a whole block of rows: a block's rows of h stay in
// registers while its other outputs pass by. What does the work is a Kernel of each instruction set:
//   kPanel, kWide        vectors of inputs in a panel at most, and floats in a vector
//   find_outputs(dz, stride, rows, first, end, outputs)  lists those of outputs first to end - 1 that are not zero in
//                        all rows, and returns how many; writes whole vectors
//   kMultiply[V - 1][R - 1](dz, dz_stride, outputs, count, h, h_stride, sum)  for R rows and V vectors of inputs
//                        sum[i][k] += sum_r dz[r][i] * h[r][k] for the outputs i of a list
#pragma once

#include <algorithm>
#include <vector>

#include "panels.h"
#include "rows.h"
#include "weight_gradient.h"

namespace liif {

template <typename Kernel>
class SkippingWeightGradient final : public WeightGradient {
  public:
    SkippingWeightGradient(int64_t in, int64_t out)
        : in_(in), out_(out), panels_(split_columns(in, Kernel::kPanel, Kernel::kWide)) {}

    // A list for each block, and its length.
    size_t scratch_bytes() const override { return static_cast<size_t>(kTileRows * (kList + 1)) * sizeof(int32_t); }

    // sum: panels, each [out, vectors * kWide].
    void add(const Tile& tile, const float* dz, const float* h, float* sum, char* scratch) const override {
        int32_t *lists = reinterpret_cast<int32_t*>(scratch), *counts = lists + kTileRows * kList;
        const int64_t dz_stride = padded(out_), h_stride = padded(in_);
        const size_t blocks = tile.blocks.size();
        for (int64_t first = 0; first < out_; first += kSegment) {
            const int64_t end = std::min(first + kSegment, out_);
            for (size_t b = 0; b < blocks; ++b) {
                const Block& block = tile.blocks[b];
                counts[b] = Kernel::find_outputs(dz + block.first * dz_stride, dz_stride, block.count, first, end,
                                                 lists + static_cast<int64_t>(b) * kList);
            }
            for (const Panel& panel : panels_) {
                for (size_t b = 0; b < blocks; ++b) {
                    const Block& block = tile.blocks[b];
                    const auto rows = static_cast<size_t>(block.count - 1);
                    Kernel::kMultiply[static_cast<size_t>(panel.vectors - 1)][rows](
                        dz + block.first * dz_stride, dz_stride, lists + static_cast<int64_t>(b) * kList, counts[b],
                        h + block.first * h_stride + panel.first, h_stride, sum + panel.first * out_);
                }
            }
        }
    }

    void collect(const float* sum, float* weight) const override {
        for (const Panel& panel : panels_) {
            const int64_t width = panel.vectors * Kernel::kWide, inside = std::min(width, in_ - panel.first);
            for (int64_t n = 0; n < out_; ++n) {
                add_row(sum + panel.first * out_ + n * width, 1.0f, inside, weight + n * in_ + panel.first);
            }
        }
    }

  private:
    // Outputs worked on together: their sums for one panel of inputs, up to 12 KB, stay in the first-level cache for a
    // tile.
    static constexpr int64_t kSegment = 64;
    static constexpr int64_t kList = kSegment + kVector;  // room for a whole vector past the end

    int64_t in_, out_;
    std::vector<Panel> panels_;
};

}  // namespace liif
