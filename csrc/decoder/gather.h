// Where the queries of a tile look, and the first layer of their rows.
#pragma once

#include <cstdint>
#include <vector>

#include "buffer.h"
#include "layers/layer.h"

namespace liif {

struct Decoder;

constexpr int kPlace = 4;

// One neighbour of a query.
struct Corner {
    int64_t pixel;        // of the window
    float share;          // in the blend
    float place[kPlace];  // dy, dx, cell_h, cell_w, the latter zero without cells
};

// A tile's rows, one for each corner of each query, stand in the order of their pixels: rows of one pixel have their
// zeros in nearly the same places.
class Gather {
  public:
    explicit Gather(const Decoder& decoder);

    // Fills the first layer's rows [corners * count, padded(n0)], after its ReLU where it has one, for `count` queries
    // of `order`. Returns false, with nothing read out of bounds, if a neighbour lies outside of the window.
    bool look_up(const float* map, const float* coord, const float* cell, const int32_t* order, int64_t count,
                 float* rows);

    const Tile& tile() const { return tile_; }
    const Corner& corner(int64_t row) const { return corners_[static_cast<size_t>(order_[static_cast<size_t>(row)])]; }
    // The row of corner c of query q.
    int64_t row(int64_t c, int64_t q) const { return ranks_[static_cast<size_t>(c * count_ + q)]; }

  private:
    bool find_corners(int64_t q, float y, float x, float cell_h, float cell_w);
    void sort_rows();
    void form_blocks();

    const Decoder& decoder_;
    const int64_t block_rows_;
    Tile tile_{0, {}};
    int64_t count_ = 0;
    std::vector<Corner> corners_;  // corner c of query q is number c * count + q
    std::vector<int64_t> order_;   // of each row: its corner's number
    std::vector<int64_t> ranks_;   // the inverse
    Buffer<float> base_;           // first layer's bias and cell columns
};

}  // namespace liif
