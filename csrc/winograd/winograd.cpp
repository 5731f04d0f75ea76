// 3 x 3 convolutions with zero padding by Winograd's minimal filtering F(4 x 4, 3 x 3) (Lavin and Gray, 2016): a
// quarter of the multiplications, for an error of a few more float32 digits. liif_fast/native/convolution.py transforms
// the kernels.
#include "winograd/winograd.h"

#include <algorithm>
#include <vector>

#include "buffer.h"
#include "cpu.h"
#include "layers/arithmetic.h"
#include "layers/layer.h"
#include "simd/rows.h"
#include "team.h"
#include "weight_gradients/weight_gradient.h"

namespace liif {

void convolve(const Map& x, const float* points, const float* bias, Finish finish, const float* other, int64_t threads,
              const Map& result) {
    const Transforms& transforms = *winograd_transforms();
    const auto transform_back = transforms.output[static_cast<size_t>(finish)];
    const int64_t in = x.channels, out = result.channels, runs = (x.tiles + kTogether - 1) / kTogether;
    Counter counter(runs);
    run_together(std::min(threads, runs), [&] {
        int64_t run = counter.next();
        if (!counter.has(run)) {
            return;
        }
        const Buffer<float> transformed(static_cast<size_t>(kPoints * point_stride(in)));
        const Buffer<float> products(static_cast<size_t>(kPoints * point_stride(out)));
        for (; counter.has(run); run = counter.next()) {
            const int64_t begin = run * kTogether, end = std::min(begin + kTogether, x.tiles);
            transforms.input(x, begin, end, transformed.get());
            for (int64_t point = 0; point < kPoints; ++point) {
                transforms.multiply(end - begin, in, out, transformed.get() + point * point_stride(in),
                                    points + point * in * out, products.get() + point * point_stride(out));
            }
            transform_back(result, begin, end, products.get(), bias, other);
        }
    });
}

void convolve_weight(const Map& x, const Map& grad, int64_t threads, float* d_points, float* d_bias) {
    const Transforms& transforms = *winograd_transforms();
    const int64_t in = x.channels, out = grad.channels, runs = (x.tiles + kTogether - 1) / kTogether;
    const int64_t shares = std::max<int64_t>(1, std::min(threads, runs));
    const auto products = make_weight_gradient(*best_arithmetic(), out, in);
    const auto zeros = [](int64_t count) {
        Buffer<float> buffer(static_cast<size_t>(count));
        std::fill_n(buffer.get(), count, 0.0f);
        return buffer;
    };
    const Buffer<float> sums = zeros(shares * kPoints * in * out), biases = zeros(shares * out);
    Counter counter(shares);
    run_together(shares, [&] {
        int64_t share = counter.next();
        if (!counter.has(share)) {
            return;
        }
        const Buffer<float> transformed(static_cast<size_t>(kPoints * point_stride(in)));
        const Buffer<float> gradients(static_cast<size_t>(kPoints * point_stride(out)));
        const Buffer<char> scratch(products->scratch_bytes());
        for (; counter.has(share); share = counter.next()) {
            float *sum = sums.get() + share * kPoints * in * out, *bias = biases.get() + share * out;
            for (int64_t run = runs * share / shares; run < runs * (share + 1) / shares; ++run) {
                const int64_t begin = run * kTogether, end = std::min(begin + kTogether, x.tiles);
                transforms.input(x, begin, end, transformed.get());
                transforms.gradient(grad, begin, end, gradients.get());
                const Tile rows = even_tile(end - begin, kBlockRows);
                for (int64_t point = 0; point < kPoints; ++point) {
                    products->add(rows, transformed.get() + point * point_stride(in),
                                  gradients.get() + point * point_stride(out), sum + point * in * out, scratch.get());
                }
                loops.add_rows(gradients.get() + kSumPoint * point_stride(out), out, end - begin, out, bias);
            }
        }
    });
    for (int64_t share = 0; share < shares; ++share) {
        for (int64_t point = 0; point < kPoints; ++point) {
            products->collect(sums.get() + (share * kPoints + point) * in * out, d_points + point * in * out);
        }
        loops.add_row(biases.get() + share * out, 1.0f, out, d_bias);
    }
}

const Transforms* winograd_transforms() {
#if defined(__x86_64__)
    return has_avx512() ? &kTransformsAvx512 : has_avx2() ? &kTransformsAvx2 : nullptr;
#else
    return nullptr;
#endif
}

}  // namespace liif
