// A hidden layer, relu(in * W^T + b), on tiles of rows that stay in cache, and its backward, which is the layer with W
// transposed and another end. One class for each arithmetic.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
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
    // in [rows, padded(in)] -> out [rows, padded(out)]; columns of `in` past its width are never read. With
    // `active` [rows, padded(out)], where there must be no bias, the end is not a ReLU: out is zero unless active > 0.
    virtual void forward(const Tile& tile, const float* in, const float* active, float* out, char* scratch) const = 0;
    // Called by each thread when it is done.
    virtual void release() const {}
};

// What this processor and this libtorch can run for a precision ("fp32" or "bf16"), best first; "any" lists all that
// runs.
//   avx512      float32, own kernel, skips units that the ReLU has zeroed
//   avx2        the same for AVX2
//   brgemm      float32, oneDNN's batch-reduce GEMM through libtorch
//   mm          float32, at::mm
//   vnni-int16  16-bit fixed point with a scale for each row and column, skips zeroed units
//   avx2-int16  the same for AVX2
std::vector<std::string> arithmetics(const std::string& precision);

// Whether this processor multiplies bfloat16, so that torch's own convolutions of it are fast.
bool has_bf16();

// Throws std::invalid_argument for an arithmetic that is not one of them.
std::unique_ptr<Layer> make_layer(const std::string& arithmetic, const Linear& linear);

// Behind make_layer; own kernels exist on x86-64 only.
std::unique_ptr<Layer> make_brgemm_layer(const Linear& linear);
std::unique_ptr<Layer> make_mm_layer(const Linear& linear);
std::unique_ptr<Layer> make_avx512_layer(const Linear& linear);
std::unique_ptr<Layer> make_vnni_layer(const Linear& linear);
std::unique_ptr<Layer> make_avx2_layer(const Linear& linear);
std::unique_ptr<Layer> make_madd_layer(const Linear& linear);
bool brgemm_works();

}  // namespace liif
