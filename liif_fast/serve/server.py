"""Listening: a socket, the application, and an orderly end."""

from __future__ import annotations

import errno
import logging
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import uvicorn

from liif_fast.batch.conversion import Converter, Settings
from liif_fast.errors import UsageError
from liif_fast.rendering.request import Request
from liif_fast.serve.application import Parts, application
from liif_fast.serve.iiif import Limits
from liif_fast.serve.images import BICUBIC, Budget, Images, Way
from liif_fast.serve.making import Maker
from liif_fast.serve.pictures import Pictures
from liif_fast.serve.uploads import Uploads
from liif_fast.serve.worker import Worker

CONNECTIONS = 400
WAITING = 300  # requests that may wait to be computed
GRACE = 3  # seconds that open connections have at the end
ALL_UPLOADS = 8  # times the largest upload: what all of them may take


class Options(NamedTuple):
    """What is served and how.

    names: files, folders, patterns. models: checkpoints, none for the default one. memory: bytes kept of features,
    pictures and tiles. max_upload: bytes of an upload. max_pixels: pixels of a picture. hosts: as in `safety.Guard`.
    """

    names: Sequence[str] = ()
    models: Sequence[str] = ()
    recursive: bool = False
    host: str = "127.0.0.1"
    port: int = 8321
    memory: int = 2**30
    max_upload: int = 100 * 2**20
    max_pixels: int = 100 * 10**6
    backend: str = "auto"
    precision: str = "auto"
    device: str | None = None
    hosts: Sequence[str] = ()


class _Server(uvicorn.Server):
    """At the end it first refuses what waits, so that nobody waits for it."""

    def __init__(self, config: uvicorn.Config, worker: Worker, maker: Maker) -> None:
        super().__init__(config)
        self._worker, self._maker = worker, maker

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._worker.refuse()
        self._maker.refuse()
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises UsageError, in a line, where that cannot be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(128)
        except BaseException:
            found.close()
            raise
    except OSError as error:
        advice = "; another program listens there: choose another --port" if error.errno == errno.EADDRINUSE else ""
        raise UsageError(
            f"{host}:{port}: expected an address to listen at, got {error.strerror or error}{advice}"
        ) from None
    return found


def ways(options: Options) -> list[Way]:
    """The models, loaded, and bicubic. Raises UsageError, BackendError, CheckpointError."""
    found: list[Way] = []
    for path in options.models or (None,):
        settings = Settings(Request(scale=1), path, options.backend, options.precision, options.device)
        name = "liif" if not found else f"liif-{len(found) + 1}"
        found.append(Way(name, "LIIF" if path is None else Path(path).stem, Converter(settings)))
    return [*found, Way(BICUBIC, "bicubic")]


@contextmanager
def serving(options: Options, note: Callable[[str], None]) -> Iterator[uvicorn.Server]:
    """A server that is ready to be run; when the block ends, so does all work, and the temporary folder goes."""
    pictures = Pictures(Budget.of(options.memory).pictures, options.max_pixels)
    pictures.add_named(options.names, options.recursive, note)
    known = ways(options)
    with tempfile.TemporaryDirectory(prefix="liif-fast-serve-", ignore_cleanup_errors=True) as folder:
        worker = Worker(WAITING)
        images = Images(pictures, known, Budget.of(options.memory), Limits(), worker.check)
        maker = Maker(Path(folder), worker)
        uploads = Uploads(Path(folder), options.max_upload, ALL_UPLOADS * options.max_upload)
        app = application(Parts(images, worker, maker, uploads), [options.host, *options.hosts])
        config = uvicorn.Config(
            app,
            log_level=logging.WARNING,
            access_log=False,
            lifespan="off",
            ws="none",
            loop="asyncio",
            http="h11",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=GRACE,
        )
        try:
            yield _Server(config, worker, maker)
        finally:
            worker.end()
            maker.end()
