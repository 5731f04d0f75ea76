"""Lets the pages of the site link to files of the repository as they do on disk: `../benchmarks/results/x.json`.

Whatever a page links to outside docs/ becomes a file of the site under repository/, a Markdown file a page there.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
COPIED = "repository"
LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)\s#]+)")


def on_files(files: Files, config: Any) -> Files:
    """Adds what the pages link to, and what those files link to."""
    todo = [file.src_uri for file in files.documentation_pages()] + navigated(config["nav"])
    seen = set(todo)
    while todo:
        page = todo.pop()
        if page.startswith(f"{COPIED}/"):
            path = ROOT / page.removeprefix(f"{COPIED}/")
            files.append(File.generated(config, page, abs_src_path=str(path)))
        if page.endswith(".md"):
            for _, link in LINK.findall(source(page).read_text(encoding="utf-8")):
                name = uri(page, link)
                if name not in seen and source(name).is_file():
                    seen.add(name)
                    todo += [name] if name.startswith(f"{COPIED}/") else []
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turns links between files of the repository into links between files of the site."""
    here = page.file.src_uri

    def renamed(match: re.Match[str]) -> str:
        return match[1] + posixpath.relpath(uri(here, match[2]), posixpath.dirname(here) or ".")

    return LINK.sub(renamed, markdown)


def navigated(nav: Any) -> list[str]:
    """The files of the repository that the navigation names."""
    if isinstance(nav, str):
        return [nav] if nav.startswith(f"{COPIED}/") else []
    return [name for part in (nav.values() if isinstance(nav, dict) else nav) for name in navigated(part)]


def source(name: str) -> Path:
    """The file on disk of a file of the site."""
    return ROOT / name.removeprefix(f"{COPIED}/") if name.startswith(f"{COPIED}/") else ROOT / "docs" / name


def uri(page: str, link: str) -> str:
    """The name in the site of what a page links to."""
    target = Path(os.path.normpath(source(page).parent / link))
    if not target.is_relative_to(ROOT):
        return link
    name = target.relative_to(ROOT).as_posix()
    return name.removeprefix("docs/") if name.startswith("docs/") else f"{COPIED}/{name}"
