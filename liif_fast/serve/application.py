"""The web application: which address gives what, and which error becomes which status."""

from __future__ import annotations

import json
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from liif_fast import image
from liif_fast.errors import ImageError, LiifError, UsageError
from liif_fast.rendering import request as sizes
from liif_fast.serve import iiif, info
from liif_fast.serve.images import Images
from liif_fast.serve.making import Maker, Order
from liif_fast.serve.pictures import Entry, TooLargeError, UnknownError
from liif_fast.serve.safety import Guard
from liif_fast.serve.uploads import SlowError, Uploads
from liif_fast.serve.worker import BusyError, ClientGoneError, Worker

STATIC = Path(__file__).parent / "static"
VIEWER = STATIC / "vendor" / "openseadragon.min.js"
NO_VIEWER = (
    "The page needs OpenSeadragon, which is not here: run `make web` in the checkout (it needs node and npm), then "
    "start again. The IIIF services under /iiif/ work without it."
)
CLIENT_CLOSED = 499  # nobody reads it
LONGEST_ORDER = 4096  # bytes of an order's JSON
STATUSES: dict[type[Exception], int] = {
    iiif.RequestError: 400,
    UsageError: 400,
    UnknownError: 404,
    SlowError: 408,
    TooLargeError: 413,
    ImageError: 415,
    BusyError: 429,
    LiifError: 500,
}
SUFFIXES = (".png", ".jpg", ".webp", ".tif", ".avif")


class Parts(NamedTuple):
    """What the application is made of."""

    images: Images
    worker: Worker
    maker: Maker
    uploads: Uploads


def application(parts: Parts, hosts: list[str]) -> ASGIApp:
    """The application, guarded. hosts: as in `Guard`."""
    site = _Site(parts)
    address = "/iiif/{way}/{key}"
    routes = [
        Route("/", site.page),
        Route("/api/state", site.state),
        Route("/api/pictures", site.upload, methods=["POST"]),
        Route("/api/pictures/{key}", site.remove, methods=["DELETE"]),
        Route("/api/files", site.order, methods=["POST"]),
        Route("/api/files/{number}", site.progress),
        Route("/api/files/{number}", site.cancel, methods=["DELETE"]),
        Route("/api/files/{number}/content", site.download),
        Route(address, _to_info),
        Route(address + "/info.json", site.info),
        Route(address + "/{region}/{size}/{rotation}/{last}", site.image),
        Route("/iiif/{rest:path}", _other, methods=["GET", "OPTIONS"]),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    handlers: Any = {LiifError: _refused, ClientGoneError: _gone, ClientDisconnect: _gone, HTTPException: _http}
    return Guard(Starlette(routes=routes, exception_handlers=handlers), hosts)


class _Site:
    def __init__(self, parts: Parts) -> None:
        self.images, self.worker, self.maker, self.uploads = parts
        self.pictures = self.images.pictures

    # -- the page --------------------------------------------------------------------------------------------------

    async def page(self, request: Request) -> Response:
        if not VIEWER.is_file():
            return PlainTextResponse(NO_VIEWER + "\n", 503)
        return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})

    async def state(self, request: Request) -> Response:
        """What the page shows: the pictures, the ways of enlarging them, the formats of files."""
        return JSONResponse(
            {
                "pictures": [{"key": e.key, "name": e.name, "uploaded": e.uploaded} for e in self.pictures.all()],
                "ways": [{"name": way.name, "title": way.title} for way in self.images.ways.values()],
                "formats": [suffix for suffix in SUFFIXES if not image.FORMATS[suffix].missing()],
                "tile": info.TILE,
                "most": sizes.MAX_PIXELS,
            }
        )

    # -- IIIF --------------------------------------------------------------------------------------------------------

    async def info(self, request: Request) -> Response:
        key, way = request.path_params["key"], self.images.way(request.path_params["way"])
        width, height = await self._size(request, key)
        document = info.describe(_service(request, way.name, key), width, height, self.images.limits)
        wanted = request.headers.get("accept", "")
        plain = "application/json" in wanted and "ld+json" not in wanted
        kind = "application/json" if plain else f'application/ld+json;profile="{info.CONTEXT}"'
        headers = {"Vary": "Accept", "Cache-Control": "no-cache", "Link": f'<{info.PROFILE}>;rel="profile"'}
        return Response(json.dumps(document), media_type=kind, headers=headers)

    async def image(self, request: Request) -> Response:
        names = request.path_params
        key, way = names["key"], self.images.way(names["way"]).name
        self.pictures.get(key)
        parsed = iiif.parse(names["region"], names["size"], names["rotation"], names["last"])
        await self._size(request, key)
        asked = self.images.resolve(key, parsed)
        body = self.images.kept(way, key, asked)
        if body is None:
            body = await self._of(request, (way, key, asked), lambda: self.images.answer(way, key, asked))
        canonical = f"{_service(request, way, key)}/{asked.canonical}"
        headers = {
            "Link": f'<{canonical}>;rel="canonical",<{info.PROFILE}>;rel="profile"',
            "Cache-Control": "private, max-age=300",
        }
        return Response(body, media_type=iiif.FORMATS[asked.format], headers=headers)

    # -- uploads and files ---------------------------------------------------------------------------------------------

    async def upload(self, request: Request) -> Response:
        """The body is a picture; its key and size are the answer. A file that holds none leaves nothing behind."""
        path = await self.uploads.receive(request)
        entry = self.pictures.add_upload(request.query_params.get("name", ""), path)
        try:
            await self._of(request, ("open", entry.key), lambda: self.pictures.open(entry.key))
            width, height = self.pictures.size(entry.key)
        except BaseException:
            self._remove(entry)
            raise
        return JSONResponse({"key": entry.key, "name": entry.name, "width": width, "height": height}, 201)

    async def remove(self, request: Request) -> Response:
        """Remove an upload; the files of folders are nobody's to remove."""
        entry = self.pictures.get(request.path_params["key"])
        if not entry.uploaded:
            raise HTTPException(403, "expected an upload, got a picture of the server's own folders")
        self._remove(entry)
        return Response(status_code=204)

    def _remove(self, entry: Entry) -> None:
        self.pictures.remove(entry.key)
        self.uploads.remove(entry.path)

    async def order(self, request: Request) -> Response:
        """Begin to make a file: {picture, way, format, and scale or width and/or height}."""
        asked = await _order_of(request)
        entry = self.pictures.get(str(asked.get("picture")))
        converter = self.images.way(str(asked.get("way"))).converter
        if converter is None:
            raise UsageError("way: expected a model, got bicubic")
        suffix = asked.get("format")
        if suffix not in SUFFIXES:
            raise UsageError(f"format: expected one of {', '.join(SUFFIXES)}, got {suffix!r}")
        size, label = _size_of(asked)
        width, height = await self._size(request, entry.key)
        box = size.region((height, width), sizes.MAX_PIXELS).box
        made = self.maker.order(Order(entry, converter, size, suffix), label)
        return JSONResponse(made.facts() | {"size": [box.width, box.height]}, 202)

    async def progress(self, request: Request) -> Response:
        return JSONResponse(self.maker.get(request.path_params["number"]).facts())

    async def cancel(self, request: Request) -> Response:
        return JSONResponse(self.maker.cancel(request.path_params["number"]).facts())

    async def download(self, request: Request) -> Response:
        made = self.maker.get(request.path_params["number"])
        if made.state != "done":
            raise UnknownError(f"expected a file that is done, got one that is {made.state}")
        return FileResponse(made.path, filename=made.name)

    async def _size(self, request: Request, key: str) -> tuple[int, int]:
        """(width, height) of a picture; where it is known, nothing is waited for."""
        known = self.pictures.known_size(key)
        return known or await self._of(request, ("size", key), lambda: self.pictures.size(key))

    async def _of(self, request: Request, key: Any, function: Callable[[], Any]) -> Any:
        return await self.worker.compute(request, key, function)


