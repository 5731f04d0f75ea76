"""Small clones of the LIIF-like models that people have: the published form, and what others have made of it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liif_fast.geometry import make_cell, make_coord
from support.golden import seeded

CHANNELS = 5
INP = seeded((2, 3, 6, 7), 1, 1)
COORD = make_coord((9, 8)).expand(2, -1, -1)
CELL = make_cell((9, 8)).expand(2, -1, -1)


class Perceptron(nn.Module):
    """An MLP with `layers`, whose forward takes any leading dimensions."""

    def __init__(self, columns: int, hidden: int = 12, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(columns, hidden), activation(), nn.Linear(hidden, hidden), activation(), nn.Linear(hidden, 3)
        )

    def forward(self, rows: Tensor) -> Tensor:
        return self.layers(rows.reshape(-1, rows.shape[-1])).view(*rows.shape[:-1], -1)


class Published(nn.Module):
    """LIIF with the features kept, and a GPU asked for in the query, as published."""

    def __init__(
        self,
        imnet: nn.Module | None = None,
        local_ensemble: bool = True,
        feat_unfold: bool = True,
        cell_decode: bool = True,
    ) -> None:
        super().__init__()
        self.local_ensemble, self.feat_unfold, self.cell_decode = local_ensemble, feat_unfold, cell_decode
        self.encoder = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.imnet = imnet or Perceptron(CHANNELS * (9 if feat_unfold else 1) + (4 if cell_decode else 2))

    def gen_feat(self, inp: Tensor) -> Tensor:
        self.feat = self.encoder(inp)
        return self.feat

    def query_rgb(self, coord: Tensor, cell: Tensor | None = None) -> Tensor:
        return self.arithmetic(self.feat, coord, cell)

    def forward(self, inp: Tensor, coord: Tensor, cell: Tensor | None = None) -> Tensor:
        self.gen_feat(inp)
        return self.query_rgb(coord, cell)

    def columns(self, rows: Tensor, rel: Tensor) -> Tensor:
        """What a descendant makes of the MLP's input."""
        return rows

    def arithmetic(self, feat: Tensor, coord: Tensor, cell: Tensor | None) -> Tensor:
        batch, _, height, width = feat.shape
        if self.feat_unfold:
            feat = F.unfold(feat, 3, padding=1).view(batch, -1, height, width)
        centres = make_coord((height, width), flatten=False).cuda().permute(2, 0, 1)[None].expand(batch, -1, -1, -1)
        scale = torch.tensor([height, width]).float().cuda()
        answers, areas = [], []
        for vy, vx in [(-1, -1), (-1, 1), (1, -1), (1, 1)] if self.local_ensemble else [(0, 0)]:
            look = coord.clone()
            look[..., 0] += vy / height + (1e-6 if self.local_ensemble else 0)
            look[..., 1] += vx / width + (1e-6 if self.local_ensemble else 0)
            look = look.clamp(-1 + 1e-6, 1 - 1e-6)
            rel = (coord - picked(centres, look)) * scale
            rows = [picked(feat, look), rel]
            if self.cell_decode:
                assert cell is not None
                rows.append((cell if cell.dim() == 3 else cell[:, None].expand_as(coord)) * scale)
            columns = self.columns(torch.cat(rows, dim=-1), rel).flatten(0, 1)
            answers.append(self.imnet(columns).unflatten(0, coord.shape[:2]))
            areas.append((rel[..., 0] * rel[..., 1]).abs() + 1e-9)
        return self.blend(answers, areas)

    def blend(self, answers: list[Tensor], areas: list[Tensor]) -> Tensor:
        total = torch.stack(areas).sum(dim=0)
        shares = [(area / total).unsqueeze(-1) for area in reversed(areas)]
        return torch.stack([answer * share for answer, share in zip(answers, shares, strict=True)]).sum(dim=0)


def picked(grid: Tensor, coord: Tensor, mode: str = "nearest") -> Tensor:
    """grid [B, C, H, W] at coord [B, Q, 2]: [B, Q, C]."""
    found = F.grid_sample(grid, coord.flip(-1).unsqueeze(1), mode=mode, padding_mode="border", align_corners=False)
    return found[:, :, 0].permute(0, 2, 1)


