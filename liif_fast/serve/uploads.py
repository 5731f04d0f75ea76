"""Uploads: one file a request, as its body, into a temporary folder of bounded size."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

from starlette.requests import Request

from liif_fast.errors import LiifError
from liif_fast.serve.pictures import TooLargeError
from liif_fast.serve.worker import BusyError

AT_ONCE = 4  # uploads at a time
PATIENCE = 20.0  # seconds that the next bytes of an upload may take


class SlowError(LiifError):
    """The sender has stopped sending: status 408."""


class Uploads:
    """Writes bodies into files of `folder`: each of at most `limit` bytes, all that are kept of at most `total`."""

    def __init__(self, folder: Path, limit: int, total: int) -> None:
        self._folder, self._limit, self._total = folder, limit, total
        self._used = 0
        self._receiving = 0

    async def receive(self, request: Request) -> Path:
        """The file with the request's body; nothing is left of one that breaks off.

        Raises TooLargeError, SlowError, BusyError; starlette's ClientDisconnect.
        """
        stated = request.headers.get("content-length", "0")
        if not stated.isascii() or not stated.isdigit() or int(stated) > self._limit:
            raise self._too_large()
        if self._receiving >= AT_ONCE:
            raise BusyError(f"expected at most {AT_ONCE} uploads at a time, got more; try again in a second")
        path = self._folder / f"upload-{secrets.token_hex(12)}"
        self._receiving += 1
        size, whole = 0, False
        try:
            with open(path, "wb") as file:
                chunks = request.stream()
                while True:
                    try:
                        chunk = await asyncio.wait_for(anext(chunks), PATIENCE)
                    except StopAsyncIteration:
                        break
                    except asyncio.TimeoutError:
                        raise SlowError(
                            f"expected the next bytes of the file within {PATIENCE:g} s, got none"
                        ) from None
                    if size + len(chunk) > self._limit:
                        raise self._too_large()
                    if self._used + len(chunk) > self._total:
                        raise TooLargeError(
                            f"expected uploads of at most {self._total / 2**20:.0f} MiB together, got more; "
                            "remove some, or restart the server"
                        )
                    file.write(chunk)
                    size += len(chunk)
                    self._used += len(chunk)
            whole = True
        finally:
            self._receiving -= 1
            if not whole:
                self._used -= size
                path.unlink(missing_ok=True)
        return path

    def remove(self, path: Path) -> None:
        self._used -= path.stat().st_size
        path.unlink()

    def _too_large(self) -> TooLargeError:
        return TooLargeError(
            f"expected a file of at most {self._limit / 2**20:.0f} MiB, got more; --max-upload allows more"
        )
