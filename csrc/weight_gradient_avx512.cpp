// float32 weight gradients for AVX-512. Both operands are copied once for each tile, so that a panel of h stays in the
// first-level cache while every output's column of dz passes by.
#include "weight_gradient.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "layer.h"
#include "panels.h"

#define LIIF_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))

namespace liif {
namespace {

constexpr int kOutputs = 8;  // worked on together
constexpr int64_t kRow = kPanel * kVector;

// sum[i][k] += sum_r dz[r][i] * h[r][k] for `outputs` of the kOutputs and V vectors of inputs.
template <int V>
LIIF_AVX512 void multiply(int64_t rows, const float* dz, const float* h, int outputs, float* sum, int64_t stride) {
    __m512 total[kOutputs][V];
#pragma GCC unroll 8
    for (int i = 0; i < kOutputs; ++i) {
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) {
            total[i][v] = _mm512_setzero_ps();
            _mm_prefetch(reinterpret_cast<const char*>(sum + std::min(i, outputs - 1) * stride + kVector * v),
                         _MM_HINT_T0);
        }
    }
    for (int64_t r = 0; r < rows; ++r) {
        __m512 value[V];
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) {
            value[v] = _mm512_load_ps(h + r * kRow + kVector * v);
        }
#pragma GCC unroll 8
        for (int i = 0; i < kOutputs; ++i) {
            const __m512 factor = _mm512_set1_ps(dz[r * kOutputs + i]);
#pragma GCC unroll 3
            for (int v = 0; v < V; ++v) {
                total[i][v] = _mm512_fmadd_ps(factor, value[v], total[i][v]);
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < kOutputs; ++i) {
        if (i == outputs) {
            return;
        }
#pragma GCC unroll 3
        for (int v = 0; v < V; ++v) {
            float* to = sum + i * stride + kVector * v;
            _mm512_store_ps(to, _mm512_add_ps(_mm512_load_ps(to), total[i][v]));
        }
    }
}

class Avx512WeightGradient final : public WeightGradient {
  public:
    Avx512WeightGradient(int64_t in, int64_t out) : in_(in), out_(out), panels_(split_columns(in)) {}

    size_t scratch_bytes() const override {
        return static_cast<size_t>(kTileRows * (kRow + padded(out_))) * sizeof(float);
    }

    void add(int64_t rows, const float* dz, const float* h, float* sum, char* scratch) const override {
        float* columns = reinterpret_cast<float*>(scratch);
        float* panel = columns + kTileRows * padded(out_);
        for (int64_t n = 0; n < out_; n += kOutputs) {
            for (int64_t r = 0; r < rows; ++r) {
                std::memcpy(columns + (n * kTileRows + r * kOutputs), dz + r * padded(out_) + n,
                            kOutputs * sizeof(float));
            }
        }
        for (const Panel& part : panels_) {
            for (int64_t r = 0; r < rows; ++r) {
                std::memcpy(panel + r * kRow, h + r * padded(in_) + part.first,
                            static_cast<size_t>(part.vectors * kVector) * sizeof(float));
            }
            constexpr decltype(&multiply<1>) kMultiply[] = {multiply<1>, multiply<2>, multiply<3>};
            for (int64_t n = 0; n < out_; n += kOutputs) {
                kMultiply[part.vectors - 1](rows, columns + n * kTileRows, panel,
                                            static_cast<int>(std::min<int64_t>(kOutputs, out_ - n)),
                                            sum + n * padded(in_) + part.first, padded(in_));
            }
        }
    }

  private:
    int64_t in_, out_;
    std::vector<Panel> panels_;
};

}  // namespace

std::unique_ptr<WeightGradient> make_avx512_weight_gradient(int64_t in, int64_t out) {
    return std::make_unique<Avx512WeightGradient>(in, out);
}

}  // namespace liif
#endif
