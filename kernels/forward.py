"""LIIF's whole query in one pass: look-up, features, relative coordinate and cell, MLP, area-weighted blend.

A tile is ROWS rows, row = CORNERS * query + corner, so the blend is a sum inside of the tile. The MLP never leaves the
tile: as in flash attention, two layers are fused by walking over the inner width in chunks, so that no more than one
[ROWS, WIDTH] accumulator and one operand are alive.
"""

from __future__ import annotations

import triton
import triton.language as tl

from liif_fast.kernels.lookup import ensemble_share, given_query, neighbour


@triton.jit
def matrix_tile(matrix, row0, col0, ROWS: tl.constexpr, COLS: tl.constexpr, stride: tl.constexpr):
    """[ROWS, COLS] of a matrix in memory, from (row0, col0) on."""
    rows = row0 + tl.arange(0, ROWS)
    cols = col0 + tl.arange(0, COLS)
    return tl.load(matrix + rows[:, None] * stride + cols[None, :])


@triton.jit
def relu(values):
    """max(values, 0) that hands NaN on, as PyTorch's does: a retry in float32 and GradScaler look for it."""
    return tl.maximum(values, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def add_extra_columns(part, rest, bias, dy, dx, cell_h, cell_w, cols, WIDTH: tl.constexpr, CELL: tl.constexpr):
    """part + bias + rest @ (dy, dx[, cell_h, cell_w]) for some columns of layer one; rest is [2 or 4, WIDTH].

    The cell is one of each row or, on a grid, two numbers. The launch forbids the compiler to contract products and
    sums, so those that may be are named.
    """
    update = tl.load(bias + cols)[None, :]
    if CELL:
        update = tl.fma(cell_h, tl.load(rest + 2 * WIDTH + cols)[None, :], update)
        update = tl.fma(cell_w, tl.load(rest + 3 * WIDTH + cols)[None, :], update)
    part += update
    part = tl.fma(dy[:, None], tl.load(rest + cols)[None, :], part)
    return tl.fma(dx[:, None], tl.load(rest + WIDTH + cols)[None, :], part)


@triton.jit
def _unfolded_chunk(
    feat, stride_c, stride_y, stride_x, weight, first_col, row, col, valid, height, width,
    ROWS: tl.constexpr, COLS: tl.constexpr, WIDTH: tl.constexpr, TAPS: tl.constexpr, CHANNELS: tl.constexpr,
    BLOCK_C: tl.constexpr, INDEX: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Some columns of layer one's features part, unfolded on the fly, zero outside of the map: [ROWS, COLS].

    weight is [TAPS, CHANNELS rounded up to BLOCK_C, WIDTH], so that only the features need a mask.
    """
    CHUNKS: tl.constexpr = (CHANNELS + BLOCK_C - 1) // BLOCK_C
    acc = tl.zeros([ROWS, COLS], tl.float32)
    for step in range(0, TAPS * CHUNKS):
        tap = step // CHUNKS
        chans = step % CHUNKS * BLOCK_C + tl.arange(0, BLOCK_C)
        y = row
        x = col
        if TAPS == 9:
            y = row + (tap // 3 - 1)
            x = col + (tap % 3 - 1)
        mask = (valid & (y >= 0) & (y < height) & (x >= 0) & (x < width))[:, None]
        if CHANNELS % BLOCK_C != 0:
            mask = mask & (chans < CHANNELS)[None, :]
        pixel = y.to(INDEX) * stride_y + x.to(INDEX) * stride_x
        taken = tl.load(feat + (pixel[:, None] + (chans * stride_c)[None, :]), mask=mask, other=0.0)
        tile = matrix_tile(weight, step * BLOCK_C, first_col, BLOCK_C, COLS, WIDTH)
        acc = tl.dot(taken.to(DOT), tile, acc, input_precision=PRECISION)
    return acc


@triton.jit
def projected_chunk(
    projected, row, col, valid, stride_y, stride_x, cols,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """The same columns read from the map that a convolution made: [ROWS, COLS]."""
    mask = valid[:, None]
    if CHANNELS != WIDTH:
        mask = mask & (cols < CHANNELS)[None, :]
    pixel = row.to(INDEX) * stride_y + col.to(INDEX) * stride_x
    return tl.load(projected + (pixel[:, None] + cols[None, :]), mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _two_layers(
    hidden, inner, inner_bias, outer, ROWS: tl.constexpr, WIDTH: tl.constexpr, OUT: tl.constexpr,
    BLOCK_N: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """outer(relu(inner(hidden))) without the outer bias; inner [WIDTH, WIDTH], outer [WIDTH, OUT]."""
    acc = tl.zeros([ROWS, OUT], tl.float32)
    for n in tl.range(0, WIDTH, BLOCK_N, num_stages=STAGES):
        part = tl.dot(hidden, matrix_tile(inner, 0, n, WIDTH, BLOCK_N, WIDTH), input_precision=PRECISION)
        part = relu(part + tl.load(inner_bias + n + tl.arange(0, BLOCK_N))[None, :])
        acc = tl.dot(part.to(hidden.dtype), matrix_tile(outer, n, 0, BLOCK_N, OUT, OUT), acc, input_precision=PRECISION)
    return acc


@triton.jit
def _rest_of_mlp(
    hidden, middle, middle_bias, last,
    ROWS: tl.constexpr, WIDTH: tl.constexpr, OUT: tl.constexpr, LAYERS: tl.constexpr,
    BLOCK_N: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """LAYERS hidden layers and the last one (without its bias), from an activated hidden [ROWS, WIDTH]."""
    for pair in tl.static_range(LAYERS // 2):
        first = middle + 2 * pair * WIDTH * WIDTH
        acc = _two_layers(
            hidden, first, middle_bias + 2 * pair * WIDTH, first + WIDTH * WIDTH,
            ROWS, WIDTH, WIDTH, BLOCK_N, STAGES, PRECISION,
        )  # fmt: skip
        bias = tl.load(middle_bias + (2 * pair + 1) * WIDTH + tl.arange(0, WIDTH))
        hidden = relu(acc + bias[None, :]).to(hidden.dtype)
    if LAYERS % 2 == 1:
        result = _two_layers(
            hidden, middle + (LAYERS - 1) * WIDTH * WIDTH, middle_bias + (LAYERS - 1) * WIDTH, last,
            ROWS, WIDTH, OUT, BLOCK_N, STAGES, PRECISION,
        )  # fmt: skip
    else:
        result = tl.dot(hidden, matrix_tile(last, 0, 0, WIDTH, OUT, OUT), input_precision=PRECISION)
    return result


# Sizes vary from tile to tile of a picture; a kernel compiled for each multiple of 16 among them would gain nothing.
SIZES = (
    *("queries", "grid_top", "grid_left", "grid_width", "height", "width", "top", "left", "map_height", "map_width"),
    *("coord_b", "cell_b"),
)


@triton.jit(do_not_specialize=SIZES)
def liif_forward(
    source, stride_b, stride_c, stride_y, stride_x,  # projected map [B, h, w, WIDTH] or features [B, C, H, W]
    coord, coord_b, coord_q, coord_i, cell, cell_b, cell_q, cell_i,
    first_weight, rest, first_bias, middle, middle_bias, last, last_bias,
    out, queries, grid_top, grid_left, grid_width, grid_first_y, grid_step_y, grid_first_x, grid_step_x,
    grid_cell_h, grid_cell_w,
    height, width, top, left, map_height, map_width,
    shift_minus_y, shift_plus_y, shift_minus_x, shift_plus_x, first_y, step_y, first_x, step_x,
    DIRECT: tl.constexpr, GRID: tl.constexpr, CELL: tl.constexpr, TAPS: tl.constexpr, CORNERS: tl.constexpr,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, HIDDEN: tl.constexpr, OUT_DIM: tl.constexpr, OUT: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
    STAGES: tl.constexpr, INDEX: tl.constexpr, QUERY: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of queries. HIDDEN counts the hidden layers; the weights are [in, out], padded to WIDTH and OUT.

    INDEX and QUERY are the integers of offsets in a picture's map and of a picture's queries: division is slow in 64
    bits.
    """
    PER_TILE: tl.constexpr = ROWS // CORNERS
    batch = tl.program_id(1).to(tl.int64)
    row_id = tl.arange(0, ROWS)
    query = tl.program_id(0).to(QUERY) * PER_TILE + row_id // CORNERS
    valid = query < queries
    size_y = height.to(tl.float32)
    size_x = width.to(tl.float32)

    if GRID:
        at_y = (grid_top + query // grid_width).to(tl.float32) * grid_step_y + grid_first_y
        at_x = (grid_left + query % grid_width).to(tl.float32) * grid_step_x + grid_first_x
        cell_h = grid_cell_h * size_y
        cell_w = grid_cell_w * size_x
    else:
        far = query.to(tl.int64)
        at_y, at_x, cell_h, cell_w = given_query(
            coord + batch * coord_b + far * coord_q, coord_i, cell + batch * cell_b + far * cell_q, cell_i,
            valid, size_y, size_x, CELL,
        )  # fmt: skip
    row, col, dy, dx = neighbour(
        at_y, at_x, row_id % CORNERS, shift_minus_y, shift_plus_y, shift_minus_x, shift_plus_x,
        first_y, step_y, first_x, step_x, size_y, size_x,
    )  # fmt: skip
    row -= top
    col -= left
    valid = valid & (row >= 0) & (row < map_height) & (col >= 0) & (col < map_width)
    source += batch * stride_b

    # The chunks of layer one feed the next layer at once: the second hidden one, or the last.
    NEXT: tl.constexpr = OUT if HIDDEN == 1 else WIDTH
    acc = tl.zeros([ROWS, NEXT], tl.float32)
    for k in tl.range(0, WIDTH, BLOCK_K, num_stages=1 if DIRECT else STAGES):
        cols = k + tl.arange(0, BLOCK_K)
        if DIRECT:
            part = _unfolded_chunk(
                source, stride_c, stride_y, stride_x, first_weight, k, row, col, valid, map_height, map_width,
                ROWS, BLOCK_K, WIDTH, TAPS, CHANNELS, BLOCK_C, INDEX, DOT, PRECISION,
            )  # fmt: skip
        else:
            part = projected_chunk(
                source, row, col, valid, stride_y, stride_x, cols, CHANNELS, WIDTH, INDEX
            )  # fmt: skip
        part = add_extra_columns(part, rest, first_bias, dy, dx, cell_h, cell_w, cols, WIDTH, CELL)
        part = relu(part).to(DOT)
        if HIDDEN == 1:
            tile = matrix_tile(last, k, 0, BLOCK_K, NEXT, NEXT)
        else:
            tile = matrix_tile(middle, k, 0, BLOCK_K, NEXT, NEXT)
        acc = tl.dot(part, tile, acc, input_precision=PRECISION)
    if HIDDEN == 1:
        result = acc
    else:
        hidden = relu(acc + tl.load(middle_bias + tl.arange(0, WIDTH))[None, :]).to(DOT)
        result = _rest_of_mlp(
            hidden, middle + WIDTH * WIDTH, middle_bias + WIDTH, last,
            ROWS, WIDTH, OUT, HIDDEN - 2, BLOCK_N, STAGES, PRECISION,
        )  # fmt: skip

    outputs = tl.arange(0, OUT)
    share = ensemble_share(dy, dx, ROWS, CORNERS)
    result = (result + tl.load(last_bias + outputs)[None, :]) * share[:, None]
    blended = tl.sum(tl.reshape(result, [PER_TILE, CORNERS, OUT]), axis=1)
    target = tl.program_id(0).to(tl.int64) * PER_TILE + tl.arange(0, PER_TILE)
    place = (batch * queries + target)[:, None] * OUT_DIM + outputs[None, :]
    tl.store(out + place, blended, mask=(target < queries)[:, None] & (outputs < OUT_DIM)[None, :])
