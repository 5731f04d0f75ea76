"""Gradients of LIIF's query, but for the products over all rows: a tile recomputes the MLP and walks back through it.

Every layer's activations and pre-activation gradients go to a workspace, from which the caller makes the gradients of
the weights by plain matrix products over the rows. Each layer reads its input back from there, in chunks, so that one
[ROWS, BLOCK_N] accumulator is all that a tile keeps in registers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from liif_fast.kernels.forward import SIZES, add_extra_columns, matrix_tile, projected_chunk, relu
from liif_fast.kernels.lookup import ensemble_share, given_query, neighbour


@triton.jit
def _product(
    rows, matrix, first_col, ROWS: tl.constexpr, INNER: tl.constexpr, WIDTH: tl.constexpr, COLS: tl.constexpr,
    BLOCK_K: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Some columns of rows [ROWS, INNER] @ matrix [INNER, WIDTH], both in memory: [ROWS, COLS]."""
    acc = tl.zeros([ROWS, COLS], tl.float32)
    for k in tl.range(0, INNER, BLOCK_K, num_stages=STAGES):
        part = matrix_tile(rows, 0, k, ROWS, BLOCK_K, INNER)
        acc = tl.dot(part, matrix_tile(matrix, k, first_col, BLOCK_K, COLS, WIDTH), acc, input_precision=PRECISION)
    return acc


