"""Memory of the device: this machine's own tensors for global memory, an array a block for shared memory."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from ptx.scalars import Array

UNWRITTEN = 0xFF  # halves and floats of such bytes are NaN


class AccessError(RuntimeError):
    """An address that is misaligned or belongs to nothing."""


class GlobalMemory:
    """The memory of the tensors that a launch was given, at their own addresses."""

    def __init__(self, tensors: list[Any]) -> None:
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        blocks = sorted((start, size) for start, size in storages.items() if size)
        self.starts = np.array([start for start, _ in blocks], np.int64)
        self.ends = np.array([start + size for start, size in blocks], np.int64)
        self.blocks = [np.frombuffer((ctypes.c_uint8 * size).from_address(start), np.uint8) for start, size in blocks]

    def find(self, address: Array, size: int, what: str) -> list[tuple[Array, Any, Array]]:
        """(lanes, the block's bytes, offsets) for each block that `size` bytes at these addresses fall into."""
        if (address % size).any():
            raise AccessError(f"{what}: misaligned, {hex(int(address[address % size != 0][0]))} for {size} bytes")
        place = np.searchsorted(self.starts, address, "right") - 1
        outside = (place < 0) | (address + size > self.ends[place])
        if outside.any():
            raise AccessError(f"{what}: out of bounds, {hex(int(address[outside][0]))}")
        return [
            (lanes, self.blocks[block], address[lanes] - self.starts[block])
            for block in np.unique(place)
            for lanes in (np.flatnonzero(place == block),)
        ]

    def load(self, address: Array, size: int) -> Array:
        """[n, size] bytes."""
        found = np.zeros((len(address), size), np.uint8)
        for lanes, block, offset in self.find(address, size, "load"):
            found[lanes] = block[offset[:, None] + np.arange(size)]
        return found

    def store(self, address: Array, data: Array) -> None:
        """[n, size] bytes; of two lanes with one address the higher wins."""
        for lanes, block, offset in self.find(address, data.shape[1], "store"):
            block[offset[:, None] + np.arange(data.shape[1])] = data[lanes]

    def read(self, address: int, size: int) -> Array:
        """`size` bytes in a row."""
        ((_, block, offset),) = self.find(np.array([address]), 1, "bulk copy")
        if int(offset[0]) + size > len(block):
            raise AccessError(f"bulk copy: out of bounds, {hex(address + size)}")
        return block[int(offset[0]) : int(offset[0]) + size].copy()


class SharedMemory:
    """A block's shared memory; what was written by which proxy is remembered for each byte."""

    def __init__(self, size: int) -> None:
        size = -(-size // 16) * 16
        self.bytes = np.full(size, UNWRITTEN, np.uint8)
        self.written = np.zeros(size, np.uint8)
        # What ordinary stores wrote since the last fence for the asynchronous proxy, by whichever warp.
        self.unfenced = np.zeros(size, np.uint8)
        self.unwritten_reads = 0

    def load(self, address: Array, size: int) -> Array:
        """[n, size] bytes."""
        index, kind = self._index(address, size, "load")
        count = min(size, 8)
        if not (self.written.view(kind)[index] == np.iinfo(kind).max).all():
            self.unwritten_reads += 1
        return np.ascontiguousarray(self.bytes.view(kind)[index]).view(np.uint8).reshape(-1, count * (size // count))

    def load_by_async_proxy(self, address: Array, size: int) -> Array:
        """The same for wgmma, which does not see ordinary stores before fence.proxy.async."""
        index, kind = self._index(address, size, "load")
        if self.unfenced.view(kind)[index].any():
            raise AccessError("wgmma reads what ordinary stores wrote and no fence.proxy.async has passed on")
        return self.load(address, size)

    def store(self, address: Array, data: Array, *, ordinary: bool = True) -> None:
        """[n, size] bytes, by ordinary stores, or by the asynchronous proxy."""
        index, kind = self._index(address, data.shape[1], "store")
        self.bytes.view(kind)[index] = np.ascontiguousarray(data).view(kind).reshape(index.shape)
        self.written.view(kind)[index] = np.iinfo(kind).max
        self.unfenced.view(kind)[index] = np.iinfo(kind).max if ordinary else 0

    def fence(self) -> None:
        """fence.proxy.async; one warp's counts for all that a barrier put before it, and here for the rest too."""
        self.unfenced[:] = 0

    def _index(self, address: Array, size: int, what: str) -> tuple[Array, Any]:
        """Where the values lie in a view of words of up to eight bytes."""
        if (address % size).any():
            raise AccessError(f"shared {what}: misaligned, {int(address[address % size != 0][0])} for {size} bytes")
        if (address < 0).any() or (address + size > len(self.bytes)).any():
            raise AccessError(f"shared {what}: out of bounds, {int(address.max())} of {len(self.bytes)}")
        if size <= 8:
            return address // size, np.dtype(f"u{size}")
        return (address // 8)[:, None] + np.arange(size // 8), np.dtype("u8")
