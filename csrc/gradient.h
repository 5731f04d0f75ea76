// Backward of a hidden layer, h' = relu(h * W^T + b), on tiles of rows that stay in cache. dz is the gradient before
// the ReLU of the layer's own output. One class for each arithmetic.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "layer.h"

namespace liif {

class LayerGradient {
  public:
    virtual ~LayerGradient() = default;
    // Bytes that each call needs for itself, aligned to 64.
    virtual size_t scratch_bytes() const = 0;
    // dz [rows, padded(out)], h [rows, padded(in)] -> out [rows, padded(in)] = dz * W where h > 0, else 0.
    virtual void to_input(const Tile& tile, const float* dz, const float* h, float* out, char* scratch) const = 0;
    // sum [out, padded(in)] += dz^T * h. Columns of dz and h past their widths are never read in either call.
    virtual void to_weight(const Tile& tile, const float* dz, const float* h, float* sum, char* scratch) const = 0;
};

// Of the arithmetics of layer.h. Throws std::invalid_argument for one that is not among them.
std::unique_ptr<LayerGradient> make_gradient(const std::string& arithmetic, const Linear& linear);

// Behind make_gradient.
std::unique_ptr<LayerGradient> make_mm_gradient(const Linear& linear);

}  // namespace liif
