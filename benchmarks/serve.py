"""What a viewer waits for: the first view, tiles at several scales, many viewers at once, and the memory of the server.

    python -m benchmarks.serve PHOTO [--seconds 60] [--viewers 20] [--out FILE]

The server runs as a process of its own on loopback. A tile is 512 x 512, a JPEG; "fresh" tiles lie where nothing
has been encoded yet, the others beside one that has just been decoded. One JSON line per figure.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TILE = 512
SCALES = (8, 32)


class Server:
    """A server of one picture, and requests to it by one connection."""

    def __init__(self, photo: str) -> None:
        command = [sys.executable, "-m", "liif_fast", "serve", photo, "--port", "0"]
        begun = time.perf_counter()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.start = time.perf_counter() - begun
        found = re.search(r":(\d+)/", line)
        if not found:
            raise SystemExit(f"expected a server, got {line!r}")
        self.port = int(found[1])
        self.connection = self.connect()
        self.key = json.loads(self.get("/api/state")[1])["pictures"][0]["key"]
        self.info = json.loads(self.get(f"/iiif/liif/{self.key}/info.json")[1])

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)

    def get(self, path: str, connection: http.client.HTTPConnection | None = None) -> tuple[int, bytes]:
        connection = connection or self.connection
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def tile(self, scale: int, x: int, y: int, way: str = "liif") -> str:
        """The address of a tile; x, y: its place in the picture's pixels."""
        side = TILE // scale
        return f"/iiif/{way}/{self.key}/{x},{y},{side},{side}/^{TILE},{TILE}/0/default.jpg"

    def place(self, scale: int, chosen: random.Random) -> tuple[int, int]:
        """The corner of any tile of this scale that lies in the picture."""
        side = TILE // scale
        across, down = self.info["width"] // side, self.info["height"] // side
        return chosen.randrange(across) * side, chosen.randrange(down) * side

    def memory(self) -> dict[str, float]:
        """MiB that the process has now, and had at most."""
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return {
            name: int(re.findall(rf"{key}:\s+(\d+)", text)[0]) / 1024
            for name, key in (("now", "VmRSS"), ("peak", "VmHWM"))
        }

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def timed(server: Server, path: str, connection: http.client.HTTPConnection | None = None) -> float:
    begun = time.perf_counter()
    status, _ = server.get(path, connection)
    if status != 200:
        raise SystemExit(f"{path}: expected 200, got {status}")
    return time.perf_counter() - begun


def summary(seconds: list[float]) -> dict[str, float]:
    """Milliseconds: the median, and the 99th of a hundred."""
    ordered = sorted(seconds)
    return {
        "p50_ms": round(1000 * statistics.median(ordered), 1),
        "p99_ms": round(1000 * ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 1),
        "count": len(ordered),
    }


def one_viewer(server: Server, chosen: random.Random) -> Iterator[dict[str, Any]]:
    """The first view, then fresh tiles and their neighbours."""
    yield {"what": "start", "ms": round(1000 * server.start)}
    first = timed(server, f"/iiif/liif/{server.key}/full/!1280,800/0/default.jpg")
    yield {"what": "first view, 1280 x 800", "ms": round(1000 * first)}
    for scale in SCALES:
        fresh, beside = [], []
        for _ in range(6):
            x, y = server.place(scale, chosen)
            fresh.append(timed(server, server.tile(scale, x, y)))
            # Nearly all of the same features, another tile: one pixel to the right.
            beside.append(timed(server, server.tile(scale, x + 1, y)))
        yield {"what": f"tile x{scale}, fresh", **summary(fresh)}
        yield {"what": f"tile x{scale}, features kept", **summary(beside)}


def many_viewers(server: Server, viewers: int, seconds: float) -> dict[str, Any]:
    """Each asks for one tile after another at a scale of its own choice, by LIIF or bicubic."""
    found: list[float] = []
    statuses: dict[int, int] = {}
    end, lock = time.perf_counter() + seconds, threading.Lock()

    def view(number: int) -> None:
        chosen, connection = random.Random(number), server.connect()
        while time.perf_counter() < end:
            scale = chosen.choice((2, 4, 8, 16, 32))
            path = server.tile(scale, *server.place(scale, chosen), chosen.choice(("liif", "bicubic")))
            begun = time.perf_counter()
            status, _ = server.get(path, connection)
            with lock:
                statuses[status] = statuses.get(status, 0) + 1
                found.append(time.perf_counter() - begun)

    threads = [threading.Thread(target=view, args=(number,)) for number in range(viewers)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = len(found) / (time.perf_counter() - begun)
    return {"what": f"{viewers} viewers", "tiles_per_second": round(rate, 2), **summary(found), "statuses": statuses}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", help="a photograph, such as one of 2 megapixels")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long many viewers look (default: 60)")
    parser.add_argument("--viewers", type=int, default=20, help="how many (default: 20)")
    parser.add_argument("--out", type=Path, help="also write the lines to this file")
    args = parser.parse_args()
    server = Server(args.photo)
    lines: list[str] = []

    def tell(row: dict[str, Any]) -> None:
        lines.append(json.dumps(row))
        print(lines[-1], flush=True)

    try:
        tell({"what": "picture", "width": server.info["width"], "height": server.info["height"]})
        for row in one_viewer(server, random.Random(0)):
            tell(row)
        if args.seconds > 0:
            tell(many_viewers(server, args.viewers, args.seconds))
        tell({"what": "memory, MiB", **{name: round(value) for name, value in server.memory().items()}})
    finally:
        server.end()
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
