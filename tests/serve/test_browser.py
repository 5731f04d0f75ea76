"""The page in a real browser (Debian: apt-get install chromium chromium-driver), and no request to any other host."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.serving import Client, running
from support.workspace import PHOTO, make_workspace, photo, upscale

from liif_fast.serve.application import VIEWER

selenium = pytest.importorskip("selenium", reason="the page is tested in a browser by selenium")
from selenium.webdriver import ActionChains, Chrome, ChromeOptions  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.skipif(not BROWSER or not DRIVER, reason="no browser: apt-get install chromium chromium-driver"),
    pytest.mark.skipif(not VIEWER.is_file(), reason="no viewer: make web"),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as patch:
        make_workspace(tmp_path_factory.mktemp("browser"), patch)
        with running("photo.png") as found:
            yield found


@pytest.fixture(scope="module")
def browser(client: Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    assert BROWSER is not None
    options.binary_location = BROWSER
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=900,700"):
        options.add_argument(f"--{argument}")
    folder = tmp_path_factory.mktemp("downloads")
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with Chrome(options=options, service=Service(DRIVER)) as driver:
        driver.downloads = folder
        yield driver


@pytest.fixture
def page(browser: Chrome, client: Client) -> Chrome:
    browser.get(f"http://127.0.0.1:{client.port}/")
    loaded(browser)
    return browser


def until(browser: Chrome, condition: Callable[[], Any]) -> Any:
    return WebDriverWait(browser, 60, 0.1).until(lambda driver: condition())


def loaded(browser: Chrome) -> None:
    """Both pictures are there, every tile in view."""
    until(browser, lambda: browser.execute_script("return sides.length == 2 && sides.every((s) => s.getFullyLoaded())"))


def text(browser: Chrome, name: str) -> str:
    return str(browser.find_element(By.ID, name).text)


def scale(browser: Chrome) -> float:
    return float(text(browser, "scale").removeprefix("x "))


def test_open_zoom_and_move(page: Chrome) -> None:
    until(page, lambda: text(page, "place") == "x 64.00, y 48.00")
    before = scale(page)
    page.find_element(By.ID, "in").click()
    until(page, lambda: abs(scale(page) - 2 * before) < 0.02 * before)
    page.find_element(By.ID, "one").click()
    until(page, lambda: abs(scale(page) - 1) < 0.01)
    page.execute_script("viewer.canvas.focus()")
    ActionChains(page).send_keys("+", "+", "+").perform()
    until(page, lambda: scale(page) > 1.5)
    ActionChains(page).send_keys(Keys.ARROW_RIGHT).perform()
    until(page, lambda: text(page, "place") != "x 64.00, y 48.00")
    page.find_element(By.ID, "fit").click()
    until(page, lambda: abs(scale(page) - before) < 0.02 * before)
    page.execute_script("zoomTo(300)")
    until(page, lambda: scale(page) > 200)
    loaded(page)


def test_slider(page: Chrome) -> None:
    slider = page.find_element(By.ID, "split")
    slider.send_keys(Keys.HOME)
    until(page, lambda: slider.get_attribute("aria-valuenow") == "0")
    assert page.execute_script("return sides[1].getClip().x") == 0
    slider.send_keys(Keys.ARROW_RIGHT)
    assert slider.get_attribute("aria-valuenow") == "2"
    ActionChains(page).drag_and_drop_by_offset(slider, 300, 0).perform()
    until(page, lambda: 30 < int(str(slider.get_attribute("aria-valuenow"))) < 40)
    clips = page.execute_script("return sides.map((s) => [s.getClip().x, s.getClip().width])")
    assert clips[0][1] == pytest.approx(clips[1][0])


def test_upload(page: Chrome, tmp_path: Path) -> None:
    photo().crop((0, 0, 50, 40)).save(tmp_path / "other.png")
    (tmp_path / "broken.png").write_bytes(PHOTO.read_bytes()[:500])
    page.find_element(By.ID, "upload").send_keys(str(tmp_path / "broken.png"))
    until(page, lambda: "broken.png: expected a picture" in text(page, "message"))
    page.find_element(By.ID, "upload").send_keys(str(tmp_path / "other.png"))
    until(page, lambda: "other.png is open" in text(page, "message"))
    loaded(page)
    assert page.execute_script("return sides[1].source.picture.width") == 50


def test_make_a_file(page: Chrome) -> None:
    Select(page.find_element(By.ID, "pictures")).select_by_visible_text("photo.png")
    page.find_element(By.ID, "make-open").click()
    factor = page.find_element(By.ID, "factor")
    factor.clear()
    factor.send_keys("3.7")
    page.find_element(By.ID, "make-start").click()
    link = page.find_element(By.ID, "download")
    until(page, link.is_displayed)
    assert "photo_x3.7.png is ready (474 x 355)" in text(page, "make-message")
    link.click()
    made = page.downloads / "photo_x3.7.png"
    until(page, made.is_file)
    assert upscale("photo.png", "-o", "own.png", "-s", "3.7", "--device", "cpu") == 0
    assert made.read_bytes() == Path("own.png").read_bytes()


def test_cancel(page: Chrome) -> None:
    page.find_element(By.ID, "make-open").click()
    factor = page.find_element(By.ID, "factor")
    factor.clear()
    factor.send_keys("60")
    page.find_element(By.ID, "make-start").click()
    cancel = page.find_element(By.ID, "make-cancel")
    until(page, lambda: "%" in text(page, "make-message"))
    cancel.click()
    until(page, lambda: text(page, "make-message") == "Cancelled.")


def test_a_phone(page: Chrome) -> None:
    page.set_window_size(500, 800)
    time.sleep(0.3)
    wide = page.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    high = page.execute_script("return document.documentElement.scrollHeight <= window.innerHeight")
    assert wide
    assert high
    page.set_window_size(900, 700)


def test_nothing_is_asked_of_other_hosts_and_nothing_is_wrong(page: Chrome, client: Client) -> None:
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    own = (f"http://127.0.0.1:{client.port}/", "blob:", "data:")
    assert len(sent) > 10
    assert [address for address in sent if not address.startswith(own)] == []
    wrong = [
        entry
        for entry in page.get_log("browser")
        if "the server responded with a status of 415" not in entry["message"]
    ]
    assert wrong == []
