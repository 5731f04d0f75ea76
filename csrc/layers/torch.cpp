// Layers on libtorch's matrix products, for every processor: oneDNN's batch-reduce GEMM where libtorch exports it and
// the processor can run it, else at::mm.
#include <ATen/core/Tensor.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <cstring>

#include "buffer.h"
#include "layers/layer.h"
#include "layers/panels.h"
#include "simd/rows.h"
#include "weight_gradients/weight_gradient.h"

namespace liif {
namespace {

namespace blas = at::native::cpublas;

// The end of a layer: its bias, then its ReLU or `active` (layer.h).
void finish(float* values, const float* active, int64_t stride, int64_t rows, int64_t n, const float* bias) {
    if (active) {
        // A backward has no bias.
        mask(values, active, stride, rows, n);
    } else {
        add_bias_relu(values, stride, rows, n, bias);
    }
}

class MmLayer final : public Layer {
  public:
    explicit MmLayer(const Linear& linear)
        : in_(linear.in),
          out_(linear.out),
          weight_(at::from_blob(const_cast<float*>(linear.weight), {out_, in_}, at::kFloat)
                      .t()
                      .clone(at::MemoryFormat::Contiguous)),
          bias_(pad_bias(linear)) {}

    size_t scratch_bytes() const override { return 0; }

    void run(const Tile& tile, const float* in, const float* active, float* out, char*) const override {
        const auto source = at::from_blob(const_cast<float*>(in), {tile.rows, in_}, {padded(in_), 1}, at::kFloat);
        auto target = at::from_blob(out, {tile.rows, out_}, {padded(out_), 1}, at::kFloat);
        at::mm_out(target, source, weight_);
        finish(out, active, padded(out_), tile.rows, out_, bias_.get());
    }

  private:
    int64_t in_, out_;
    at::Tensor weight_;  // [in, out]
    Buffer<float> bias_;
};

// Columns of the panel that starts at column n: `most`, or what is left.
int64_t panel_columns(int64_t most, int64_t out, int64_t n) { return std::min(most, padded(out) - n); }

#ifdef CPUBLAS_BRGEMM_F32F32F32
class BrgemmLayer final : public Layer {
  public:
    explicit BrgemmLayer(const Linear& linear)
        : in_(linear.in), out_(linear.out), packed_(static_cast<size_t>(padded(out_) * in_)), bias_(pad_bias(linear)) {
        std::fill_n(packed_.get(), padded(out_) * in_, 0.0f);
        for (int64_t n = 0; n < out_; ++n) {
            const int64_t first = n / kPanel * kPanel, columns = panel_columns(kPanel, out_, first);
            float* column = packed_.get() + first * in_ + n - first;
            for (int64_t k = 0; k < in_; ++k) {
                column[k * columns] = linear.weight[n * in_ + k];
            }
        }
    }

    size_t scratch_bytes() const override { return 0; }

    void run(const Tile& tile, const float* in, const float* active, float* out, char*) const override {
        const int64_t stride = padded(out_);
        for (int64_t n = 0; n < out_; n += kPanel) {
            const int64_t columns = panel_columns(kPanel, out_, n);
            blas::brgemm(tile.rows, columns, in_, padded(in_), columns, stride, false, in, packed_.get() + n * in_,
                         out + n);
            finish(out + n, active ? active + n : nullptr, stride, tile.rows, columns, bias_.get() + n);
        }
    }

    void release() const override { blas::brgemm_release(false); }

  private:
    static constexpr int64_t kPanel = 32;  // of 256 inputs it has 32 KB, the size of a first-level cache

    int64_t in_, out_;
    Buffer<float> packed_;  // panels, each [in, columns]
    Buffer<float> bias_;
};
#endif

class MmWeightGradient final : public WeightGradient {
  public:
    MmWeightGradient(int64_t in, int64_t out) : in_(in), out_(out) {}

    size_t scratch_bytes() const override { return 0; }

    // sum: [out, padded(in)].
    void add(const Tile& tile, const float* dz, const float* h, float* sum, char*) const override {
        matrix(sum, out_, in_).addmm_(matrix(dz, tile.rows, out_).t(), matrix(h, tile.rows, in_));
    }

    void collect(const float* sum, float* weight) const override {
        for (int64_t n = 0; n < out_; ++n) {
            add_row(sum + n * padded(in_), 1.0f, in_, weight + n * in_);
        }
    }

  private:
    static at::Tensor matrix(const float* values, int64_t rows, int64_t width) {
        return at::from_blob(const_cast<float*>(values), {rows, width}, {padded(width), 1}, at::kFloat);
    }

    int64_t in_, out_;
};

#ifdef CPUBLAS_BRGEMM_F32F32F32
// Whether a small layer runs and is right: brgemm throws on a processor that it has no kernel for. The sizes are odd,
// so that paddings and a partial panel are looked at too.
bool brgemm_runs() {
    constexpr int64_t in = 37, out = 83, rows = 3;
    const Buffer<float> weight(out * in), bias(out), from(rows * padded(in)), to(rows * padded(out));
    for (int64_t i = 0; i < out * in; ++i) {
        weight[static_cast<size_t>(i)] = static_cast<float>(i * 7 % 11) - 4;
    }
    for (int64_t i = 0; i < rows * padded(in); ++i) {
        from[static_cast<size_t>(i)] = static_cast<float>(i * 5 % 13);
    }
    std::fill_n(bias.get(), out, 0.5f);
    try {
        const BrgemmLayer layer({weight.get(), bias.get(), in, out});
        const Buffer<char> scratch(layer.scratch_bytes());
        layer.forward({rows, {}}, from.get(), to.get(), scratch.get());
        layer.release();
    } catch (const std::exception&) {
        return false;
    }
    // Small whole numbers, so that sums are exact.
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t n = 0; n < out; ++n) {
            float sum = 0.5f;
            for (int64_t k = 0; k < in; ++k) {
                sum += from[static_cast<size_t>(r * padded(in) + k)] * weight[static_cast<size_t>(n * in + k)];
            }
            if (to[static_cast<size_t>(r * padded(out) + n)] != std::max(sum, 0.0f)) {
                return false;
            }
        }
    }
    return true;
}
#endif

}  // namespace

std::unique_ptr<Layer> make_mm_layer(const Linear& linear) { return std::make_unique<MmLayer>(linear); }

std::unique_ptr<WeightGradient> make_mm_weight_gradient(int64_t in, int64_t out) {
    return std::make_unique<MmWeightGradient>(in, out);
}

#ifdef CPUBLAS_BRGEMM_F32F32F32
bool brgemm_works() {
    static const bool works = brgemm_runs();
    return works;
}
std::unique_ptr<Layer> make_brgemm_layer(const Linear& linear) { return std::make_unique<BrgemmLayer>(linear); }
#else
bool brgemm_works() { return false; }
std::unique_ptr<Layer> make_brgemm_layer(const Linear& linear) { return make_mm_layer(linear); }
#endif

}  // namespace liif
