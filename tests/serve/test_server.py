"""The server on loopback: what it answers, whom it refuses, what it leaves behind."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.files import bad_files
from support.serving import OWN, Answer, Client, running
from support.workspace import PHOTO, make_workspace, photo, upscale

from liif_fast.cli import main
from liif_fast.serve import server, uploads
from liif_fast.serve.application import NO_VIEWER, VIEWER
from liif_fast.serve.drawing import ByModel
from liif_fast.serve.info import CONTEXT
from liif_fast.serve.worker import Worker


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server of photo.png and of a folder, and temporary files in a folder of the test's own."""
    with pytest.MonkeyPatch.context() as patch:
        folder = make_workspace(tmp_path_factory.mktemp("serve"), patch)
        (folder / "secret.png").write_bytes(PHOTO.read_bytes())
        (folder / "pictures").mkdir()
        photo().crop((0, 0, 40, 30)).save(folder / "pictures" / "small.png")
        (folder / "pictures" / "link.png").symlink_to(folder / "secret.png")
        (folder / "temporary").mkdir()
        patch.setattr(tempfile, "tempdir", str(folder / "temporary"))
        with running("photo.png", "pictures", max_upload=2**20, max_pixels=10**6) as found:
            yield found
        assert list((folder / "temporary").iterdir()) == []


@pytest.fixture(scope="module")
def service(client: Client) -> str:
    return f"/iiif/liif/{client.key('photo.png')}"


def finished(client: Client, made: Any) -> Any:
    for _ in range(600):
        if made["state"] not in ("waiting", "running"):
            return made
        time.sleep(0.05)
        made = client(f"/api/files/{made['id']}").json
    raise AssertionError(made)


def order(client: Client, **fields: Any) -> Answer:
    asked = {"picture": client.key("photo.png"), "way": "liif", "format": ".png", **fields}
    return client("/api/files", "POST", json.dumps(asked), OWN)


# -- IIIF -------------------------------------------------------------------------------------------------------------


def test_info(client: Client, service: str) -> None:
    answer = client(f"{service}/info.json", headers={"Accept": "*/*"})
    assert answer.status == 200
    assert answer.headers["Content-Type"] == f'application/ld+json;profile="{CONTEXT}"'
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert (answer.json["width"], answer.json["height"]) == (128, 96)
    assert answer.json["id"] == f"http://127.0.0.1:{client.port}{service}"
    plain = client(f"{service}/info.json", headers={"Accept": "application/json"})
    assert plain.headers["Content-Type"] == "application/json"
    there = client(service)
    assert (there.status, there.headers["Location"]) == (303, f"{service}/info.json")
    assert client(f"{service}/info.json", "OPTIONS").status == 204


def test_an_enlarged_part_is_that_part_of_the_commands_result(client: Client, service: str) -> None:
    made = finished(client, order(client, scale=3).json)
    whole = client(f"/api/files/{made['id']}/content").picture
    answer = client(f"{service}/32,16,40,24/%5E120,72/0/default.png")
    assert answer.status == 200
    assert np.array_equal(np.asarray(answer.picture), np.asarray(whole.crop((96, 48, 216, 120))))
    links = answer.headers["Link"]
    assert f"<http://127.0.0.1:{client.port}{service}/32,16,40,24/^120,72/0/default.png>;rel=" in links
    assert 'rel="canonical"' in links
    # From memory, the same bytes.
    assert client(f"{service}/32,16,40,24/^120,/360/color.png").body == answer.body


@pytest.mark.parametrize(("form", "name"), [("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")])
def test_formats(client: Client, service: str, form: str, name: str) -> None:
    answer = client(f"{service}/full/!20,20/90/gray.{form}")
    assert answer.headers["Content-Type"] == f"image/{'jpeg' if form == 'jpg' else form}"
    with answer.picture as found:
        assert (found.format, found.size) == (name, (15, 20))


