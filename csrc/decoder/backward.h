// The decoder's backward, tile by tile, from the activations that the forward has kept.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "buffer.h"
#include "decoder/decoder.h"
#include "simd/rows.h"
#include "weight_gradients/weight_gradient.h"

namespace liif {

struct Backward {
    const Decoder& decoder;
    // Of each of the decoder's hidden layers: the layer with W transposed, and its weight's gradient.
    std::vector<std::unique_ptr<Layer>> transposed;
    std::vector<std::unique_ptr<WeightGradient>> weights;
};

// Sums of the gradients of everything but the map.
struct Sums {
    explicit Sums(const Backward& backward);

    Buffer<float> rest;                  // [kPlace, n0], transposed
    std::vector<Buffer<float>> biases;   // of all layers but the last, and of the first if it is the only one
    std::vector<Buffer<float>> weights;  // of the hidden layers, as their WeightGradient has it
    Buffer<float> last_weight;           // [out_dim, padded(last_in)]
    Buffer<float> last_bias;
};

// Queries of one map that one call works on: at most kTileRows rows.
struct Queries {
    const float *coord, *cell;  // of the map; cell may be null
    const float* grad;          // of the map's answers [Q, out_dim]
    const int32_t* order;
    int64_t count;
    const char* kept;  // of this tile
};

class BackwardWorker {
  public:
    explicit BackwardWorker(const Backward& backward);

    // Adds the queries' gradients to `sums` and to the map's: target(pixel) gives the place of a pixel's [n0]. Returns
    // false, with nothing added, if a neighbour lies outside of the window.
    template <typename Target>
    bool add(const float* map, const Queries& queries, Sums& sums, const Target& target);

  private:
    const float* activations(const Queries& queries, size_t layer);
    float* last_layer(const Queries& queries, const float* top, Sums& sums);
    const float* propagate(const Queries& queries, Sums& sums);

    const Backward& backward_;
    const std::vector<size_t> kept_places_;
    Gather gather_;
    Buffer<float> first_;        // the activations of the first layer
    Buffer<float> rows_;         // and of another
    Buffer<float> gradient_[2];  // two layers' dz
    Buffer<float> blended_;
    Buffer<float> places_;  // of the rows of one pixel
    Buffer<char> scratch_;
};

template <typename Target>
bool BackwardWorker::add(const float* map, const Queries& queries, Sums& sums, const Target& target) {
    if (!gather_.look_up(map, queries.coord, queries.cell, queries.order, queries.count, first_.get())) {
        return false;
    }
    const int64_t n0 = backward_.decoder.n0, rows = gather_.tile().rows;
    const float* dz = propagate(queries, sums);
    for (int64_t first = 0, end = 0; first < rows; first = end) {
        const int64_t pixel = gather_.corner(first).pixel;
        for (; end < rows && gather_.corner(end).pixel == pixel; ++end) {
            std::copy_n(gather_.corner(end).place, kPlace, places_.get() + (end - first) * kPlace);
        }
        loops.add_pixel(dz + first * padded(n0), padded(n0), end - first, n0, places_.get(), target(pixel),
                        sums.biases[0].get(), sums.rest.get());
    }
    return true;
}

}  // namespace liif
