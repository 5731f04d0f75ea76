// The decoder's backward, tile by tile, from the activations that the forward has kept.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "buffer.h"
#include "decoder.h"
#include "rows.h"
#include "weight_gradient.h"

namespace liif {

struct Backward {
    const Decoder& decoder;
    // Of each of the decoder's hidden layers: the layer with W transposed, and its weight's gradient.
    std::vector<std::unique_ptr<Layer>> transposed;
    std::vector<std::unique_ptr<WeightGradient>> weights;
};

// One thread's sums of the gradients of everything but the map.
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
    bool add(const float* map, const Queries& queries, const Target& target);

    // Called by the thread that has added, when it is done.
    void release() const;

    Sums& sums() { return sums_; }

  private:
    void take_over(const char* kept);
    float* last_layer(const Queries& queries);
    float* hidden_layers(float* dz);
    bool propagate(const float* map, const Queries& queries);
    void first_layer(const float* dz);

    const Backward& backward_;
    Gather gather_;
    Sums sums_;
    std::vector<Buffer<float>> rows_;  // the activations of each layer
    Buffer<float> gradient_[2];        // two layers' dz
    Buffer<float> blended_;
    Buffer<char> scratch_;
    const float* first_ = nullptr;  // the first layer's dz
};

template <typename Target>
bool BackwardWorker::add(const float* map, const Queries& queries, const Target& target) {
    if (!propagate(map, queries)) {
        return false;
    }
    const int64_t n0 = backward_.decoder.n0;
    for (int64_t r = 0; r < gather_.tile().rows; ++r) {
        add_row(first_ + r * padded(n0), 1.0f, n0, target(gather_.corner(r).pixel));
    }
    return true;
}

}  // namespace liif
