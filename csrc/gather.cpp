#include "gather.h"

#include <algorithm>
#include <cmath>

#include "decoder.h"
#include "rows.h"

namespace liif {

Gather::Gather(const Decoder& decoder)
    : decoder_(decoder),
      pixels_(kTileRows),
      shares_(kTileRows),
      places_(kTileRows * kPlace),
      base_(static_cast<size_t>(decoder.n0)) {
    tile_.blocks.reserve(kTileRows);
}

bool Gather::look_up(const float* map, const float* coord, const float* cell, const int32_t* order, int64_t count,
                     float* rows_out) {
    const Decoder& d = decoder_;
    const int sides = d.local_ensemble ? 2 : 1;
    const float *rest_y = d.rest.get(), *rest_x = rest_y + d.n0, *rest_h = rest_x + d.n0, *rest_w = rest_h + d.n0;
    const bool relu = d.last_weight != nullptr;
    const int64_t stride = padded(d.n0);
    float known_h = NAN, known_w = NAN;
    for (int64_t q = 0; q < count; ++q) {
        const int64_t query = order[q];
        const float at_y = coord[2 * query], at_x = coord[2 * query + 1];
        // On a regular grid every query has the same cell.
        const float cell_h = cell ? d.y.scaled(cell[2 * query]) : 0,
                    cell_w = cell ? d.x.scaled(cell[2 * query + 1]) : 0;
        if (!(cell_h == known_h && cell_w == known_w)) {
            combine(d.first_bias, cell_h, rest_h, cell_w, rest_w, d.n0, base_.get());
            known_h = cell_h;
            known_w = cell_w;
        }
        int64_t rows[2], columns[2];
        float rel_y[2], rel_x[2];
        for (int side = 0; side < sides; ++side) {
            rows[side] = d.y.nearest(at_y, side);
            columns[side] = d.x.nearest(at_x, side);
            rel_y[side] = d.y.offset(at_y, rows[side]);
            rel_x[side] = d.x.offset(at_x, columns[side]);
        }
        float areas[4], total = 0;
        for (int corner = 0; corner < sides * sides; ++corner) {
            const int side_y = corner / sides, side_x = corner % sides;
            const int64_t row = rows[side_y] - d.top, column = columns[side_x] - d.left;
            if (row < 0 || row >= d.height || column < 0 || column >= d.width) {
                return false;
            }
            areas[corner] = std::fabs(rel_y[side_y] * rel_x[side_x]) + kAreaEps;
            total += areas[corner];
            const int64_t r = corner * count + q, pixel = row * d.width + column;
            pixels_[static_cast<size_t>(r)] = pixel;
            const float place[kPlace] = {rel_y[side_y], rel_x[side_x], cell_h, cell_w};
            std::copy_n(place, kPlace, places_.get() + r * kPlace);
            first_layer(map + pixel * d.n0, base_.get(), rel_y[side_y], rest_y, rel_x[side_x], rest_x, d.n0, relu,
                        rows_out + r * stride);
        }
        // Each corner's share is the area on the diagonally opposite side.
        const int corners = sides * sides;
        for (int c = 0; c < corners; ++c) {
            shares_[static_cast<size_t>(c * count + q)] = areas[corners - 1 - c] / total;
        }
    }
    form_blocks(count * sides * sides);
    return true;
}

// Cuts the rows into blocks of up to kBlockRows, where possible between rows of different pixels: rows of one pixel
// have their zeros in nearly the same places.
void Gather::form_blocks(int64_t rows) {
    tile_.rows = rows;
    tile_.blocks.clear();
    for (int64_t first = 0; first < rows;) {
        int64_t end = std::min<int64_t>(first + kBlockRows, rows);
        for (int64_t r = end; r < rows && r >= first + kBlockRows / 2; --r) {
            if (pixel(r) != pixel(r - 1)) {
                end = r;
                break;
            }
        }
        tile_.blocks.push_back({static_cast<int32_t>(first), static_cast<int32_t>(end - first)});
        first = end;
    }
}

}  // namespace liif
