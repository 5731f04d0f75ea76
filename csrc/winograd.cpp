// 3 x 3 convolutions with zero padding by Winograd's minimal filtering F(4 x 4, 3 x 3) (Lavin and Gray, 2016): a
// quarter of the multiplications, for an error of a few more float32 digits. liif_fast/convolution.py turns the
// kernels.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <tuple>
#include <vector>

#include "arguments.h"
#include "buffer.h"
#include "layer.h"
#include "rows.h"

#if defined(__x86_64__) && defined(CPUBLAS_BRGEMM_F32F32F32)
#include <immintrin.h>

#define LIIF_AVX512 __attribute__((target("avx512f")))

namespace liif {
namespace {

constexpr int64_t kOut = 4, kIn = 6, kPoints = kIn * kIn;
constexpr int64_t kTogether = 24;  // tiles: what they are turned into stays in the second-level cache
constexpr int64_t kColumns = 64;   // of one product
constexpr int64_t kSumPoint = 7;   // where turn_gradient adds up all pixels of a tile

LIIF_AVX512 inline __m512 times(float factor, __m512 x) { return _mm512_mul_ps(_mm512_set1_ps(factor), x); }
LIIF_AVX512 inline __m512 plus(__m512 a, float factor, __m512 b) {
    return _mm512_fmadd_ps(_mm512_set1_ps(factor), b, a);
}

// B^T x.
LIIF_AVX512 inline void turn_input(const __m512* x, __m512* y) {
    const __m512 a = plus(x[4], -4, x[2]), b = plus(x[3], -4, x[1]);
    const __m512 c = _mm512_sub_ps(x[4], x[2]), d = times(2, _mm512_sub_ps(x[3], x[1]));
    y[0] = plus(plus(x[4], -5, x[2]), 4, x[0]);
    y[1] = _mm512_add_ps(a, b);
    y[2] = _mm512_sub_ps(a, b);
    y[3] = _mm512_add_ps(c, d);
    y[4] = _mm512_sub_ps(c, d);
    y[5] = plus(plus(x[5], -5, x[3]), 4, x[1]);
}

// A^T x.
LIIF_AVX512 inline void turn_output(const __m512* x, __m512* y) {
    const __m512 a = _mm512_add_ps(x[1], x[2]), b = _mm512_sub_ps(x[1], x[2]);
    const __m512 c = _mm512_add_ps(x[3], x[4]), d = _mm512_sub_ps(x[3], x[4]);
    y[0] = _mm512_add_ps(_mm512_add_ps(x[0], a), c);
    y[1] = plus(b, 2, d);
    y[2] = plus(a, 4, c);
    y[3] = _mm512_add_ps(plus(b, 8, d), x[5]);
}

// A x: the backward of turn_output.
LIIF_AVX512 inline void turn_gradient(const __m512* x, __m512* y) {
    const __m512 a = _mm512_add_ps(x[0], x[2]), b = _mm512_add_ps(x[1], x[3]);
    const __m512 c = plus(x[0], 4, x[2]), d = times(2, plus(x[1], 4, x[3]));
    y[0] = x[0];
    y[1] = _mm512_add_ps(a, b);
    y[2] = _mm512_sub_ps(a, b);
    y[3] = _mm512_add_ps(c, d);
    y[4] = _mm512_sub_ps(c, d);
    y[5] = x[3];
}

// A map of float32 pixels [batch, height, width, channels], cut into tiles of kOut x kOut.
struct Map {
    Map(const at::Tensor& t, const float* values)
        : height(t.size(2)),
          width(t.size(3)),
          channels(t.size(1)),
          down((height + kOut - 1) / kOut),
          across((width + kOut - 1) / kOut),
          tiles(t.size(0) * down * across),
          values(values) {}

