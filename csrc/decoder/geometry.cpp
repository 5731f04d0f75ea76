#include "decoder/geometry.h"

namespace liif {

namespace {
constexpr double kShiftEps = 1e-6;
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

}  // namespace liif