class GivenFeatures(Published):
    """As mmagic has it."""

    def gen_feature(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def query_rgb(self, feature: Tensor, coord: Tensor, cell: Tensor | None = None) -> Tensor:  # type: ignore[override]
        return self.arithmetic(feature, coord, cell)

    def forward(self, inp: Tensor, coord: Tensor, cell: Tensor | None = None) -> Tensor:
        return self.query_rgb(self.gen_feature(inp), coord, cell)


# ---- equal to LIIF, or LIIF and a picture ----


class SkipFromGenFeat(Published):
    """The input is added, sampled bilinearly."""

    mode = "bilinear"

    def gen_feat(self, inp: Tensor) -> Tensor:
        self.inp = inp
        return super().gen_feat(inp)

    def query_rgb(self, coord: Tensor, cell: Tensor | None = None) -> Tensor:
        return super().query_rgb(coord, cell) + picked(self.inp, coord, self.mode)


class NearestSkip(SkipFromGenFeat):
    mode = "nearest"


class SkipFromForward(Published):
    """What the query adds is kept by the forward only."""

    def query_rgb(self, coord: Tensor, cell: Tensor | None = None) -> Tensor:
        return super().query_rgb(coord, cell) + picked(self.inp, coord, "bicubic")

    def forward(self, inp: Tensor, coord: Tensor, cell: Tensor | None = None) -> Tensor:
        self.inp = inp
        return super().forward(inp, coord, cell)


class OneCellEach(Published):
    """One cell for each picture of the batch."""

    def query_rgb(self, coord: Tensor, cell: Tensor | None = None) -> Tensor:
        assert cell is not None
        assert cell.dim() == 2
        return super().query_rgb(coord, cell)


class WithDevice(Published):
    def query_rgb(self, coord: Tensor, cell: Tensor | None = None, device: Any = None) -> Tensor:
        return super().query_rgb(coord, cell)


class WithOption(Published):
    def query_rgb(self, coord: Tensor, cell: Tensor | None = None, gain: float = 1.0) -> Tensor:
        return super().query_rgb(coord, cell) * gain


class OtherNames(nn.Module):
    """Another method, another attribute, no switches."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = [Published(feat_unfold=False)]
        self.encoder, self.imnet = self.inner[0].encoder, self.inner[0].imnet

    def forward(self, inp: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        self.features = self.encoder(inp)
        return self.query_ssh(coord, cell)

    def query_ssh(self, where: Tensor, cell: Tensor) -> Tensor:
        return self.inner[0].arithmetic(self.features, where, cell)


class MetaSR(nn.Module):
    """Meta-SR as published: a weight matrix from (place, zoom) for each query."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.imnet = Perceptron(3)
        self.imnet.layers = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 9 * CHANNELS * 3))

    def gen_feat(self, inp: Tensor) -> Tensor:
        self.feat = self.encoder(inp)
        return self.feat

    def query_rgb(self, coord: Tensor, cell: Tensor | None = None) -> Tensor:
        assert cell is not None
        feat = self.feat
        batch, channels, height, width = feat.shape
        unfolded = F.unfold(feat, 3, padding=1).view(batch, channels * 9, height, width)
        corners = make_coord((height, width), flatten=False).cuda() - torch.tensor([1 / height, 1 / width]).cuda()
        corners = corners.permute(2, 0, 1)[None].expand(batch, -1, -1, -1)
        corner = coord - cell / 2
        look = (corner + 1e-6).clamp(-1 + 1e-6, 1 - 1e-6)
        place = (corner - picked(corners, look)) * torch.tensor([height / 2, width / 2]).cuda()
        zoom = cell[..., :1] * (height / 2)
        matrix = self.imnet(torch.cat([place, zoom], dim=-1)).unflatten(-1, (channels * 9, 3))
        return torch.einsum("bqc,bqco->bqo", picked(unfolded, look), matrix)

    def forward(self, inp: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        self.gen_feat(inp)
        return self.query_rgb(coord, cell)


# ---- other arithmetic ----


class ExponentialShares(Published):
    """The shares are a softmax of the areas, which fresh weights hardly show."""

    def blend(self, answers: list[Tensor], areas: list[Tensor]) -> Tensor:
        shares = torch.stack(areas[::-1]).softmax(dim=0).unsqueeze(-1)
        return (torch.stack(answers) * shares).sum(dim=0)


class ClippedCell(Published):
    """Cells of large scales are clipped."""

    def query_rgb(self, coord: Tensor, cell: Tensor | None = None) -> Tensor:
        assert cell is not None
        return super().query_rgb(coord, torch.maximum(cell, cell.new_tensor(2 / (4 * self.feat.shape[2]))))


class ClampedAnswer(Published):
    def query_rgb(self, coord: Tensor, cell: Tensor | None = None) -> Tensor:
        return super().query_rgb(coord, cell).clamp(-1, 1)


class ScaledInside(Published):
    """Features are scaled in the query, by an attribute."""

    gain = 1.02

    def query_rgb(self, coord: Tensor, cell: Tensor | None = None) -> Tensor:
        return self.arithmetic(self.feat * self.gain, coord, cell)


class AddsOne(Published):
    def query_rgb(self, coord: Tensor, cell: Tensor | None = None) -> Tensor:
        return super().query_rgb(coord, cell) + 1


class OnlyInTraining(Published):
    def query_rgb(self, coord: Tensor, cell: Tensor | None = None) -> Tensor:
        return super().query_rgb(coord, cell) * (1.1 if self.training else 1)


class ExtraColumns(Published):
    """Columns of the query's own, which the MLP is given besides."""

    def columns(self, rows: Tensor, rel: Tensor) -> Tensor:
        return torch.cat([rows[..., :-2], rel.sin(), rows[..., -2:]], dim=-1)


class NeedsMore(Published):
    def query_rgb(self, coord: Tensor, cell: Tensor, inp_ori: Tensor) -> Tensor:  # type: ignore[override]
        return super().query_rgb(coord, cell)


class Needy(Published):
    """A query that cannot run here."""

    def query_rgb(self, coord: Tensor, cell: Tensor | None = None) -> Tensor:
        raise RuntimeError("no kernel image is available\nfor this device")


class Volume(Published):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv3d(1, CHANNELS, 3, padding=1)  # type: ignore[assignment]
