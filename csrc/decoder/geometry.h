// Where a query looks: the float32 arithmetic of liif_fast/geometry.py, operation by operation. Built with
// -ffp-contract=off: a fused multiply-add rounds once where the published code rounds twice, and then picks another
// neighbour at a tie.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace liif {

// One axis of the full feature map.
class Axis {
  public:
    Axis(int64_t size, bool local_ensemble);

    // Pixel nearest to coord shifted by side (0: towards -1, 1: towards +1); any pixel for NaN.
    int64_t nearest(float coord, int side) const {
        constexpr float kClamp = static_cast<float>(1 - 1e-6);
        const float look = coord + shifts_[side];
        // Comparisons with NaN are false, so it falls through both bounds; as an integer it is some number, bounded
        // below.
        const float clamped = look < -kClamp ? -kClamp : (look > kClamp ? kClamp : look);
        const float position = ((clamped + 1) * scale_ - 1) / 2;
        // The default rounding mode takes halves to the even pixel.
        const int64_t pixel = std::llrintf(position);
        return std::min(std::max<int64_t>(pixel, 0), size_ - 1);
    }

    // Unshifted, unclamped offset from a pixel's centre, in half pixels.
    float offset(float coord, int64_t pixel) const { return (coord - centres_[pixel]) * scale_; }

    // A cell's extent in half pixels.
    float scaled(float cell) const { return cell * scale_; }

  private:
    int64_t size_;
    float scale_;
    float shifts_[2];
    std::vector<float> centres_;
};

constexpr float kAreaEps = 1e-9f;

}  // namespace liif