    int64_t height, width, channels, down, across, tiles;
    const float* values;
};

// Size x Size pixels of a tile from (first, first); null where they lie outside of the map.
template <int64_t Size>
void find_pixels(const Map& map, int64_t tile, int64_t first, const float* (&found)[Size][Size]) {
    const int64_t top = tile / map.across % map.down * kOut + first, left = tile % map.across * kOut + first;
    const float* picture = map.values + tile / map.across / map.down * map.height * map.width * map.channels;
    for (int64_t y = top; y < top + Size; ++y) {
        for (int64_t x = left; x < left + Size; ++x) {
            const bool inside = y >= 0 && y < map.height && x >= 0 && x < map.width;
            found[y - top][x - left] = inside ? picture + (y * map.width + x) * map.channels : nullptr;
        }
    }
}

// From one point to the next; not a multiple of a page, which would put all points into one set of the cache.
int64_t point_stride(int64_t channels) { return kTogether * channels + kVector; }

// The matrices [point][tile][channel] of one run.
at::Tensor all_points(const Buffer<float>& values, int64_t tiles, int64_t channels) {
    return at::from_blob(values.get(), {kPoints, tiles, channels}, {point_stride(channels), channels, 1}, at::kFloat);
}

// Size x Size pixels from (first, first) of each tile, turned both ways: to [point][tile][channel].
template <int64_t Size, void Turn(const __m512*, __m512*)>
LIIF_AVX512 void turn(const Map& map, int64_t begin, int64_t end, int64_t first, float* to) {
    const int64_t stride = point_stride(map.channels);
    for (int64_t tile = begin; tile < end; ++tile) {
        const float* from[Size][Size];
        find_pixels<Size>(map, tile, first, from);
        for (int64_t channel = 0; channel < map.channels; channel += kVector) {
            __m512 half[Size][kIn];
            for (int64_t x = 0; x < Size; ++x) {
                __m512 column[Size];
#pragma GCC unroll 6
                for (int64_t y = 0; y < Size; ++y) {
                    column[y] = from[y][x] ? _mm512_loadu_ps(from[y][x] + channel) : _mm512_setzero_ps();
                }
                Turn(column, half[x]);
            }
            float* place = to + (tile - begin) * map.channels + channel;
            for (int64_t y = 0; y < kIn; ++y) {
                __m512 row[Size], points[kIn];
#pragma GCC unroll 6
                for (int64_t x = 0; x < Size; ++x) {
                    row[x] = half[x][y];
                }
                Turn(row, points);
#pragma GCC unroll 6
                for (int64_t x = 0; x < kIn; ++x) {
                    _mm512_storeu_ps(place + (y * kIn + x) * stride, points[x]);
                }
            }
        }
    }
}

// What is done to a result before it is written.
enum class Finish {
    kNothing,
    kRelu,    // negative values become zero (NaN stays)
    kAdd,     // another map is added
    kSelect,  // zero where another map is not above zero (NaN is): the backward of kRelu
};

// The products' points [point][tile][channel] back to pixels of `map`, plus the bias; `other` is laid out as the map.
template <Finish finish>
LIIF_AVX512 void turn_back(const Map& map, int64_t begin, int64_t end, const float* from, const float* bias,
                           const float* other) {
    const int64_t stride = point_stride(map.channels);
    for (int64_t tile = begin; tile < end; ++tile) {
        const float* pixel[kOut][kOut];
        find_pixels<kOut>(map, tile, 0, pixel);
        for (int64_t channel = 0; channel < map.channels; channel += kVector) {
            const float* place = from + (tile - begin) * map.channels + channel;
            const __m512 offset = bias ? _mm512_loadu_ps(bias + channel) : _mm512_setzero_ps(), zero = {};
            __m512 half[kIn][kOut];
            for (int64_t x = 0; x < kIn; ++x) {
                __m512 column[kIn];
#pragma GCC unroll 6
                for (int64_t y = 0; y < kIn; ++y) {
                    column[y] = _mm512_loadu_ps(place + (y * kIn + x) * stride);
                }
                turn_output(column, half[x]);
            }
            for (int64_t y = 0; y < kOut; ++y) {
                __m512 row[kIn], pixels[kOut];
#pragma GCC unroll 6
                for (int64_t x = 0; x < kIn; ++x) {
                    row[x] = half[x][y];
                }
                turn_output(row, pixels);
#pragma GCC unroll 4
                for (int64_t x = 0; x < kOut; ++x) {
                    if (pixel[y][x]) {
                        float* to = const_cast<float*>(pixel[y][x]) + channel;
                        const float* own = other + (to - map.values);
                        __m512 value = _mm512_add_ps(pixels[x], offset);
                        if constexpr (finish == Finish::kRelu) {
                            value = _mm512_max_ps(zero, value);
                        } else if constexpr (finish == Finish::kAdd) {
                            value = _mm512_add_ps(value, _mm512_loadu_ps(own));
                        } else if constexpr (finish == Finish::kSelect) {
                            const __mmask16 alive = _mm512_cmp_ps_mask(_mm512_loadu_ps(own), zero, _CMP_NLE_UQ);
                            value = _mm512_maskz_mov_ps(alive, value);
                        }
                        _mm512_storeu_ps(to, value);
                    }
                }
            }
        }
    }
}

void check_map(const at::Tensor& t, const char* name) {
    check_float(t, name);
    TORCH_CHECK(t.dim() == 4 && t.size(1) > 0 && t.size(1) % kVector == 0, name, ": expected [B, C, H, W] with C a ",
                "multiple of ", kVector, ", got ", t.sizes());
}

// x [B, C, H, W], points [36, C, N] of the kernel, bias [N] -> [B, N, H, W], channels last. finish: "", "relu", or
// "add" or "select" with another map [B, N, H, W].
at::Tensor cpu_winograd(const at::Tensor& x, const at::Tensor& points, const std::optional<at::Tensor>& bias,
                        const std::string& finish, const std::optional<at::Tensor>& other) {
    check_map(x, "x");
    check_float(points, "points");
    const int64_t in = x.size(1), out = points.size(-1);
    TORCH_CHECK(points.dim() == 3 && points.size(0) == kPoints && points.size(1) == in && out % kVector == 0,
                "points: expected [", kPoints, ", ", in, ", N] with N a multiple of ", kVector, ", got ",
                points.sizes());
    constexpr auto kLayout = at::MemoryFormat::ChannelsLast;
    const at::Tensor source = x.contiguous(kLayout), kernel = points.contiguous();
    at::Tensor result = at::empty({x.size(0), out, x.size(2), x.size(3)}, x.options().memory_format(kLayout));
    const at::Tensor offset = bias ? bias->contiguous() : at::Tensor();
    at::Tensor second = result;
    if (other) {
        check_map(*other, "other");
        TORCH_CHECK(other->sizes() == result.sizes(), "other: expected ", result.sizes(), ", got ", other->sizes());
        second = other->contiguous(kLayout);
    }
    TORCH_CHECK(other.has_value() == (finish == "add" || finish == "select"),
                "other: expected with add and select only");
    TORCH_CHECK(finish.empty() || finish == "relu" || other, "finish: expected relu, add, select or nothing, got ",
                finish);
    const auto turn_back_and = finish == "relu"     ? turn_back<Finish::kRelu>
                               : finish == "add"    ? turn_back<Finish::kAdd>
                               : finish == "select" ? turn_back<Finish::kSelect>
                                                    : turn_back<Finish::kNothing>;
    const Map from(source, source.const_data_ptr<float>()), to(result, result.mutable_data_ptr<float>());
    const int64_t runs = (from.tiles + kTogether - 1) / kTogether;
    // Threads take the next run when they are ready, so that a slow or busy core does not hold up the others.
    std::atomic<int64_t> next{0};
    at::parallel_for(0, std::min<int64_t>(at::get_num_threads(), runs), 1, [&](int64_t, int64_t) {
        const Buffer<float> turned(static_cast<size_t>(kPoints * point_stride(in)));
        const Buffer<float> products(static_cast<size_t>(kPoints * point_stride(out)));
        for (int64_t run = next++; run < runs; run = next++) {
            const int64_t begin = run * kTogether, end = std::min(begin + kTogether, from.tiles);
            turn<kIn, turn_input>(from, begin, end, -1, turned.get());
            for (int64_t point = 0; point < kPoints; ++point) {
                for (int64_t n = 0; n < out; n += kColumns) {
                    at::native::cpublas::brgemm(end - begin, std::min(kColumns, out - n), in, in, out, out, false,
                                                turned.get() + point * point_stride(in),
                                                kernel.const_data_ptr<float>() + point * in * out + n,
                                                products.get() + point * point_stride(out) + n);
                }
            }
            turn_back_and(to, begin, end, products.get(), offset.defined() ? offset.const_data_ptr<float>() : nullptr,
                          second.const_data_ptr<float>());
        }
        at::native::cpublas::brgemm_release(false);
    });
    return result;
}

// x [B, C, H, W], grad [B, N, H, W] of the result -> the gradients of `points` and of the bias [N], added up in an
// order that only the number of threads changes.
std::tuple<at::Tensor, at::Tensor> cpu_winograd_weight(const at::Tensor& x, const at::Tensor& grad) {
    check_map(x, "x");
    check_map(grad, "grad");
    TORCH_CHECK(x.size(0) == grad.size(0) && x.size(2) == grad.size(2) && x.size(3) == grad.size(3),
                "grad: expected the size of x, ", x.sizes(), ", got ", grad.sizes());
    const int64_t in = x.size(1), out = grad.size(1);
    const at::Tensor source = x.contiguous(at::MemoryFormat::ChannelsLast);
    const at::Tensor given = grad.contiguous(at::MemoryFormat::ChannelsLast);
    const Map from(source, source.const_data_ptr<float>()), by(given, given.const_data_ptr<float>());
    const int64_t runs = (from.tiles + kTogether - 1) / kTogether, threads = at::get_num_threads();
    const int64_t shares = std::max<int64_t>(1, std::min(threads, runs));
    const at::Tensor sums = at::zeros({shares, kPoints, in, out}, x.options());
    const at::Tensor biases = at::zeros({shares, out}, x.options());
    std::atomic<int64_t> next{0};
    at::parallel_for(0, std::min(threads, shares), 1, [&](int64_t, int64_t) {
        const Buffer<float> turned(static_cast<size_t>(kPoints * point_stride(in)));
        const Buffer<float> gradients(static_cast<size_t>(kPoints * point_stride(out)));
        for (int64_t share = next++; share < shares; share = next++) {
            at::Tensor sum = sums.select(0, share);
            float* bias = biases.mutable_data_ptr<float>() + share * out;
            for (int64_t run = runs * share / shares; run < runs * (share + 1) / shares; ++run) {
                const int64_t begin = run * kTogether, end = std::min(begin + kTogether, from.tiles);
                turn<kIn, turn_input>(from, begin, end, -1, turned.get());
                turn<kOut, turn_gradient>(by, begin, end, 0, gradients.get());
                sum.baddbmm_(all_points(turned, end - begin, in).transpose(1, 2),
                             all_points(gradients, end - begin, out));
                add_rows(gradients.get() + kSumPoint * point_stride(out), out, end - begin, out, bias);
            }
        }
    });
    for (int64_t share = 1; share < shares; ++share) {
        float *values = sums.mutable_data_ptr<float>(), *bias = biases.mutable_data_ptr<float>();
        add_row(values + share * kPoints * in * out, 1.0f, kPoints * in * out, values);
        add_row(bias + share * out, 1.0f, out, bias);
    }
    return {sums.select(0, 0), biases.select(0, 0)};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(liif_fast, m) {
    m.def("cpu_winograd(Tensor x, Tensor points, Tensor? bias, str finish, Tensor? other) -> Tensor");
    m.def("cpu_winograd_weight(Tensor x, Tensor grad) -> (Tensor, Tensor)");
    m.def("cpu_winograd_works() -> bool", []() { return __builtin_cpu_supports("avx512f") && brgemm_works(); });
}

TORCH_LIBRARY_IMPL(liif_fast, CPU, m) {
    m.impl("cpu_winograd", &cpu_winograd);
    m.impl("cpu_winograd_weight", &cpu_winograd_weight);
}

}  // namespace liif

#else

TORCH_LIBRARY_FRAGMENT(liif_fast, m) {
    m.def("cpu_winograd_works() -> bool", []() { return false; });
}

#endif
