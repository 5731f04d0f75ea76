// Built with -ffp-contract=off: a fused multiply-add rounds once where the published code rounds twice, and then picks
// another neighbour at a tie.
#include "geometry.h"

#include <algorithm>
#include <cmath>

namespace liif {

namespace {
constexpr double kShiftEps = 1e-6;
constexpr float kClamp = static_cast<float>(1 - 1e-6);
}  // namespace

Axis::Axis(int64_t size, bool local_ensemble)
    : size_(size), scale_(static_cast<float>(size)), centres_(static_cast<size_t>(size)) {
    const double n = static_cast<double>(size);
    for (int side = 0; side < 2; ++side) {
        const double shift = (side == 0 ? -1 : 1) * (2 / n / 2) + kShiftEps;
        shifts_[side] = local_ensemble ? static_cast<float>(shift) : 0.0f;
    }
    const double r = 2.0 / (2 * n);
    const float start = static_cast<float>(-1.0 + r);
    const float step = static_cast<float>(2 * r);
    for (int64_t i = 0; i < size; ++i) {
        const float along = step * static_cast<float>(i);
        centres_[static_cast<size_t>(i)] = start + along;
    }
}

int64_t Axis::nearest(float coord, int side) const {
    const float look = coord + shifts_[side];
    // Comparisons with NaN are false, so it falls through both bounds; as an integer it is some number, bounded below.
    const float clamped = look < -kClamp ? -kClamp : (look > kClamp ? kClamp : look);
    const float position = ((clamped + 1) * scale_ - 1) / 2;
    // The default rounding mode takes halves to the even pixel.
    const int64_t pixel = std::llrintf(position);
    return std::min(std::max<int64_t>(pixel, 0), size_ - 1);
}

}  // namespace liif
