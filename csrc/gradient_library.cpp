// Backward on libtorch's matrix products, for every processor.
#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>

#include "gradient.h"
#include "rows.h"

namespace liif {
namespace {

at::Tensor rows_of(const float* values, int64_t rows, int64_t width) {
    return at::from_blob(const_cast<float*>(values), {rows, width}, {padded(width), 1}, at::kFloat);
}

class MmGradient final : public LayerGradient {
  public:
    explicit MmGradient(const Linear& linear)
        : weight_(at::from_blob(const_cast<float*>(linear.weight), {linear.out, linear.in}, at::kFloat)) {}

    size_t scratch_bytes() const override { return 0; }

    void to_input(const Tile& tile, const float* dz, const float* h, float* out, char*) const override {
        auto target = rows_of(out, tile.rows, weight_.size(1));
        at::mm_out(target, rows_of(dz, tile.rows, weight_.size(0)), weight_);
        mask(out, h, padded(weight_.size(1)), tile.rows, weight_.size(1));
    }

    void to_weight(const Tile& tile, const float* dz, const float* h, float* sum, char*) const override {
        rows_of(sum, weight_.size(0), weight_.size(1))
            .addmm_(rows_of(dz, tile.rows, weight_.size(0)).t(), rows_of(h, tile.rows, weight_.size(1)));
    }

  private:
    at::Tensor weight_;  // [out, in]
};

}  // namespace

std::unique_ptr<LayerGradient> make_mm_gradient(const Linear& linear) { return std::make_unique<MmGradient>(linear); }

std::unique_ptr<LayerGradient> make_gradient(const std::string& arithmetic, const Linear& linear) {
    (void)arithmetic;
    return make_mm_gradient(linear);
}

}  // namespace liif
