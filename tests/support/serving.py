"""A server of `liif-fast serve` on loopback, in a thread of the test, and plain requests to it."""

from __future__ import annotations

import http.client
import io
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from PIL import Image

from liif_fast.serve import server

OWN = {"X-Liif-Fast": "page"}  # what the page sends


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def picture(self) -> Image.Image:
        return Image.open(io.BytesIO(self.body))


class Client(NamedTuple):
    """Requests to the server at a port, each by a connection of its own."""

    port: int

    def __call__(
        self, path: str, method: str = "GET", body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def key(self, name: str) -> str:
        """The key of the picture of this name."""
        found = {one["name"]: one["key"] for one in self("/api/state").json["pictures"]}
        return str(found[name])


@contextmanager
def running(*names: str, model: str = "model.safetensors", **options: Any) -> Iterator[Client]:
    """A server of these pictures, by a tiny model; nothing of it is left when the block ends."""
    chosen = server.Options(names, (model,), port=0, **{"device": "cpu", **options})
    with server.listen(chosen.host, 0) as socket, server.serving(chosen, lambda text: None) as run:
        thread = threading.Thread(target=run.run, kwargs={"sockets": [socket]})
        thread.start()
        try:
            yield Client(socket.getsockname()[1])
        finally:
            run.should_exit = True
            thread.join(20)
            assert not thread.is_alive()
