// Where the queries of a tile look, and the first layer of their rows.
#pragma once

#include <cstdint>
#include <vector>

#include "buffer.h"
#include "layer.h"

namespace liif {

struct Decoder;

constexpr int kPlace = 4;  // dy, dx, cell_h, cell_w

// Row c * count + q of a tile is corner c of query q, so that queries with the same neighbours give runs of rows with
// the same pixel.
class Gather {
  public:
    explicit Gather(const Decoder& decoder);

    // Fills the first layer's rows [corners * count, padded(n0)], after its ReLU where it has one, for `count` queries
    // of `order`. Returns false, with nothing read out of bounds, if a neighbour lies outside of the window.
    bool look_up(const float* map, const float* coord, const float* cell, const int32_t* order, int64_t count,
                 float* rows);

    const Tile& tile() const { return tile_; }
    // Of row r: its pixel of the window, its share in the blend, its place relative to the pixel (zero without cells).
    int64_t pixel(int64_t r) const { return pixels_[static_cast<size_t>(r)]; }
    float share(int64_t r) const { return shares_[static_cast<size_t>(r)]; }
    const float* place(int64_t r) const { return places_.get() + r * kPlace; }

  private:
    void form_blocks(int64_t rows);

    const Decoder& decoder_;
    Tile tile_;
    std::vector<int64_t> pixels_;
    Buffer<float> shares_;
    Buffer<float> places_;
    Buffer<float> base_;  // first layer's bias and cell columns
};

}  // namespace liif
