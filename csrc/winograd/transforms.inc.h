// The transforms of winograd.h, written once for any vectors. To be included in an anonymous namespace with the
// primitives of one instruction set (simd/) and LIIF_TARGET, the functions' target attribute.

LIIF_TARGET inline Vector times(float factor, Vector x) { return mul(spread(factor), x); }
LIIF_TARGET inline Vector plus(Vector a, float factor, Vector b) { return fused(spread(factor), b, a); }

// B^T x.
LIIF_TARGET inline void transform_input(const Vector* x, Vector* y) {
    const Vector a = plus(x[4], -4, x[2]), b = plus(x[3], -4, x[1]);
    const Vector c = sub(x[4], x[2]), d = times(2, sub(x[3], x[1]));
    y[0] = plus(plus(x[4], -5, x[2]), 4, x[0]);
    y[1] = add(a, b);
    y[2] = sub(a, b);
    y[3] = add(c, d);
    y[4] = sub(c, d);
    y[5] = plus(plus(x[5], -5, x[3]), 4, x[1]);
}

// A^T x.
LIIF_TARGET inline void transform_output(const Vector* x, Vector* y) {
    const Vector a = add(x[1], x[2]), b = sub(x[1], x[2]);
    const Vector c = add(x[3], x[4]), d = sub(x[3], x[4]);
    y[0] = add(add(x[0], a), c);
    y[1] = plus(b, 2, d);
    y[2] = plus(a, 4, c);
    y[3] = add(plus(b, 8, d), x[5]);
}

// A x: the backward of transform_output.
LIIF_TARGET inline void transform_gradient(const Vector* x, Vector* y) {
    const Vector a = add(x[0], x[2]), b = add(x[1], x[3]);
    const Vector c = plus(x[0], 4, x[2]), d = times(2, plus(x[1], 4, x[3]));
    y[0] = x[0];
    y[1] = add(a, b);
    y[2] = sub(a, b);
    y[3] = add(c, d);
    y[4] = sub(c, d);
    y[5] = x[3];
}

// Size x Size pixels of a tile from (first, first); null where they lie outside of the map.
template <int64_t Size>
void find_pixels(const Map& map, int64_t tile, int64_t first, float* (&found)[Size][Size]) {
    const int64_t top = tile / map.across % map.down * kOut + first, left = tile % map.across * kOut + first;
    float* picture = map.values + tile / map.across / map.down * map.height * map.width * map.channels;
    for (int64_t y = top; y < top + Size; ++y) {
        for (int64_t x = left; x < left + Size; ++x) {
            const bool inside = y >= 0 && y < map.height && x >= 0 && x < map.width;
            found[y - top][x - left] = inside ? picture + (y * map.width + x) * map.channels : nullptr;
        }
    }
}

// Size x Size pixels from (first, first) of each tile, transformed both ways.
template <int64_t Size, int64_t first, void Transform(const Vector*, Vector*)>
LIIF_TARGET void transform(const Map& map, int64_t begin, int64_t end, float* to) {
    const int64_t stride = point_stride(map.channels);
    for (int64_t tile = begin; tile < end; ++tile) {
        float* from[Size][Size];
        find_pixels<Size>(map, tile, first, from);
        for (int64_t channel = 0; channel < map.channels; channel += kLanes) {
            Vector half[Size][kIn];
            for (int64_t x = 0; x < Size; ++x) {
                Vector column[Size];
#pragma GCC unroll 6
                for (int64_t y = 0; y < Size; ++y) {
                    column[y] = from[y][x] ? load(from[y][x] + channel) : zeros();
                }
                Transform(column, half[x]);
            }
            float* place = to + (tile - begin) * map.channels + channel;
            for (int64_t y = 0; y < kIn; ++y) {
                Vector row[Size], points[kIn];
#pragma GCC unroll 6
                for (int64_t x = 0; x < Size; ++x) {
                    row[x] = half[x][y];
                }
                Transform(row, points);
#pragma GCC unroll 6
                for (int64_t x = 0; x < kIn; ++x) {
                    store(place + (y * kIn + x) * stride, points[x]);
                }
            }
        }
    }
}

template <Finish finish>
LIIF_TARGET void transform_back(const Map& map, int64_t begin, int64_t end, const float* from, const float* bias,
                                const float* other) {
    const int64_t stride = point_stride(map.channels);
    for (int64_t tile = begin; tile < end; ++tile) {
        float* pixel[kOut][kOut];
        find_pixels<kOut>(map, tile, 0, pixel);
        for (int64_t channel = 0; channel < map.channels; channel += kLanes) {
            const float* place = from + (tile - begin) * map.channels + channel;
            const Vector offset = bias ? load(bias + channel) : zeros();
            Vector half[kIn][kOut];
            for (int64_t x = 0; x < kIn; ++x) {
                Vector column[kIn];
#pragma GCC unroll 6
                for (int64_t y = 0; y < kIn; ++y) {
                    column[y] = load(place + (y * kIn + x) * stride);
                }
                transform_output(column, half[x]);
            }
            for (int64_t y = 0; y < kOut; ++y) {
                Vector row[kIn], pixels[kOut];
#pragma GCC unroll 6
                for (int64_t x = 0; x < kIn; ++x) {
                    row[x] = half[x][y];
                }
                transform_output(row, pixels);
#pragma GCC unroll 4
                for (int64_t x = 0; x < kOut; ++x) {
                    if (pixel[y][x]) {
                        float* to = pixel[y][x] + channel;
                        const float* own = other + (to - map.values);
                        Vector value = add(pixels[x], offset);
                        if constexpr (finish == Finish::kRelu) {
                            value = relu(value);
                        } else if constexpr (finish == Finish::kAdd) {
                            value = add(value, load(own));
                        } else if constexpr (finish == Finish::kSelect) {
                            value = where_positive(load(own), value);
                        }
                        store(to, value);
                    }
                }
            }
        }
    }
}

constexpr Transforms kOwnTransforms = {transform<kIn, -1, transform_input>,
                                       transform<kOut, 0, transform_gradient>,
                                       {transform_back<Finish::kNothing>, transform_back<Finish::kRelu>,
                                        transform_back<Finish::kAdd>, transform_back<Finish::kSelect>},
                                       multiply_all};
