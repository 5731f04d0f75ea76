"""Every command and every line of Python in the documents works, and their links lead somewhere."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image
from support.paths import ROOT

import liif_fast
from benchmarks import quality

PAGES = tuple(sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
DOCUMENTS = ("README.md", "CONTRIBUTING.md", *PAGES)
LINKED = (*DOCUMENTS, "CHANGELOG.md", "SECURITY.md", "benchmarks/results/README.md", "examples/README.md")
README_BYTES = 7000
# Commands that another test checks, as the values say.
ELSEWHERE = {
    "pip install . --extra-index-url https://download.pytorch.org/whl/cpu": "test_install.py installs the package",
    "pip install .": "test_install.py builds and installs the package",
    "pip install --no-build-isolation .": "test_install.py builds and installs the package",
    ".venv/bin/pre-commit install": "test_hooks_are_valid",
    "python tests/image/fuzz_images.py --seconds 600 --seed 1 --out build/fuzz": "test_fuzz.py runs some seconds of it",
    "liif-fast train own-photos -o own": "test_a_model_of_ones_own, in a handful of steps",
    "liif-fast upscale photo.jpg -o mine.png -s 3 --model own/epoch-best.pth": "test_a_model_of_ones_own",
    "liif-fast upscale -r album -o by-ray/ -s 2 --ray": "test_batch_ray.py",
    "liif-fast serve photo.jpg --open": "serve/test_server.py starts and ends it, without a browser",
    "liif-fast serve photo.jpg album/ --open": "serve/test_server.py starts and ends it, without a browser",
    "python -m benchmarks.compile_report --quick": "test_triton.py runs it",
    "python -m benchmarks.report": "test_benchmarks.py compares what it would write",
    "python -m benchmarks.report --check": "test_benchmarks.py runs it",
    "python -m benchmarks.gpu_report --out benchmarks/results/": "test_gpu_report.py runs it on tiny shapes",
}


class Block(NamedTuple):
    """One fenced block of a document."""

    document: str
    language: str
    text: str

    def lines(self) -> list[str]:
        """The commands of a shell block, without comments."""
        words = (shlex.split(line, comments=True) for line in self.text.splitlines())
        return [shlex.join(line) for line in words if line]

    def __str__(self) -> str:
        return f"{self.document}: {self.text.strip().splitlines()[0]}"


def blocks(language: str) -> list[Block]:
    """Every block of a language, in reading order."""
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS}
    found = [Block(name, *match.groups()) for name, text in texts.items() for match in fence.finditer(text)]
    return [block for block in found if block.language == language]


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with the files that the documents speak of, small."""
    with Image.open(ROOT / "examples" / "osprey.jpg") as file:
        photograph = file.convert("RGB")
    picture = photograph.resize((48, 32))
    picture.save(tmp_path / "photo.jpg")
    picture.save(tmp_path / "other.png")
    for name in ("beach.jpg", "summer/park.jpg", "summer/pond.png"):
        (tmp_path / "album" / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "album" / name)
    liif_fast.save(liif_fast.load(), tmp_path / "edsr-baseline-liif.pth")
    (tmp_path / "photos").mkdir()
    photograph.save(tmp_path / "photos" / "osprey.png")
    write_configs(tmp_path)
    return tmp_path


