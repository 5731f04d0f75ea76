// What Winograd's convolutions (winograd.cpp) and their transforms, which each instruction set has of its own, share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "layers/layer.h"

namespace liif {

constexpr int64_t kOut = 4, kIn = 6, kPoints = kIn * kIn;
constexpr int64_t kTogether = 24;  // tiles: what they are transformed into stays in the second-level cache
constexpr int64_t kSumPoint = 7;   // where Transforms::gradient adds up all pixels of a tile

// A map of float32 pixels [batch, height, width, channels], cut into tiles of kOut x kOut.
struct Map {
    Map(int64_t batch, int64_t height, int64_t width, int64_t channels, float* values)
        : height(height),
          width(width),
          channels(channels),
          down((height + kOut - 1) / kOut),
          across((width + kOut - 1) / kOut),
          tiles(batch * down * across),
          values(values) {}

    int64_t height, width, channels, down, across, tiles;
    float* values;
};

// From one point to the next; not a multiple of a page, which would put all points into one set of the cache.
inline int64_t point_stride(int64_t channels) { return kTogether * channels + kVector; }

// What is done to a result before it is written.
enum class Finish {
    kNothing,
    kRelu,    // negative values become zero (NaN stays)
    kAdd,     // another map is added
    kSelect,  // zero where another map is not above zero (NaN is): the backward of kRelu
};
constexpr size_t kFinishes = 4;

// Tiles [begin, end) of a map to and from [point][tile][channel].
struct Transforms {
    void (*input)(const Map& map, int64_t begin, int64_t end, float* to);
    void (*gradient)(const Map& map, int64_t begin, int64_t end, float* to);  // of what `output` gives
    // Back to the pixels of `map`, plus the bias (null for none); `other` is laid out as the map. By Finish.
    void (*output[kFinishes])(const Map& map, int64_t begin, int64_t end, const float* from, const float* bias,
                              const float* other);
    // to [rows, out] = from [rows, in] * matrix [in, out], added up in the order of the inputs.
    void (*multiply)(int64_t rows, int64_t in, int64_t out, const float* from, const float* matrix, float* to);
};

// result = finish(x * kernel + bias), channels last; points [kPoints, in, out] of the kernel, bias null for none.
void convolve(const Map& x, const float* points, const float* bias, Finish finish, const float* other, int64_t threads,
              const Map& result);

// Adds the gradients of `points` and of the bias [out], in an order that only the number of threads changes.
void convolve_weight(const Map& x, const Map& grad, int64_t threads, float* d_points, float* d_bias);

// Of the best instructions that this processor has; null where it has none of them.
const Transforms* winograd_transforms();

// Behind winograd_transforms; on x86-64 only.
extern const Transforms kTransformsAvx512, kTransformsAvx2;

}  // namespace liif
