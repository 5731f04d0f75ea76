"""Where a row of the tile looks: the published float32 arithmetic, operation by operation.

A neighbour is chosen by rounding, so the launch must switch off the contraction of multiply-add pairs
(enable_fp_fusion=False), and the constants come from the host, rounded once from float64 as PyTorch rounds a scalar.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Adding and taking away 1.5 * 2^23 rounds a float32 below 2^22 to an integer, halves to the even one.
ROUND = tl.constexpr(12582912.0)
CLAMP = tl.constexpr(1 - 1e-6)
AREA_EPS = tl.constexpr(1e-9)


@triton.jit
def axis_pixel(coord, corner_sign, shift_minus, shift_plus, size):
    """Nearest pixel of one axis after the shift; corner_sign < 0 picks shift_minus."""
    look = coord + tl.where(corner_sign < 0, shift_minus, shift_plus)
    look = tl.minimum(tl.maximum(look, -CLAMP), CLAMP)
    position = ((look + 1.0) * size - 1.0) / 2.0
    nearest = (position + ROUND) - ROUND
    # The comparison is false for NaN, which then reads pixel 0 and never leaves the map.
    nearest = tl.where(nearest >= 0.0, nearest, 0.0)
    return tl.minimum(nearest, size - 1.0).to(tl.int32)


@triton.jit
def axis_offset(coord, pixel, first, step, size):
    """Relative coordinate on one axis, in half pixels of the map."""
    centre = pixel.to(tl.float32) * step + first
    return (coord - centre) * size


@triton.jit
def ensemble_share(dy, dx, ROWS: tl.constexpr, CORNERS: tl.constexpr):
    """Share of each row's prediction: the opposite corner's area over the sum of its query's four."""
    area = tl.abs(dy * dx) + AREA_EPS
    if CORNERS == 1:
        return tl.full([ROWS], 1.0, tl.float32)
    quads = tl.reshape(area, [ROWS // 4, 4])
    total = tl.sum(quads, axis=1)
    # Corner c lies opposite to corner 3 - c: its own area is that of the offsets with both signs turned.
    corner = tl.arange(0, 4)
    opposite = tl.zeros([ROWS // 4, 4], tl.float32)
    for c in tl.static_range(4):
        own = tl.sum(tl.where(corner[None, :] == 3 - c, quads, 0.0), axis=1)
        opposite = tl.where(corner[None, :] == c, own[:, None], opposite)
    return tl.reshape(opposite / total[:, None], [ROWS])
