// The gradient of a hidden layer's weight, dz^T * h, added up over tiles of rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "layers/layer.h"

namespace liif {

class WeightGradient {
  public:
    virtual ~WeightGradient() = default;
    // Bytes that add needs for itself, aligned to 64.
    virtual size_t scratch_bytes() const = 0;
    // dz [rows, padded(out)], h [rows, padded(in)] of a tile; sum: out * padded(in) floats, in an order of its own.
    // Columns of dz and h past their widths are never used.
    virtual void add(const Tile& tile, const float* dz, const float* h, float* sum, char* scratch) const = 0;
    // weight [out, in] += sum.
    virtual void collect(const float* sum, float* weight) const = 0;
};

// Of each arithmetic (layers/arithmetic.h).
std::unique_ptr<WeightGradient> make_avx512_weight_gradient(int64_t in, int64_t out);
std::unique_ptr<WeightGradient> make_vnni_weight_gradient(int64_t in, int64_t out);
std::unique_ptr<WeightGradient> make_avx2_weight_gradient(int64_t in, int64_t out);

}  // namespace liif
