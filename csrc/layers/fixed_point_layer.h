// Layers in 16-bit fixed point that skip inputs which are zero in a whole block of rows, as skipping.inc.h does.
// What does the work is a Kernel of each instruction set:
//   kRows, kPanel        rows of a block, and kVector columns of a panel, at most
//   kLanes               32-bit sums in a vector
//   kTogether            panels that a block passes by together: its inputs come from the first-level cache for all but
//                        the first
//   kRow                 16-bit words of a stored row of a panel
//   kQuantise[R - 1]     makes a block of R rows Quantised; the 16-bit words behind its rows are free for notes
//   kMultiply[V - 1][R - 1]
//                        out[r][n] = relu(bias[n] + row scale * column scale[n] * sum over the list of words[r][i] *
//                        panel[list[i]][n]) for R rows and V times kVector columns; or, with `active`, that sum where
//                        active > 0 and else zero
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "buffer.h"
#include "layers/fixed_point.h"
#include "layers/panels.h"

namespace liif {

// A block's inputs in fixed point, without those that are zero in all of its rows.
struct Quantised {
    int16_t* words;    // [rows, stride]
    int32_t* weights;  // where each input's row of a panel starts, with zeros behind the last
    float* scales;     // of each row
    int count;         // inputs, made even by a zero
};

template <typename Kernel>
class FixedPointLayer final : public Layer {
  public:
    explicit FixedPointLayer(const Linear& linear)
        : in_(linear.in),
          out_(linear.out),
          input_max_(largest_input(linear.in)),
          panels_(split_columns(linear.out, Kernel::kPanel)),
          packed_(panels_.size() * static_cast<size_t>(Kernel::kRow * in_)),
          column_scale_(static_cast<size_t>(padded(out_))),
          bias_(pad_bias(linear)) {
        std::fill_n(packed_.get(), panels_.size() * static_cast<size_t>(Kernel::kRow * in_), int16_t{0});
        std::fill_n(column_scale_.get(), padded(out_), 0.0f);
        for (size_t p = 0; p < panels_.size(); ++p) {
            const int64_t first = panels_[p].first, end = std::min(first + panels_[p].vectors * kVector, out_);
            for (int64_t n = first; n < end; ++n) {
                const float* weight = linear.weight + n * in_;
                const float scale = column_scale(weight, in_);
                column_scale_[static_cast<size_t>(n)] = 1 / scale;
                int16_t* column = panel(p) + stored_place(n - first);
                for (int64_t k = 0; k < in_; ++k) {
                    column[k * Kernel::kRow] = fixed_point(weight[k] * scale);
                }
            }
        }
    }

    int block_rows() const override { return Kernel::kRows; }

    size_t scratch_bytes() const override {
        return static_cast<size_t>((kTileRows + Kernel::kRows + 1) * word_stride()) * sizeof(int16_t) +
               static_cast<size_t>(kTileRows * word_stride()) * sizeof(int32_t) + kTileRows * sizeof(float);
    }

  private:
    void run(const Tile& tile, const float* in, const float* active, float* out, char* scratch) const override {
        const int64_t in_stride = padded(in_), out_stride = padded(out_);
        int16_t* words = reinterpret_cast<int16_t*>(scratch);
        int32_t* weights = reinterpret_cast<int32_t*>(words + (kTileRows + Kernel::kRows + 1) * word_stride());
        float* scales = reinterpret_cast<float*>(weights + kTileRows * word_stride());
        std::array<Quantised, kTileRows> quantised;
        for (size_t b = 0; b < tile.blocks.size(); ++b) {
            const Block& block = tile.blocks[b];
            quantised[b] = {words + block.first * word_stride(), weights + static_cast<int64_t>(b) * word_stride(),
                            scales + block.first, 0};
            Kernel::kQuantise[static_cast<size_t>(block.count - 1)](in + block.first * in_stride, in_stride, in_,
                                                                    input_max_, word_stride(), quantised[b]);
        }
        // Panels stay in the first-level cache for all of the tile's blocks.
        for (size_t begin = 0; begin < panels_.size(); begin += Kernel::kTogether) {
            const size_t end = std::min(begin + Kernel::kTogether, panels_.size());
            for (size_t b = 0; b < tile.blocks.size(); ++b) {
                const Block& block = tile.blocks[b];
                for (size_t p = begin; p < end; ++p) {
                    const int64_t first = panels_[p].first, at = block.first * out_stride + first;
                    const auto vectors = static_cast<size_t>(panels_[p].vectors - 1);
                    Kernel::kMultiply[vectors][static_cast<size_t>(block.count - 1)](
                        quantised[b], word_stride(), panel(p), column_scale_.get() + first, bias_.get() + first,
                        active ? active + at : nullptr, out + at, out_stride);
                }
            }
        }
    }

    // Place of a column in a stored row, such that interleaving the words of two rows (vpunpcklwd, vpunpckhwd, which
    // work within 128-bit lanes) leaves the columns of one vector of sums in one register and those of the next in the
    // other.
    static int64_t stored_place(int64_t column) {
        constexpr int64_t kLanes = Kernel::kLanes, kPair = 2 * kLanes;
        const int64_t half = column % kPair / kLanes, lane = column % kLanes / 4, place = column % 4;
        return column / kPair * kPair + lane * 8 + half * 4 + place;
    }

    int16_t* panel(size_t p) const { return packed_.get() + static_cast<int64_t>(p) * Kernel::kRow * in_; }
    // Room for a whole vector past the end.
    int64_t word_stride() const { return (in_ + 31) / 32 * 32 + 32; }

    int64_t in_, out_;
    float input_max_;
    std::vector<Panel> panels_;
    Buffer<int16_t> packed_;  // panels, each [in, kRow] with columns placed by stored_place
    Buffer<float> column_scale_;
    Buffer<float> bias_;
};

}  // namespace liif
