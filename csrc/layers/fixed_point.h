// The scales of the fixed-point layers.
//
// Every row has a scale (its largest input becomes largest_input) and every output column one (for its weights). The
// 32-bit sums cannot overflow: |sum| <= largest_input * sum_k |w_k|, and a column's scale keeps that below 2^31;
// rounding can add a half to each weight, which column_scale takes off in advance. largest_input falls with the square
// root of the width, so that inputs and weights share the 31 bits evenly: 13 and about 12 bits at width 256, which is
// more accurate than bfloat16.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace liif {

inline float largest_input(int64_t width) {
    return static_cast<float>(std::min(32767.0, std::floor(131071.0 / std::sqrt(static_cast<double>(width)))));
}

// What a column's weights are multiplied by; NaN if one of them is not finite.
inline float column_scale(const float* weight, int64_t width) {
    double sum = 0, largest = 0;
#pragma omp simd reduction(+ : sum) reduction(max : largest)
    for (int64_t k = 0; k < width; ++k) {
        sum += std::fabs(weight[k]);
        largest = std::max<double>(largest, std::fabs(weight[k]));
    }
    if (!std::isfinite(sum)) {
        return NAN;
    }
    const double room = 2147483647.0 / largest_input(width) - 0.5 * static_cast<double>(width);
    const double scale = std::min(room / sum, 32767.0 / largest);
    return scale < 1e30 ? static_cast<float>(scale) : 1.0f;
}

inline int16_t fixed_point(float value) {
    const float bounded = value > -32767.0f ? std::min(value, 32767.0f) : -32767.0f;
    return static_cast<int16_t>(std::lrintf(bounded));
}

}  // namespace liif