def test_errors_by_the_standard(client: Client, service: str) -> None:
    for path, status in {
        f"{service}/full/max/0/default.gif": 400,
        f"{service}/full/9999,/0/default.jpg": 400,
        f"{service}/500,0,5,5/max/0/default.jpg": 400,
        f"{service}/full/max/45/default.jpg": 400,
        "/iiif/liif/nobody/full/max/0/default.jpg": 404,
        "/iiif/liif/nobody/info.json": 404,
        service.replace("/liif/", "/other/") + "/info.json": 404,
        "/nothing": 404,
    }.items():
        answer = client(path)
        assert answer.status == status, path
        assert answer.text.count("\n") == 1
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


# -- safety -----------------------------------------------------------------------------------------------------------


def test_a_foreign_host_gets_nothing(client: Client, service: str) -> None:
    for host in ("evil.example", "localhost.evil.example", f"evil.example:{client.port}", "", "a@evil.example", "[::"):
        assert client(f"{service}/info.json", headers={"Host": host}).status in (400, 421), host
    for host in ("localhost", f"LOCALHOST:{client.port}", "127.0.0.1", "[::1]:80"):
        assert client(f"{service}/info.json", headers={"Host": host}).status == 200, host


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {**OWN, "Origin": "http://evil.example"},
        {**OWN, "Origin": "null"},
        {**OWN, "Sec-Fetch-Site": "cross-site"},
        {**OWN, "Sec-Fetch-Site": "same-site"},
    ],
)
def test_no_cross_site_posts(client: Client, headers: dict[str, str]) -> None:
    before = client("/api/state").json
    for path, method in (("/api/pictures", "POST"), ("/api/files", "POST"), ("/api/pictures/x", "DELETE")):
        assert client(path, method, PHOTO.read_bytes()[:200], headers).status == 403
    assert client("/api/state").json == before


def test_other_sites_cannot_list_pictures(client: Client) -> None:
    answer = client("/api/state", headers={"Origin": "http://evil.example"})
    assert answer.status == 403
    assert "Access-Control-Allow-Origin" not in client("/api/state").headers
    assert client("/api/state", "OPTIONS", headers={"Origin": "http://evil.example"}).status == 403


