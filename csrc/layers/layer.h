// A hidden layer, relu(in * W^T + b), on tiles of rows that stay in cache, and its backward, which is the layer with W
// transposed and another end. One class for each arithmetic.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace liif {

// Row strides are padded to this many floats, so that kernels write whole vectors.
constexpr int64_t kVector = 16;

inline int64_t padded(int64_t width) { return (width + kVector - 1) / kVector * kVector; }

// Consecutive rows that are worked on together.
struct Block {
    int32_t first;
    int32_t count;
};

// Blocks hold 1 to kBlockRows rows and cover rows 0 to rows - 1.
constexpr int kBlockRows = 8;

constexpr int64_t kTileRows = 128;

struct Tile {
    int64_t rows;  // at most kTileRows
    std::vector<Block> blocks;
};

// Rows that need no order of their own, in blocks of `step` and what is left.
inline Tile even_tile(int64_t rows, int64_t step) {
    Tile tile{rows, {}};
    for (int64_t first = 0; first < rows; first += step) {
        tile.blocks.push_back({static_cast<int32_t>(first), static_cast<int32_t>(std::min(step, rows - first))});
    }
    return tile;
}

// Dense weights of a layer: weight [out, in] row-major, bias [out], null for none.
struct Linear {
    const float* weight;
    const float* bias;
    int64_t in;
    int64_t out;
};

class Layer {
  public:
    virtual ~Layer() = default;
    // Rows of a block that suit the layer best, at most kBlockRows.
    virtual int block_rows() const { return kBlockRows; }
    // Bytes that forward needs for itself, aligned to 64.
    virtual size_t scratch_bytes() const = 0;
    // relu(in * W^T + bias): in [rows, padded(in)] -> out [rows, padded(out)]. Columns of `in` past its width are never
    // read.
    void forward(const Tile& tile, const float* in, float* out, char* scratch) const {
        run(tile, in, nullptr, out, scratch);
    }
    // in * W^T where h > 0, else zero, for a layer without a bias: with the transposed weights of the layer above,
    // the gradient that goes on below h [rows, padded(out)].
    void backward(const Tile& tile, const float* in, const float* h, float* out, char* scratch) const {
        run(tile, in, h, out, scratch);
    }

  protected:
    // Both of them; `active` is null for forward.
    virtual void run(const Tile& tile, const float* in, const float* active, float* out, char* scratch) const = 0;
};

// Of each arithmetic (arithmetic.h).
std::unique_ptr<Layer> make_avx512_layer(const Linear& linear);
std::unique_ptr<Layer> make_vnni_layer(const Linear& linear);
std::unique_ptr<Layer> make_avx2_layer(const Linear& linear);
std::unique_ptr<Layer> make_madd_layer(const Linear& linear);

}  // namespace liif