def write_configs(folder: Path) -> None:
    """The documents' configurations for training, with an epoch of one small batch, and for evaluating."""
    import yaml

    training, evaluating = blocks("yaml")
    (folder / "evaluate.yaml").write_text(evaluating.text)
    config: dict[str, Any] = yaml.safe_load(training.text)
    train = config["train_dataset"]
    train["dataset"]["args"]["repeat"] = 1
    train["wrapper"]["args"] |= {"inp_size": 16, "sample_q": 64}
    config |= {"epoch_max": 1}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def run(command: list[str], cwd: Path, **variables: str) -> str:
    """Run with the environment's own programs first; its failure fails the test."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    env = os.environ | {"PATH": path} | variables
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def runs_the_package(block: Block) -> bool:
    """Whether a command of the block starts a process that loads the package, which takes seconds."""
    return any(not command.startswith("make ") and command not in ELSEWHERE for command in block.lines())


def shell_blocks() -> list[Any]:
    """Every shell block, the same commands of two documents once."""
    different = {tuple(block.lines()): block for block in blocks("sh")}.values()
    return [
        pytest.param(block, marks=pytest.mark.slow if runs_the_package(block) else (), id=str(block))
        for block in different
    ]


@pytest.mark.parametrize("block", shell_blocks())
def test_commands(block: Block, desk: Path) -> None:
    for command in block.lines():
        words = shlex.split(command)
        if command in ELSEWHERE:
            continue
        if words[0] == "make":
            # These run this very suite or take minutes, so only what they would do is checked.
            run(["make", "-n", *words[1:]], ROOT)
            continue
        before = set(desk.rglob("*"))
        run(words, desk)
        new = set(desk.rglob("*")) - before
        assert new or "-o" not in words or "--resume" in words, f"{command} wrote nothing"


@pytest.mark.slow
def test_upscale_commands_give_the_sizes_they_ask_for(desk: Path) -> None:
    for command in dict.fromkeys(command for block in blocks("sh") for command in block.lines()):
        if command.startswith("liif-fast upscale") and any(
            f"-o {name}" in command for name in ("large.png", "banner", "larger")
        ):
            run(shlex.split(command), desk)
    sizes = {str(file.relative_to(desk)): Image.open(file).size for file in desk.rglob("*.*") if file.suffix == ".png"}
    assert sizes["large.png"] == (178, 118)
    assert sizes["banner.png"] == (331, 120)
    in_folder = [size for name, size in sizes.items() if name.startswith("larger")]
    assert in_folder
    assert set(in_folder) == {(96, 64)}


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python(block: Block, desk: Path) -> None:
    run([sys.executable, "-W", "error", "-c", block.text], desk)


@pytest.mark.slow
def test_a_model_of_ones_own(desk: Path) -> None:
    """The example of two minutes, in some seconds: fewer and smaller batches, and still the validation PSNR rises."""
    with Image.open(ROOT / "examples" / "osprey.jpg") as file:
        photograph = file.convert("RGB")
    width = photograph.width // 8
    for number in range(8):
        crop = photograph.crop((number * width, 0, (number + 1) * width, photograph.height))
        crop.save(desk / "photos" / f"{number}.jpg")
    (preparation,) = (block for block in blocks("python") if "small" in block.text)
    run([sys.executable, "-c", preparation.text], desk)
    (commands,) = (block.lines() for block in blocks("sh") if "own-photos" in block.text)
    few = "epoch_max=3 train_dataset.dataset.args.repeat=8 train_dataset.wrapper.args.sample_q=128"
    run([*shlex.split(commands[0]), "--set", *few.split(), "val_dataset.dataset.args.repeat=4"], desk)
    with open(desk / "own" / "log.csv", newline="") as file:
        values = [float(row["psnr"]) for row in csv.DictReader(file)]
    assert values == sorted(values)
    assert values[-1] > values[0] + 0.5
    assert (desk / "own" / "curve.png").exists()
    run(shlex.split(commands[1]), desk)
    assert Image.open(desk / "mine.png").size == (144, 96)


@pytest.mark.parametrize("document", ["README.md", "liif_fast/weights/edsr-baseline-liif.md"])
def test_quality_is_as_measured(document: str) -> None:
    measured = json.loads(quality.RESULT.read_text(encoding="utf-8"))
    text = (ROOT / document).read_text(encoding="utf-8")
    rows = re.findall(r"^\| x(\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", text, re.MULTILINE)
    assert [int(scale) for scale, *_ in rows] == [2, 3, 4, 6, 8]
    for scale, *said in rows:
        for model, value in zip(("bicubic", "default", "published"), said, strict=True):
            found = measured["models"][model]["psnr"][f"x{scale}"]
            mean = statistics.mean(found[name] for name in measured["pictures"] if name not in quality.TRAINED_ON)
            assert float(value) == pytest.approx(mean, abs=0.006)


@pytest.mark.parametrize("document", LINKED)
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    targets = re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (path.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("document", LINKED)
def test_files_that_a_document_names_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    named = re.findall(r"`((?:liif_fast|csrc|kernels|benchmarks|tests|examples|docs)/[\w./-]*)`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_readme_is_short() -> None:
    assert (ROOT / "README.md").stat().st_size <= README_BYTES


def test_the_version_is_the_same_everywhere() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    ((version, date), *_) = re.findall(r"^## \[(\d[\d.]*)\] - (\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    assert version == liif_fast.__version__
    assert f"\nversion: {version}\ndate-released: {date}\n" in citation


def test_every_page_has_a_place_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page for page in PAGES if f": {page.removeprefix('docs/')}\n" not in navigation] == []


def test_the_site_builds_without_a_warning_and_asks_no_other_host(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings", reason="needs the extra docs: pip install 'liif_fast[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)]
    run(command, ROOT, NO_MKDOCS_2_WARNING="1")
    fetched = re.compile(r"""(?:<(?:script|img|iframe)[^>]*\ssrc|<link[^>]*\shref)=["']?(?:https?:)?//""")
    pages = sorted(tmp_path.rglob("*.html"))
    assert len(pages) > len(PAGES)
    assert [page.name for page in pages if fetched.search(page.read_text(encoding="utf-8"))] == []


def test_hooks_are_valid() -> None:
    pytest.importorskip("pre_commit", reason="needs the extra dev: pip install 'liif_fast[dev]'")
    config = ROOT / ".pre-commit-config.yaml"
    run(["pre-commit", "validate-config", str(config)], ROOT)
    programs = set(re.findall(r"entry: \.venv/bin/(\S+)", config.read_text()))
    checks = {"check-added-large-files", "check-yaml", "codespell", "end-of-file-fixer"}
    assert programs == {"ruff", "clang-format", "mypy"} | checks
    for program in programs:
        run([program, "--help"], ROOT)
