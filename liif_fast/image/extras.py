"""What a file says beside its pixels in places of its own, apart from EXIF data, colour profile and resolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from liif_fast.image import geotiff

_SRGB = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)  # white, red, green and blue, as a PNG states them


class Extras(NamedTuple):
    """What is kept of a file, as far as it stays true of a resized picture; each None or empty where there is none.

    xmp: a packet. iptc: IIM records. comment: of a JPEG or GIF. texts: a PNG's, (key, text). gamma, chromaticity: those
    of a PNG. coding: code points of the colours (H.273: primaries, transfer, matrix, full range). geo: GeoTIFF's and
    GDAL's tags. lossless: the file loses nothing though its format can. loop: how
    often an animation is shown (0 for ever), None where it does not say.
    """

    xmp: bytes | None = None
    iptc: bytes | None = None
    comment: bytes | None = None
    texts: tuple[tuple[str, str], ...] = ()
    gamma: float | None = None
    chromaticity: tuple[float, ...] | None = None
    coding: tuple[int, int, int, int] | None = None
    geo: Mapping[int, Any] = {}
    lossless: bool = False
    loop: int | None = None

    def named(self) -> dict[str, bool]:
        """Say what there is, by the names of `Format.keeps`; a gamma or colours as every screen has them are none."""
        usual = self.gamma is None or abs(self.gamma - 0.45455) < 0.01
        usual = usual and (self.chromaticity is None or _near(self.chromaticity, _SRGB))
        return {
            "XMP data": bool(self.xmp),
            "IPTC data": bool(self.iptc),
            "comment": bool(self.comment),
            "texts": bool(self.texts),
            "gamma and chromaticities": not usual,
            "colour coding": self.coding is not None and self.coding[:2] != (1, 13),
            "place on the ground": bool(geotiff.PLACE & set(self.geo)),
            "GDAL's tags": bool(set(self.geo) - geotiff.PLACE),
        }

    def without_metadata(self) -> Extras:
        """Return how the pixels are to be read and written only, without what is said of them."""
        nodata = {tag: value for tag, value in self.geo.items() if tag == geotiff.GDAL_NODATA}
        return Extras(geo=nodata, lossless=self.lossless, loop=self.loop)

    def with_bands(self, bands: Sequence[int]) -> Extras:
        """Return what is true of these bands only, counted from 0."""
        return self._replace(geo=geotiff.with_bands(self.geo, bands)) if self.geo else self

    def resampled(self, how: geotiff.Resampling) -> Extras:
        """Return what is true of the resampled picture: its place on the ground is scaled and shifted."""
        return self._replace(geo=geotiff.resampled(self.geo, how)) if self.geo else self


def _near(found: tuple[float, ...], expected: tuple[float, ...]) -> bool:
    return all(abs(a - b) < 0.002 for a, b in zip(found, expected, strict=False))
