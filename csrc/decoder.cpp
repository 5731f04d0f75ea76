#include "decoder.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "rows.h"

namespace liif {

Worker::Worker(const Decoder& decoder)
    : decoder_(decoder),
      source_(kTileRows),
      shares_(kTileRows),
      base_(static_cast<size_t>(decoder.n0)),
      rows_{Buffer<float>(static_cast<size_t>(kTileRows * decoder.widest)),
            Buffer<float>(static_cast<size_t>(kTileRows * decoder.widest))},
      blended_(static_cast<size_t>(decoder.widest)),
      scratch_([&] {
          size_t bytes = 0;
          for (const auto& layer : decoder.hidden) {
              bytes = std::max(bytes, layer->scratch_bytes());
          }
          return bytes;
      }()) {
    tile_.blocks.reserve(kTileRows);
}

Worker::~Worker() {
    for (const auto& layer : decoder_.hidden) {
        layer->release();
    }
}

// Fills the tile's first layer. Row c * count + q is corner c of query q, so that queries with the same neighbours give
// runs of rows with the same pixel.
bool Worker::look_up(const float* map, const float* coord, const float* cell, const int32_t* order, int64_t count) {
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
            const int64_t r = corner * count + q;
            source_[static_cast<size_t>(r)] = map + (row * d.width + column) * d.n0;
            first_layer(source_[static_cast<size_t>(r)], base_.get(), rel_y[side_y], rest_y, rel_x[side_x], rest_x,
                        d.n0, relu, rows_[0].get() + r * stride);
        }
        // Each corner's share is the area on the diagonally opposite side.
        const int corners = sides * sides;
        for (int c = 0; c < corners; ++c) {
            shares_[static_cast<size_t>(c * count + q)] = areas[corners - 1 - c] / total;
        }
    }
    return true;
}

// Cuts the rows into blocks of up to kBlockRows, where possible between rows of different pixels: rows of one pixel
// have their zeros in nearly the same places.
void Worker::form_blocks(int64_t rows) {
    tile_.rows = rows;
    tile_.blocks.clear();
    for (int64_t first = 0; first < rows;) {
        int64_t end = std::min<int64_t>(first + kBlockRows, rows);
        for (int64_t r = end; r < rows && r >= first + kBlockRows / 2; --r) {
            if (source_[static_cast<size_t>(r)] != source_[static_cast<size_t>(r - 1)]) {
                end = r;
                break;
            }
        }
        tile_.blocks.push_back({static_cast<int32_t>(first), static_cast<int32_t>(end - first)});
        first = end;
    }
}

bool Worker::answer(const float* map, const float* coord, const float* cell, const int32_t* order, int64_t begin,
                    int64_t end, float* out) {
    const Decoder& d = decoder_;
    const int64_t count = end - begin;
    const int corners = d.local_ensemble ? 4 : 1;
    if (!look_up(map, coord, cell, order + begin, count)) {
        return false;
    }
    form_blocks(count * corners);
    float *current = rows_[0].get(), *next = rows_[1].get();
    for (const auto& layer : d.hidden) {
        layer->forward(tile_, current, next, scratch_.get());
        std::swap(current, next);
    }
    const int64_t width = d.last_weight ? d.last_in : d.n0, stride = padded(width);
    for (int64_t q = 0; q < count; ++q) {
        const float* rows[4] = {};
        float shares[4] = {};
        for (int c = 0; c < corners; ++c) {
            rows[c] = current + (c * count + q) * stride;
            shares[c] = shares_[static_cast<size_t>(c * count + q)];
        }
        float* answer = out + static_cast<int64_t>(order[begin + q]) * d.out_dim;
        if (d.last_weight) {
            // The blend is linear, so it commutes with the last layer, which then runs once and not four times.
            blend(rows, shares, corners, width, blended_.get());
            linear(blended_.get(), d.last_weight, d.last_bias, width, d.out_dim, answer);
        } else {
            blend(rows, shares, corners, width, answer);
        }
    }
    return true;
}

void order_queries(const Decoder& decoder, const float* coord, int64_t begin, int64_t end, int32_t* order) {
    constexpr int kBits = 11;
    const size_t count = static_cast<size_t>(end - begin);
    const int64_t width = decoder.left + decoder.width;
    std::vector<std::pair<uint64_t, int32_t>> items(count), sorted(count);
    uint64_t all = 0;
    for (size_t i = 0; i < count; ++i) {
        const float* at = coord + 2 * (begin + static_cast<int64_t>(i));
        const auto key = static_cast<uint64_t>(decoder.y.nearest(at[0], 0) * width + decoder.x.nearest(at[1], 0));
        items[i] = {key, static_cast<int32_t>(begin + static_cast<int64_t>(i))};
        all |= key;
    }
    // Stable radix sort, least significant digit first.
    for (int shift = 0; shift < 64 && all >> shift != 0; shift += kBits) {
        std::vector<size_t> starts((1u << kBits) + 1, 0);
        const auto digit = [&](uint64_t key) { return key >> shift & ((1u << kBits) - 1); };
        for (const auto& item : items) {
            ++starts[digit(item.first) + 1];
        }
        for (size_t i = 1; i < starts.size(); ++i) {
            starts[i] += starts[i - 1];
        }
        for (const auto& item : items) {
            sorted[starts[digit(item.first)]++] = item;
        }
        items.swap(sorted);
    }
    for (size_t i = 0; i < count; ++i) {
        order[begin + static_cast<int64_t>(i)] = items[i].second;
    }
}

}  // namespace liif
