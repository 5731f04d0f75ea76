"""`liif-fast upscale`: picture files to larger (or smaller) picture files."""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from liif_fast import tiling
from liif_fast.errors import LiifError, UsageError

if TYPE_CHECKING:
    from liif_fast.cli.targets import Job
    from liif_fast.conversion import Converter

DEFAULT_SCALE = 4.0
EPILOG = f"""\
Without -o the result lies beside the input as NAME_x3.7.EXT. A file appears whole or not at all. An input is never
overwritten, another existing file only with --overwrite. Results of more than {tiling.MAX_PIXELS // 10**6} megapixels
need --force.

Exit codes: 0 all right, 1 some pictures failed (listed last), 2 wrong usage, 130 interrupted.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the command and its arguments."""
    parser = subparsers.add_parser(
        "upscale",
        help="upscale pictures to any size",
        description="Upscale pictures by any factor or to any size.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("inputs", nargs="*", metavar="IN", help="picture files")
    parser.add_argument("-i", "--input", nargs="+", action="extend", default=[], metavar="IN", help="more of them")
    parser.add_argument("-o", "--output", metavar="OUT", help="a file, or a folder (existing, or ending in /)")
    _add_size(parser)
    work = parser.add_argument_group("how")
    work.add_argument("--model", metavar="FILE", help="checkpoint, .pth or .safetensors (default: the one included)")
    work.add_argument("--backend", default="auto", help="decoder backend; `liif-fast info` lists them (default: auto)")
    work.add_argument("--precision", default="auto", help="auto, fp32, tf32x3, tf32, bf16 or fp16 (default: auto)")
    work.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    work.add_argument("--tile", type=_number(tiling.check_tile, int), metavar="N", help="tile side in input pixels")
    work.add_argument(
        "--memory",
        type=_checked(tiling.parse_memory),
        metavar="M",
        help="working memory beside the pictures and the model, such as 1.5G or 800M (default: 1G on a CPU)",
    )
    parser.add_argument(
        "--wrap",
        nargs="?",
        const="xy",
        type=_checked(_wrap),
        metavar="x|y|xy",
        help="the picture repeats, as a texture does, along both axes or the one named: no seams between copies",
    )
    parser.add_argument("--force", action="store_true", help="allow results, and inputs, of any number of pixels")
    parser.add_argument("--overwrite", action="store_true", help="replace existing results")
    parser.add_argument("-q", "--quiet", action="store_true", help="only errors")
    parser.add_argument("--json", action="store_true", help="one JSON object a picture on the standard output")
    parser.set_defaults(run=run)
    return parser


def _add_size(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how large (default: -s 4)")
    side = _number(lambda value: tiling.check_side(value, "side"), int)
    group.add_argument(
        "-s", "--scale", type=_number(tiling.check_scale, float), metavar="S", help="factor, such as 3.7 or 0.5"
    )
    group.add_argument("--size", type=_checked(_size), metavar="WxH", help="exact size in pixels")
    group.add_argument("--resolution", type=_checked(_resolution), metavar="H,W", help="the same, height first")
    group.add_argument("--width", type=side, metavar="W", help="exact width, the height in proportion (unless given)")
    group.add_argument("--height", type=side, metavar="H", help="exact height, the width in proportion (unless given)")
    group.add_argument(
        "--roi", type=_checked(_roi), metavar="x,y,w,h", help="only this part of the input; a size is then that part's"
    )


def run(args: argparse.Namespace) -> int:
    """Upscale every input; the exit code is 0, 1 when some failed, 2 for wrong usage."""
    names = [*args.inputs, *args.input]
    try:
        if not names:
            raise UsageError("expected at least one picture file, got none")
        sizes = _sizes(args)
        from liif_fast.cli.targets import plan

        jobs = plan(names, args.output, _label(args, sizes))
        convert = _converter(args, sizes)
    except LiifError as error:
        print(f"liif-fast upscale: {error}", file=sys.stderr)
        return 2
    failures = [message for message in (_one(job, convert, args) for job in jobs) if message]
    if failures and len(jobs) > 1:
        print(f"liif-fast upscale: {len(failures)} of {len(jobs)} failed:", file=sys.stderr)
    for message in failures:
        print(f"liif-fast upscale: {message}", file=sys.stderr)
    return 1 if failures else 0


def _sizes(args: argparse.Namespace) -> dict[str, Any]:
    """The keywords of `tiling.target` that say how large; UsageError when they contradict each other."""
    given = {
        "-s": args.scale is not None,
        "--size": args.size is not None,
        "--resolution": args.resolution is not None,
        "--width/--height": args.width is not None or args.height is not None,
    }
    chosen = [name for name, present in given.items() if present]
    if len(chosen) > 1:
        raise UsageError(f"expected one way to say the size, got {' and '.join(chosen)}")
    sizes: dict[str, Any] = {"size": args.size or args.resolution, "width": args.width, "height": args.height}
    return {"scale": args.scale if chosen else DEFAULT_SCALE, "roi": args.roi, **sizes}


def _label(args: argparse.Namespace, sizes: dict[str, Any]) -> str:
    """What the name of a result says of its size."""
    if sizes["scale"] is not None:
        label = f"x{sizes['scale']:g}"
    elif sizes["size"] is not None:
        label = f"{sizes['size'][1]}x{sizes['size'][0]}"
    else:
        label = f"{args.width or ''}x{args.height or ''}"
    return label if args.roi is None else f"{label}_roi{'-'.join(map(str, args.roi))}"


def _converter(args: argparse.Namespace, sizes: dict[str, Any]) -> Converter:
    """The model on its device; LiifError when that cannot be."""
    from liif_fast.conversion import Converter, Settings

    # Pillow logs what it then raises; a message of ours says it already.
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    names = ("model", "backend", "precision", "device", "tile", "memory", "wrap", "force")
    return Converter(Settings(sizes, **{name: getattr(args, name) for name in names}))


def _one(job: Job, convert: Converter, args: argparse.Namespace) -> str | None:
    """One picture; what went wrong, or None."""
    started = time.perf_counter()
    record: dict[str, Any] = {"input": str(job.source), "output": str(job.output)}
    message = None

    def note(text: str) -> None:
        if not args.quiet:
            print(f"{job.source}: {text}", file=sys.stderr)

    try:
        with _Bar(job.source.name, args.quiet) as bar:
            record["width"], record["height"] = convert(job.source, job.output, note, bar, args.overwrite)
    except LiifError as error:
        message = str(error) if str(error).startswith(f"{job.source}:") else f"{job.source}: {error}"
    # No single picture may end a batch; what is not the user's mistake is shown in full.
    except Exception as error:
        traceback.print_exc()
        message = f"{job.source}: unexpected {type(error).__name__}: {error}; please report it"
    seconds = time.perf_counter() - started
    if message is None:
        width, height = record["width"], record["height"]
        rate = width * height / 1e6 / seconds
        record |= {"backend": convert.backend, "precision": convert.precision, "seconds": round(seconds, 3)}
        record["megapixels_per_second"] = round(rate, 4)
        if not (args.quiet or args.json):
            print(f"{job.source} -> {job.output} ({width} x {height}, {seconds:.1f} s, {rate:.2f} MP/s)")
    if args.json:
        print(json.dumps(record | {"ok": message is None, "error": message}), flush=True)
    return message


class _Bar:
    """Progress in megapixels on the standard error, where that is a terminal."""

    def __init__(self, name: str, quiet: bool) -> None:
        self.name, self.quiet = name, quiet
        self.bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        if self.bar is None:
            from tqdm import tqdm

            self.bar = tqdm(
                total=round(total / 1e6, 2),
                desc=self.name,
                unit="MP",
                file=sys.stderr,
                disable=True if self.quiet else None,
                bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.2f}/{total:.2f} MP, {rate_noinv_fmt}, {remaining}",
                leave=False,
            )
        self.bar.update(done / 1e6 - self.bar.n)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()


# -- arguments ------------------------------------------------------------------------------------------------------


def _checked(check: Callable[[str], Any]) -> Callable[[str], Any]:
    """An argparse type whose messages are those of the check."""

    def convert(text: str) -> Any:
        try:
            return check(text)
        except LiifError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def _number(check: Callable[[Any], Any], kind: type[int] | type[float]) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise UsageError(f"expected a {'whole ' if kind is int else ''}number, got {text!r}") from None
        return check(value)

    return _checked(parse)


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,9})[xX](\d{1,9})", text.strip())
    if not found:
        raise UsageError(f"expected WxH in whole pixels, such as 1920x1080, got {text!r}")
    return tiling.check_side(int(found[2]), "height"), tiling.check_side(int(found[1]), "width")


def _resolution(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,9}),(\d{1,9})", text.strip())
    if not found:
        raise UsageError(f"expected H,W in whole pixels, such as 1080,1920, got {text!r}")
    return tiling.check_side(int(found[1]), "height"), tiling.check_side(int(found[2]), "width")


def _roi(text: str) -> tuple[int, int, int, int]:
    found = re.fullmatch(r"(\d{1,9}),(\d{1,9}),(\d{1,9}),(\d{1,9})", text.strip())
    if not found or int(found[3]) < 1 or int(found[4]) < 1:
        raise UsageError(f"expected x,y,w,h in whole input pixels, such as 100,50,320,240, got {text!r}")
    return int(found[1]), int(found[2]), int(found[3]), int(found[4])


def _wrap(text: str) -> str:
    if text not in ("x", "y", "xy"):
        raise UsageError(f"expected x, y, xy or nothing, got {text!r}; name the pictures before --wrap")
    return text
