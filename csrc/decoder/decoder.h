// The fused decoder: neighbour lookup, gather, first layer's rest, hidden layers, blend and last layer, tile by tile.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "buffer.h"
#include "decoder/gather.h"
#include "decoder/geometry.h"
#include "interface.h"
#include "layers/arithmetic.h"
#include "layers/layer.h"

namespace liif {

// Everything that the threads share; pointers are the caller's, float32 and contiguous.
struct Decoder {
    // Packs the weights for an arithmetic.
    Decoder(const liif_query& query, Arithmetic arithmetic);

    // Projected feature maps [batch, height, width, n0]: the part of the full maps that starts at (top, left).
    const float* projected;
    int64_t height, width, n0;
    int64_t top, left;
    Axis y, x;  // of the full map
    bool local_ensemble;
    int64_t threads;

    Buffer<float> rest;       // first layer's columns dy, dx, cell_h, cell_w (the latter zero without cells): [4, n0]
    const float* first_bias;  // [n0]
    std::vector<std::unique_ptr<Layer>> hidden;
    const float* last_weight;  // [out_dim, last_in], or null when the first layer is the only one
    const float* last_bias;
    int64_t last_in;
    int64_t out_dim;
    int64_t widest;               // padded width of the widest layer
    std::vector<int64_t> widths;  // n0 and the hidden layers' outputs
};

// Answers queries [begin, end) of `order`, which lists queries of one feature map such that those with the same
// neighbours stand together. coord and cell [Q, 2] (cell may be null), out [Q, out_dim]; `kept`, where given, gets the
// hidden layers' activations (kept_bytes). Returns false, with nothing read out of bounds, if a neighbour lies outside
// of the window.
class Worker {
  public:
    explicit Worker(const Decoder& decoder);
    bool answer(const float* map, const float* coord, const float* cell, const int32_t* order, int64_t begin,
                int64_t end, float* out, char* kept = nullptr);

  private:
    const Decoder& decoder_;
    Gather gather_;
    Buffer<float> rows_[2];
    Buffer<float> blended_;
    Buffer<char> scratch_;
    std::vector<size_t> kept_places_;
};

// Queries of one tile.
inline int64_t tile_queries(bool local_ensemble) { return local_ensemble ? kTileRows / 4 : kTileRows; }
inline int64_t tile_queries(const Decoder& decoder) { return tile_queries(decoder.local_ensemble); }

// Where a tile keeps each layer's activations for the backward, in bytes from its first (the first layer, which is
// computed again, keeps none), and at the end how many bytes it keeps. widths: n0 and the hidden layers' outputs.
std::vector<size_t> kept_places(const std::vector<int64_t>& widths);
inline size_t kept_bytes(const Decoder& decoder) { return kept_places(decoder.widths).back(); }

// The queries of each map, coord [batch, queries, 2], in the order in which they are answered: by the pixel of their
// first neighbour, in bands of a few rows of pixels.
std::vector<std::vector<int32_t>> order_queries(const Decoder& decoder, const float* coord, int64_t batch,
                                                int64_t queries);

}  // namespace liif
