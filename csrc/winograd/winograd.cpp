// 3 x 3 convolutions with zero padding by Winograd's minimal filtering F(4 x 4, 3 x 3) (Lavin and Gray, 2016): a
// quarter of the multiplications, for an error of a few more float32 digits. liif_fast/native/convolution.py transforms
// the kernels.
#include "winograd/winograd.h"

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "arguments.h"
#include "buffer.h"
#include "cpu.h"
#include "layers/arithmetic.h"
#include "layers/layer.h"
#include "simd/rows.h"
#include "weight_gradients/weight_gradient.h"

#if defined(__x86_64__) && defined(CPUBLAS_BRGEMM_F32F32F32)

namespace liif {
namespace {

constexpr int64_t kColumns = 64;  // of one product

Map map_of(const at::Tensor& t, const float* values) { return {t.size(0), t.size(2), t.size(3), t.size(1), values}; }

void check_map(const at::Tensor& t, const char* name) {
    check_float(t, name);
    TORCH_CHECK(t.dim() == 4 && t.size(1) > 0 && t.size(1) % kVector == 0, name, ": expected [B, C, H, W] with C a ",
                "multiple of ", kVector, ", got ", t.sizes());
}

const Transforms& available_transforms() {
    const Transforms* transforms = winograd_transforms();
    TORCH_CHECK(transforms, "winograd: expected a processor with AVX-512, or with AVX2 and FMA");
    return *transforms;
}

Finish find_finish(const std::string& name) {
    constexpr std::pair<const char*, Finish> kNames[kFinishes] = {
        {"", Finish::kNothing}, {"relu", Finish::kRelu}, {"add", Finish::kAdd}, {"select", Finish::kSelect}};
    for (const auto& [known, finish] : kNames) {
        if (name == known) {
            return finish;
        }
    }
    TORCH_CHECK(false, "finish: expected relu, add, select or nothing, got ", name);
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
    const Finish last = find_finish(finish);
    TORCH_CHECK(other.has_value() == (last == Finish::kAdd || last == Finish::kSelect),
                "other: expected with add and select only");
    const Transforms& transforms = available_transforms();
    const auto transform_back = transforms.output[static_cast<size_t>(last)];
    const Map from = map_of(source, source.const_data_ptr<float>());
    const Map to = map_of(result, result.mutable_data_ptr<float>());
    const int64_t runs = (from.tiles + kTogether - 1) / kTogether;
    // Threads take the next run when they are ready, so that a slow or busy core does not hold up the others.
    std::atomic<int64_t> next{0};
    at::parallel_for(0, std::min<int64_t>(at::get_num_threads(), runs), 1, [&](int64_t, int64_t) {
        const Buffer<float> transformed(static_cast<size_t>(kPoints * point_stride(in)));
        const Buffer<float> products(static_cast<size_t>(kPoints * point_stride(out)));
        for (int64_t run = next++; run < runs; run = next++) {
            const int64_t begin = run * kTogether, end = std::min(begin + kTogether, from.tiles);
            transforms.input(from, begin, end, transformed.get());
            for (int64_t point = 0; point < kPoints; ++point) {
                for (int64_t n = 0; n < out; n += kColumns) {
                    at::native::cpublas::brgemm(end - begin, std::min(kColumns, out - n), in, in, out, out, false,
                                                transformed.get() + point * point_stride(in),
                                                kernel.const_data_ptr<float>() + point * in * out + n,
                                                products.get() + point * point_stride(out) + n);
                }
            }
            transform_back(to, begin, end, products.get(), offset.defined() ? offset.const_data_ptr<float>() : nullptr,
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
    const Transforms& transforms = available_transforms();
    const Map from = map_of(source, source.const_data_ptr<float>()), by = map_of(given, given.const_data_ptr<float>());
    const int64_t runs = (from.tiles + kTogether - 1) / kTogether, threads = at::get_num_threads();
    const int64_t shares = std::max<int64_t>(1, std::min(threads, runs));
    const auto products = make_weight_gradient(checked_arithmetic(arithmetics("fp32").front()), out, in);
    const at::Tensor sums = at::zeros({shares, kPoints, in, out}, x.options());
    const at::Tensor biases = at::zeros({shares, out}, x.options());
    std::atomic<int64_t> next{0};
    at::parallel_for(0, std::min(threads, shares), 1, [&](int64_t, int64_t) {
        const Buffer<float> transformed(static_cast<size_t>(kPoints * point_stride(in)));
        const Buffer<float> gradients(static_cast<size_t>(kPoints * point_stride(out)));
        const Buffer<char> scratch(products->scratch_bytes());
        for (int64_t share = next++; share < shares; share = next++) {
            float* sum = sums.mutable_data_ptr<float>() + share * kPoints * in * out;
            float* bias = biases.mutable_data_ptr<float>() + share * out;
            for (int64_t run = runs * share / shares; run < runs * (share + 1) / shares; ++run) {
                const int64_t begin = run * kTogether, end = std::min(begin + kTogether, from.tiles);
                transforms.input(from, begin, end, transformed.get());
                transforms.gradient(by, begin, end, gradients.get());
                const Tile rows = even_tile(end - begin, kBlockRows);
                for (int64_t point = 0; point < kPoints; ++point) {
                    products->add(rows, transformed.get() + point * point_stride(in),
                                  gradients.get() + point * point_stride(out), sum + point * in * out, scratch.get());
                }
                add_rows(gradients.get() + kSumPoint * point_stride(out), out, end - begin, out, bias);
            }
        }
    });
    at::Tensor points = at::zeros({kPoints, in, out}, x.options()), bias = at::zeros({out}, x.options());
    for (int64_t share = 0; share < shares; ++share) {
        for (int64_t point = 0; point < kPoints; ++point) {
            products->collect(sums.const_data_ptr<float>() + (share * kPoints + point) * in * out,
                              points.mutable_data_ptr<float>() + point * in * out);
        }
        add_row(biases.const_data_ptr<float>() + share * out, 1.0f, out, bias.mutable_data_ptr<float>());
    }
    return {points, bias};
}

}  // namespace

const Transforms* winograd_transforms() {
    return has_avx512() ? &kTransformsAvx512 : has_avx2() ? &kTransformsAvx2 : nullptr;
}

TORCH_LIBRARY_FRAGMENT(liif_fast, m) {
    m.def("cpu_winograd(Tensor x, Tensor points, Tensor? bias, str finish, Tensor? other) -> Tensor");
    m.def("cpu_winograd_weight(Tensor x, Tensor grad) -> (Tensor, Tensor)");
    m.def("cpu_winograd_works() -> bool", []() { return winograd_transforms() && brgemm_works(); });
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
