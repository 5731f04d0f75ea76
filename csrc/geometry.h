// Where a query looks: the float32 arithmetic of liif_fast/geometry.py, operation by operation.
#pragma once

#include <cstdint>
#include <vector>

namespace liif {

// One axis of the full feature map.
class Axis {
  public:
    Axis(int64_t size, bool local_ensemble);

    // Pixel nearest to coord shifted by side (0: towards -1, 1: towards +1); any pixel for NaN.
    int64_t nearest(float coord, int side) const;

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