def test_headers(client: Client) -> None:
    for path in ("/", "/static/page.js", "/api/state"):
        headers = client(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_paths_do_not_leave_the_folders(client: Client) -> None:
    names = [one["name"] for one in client("/api/state").json["pictures"]]
    assert names == ["photo.png", "small.png"]  # and no link out of the folder
    for path in (
        "/static/../server.py",
        "/static/%2e%2e/server.py",
        "/static/..%2fserver.py",
        "/iiif/liif/..%2f..%2fsecret.png/info.json",
        "/iiif/liif/%2fetc%2fpasswd/info.json",
        "/api/files/..%2f..%2fphoto.png/content",
    ):
        answer = client(path)
        assert answer.status in (400, 404), path
        assert b"import" not in answer.body


def test_a_link_that_is_put_in_place_later_is_not_followed(workspace: Path) -> None:
    (workspace / "pictures").mkdir()
    inside = workspace / "pictures" / "small.png"
    photo().save(inside)
    with running("pictures") as client:
        key = client.key("small.png")
        inside.unlink()
        inside.symlink_to(workspace / "photo.png")
        assert client(f"/iiif/liif/{key}/info.json").status == 404


# -- uploads ----------------------------------------------------------------------------------------------------------


def test_upload_and_remove(client: Client) -> None:
    answer = client("/api/pictures?name=..%2F..%2Fa%0Ab%20%C3%A9.png", "POST", PHOTO.read_bytes(), OWN)
    assert answer.status == 201
    assert (answer.json["name"], answer.json["width"]) == ("ab \u00e9.png", 128)
    key = answer.json["key"]
    assert client(f"/iiif/liif/{key}/full/max/0/default.png").status == 200
    assert client(f"/api/pictures/{key}", "DELETE", headers=OWN).status == 204
    assert client(f"/iiif/liif/{key}/info.json").status == 404
    assert client(f"/api/pictures/{client.key('photo.png')}", "DELETE", headers=OWN).status == 403


def test_large_uploads_and_large_pictures(client: Client) -> None:
    assert client("/api/pictures", "POST", bytes(2**20 + 1), OWN).status == 413
    # A length is not stated: what comes is counted.
    assert client("/api/pictures", "POST", iter([bytes(2**19)] * 3), OWN).status == 413
    many = io.BytesIO()
    Image.new("L", (1200, 1000)).save(many, "PNG")
    answer = client("/api/pictures?name=many.png", "POST", many.getvalue(), OWN)
    assert answer.status == 413
    assert "at most 1 megapixels, got 1" in answer.text


def test_hostile_files_are_errors(client: Client, tmp_path: Path) -> None:
    before = client("/api/state").json
    bad_files(tmp_path)
    for path in sorted(tmp_path.glob("*.[pj][np]g")):
        if path.is_file() and path.name != "whole.jpg":
            answer = client(f"/api/pictures?name={path.name}", "POST", path.read_bytes(), OWN)
            assert answer.status in (413, 415), path
            assert "upload-" not in answer.text
            assert answer.text.count("\n") == 1
    assert client("/api/state").json == before


def test_an_upload_that_stops_ends(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "PATIENCE", 0.2)
    head = b"POST /api/pictures HTTP/1.1\r\nHost: localhost\r\nX-Liif-Fast: page\r\nContent-Length: 1000\r\n\r\nhalf"
    with socket.create_connection(("127.0.0.1", client.port), timeout=20) as slow:
        slow.sendall(head)
        # Others are answered meanwhile.
        assert client("/api/state").status == 200
        assert slow.recv(100).startswith(b"HTTP/1.1 408")


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_file_has_the_bytes_of_the_commands(client: Client) -> None:
    made = finished(client, order(client, width=331, height=120, format=".jpg").json)
    assert (made["state"], made["size"], made["name"]) == ("done", [331, 120], "photo_331x120.jpg")
    answer = client(f"/api/files/{made['id']}/content")
    assert "attachment" in answer.headers["Content-Disposition"]
    assert upscale("photo.png", "-o", "own.jpg", "--size", "331x120", "--device", "cpu", "--overwrite") == 0
    assert answer.body == Path("own.jpg").read_bytes()


def test_a_file_can_be_cancelled(client: Client) -> None:
    first = order(client, scale=30).json
    gone = client(f"/api/files/{first['id']}", "DELETE", headers=OWN)
    assert gone.status == 200
    made = finished(client, gone.json)
    assert made["state"] == "cancelled"
    assert client(f"/api/files/{first['id']}/content").status == 404


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 400),
        ({"scale": 0}, 400),
        ({"scale": "4"}, 400),
        ({"scale": True}, 400),
        ({"scale": 1e400}, 400),
        ({"scale": 2, "width": 5}, 400),
        ({"width": 2.5}, 400),
        ({"scale": 900}, 415),
        ({"scale": 2, "format": ".exe"}, 400),
        ({"scale": 2, "format": [".png"]}, 400),
        ({"scale": 2, "way": "bicubic"}, 400),
        ({"scale": 2, "picture": "../photo.png"}, 404),
    ],
)
def test_orders_that_make_no_sense(client: Client, fields: dict[str, Any], status: int) -> None:
    answer = order(client, **fields)
    assert answer.status == status, answer.text
    assert answer.text.count("\n") == 1


def test_orders_that_are_none(client: Client) -> None:
    for body, status in ((b"{", 400), (b"[]", 400), (b"[" * 4000, 400), (b" " * 5000, 413)):
        assert client("/api/files", "POST", body, OWN).status == status


# -- load -------------------------------------------------------------------------------------------------------------