@triton.jit
def _layer(
    before, matrix, bias, after, ROWS: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """after = relu(before @ matrix + bias): the tile's rows in the workspace."""
    # Other threads of the tile wrote what this one reads.
    tl.debug_barrier()
    for n in range(0, WIDTH, BLOCK_N):
        cols = n + tl.arange(0, BLOCK_N)
        acc = _product(before, matrix, n, ROWS, WIDTH, WIDTH, BLOCK_N, BLOCK_K, STAGES, PRECISION)
        acc = relu(acc + tl.load(bias + cols)[None, :])
        tl.store(after + tl.arange(0, ROWS)[:, None] * WIDTH + cols[None, :], acc.to(after.dtype.element_ty))


@triton.jit
def _layer_back(
    after, matrix, activated, before, ROWS: tl.constexpr, INNER: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """before = after @ matrix where the input was activated (or NaN), else 0: the tile's rows in the workspace."""
    tl.debug_barrier()
    for n in range(0, WIDTH, BLOCK_N):
        place = tl.arange(0, ROWS)[:, None] * WIDTH + (n + tl.arange(0, BLOCK_N))[None, :]
        acc = _product(after, matrix, n, ROWS, INNER, WIDTH, BLOCK_N, BLOCK_K, STAGES, PRECISION)
        acc = tl.where(tl.load(activated + place) <= 0.0, 0.0, acc)
        tl.store(before + place, acc.to(before.dtype.element_ty))


BACKWARD_SIZES = (*(name for name in SIZES if not name.startswith("grid")), "first_query", "all_queries", "pixels")


@triton.jit(do_not_specialize=BACKWARD_SIZES)
def liif_backward(
    grad, source, coord, coord_b, coord_q, coord_i, cell, cell_b, cell_q, cell_i,
    rest, first_bias, middle, middle_bias, middle_t, last_t,
    hidden, delta, delta_last, extra, pixel, d_source,
    first_query, all_queries, queries, pixels, height, width, top, left, map_height, map_width,
    shift_minus_y, shift_plus_y, shift_minus_x, shift_plus_x, first_y, step_y, first_x, step_x,
    CELL: tl.constexpr, CORNERS: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr, HIDDEN: tl.constexpr,
    OUT_DIM: tl.constexpr, OUT: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr,
    STAGES: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr, ATOMIC: tl.constexpr,
):  # fmt: skip
    """One tile of the queries from first_query on; queries are counted through the batch, all_queries of them.

    source is [B, h, w, CHANNELS], contiguous; grad [B, queries, OUT_DIM] float32; middle [HIDDEN - 1, in, out],
    middle_t [HIDDEN - 1, out, in] and last_t [OUT, in], padded to WIDTH and OUT. Written, row = CORNERS * query +
    corner: hidden and delta [HIDDEN, rows, WIDTH], the activations and the gradients before the ReLU; delta_last
    [rows, OUT], the gradient of each row's prediction; extra [rows, 2 or 4], (dy, dx[, cell_h, cell_w]); pixel
    [rows], which of the map's pixels a row looks at, `pixels` where that lies outside of the window. With ATOMIC, the
    first layer's delta is added to d_source [pixels, CHANNELS]; else that is the caller's.
    """
    row_id = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    rows = tl.num_programs(0).to(tl.int64) * ROWS
    query = first_query + row_id // CORNERS
    valid = query < all_queries
    batch = query // queries
    size_y = height.to(tl.float32)
    size_x = width.to(tl.float32)
    inside = query - batch * queries
    at_y, at_x, cell_h, cell_w = given_query(
        coord + batch * coord_b + inside * coord_q, coord_i, cell + batch * cell_b + inside * cell_q, cell_i,
        valid, size_y, size_x, CELL,
    )  # fmt: skip
    row, col, dy, dx = neighbour(
        at_y, at_x, (row_id % CORNERS).to(tl.int32), shift_minus_y, shift_plus_y, shift_minus_x, shift_plus_x,
        first_y, step_y, first_x, step_x, size_y, size_x,
    )  # fmt: skip
    row -= top
    col -= left
    seen = valid & (row >= 0) & (row < map_height) & (col >= 0) & (col < map_width)
    map_row = batch * map_height + row
    tl.store(pixel + row_id, tl.where(seen, map_row * map_width + col, pixels))

    outputs = tl.arange(0, OUT)
    grads = tl.load(
        grad + query[:, None] * OUT_DIM + outputs[None, :],
        mask=valid[:, None] & (outputs < OUT_DIM)[None, :],
        other=0.0,
    )
    grads *= ensemble_share(dy, dx, ROWS, CORNERS)[:, None]
    tl.store(delta_last + row_id[:, None] * OUT + outputs[None, :], grads.to(DOT))
    EXTRA: tl.constexpr = 4 if CELL else 2
    tl.store(extra + row_id * EXTRA, dy.to(DOT))
    tl.store(extra + row_id * EXTRA + 1, dx.to(DOT))
    if CELL:
        tl.store(extra + row_id[:, None] * EXTRA + 2, cell_h.to(DOT))
        tl.store(extra + row_id[:, None] * EXTRA + 3, cell_w.to(DOT))

    first_row = tl.program_id(0).to(tl.int64) * ROWS
    local = tl.arange(0, ROWS)
    for k in range(0, WIDTH, BLOCK_K):
        cols = k + tl.arange(0, BLOCK_K)
        part = projected_chunk(
            source, map_row, col, seen, map_width * CHANNELS, CHANNELS, cols, CHANNELS, WIDTH, tl.int64
        )
        part = add_extra_columns(part, rest, first_bias, dy, dx, cell_h, cell_w, cols, WIDTH, CELL)
        place = hidden + first_row * WIDTH + local[:, None] * WIDTH + cols[None, :]
        tl.store(place, relu(part).to(DOT))
    for layer in tl.static_range(1, HIDDEN):
        before = hidden + ((layer - 1) * rows + first_row) * WIDTH
        _layer(
            before, middle + (layer - 1) * WIDTH * WIDTH, middle_bias + (layer - 1) * WIDTH, before + rows * WIDTH,
            ROWS, WIDTH, BLOCK_K, BLOCK_N, STAGES, PRECISION,
        )  # fmt: skip

    final = ((HIDDEN - 1) * rows + first_row) * WIDTH
    _layer_back(
        delta_last + first_row * OUT, last_t, hidden + final, delta + final,
        ROWS, OUT, WIDTH, OUT, BLOCK_N, STAGES, PRECISION,
    )  # fmt: skip
    for back in tl.static_range(1, HIDDEN):
        here = ((HIDDEN - 1 - back) * rows + first_row) * WIDTH
        _layer_back(
            delta + here + rows * WIDTH, middle_t + (HIDDEN - 1 - back) * WIDTH * WIDTH, hidden + here, delta + here,
            ROWS, WIDTH, WIDTH, BLOCK_K, BLOCK_N, STAGES, PRECISION,
        )  # fmt: skip

    if ATOMIC:
        tl.debug_barrier()
        its_pixel = tl.load(pixel + row_id)
        # In chunks, read back, because the addresses take two registers a value.
        for k in range(0, WIDTH, BLOCK_K):
            cols = k + tl.arange(0, BLOCK_K)
            part = matrix_tile(delta + first_row * WIDTH, 0, k, ROWS, BLOCK_K, WIDTH).to(tl.float32)
            mask = (its_pixel < pixels)[:, None] & (cols < CHANNELS)[None, :]
            tl.atomic_add(d_source + its_pixel[:, None] * CHANNELS + cols[None, :], part, mask=mask, sem="relaxed")