# -- requests ------------------------------------------------------------------------------------------------------


def _service(request: Request, way: str, key: str) -> str:
    """The address of a IIIF service, by the name under which the server was called (which the guard has checked)."""
    return f"{request.url.scheme}://{request.headers['host']}/iiif/{way}/{key}"


async def _order_of(request: Request) -> dict[str, Any]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_ORDER:
            raise TooLargeError(f"expected an order of at most {LONGEST_ORDER} bytes, got more")
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict):
        raise UsageError("expected a JSON object, got something else")
    return asked


def _size_of(asked: dict[str, Any]) -> tuple[sizes.Request, str]:
    """The size of an order, and what the name of its file says of it. Raises UsageError."""
    given = {name: asked[name] for name in ("scale", "width", "height") if asked.get(name) is not None}
    if any(not isinstance(value, (int, float)) or isinstance(value, bool) for value in given.values()):
        raise UsageError("scale, width, height: expected numbers, got something else")
    if "scale" in given:
        if len(given) > 1:
            raise UsageError("expected a scale, or a width and/or a height, got both")
        scale = sizes.check_scale(given["scale"])
        return sizes.Request(scale=scale), f"x{scale:g}"
    if not given:
        raise UsageError("expected a scale, or a width and/or a height, got neither")
    sides = {name: sizes.check_side(value, name) for name, value in given.items()}
    return sizes.Request(
        width=sides.get("width"), height=sides.get("height")
    ), f"{sides.get('width', '')}x{sides.get('height', '')}"


# -- answers without a picture -------------------------------------------------------------------------------------


async def _to_info(request: Request) -> Response:
    return RedirectResponse(request.url.path + "/info.json", 303)


async def _other(request: Request) -> Response:
    """An address that means nothing; browsers of other sites may ask beforehand whether they may read any."""
    if request.method != "OPTIONS":
        raise HTTPException(404)
    return Response(status_code=204, headers={"Access-Control-Allow-Methods": "GET, HEAD, OPTIONS"})


async def _refused(request: Request, error: Exception) -> Response:
    status = next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)
    headers = {"Retry-After": "1"} if status == HTTPStatus.TOO_MANY_REQUESTS else None
    return PlainTextResponse(f"{error}\n", status, headers)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse(f"{error.detail}\n", error.status_code, error.headers)