def test_a_full_queue_is_said_and_requests_that_are_given_up_are_dropped(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "WAITING", 2)
    may_go, drawn, workers = threading.Event(), [], []
    monkeypatch.setattr(server, "Worker", lambda most: workers.append(Worker(most)) or workers[0])
    enlarge = ByModel.enlarge

    def slow(self: ByModel, region: Any) -> Any:
        drawn.append(region.box.top)
        assert may_go.wait(60)
        return enlarge(self, region)

    monkeypatch.setattr(ByModel, "enlarge", slow)
    with running("photo.png") as client, ThreadPoolExecutor(4) as pool:
        service = f"/iiif/liif/{client.key('photo.png')}"
        assert client(f"{service}/info.json").status == 200
        running_now = pool.submit(lambda: client(f"{service}/0,0,8,8/^16,16/0/default.png"))
        wait_until(lambda: len(drawn) == 1)
        # One that waits, and is given up.
        given_up = http.client.HTTPConnection("127.0.0.1", client.port)
        given_up.request("GET", f"{service}/0,8,8,8/^16,16/0/default.png")
        wait_until(lambda: len(workers[0]._waiting) == 1)
        kept = pool.submit(lambda: client(f"{service}/0,16,8,8/^16,16/0/default.png"))
        wait_until(lambda: len(workers[0]._waiting) == 2)
        refused = client(f"{service}/0,24,8,8/^16,16/0/default.png")
        assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
        given_up.close()
        wait_until(lambda: len(workers[0]._waiting) == 1)
        may_go.set()
        assert running_now.result().status == 200
        assert kept.result().status == 200
    assert drawn == [0, 32]


def wait_until(condition: Any) -> None:
    for _ in range(400):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("nothing happened")


def test_twenty_viewers_at_once(client: Client, service: str) -> None:
    paths = [f"{service}/{x},{y},16,16/^32,32/0/default.jpg" for x in range(0, 128, 16) for y in range(0, 96, 16)]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda path: client(path), paths * 2))
    assert {answer.status for answer in answers} == {200}


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_in_order(which: signal.Signals, workspace: Path) -> None:
    (workspace / "temporary").mkdir()
    command = [sys.executable, "-m", "liif_fast", "serve", "photo.png", "--model", "model.safetensors", "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(workspace / "temporary"), "PYTHONPATH": str(PHOTO.parents[2])}
    with subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("liif-fast serve: http://127.0.0.1:"), line
        client = Client(int(line.split(":")[3].partition("/")[0]))
        assert client("/api/pictures", "POST", PHOTO.read_bytes(), OWN).status == 201
        # Somebody's connection stays open, somebody's file is half made.
        service = f"/iiif/liif/{client.key('photo.png')}"
        with socket.create_connection(("127.0.0.1", client.port)), contextlib.ExitStack() as waiting:
            order(client, scale=40)
            for size in range(1000, 1008):  # and requests wait
                connection = waiting.enter_context(socket.create_connection(("127.0.0.1", client.port)))
                request = f"GET {service}/full/^{2 * size},/0/default.png HTTP/1.1\r\nHost: localhost\r\n\r\n"
                connection.sendall(request.encode())
            time.sleep(0.3)
            process.send_signal(which)
            out, err = process.communicate(timeout=30)
    # A checkout without the viewer says so at the start, and nothing else.
    said = "" if VIEWER.is_file() else f"liif-fast serve: {NO_VIEWER}\n"
    assert (process.returncode, out, err) == (0, "liif-fast serve: ended\n", said)
    assert list((workspace / "temporary").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["*.nothing"], "*.nothing: expected a picture's name or a pattern"),
        (["--port", "70000"], "from 0 to 65535, got 70000"),
        (["--memory", "lots"], "expected bytes"),
        (["--model", "missing.pth"], "missing.pth"),
        (["--host", "no.such.host.invalid"], "no.such.host.invalid:"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str, workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *arguments, *(["--port", "0"] if "--port" not in arguments else [])]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_a_port_that_is_taken(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "photo.png", "--port", str(taken.getsockname()[1])]) == 2
    assert "choose another --port" in capsys.readouterr().err
