// The gradient of a hidden layer's weight, sum += dz^T * h, on tiles of rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace liif {

class WeightGradient {
  public:
    virtual ~WeightGradient() = default;
    // Bytes that add needs for itself, aligned to 64.
    virtual size_t scratch_bytes() const = 0;
    // dz [rows, padded(out)], h [rows, padded(in)], sum [out, padded(in)]; rows is kTileRows at most. Columns of dz and
    // h past their widths are never used, those of sum may get any value.
    virtual void add(int64_t rows, const float* dz, const float* h, float* sum, char* scratch) const = 0;
};

// For the arithmetics of layer.h.
std::unique_ptr<WeightGradient> make_weight_gradient(const std::string& arithmetic, int64_t in, int64_t out);

// Behind make_weight_gradient; own kernels exist on x86-64 only.
std::unique_ptr<WeightGradient> make_mm_weight_gradient(int64_t in, int64_t out);
std::unique_ptr<WeightGradient> make_avx512_weight_gradient(int64_t in, int64_t out);
std::unique_ptr<WeightGradient> make_vnni_weight_gradient(int64_t in, int64_t out);

}  // namespace liif
