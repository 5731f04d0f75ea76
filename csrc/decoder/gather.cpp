#include "decoder/gather.h"

#include <algorithm>
#include <cmath>

#include "decoder/decoder.h"
#include "simd/rows.h"

namespace liif {

Gather::Gather(const Decoder& decoder)
    : decoder_(decoder),
      block_rows_(decoder.hidden.empty() ? kBlockRows : decoder.hidden.front()->block_rows()),
      corners_(kTileRows),
      order_(kTileRows),
      ranks_(kTileRows),
      base_(static_cast<size_t>(decoder.n0)) {
    tile_.blocks.reserve(kTileRows);
}

// The corners of one query; false if one lies outside of the window.
bool Gather::find_corners(int64_t q, float y, float x, float cell_h, float cell_w) {
    const Decoder& d = decoder_;
    const int sides = d.local_ensemble ? 2 : 1, corners = sides * sides;
    float areas[4], total = 0;
    for (int corner = 0; corner < corners; ++corner) {
        const int64_t full_row = d.y.nearest(y, corner / sides), full_column = d.x.nearest(x, corner % sides);
        const int64_t row = full_row - d.top, column = full_column - d.left;
        if (row < 0 || row >= d.height || column < 0 || column >= d.width) {
            return false;
        }
        const float rel_y = d.y.offset(y, full_row), rel_x = d.x.offset(x, full_column);
        areas[corner] = std::fabs(rel_y * rel_x) + kAreaEps;
        total += areas[corner];
        corners_[static_cast<size_t>(corner * count_ + q)] = {
            row * d.width + column, 0, {rel_y, rel_x, cell_h, cell_w}};
    }
    // Each corner's share is the area on the diagonally opposite side.
    for (int corner = 0; corner < corners; ++corner) {
        corners_[static_cast<size_t>(corner * count_ + q)].share = areas[corners - 1 - corner] / total;
    }
    return true;
}

void Gather::sort_rows() {
    for (int64_t i = 0; i < tile_.rows; ++i) {
        order_[static_cast<size_t>(i)] = corners_[static_cast<size_t>(i)].pixel * kTileRows + i;
    }
    std::sort(order_.begin(), order_.begin() + tile_.rows);
    for (int64_t r = 0; r < tile_.rows; ++r) {
        int64_t& number = order_[static_cast<size_t>(r)];
        number %= kTileRows;
        ranks_[static_cast<size_t>(number)] = r;
    }
}

// Cuts the rows into blocks of up to block_rows_, where possible between rows of different pixels.
void Gather::form_blocks() {
    const int64_t rows = tile_.rows;
    tile_.blocks.clear();
    for (int64_t first = 0; first < rows;) {
        int64_t end = std::min<int64_t>(first + block_rows_, rows);
        for (int64_t r = end; r < rows && r >= first + block_rows_ / 2; --r) {
            if (corner(r).pixel != corner(r - 1).pixel) {
                end = r;
                break;
            }
        }
        tile_.blocks.push_back({static_cast<int32_t>(first), static_cast<int32_t>(end - first)});
        first = end;
    }
}

bool Gather::look_up(const float* map, const float* coord, const float* cell, const int32_t* order, int64_t count,
                     float* rows) {
    const Decoder& d = decoder_;
    count_ = count;
    tile_.rows = d.local_ensemble ? 4 * count : count;
    for (int64_t q = 0; q < count; ++q) {
        const float *at = coord + 2 * order[q], *size = cell ? cell + 2 * order[q] : nullptr;
        if (!find_corners(q, at[0], at[1], size ? d.y.scaled(size[0]) : 0, size ? d.x.scaled(size[1]) : 0)) {
            return false;
        }
    }
    sort_rows();
    form_blocks();
    const float *rest_y = d.rest.get(), *rest_x = rest_y + d.n0, *rest_h = rest_x + d.n0, *rest_w = rest_h + d.n0;
    float known_h = NAN, known_w = NAN;
    for (int64_t r = 0; r < tile_.rows; ++r) {
        const Corner& from = corner(r);
        const auto [rel_y, rel_x, cell_h, cell_w] = from.place;
        // On a regular grid every query has the same cell.
        if (!(cell_h == known_h && cell_w == known_w)) {
            loops.combine(d.first_bias, cell_h, rest_h, cell_w, rest_w, d.n0, base_.get());
            known_h = cell_h;
            known_w = cell_w;
        }
        loops.first_layer(map + from.pixel * d.n0, base_.get(), rel_y, rest_y, rel_x, rest_x, d.n0,
                          d.last_weight != nullptr, rows + r * padded(d.n0));
    }
    return true;
}

}  // namespace liif
