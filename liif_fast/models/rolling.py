"""EDSR over a picture that comes in strips of rows, from top to bottom.

Each convolution keeps the rows of its input that it needs again, so that nothing is computed twice and what one layer
hands to the next is still in the processor's cache. The features are those of the whole picture.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from liif_fast.models.edsr import EDSR, ResBlock
from liif_fast.native.convolution import Conv2d, steady_conv2d


def rollable(encoder: nn.Module) -> bool:
    """Whether `Rolling` computes what the encoder does: an EDSR without upsampling, whose layers are as built."""
    if not isinstance(encoder, EDSR) or type(encoder) is not EDSR or encoder.tail is not None:
        return False
    *modules, last = encoder.body
    blocks = [block for block in modules if isinstance(block, ResBlock)]
    if any(type(block) is not ResBlock for block in modules) or any(len(block.body) != 3 for block in blocks):
        return False
    layers = [encoder.head[0], last, *(block.body[k] for block in blocks for k in (0, 2))]
    # A hook may stand for a layer's weights (weight_norm) or want to see whole maps.
    plain = all(not (m._forward_hooks or m._forward_pre_hooks) for m in encoder.modules())
    return plain and all(type(layer) in (nn.Conv2d, Conv2d) and layer.kernel_size == (3, 3) for layer in layers)


def row_floats(encoder: EDSR) -> int:
    """Numbers that `Rolling` keeps between strips for each column of the picture."""
    width, blocks = encoder.out_dim, len(encoder.body) - 1
    # Two rows for each convolution; the skip over the whole body waits longest.
    return width * (2 * (2 * blocks + 1) + encoder.receptive_radius)


class Rolling:
    """An encoder for which `rollable` holds, called for one strip after another; without gradients.

    ``rows [1, C, h, W]`` are the picture's next rows; `last` says that they are its lowest ones. Each call returns the
    features ``[1, out_dim, h', W]`` that have become known: `receptive_radius` rows behind the input, all with the
    last strip.
    """

    def __init__(self, encoder: EDSR) -> None:
        *blocks, last = encoder.body
        # A block reads from one of the first two and from the third, and writes into the other of the first two.
        memory = _Memory(), _Memory(), _Memory()
        self.head = _Convolution(encoder.head[0], memory[2])
        self.blocks = [_Block(block, memory[k % 2], memory[2]) for k, block in enumerate(blocks)]
        self.tail = _Convolution(last, memory[len(blocks) % 2])
        self.heads: list[Tensor] = []

    @torch.no_grad()
    def __call__(self, rows: Tensor, last: bool) -> Tensor:
        self.head.room(rows, last).copy_(rows)
        head = self.head()
        self.head.trim()
        self.heads.append(head)
        inputs = [*(block.first for block in self.blocks), self.tail]
        inputs[0].room(head, last).copy_(head)
        for block, following in zip(self.blocks, inputs[1:], strict=True):
            block(following, last)
        body = self.tail()
        self.tail.trim()
        self._skip(body)
        return body

    def _skip(self, body: Tensor) -> None:
        """Add the head's answers for the same rows, which have waited for them."""
        done = 0
        while done < body.shape[2]:
            head = self.heads.pop(0)
            height = min(head.shape[2], body.shape[2] - done)
            body[:, :, done : done + height] += head[:, :, :height]
            if height < head.shape[2]:
                self.heads.insert(0, head[:, :, height:])
            done += height


class _Memory:
    """Memory for a layer's input, used again for each strip: fresh memory would cost a good part of a convolution."""

    def __init__(self) -> None:
        self.held: Tensor | None = None

    def take(self, channels: int, height: int, width: int, like: Tensor) -> Tensor:
        """``[1, channels, height, width]`` with the channels together; anything may be in it."""
        count = channels * height * width
        if self.held is None or self.held.numel() < count:
            self.held = like.new_empty(count)
        return self.held[:count].view(1, height, width, channels).permute(0, 3, 1, 2)


class _Convolution:
    """A 3 x 3 convolution with zero padding, one row behind its input until the last.

    Other layers write their result straight into `room`, from which the convolution reads.
    """

    def __init__(self, layer: nn.Module, memory: _Memory) -> None:
        assert isinstance(layer, nn.Conv2d)
        self.layer, self.memory = layer, memory
        self.top = -1  # the picture's row that is the first of `seen`
        self.seen: Tensor | None = None
        self.kept: Tensor | None = None

    def room(self, like: Tensor, last: bool) -> Tensor:
        """Where the next rows go: ``[1, in_channels, h, W]`` for `like` of that height and width."""
        height, width = like.shape[2:]
        above = 1 if self.kept is None else self.kept.shape[2]
        seen = self.memory.take(self.layer.in_channels, above + height + last, width, like)
        seen[:, :, :above] = 0 if self.kept is None else self.kept
        seen[:, :, above + height :] = 0
        self.seen = seen
        return seen[:, :, above : above + height]

    def __call__(self) -> Tensor:
        layer, seen = self.layer, self.seen
        assert seen is not None
        if seen.shape[2] < 3:
            return seen.new_empty(1, layer.out_channels, 0, seen.shape[3])
        return steady_conv2d(seen, layer.weight, layer.bias, padding=(0, 1))

    def trim(self) -> None:
        """Keep only the rows that the next ones need."""
        assert self.seen is not None
        self.top += max(0, self.seen.shape[2] - 2)
        self.kept, self.seen = self.seen[:, :, -2:].clone(), None


class _Block:
    """A `ResBlock`: two rows behind its input."""

    def __init__(self, block: nn.Module, memory: _Memory, middle: _Memory) -> None:
        assert isinstance(block, ResBlock)
        self.first, self.second = _Convolution(block.body[0], memory), _Convolution(block.body[2], middle)
        self.res_scale = block.res_scale
        self.done = 0

    def __call__(self, following: _Convolution, last: bool) -> None:
        """What `first` has been given, through the block, into the next convolution."""
        hidden = self.first()
        torch.clamp_min(hidden, 0, out=self.second.room(hidden, last))
        del hidden
        residual = self.second()
        assert self.first.seen is not None
        start, height = self.done - self.first.top, residual.shape[2]
        skip = self.first.seen[:, :, start : start + height]
        torch.add(skip, residual, alpha=self.res_scale, out=following.room(residual, last))
        self.done += height
        self.first.trim()
        self.second.trim()
