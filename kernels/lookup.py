"""Where a row of the tile looks: the published float32 arithmetic, operation by operation.

A neighbour is chosen by rounding, so the launch must switch off the contraction of multiply-add pairs
(enable_fp_fusion=False), and the constants come from the host, rounded once from float64 as PyTorch rounds a scalar.
"""

from __future__ import annotations

import triton
import triton.language as tl

from liif_fast import geometry

# Adding and taking away 1.5 * 2^23 rounds a float32 below 2^22 to an integer, halves to the even one.
ROUND = tl.constexpr(12582912.0)
CLAMP = tl.constexpr(geometry.CLAMP)
AREA_EPS = tl.constexpr(geometry.AREA_EPS)


@triton.jit
def axis_pixel(coord, corner_sign, shift_minus, shift_plus, size):
    """Nearest pixel of one axis after the shift; corner_sign < 0 picks shift_minus."""
    look = coord + tl.where(corner_sign < 0, shift_minus, shift_plus)
    look = tl.minimum(tl.maximum(look, -CLAMP), CLAMP)
    position = ((look + 1.0) * size - 1.0) * 0.5
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
def given_query(coord, coord_i, cell, cell_i, valid, size_y, size_x, CELL: tl.constexpr):
    """Coordinates of each row's query and its cell [ROWS, 1] in half pixels; coord and cell point to its own two."""
    at_y = tl.load(coord, mask=valid, other=0.0)
    at_x = tl.load(coord + coord_i, mask=valid, other=0.0)
    cell_h = at_y
    cell_w = at_x
    if CELL:
        cell_h = tl.load(cell, mask=valid, other=0.0) * size_y
        cell_w = tl.load(cell + cell_i, mask=valid, other=0.0) * size_x
    return at_y, at_x, cell_h[:, None], cell_w[:, None]


@triton.jit
def neighbour(
    at_y, at_x, corner, shift_minus_y, shift_plus_y, shift_minus_x, shift_plus_x,
    first_y, step_y, first_x, step_x, size_y, size_x,
):  # fmt: skip
    """Pixel (row, column) of the full map that a corner looks at, and the query's offset from its centre."""
    row = axis_pixel(at_y, corner // 2 * 2 - 1, shift_minus_y, shift_plus_y, size_y)
    col = axis_pixel(at_x, corner % 2 * 2 - 1, shift_minus_x, shift_plus_x, size_x)
    dy = axis_offset(at_y, row, first_y, step_y, size_y)
    dx = axis_offset(at_x, col, first_x, step_x, size_x)
    return row, col, dy, dx


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
    # Division by / may round twice.
    return tl.reshape(tl.div_rn(opposite, tl.broadcast_to(total[:, None], [ROWS // 4, 4])), [ROWS])
