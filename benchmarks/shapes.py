"""The named shapes that are measured: which map, what is asked of it, which decoder."""

from __future__ import annotations

from typing import NamedTuple

HIDDEN = (256, 256, 256, 256)  # the published width: 580-256-256-256-256-3
CHANNELS = 64
QUERIES = 2304  # random coordinates of one picture in the published training


class Shape(NamedTuple):
    """A feature map [batch, 64, *size] and the pixels of a regular output, or random coordinates where `out` is None.

    weights: "published" is the published checkpoint on a photograph, which is what most users have, and "trained" the
    package's default model on it; "random" are PyTorch's initial weights, where about half of the units are zero
    behind their ReLU; "dense" are positive ones, where none is. The C++ kernels skip zeros, so a share of the best
    GEMM rate is a utilisation for "dense" only.
    backward: with the gradients of the map, the weights and the biases.
    peers: compiled, exported and published contenders run too. memory: the peak of each contender is taken too.
    """

    name: str
    size: tuple[int, int]
    out: tuple[int, int] | None
    batch: int = 1
    hidden: tuple[int, ...] = HIDDEN
    weights: str = "random"
    local_ensemble: bool = True
    feat_unfold: bool = True
    cell_decode: bool = True
    backward: bool = False
    peers: bool = False
    memory: bool = False

    @property
    def queries(self) -> int:
        """Of the whole batch."""
        return self.batch * (QUERIES if self.out is None else self.out[0] * self.out[1])

    @property
    def floor(self) -> int:
        """Floating point operations that no exact decoder with a projected first layer can leave out.

        The hidden layers of every neighbour; three times that with the gradients. Skipped zeros are counted too.
        """
        corners = 4 if self.local_ensemble else 1
        inner = sum(a * b for a, b in zip(self.hidden, self.hidden[1:], strict=False))
        return (3 if self.backward else 1) * 2 * corners * inner * self.queries


X4 = Shape("x4, 48 to 192", (48, 48), (192, 192), weights="trained", peers=True, memory=True)
GRADIENTS = Shape("training, 2 x 48 x 48", (48, 48), None, batch=2, backward=True, peers=True)
# The headline: its weights are those that most users have, and fewer of their units are zero than the default model's.
PUBLISHED = X4._replace(name="x4, published weights", weights="published")
SHORT = (
    PUBLISHED,
    X4,
    X4._replace(name="x4, no unit zero", weights="dense", peers=False, memory=False),
    Shape("x2, 96 to 192", (96, 96), (192, 192), weights="trained"),
    Shape("x8, 24 to 192", (24, 24), (192, 192), weights="trained"),
    Shape("x30, 6 to 180", (6, 6), (180, 180), weights="trained"),
    GRADIENTS,
)
FULL = (
    *SHORT,
    Shape("x4, initial weights", (48, 48), (192, 192), peers=True),
    Shape("x3.7 by x2.9, 70 x 50 to 203 x 185", (70, 50), (203, 185), weights="trained"),
    Shape("x4, 64 to 256", (64, 64), (256, 256), weights="trained", peers=True, memory=True),
    Shape("random queries, 16 x 48 x 48", (48, 48), None, batch=16),
    Shape("narrow, four of 64", (48, 48), (192, 192), hidden=(64,) * 4),
    Shape("wide, four of 512", (48, 48), (192, 192), hidden=(512,) * 4),
    Shape("shallow, two of 256", (48, 48), (192, 192), hidden=(256,) * 2),
    Shape("without local_ensemble", (48, 48), (192, 192), local_ensemble=False),
    Shape("without feat_unfold", (48, 48), (192, 192), feat_unfold=False),
    Shape("without cell_decode", (48, 48), (192, 192), cell_decode=False),
    Shape("training, 16 x 48 x 48", (48, 48), None, batch=16, backward=True, memory=True),
    Shape("training, narrow, four of 64", (48, 48), None, batch=4, hidden=(64,) * 4, backward=True),
    Shape("training, wide, four of 512", (48, 48), None, batch=4, hidden=(512,) * 4, backward=True),
    Shape("training without local_ensemble", (48, 48), None, batch=4, local_ensemble=False, backward=True),
    # The longest last: a run that is ended early has the others.
    Shape("x4, 256 to 1024", (256, 256), (1024, 1024), weights="trained", memory=True),
    Shape("x4, 540 x 960 to 4K", (540, 960), (2160, 3840), weights="trained"),
)
# To see that everything runs: what can run at once, and what has to be compiled or exported first.
TINY = (
    Shape("tiny", (5, 4), (9, 11), hidden=(16, 16)),
    Shape("tiny gradients", (5, 4), None, hidden=(16, 16), backward=True),
)
TINY_PEERS = tuple(shape._replace(name=f"{shape.name}, peers", peers=True) for shape in TINY)
SETS: dict[str, tuple[Shape, ...]] = {"short": SHORT, "full": FULL, "tiny": TINY, "tiny-peers": TINY_PEERS}


def find(name: str) -> Shape:
    """The shape of a name; KeyError for another."""
    return {shape.name: shape for shapes in SETS.values() for shape in shapes}[name]
