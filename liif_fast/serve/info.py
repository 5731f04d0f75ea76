"""What a picture's info.json says (IIIF Image API 3.0, section 5)."""

from __future__ import annotations

from typing import Any

from liif_fast.serve.iiif import Limits

CONTEXT = "http://iiif.io/api/image/3/context.json"
PROFILE = "http://iiif.io/api/image/3/level2.json"
TILE = 512  # pixels on a side of the tiles that viewers are told to ask for


def describe(identifier: str, width: int, height: int, limits: Limits) -> dict[str, Any]:
    """The document for a picture of this size; identifier: the service's address without a slash at its end."""
    factors = scale_factors(width, height)
    return {
        "@context": CONTEXT,
        "id": identifier,
        "type": "ImageService3",
        "protocol": "http://iiif.io/api/image",
        "profile": "level2",
        "width": width,
        "height": height,
        "maxWidth": limits.width,
        "maxHeight": limits.height,
        "maxArea": limits.area,
        "sizes": [
            {"width": -(-width // factor), "height": -(-height // factor)}
            for factor in reversed(factors)
            if _allowed(-(-width // factor), -(-height // factor), limits)
        ],
        "tiles": [{"width": TILE, "height": TILE, "scaleFactors": factors}],
        "preferredFormats": ["webp", "jpg"],
        "extraFormats": ["webp"],
        "extraQualities": ["color", "gray"],
        "extraFeatures": ["canonicalLinkHeader", "mirroring", "profileLinkHeader", "sizeUpscaling"],
    }


def scale_factors(width: int, height: int) -> list[int]:
    """Powers of two by which the picture is reduced, up to the first that makes it fit into a tile."""
    factors = [1]
    while max(width, height) > TILE * factors[-1]:
        factors.append(2 * factors[-1])
    return factors


def _allowed(width: int, height: int, limits: Limits) -> bool:
    return width <= limits.width and height <= limits.height and width * height <= limits.area
