"""`liif-fast upscale`: picture files to larger (or smaller) picture files."""

from __future__ import annotations

import argparse
import logging
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from liif_fast.cli.upscale_arguments import (
    address,
    bands,
    checked,
    cores,
    number,
    page,
    resolution,
    roi,
    shard,
    size,
    suffix,
    wrap,
)
from liif_fast.errors import LiifError, UsageError
from liif_fast.rendering import request
from liif_fast.rendering.request import Request

if TYPE_CHECKING:
    from liif_fast.batch.conversion import Settings
    from liif_fast.batch.plan import Item
    from liif_fast.cli.reporting import Reporter

DEFAULT_SCALE = 4.0
EPILOG = f"""\
Without -o, the result is written beside the input as NAME_x3.7.EXT. The name - stands for a picture on the standard
input, or for the result on the standard output. A result appears complete or not at all. An input is never
overwritten; another existing file is replaced with --overwrite only. Pictures found in a folder or by a pattern keep
their place in the folder OUT; the manifest in OUT/.liif-fast says what is complete, for --resume. Results of more than
{request.MAX_PIXELS // 10**6} megapixels need --force.

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
    parser.add_argument(
        "inputs", nargs="*", metavar="IN", help="picture files, folders, or patterns such as '**/*.jpg'"
    )
    parser.add_argument("-i", "--input", nargs="+", action="extend", default=[], metavar="IN", help="more inputs")
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="the result: a file, a folder (existing, or ending in /), or -"
    )
    parser.add_argument(
        "--format", type=checked(suffix), metavar="EXT", help="format of results that -o does not name: png, tif ..."
    )
    parser.add_argument("-r", "--recursive", action="store_true", help="search folders with all their subfolders")
    _add_size(parser)
    _add_batch(parser)
    work = parser.add_argument_group("computation")
    work.add_argument("--model", metavar="FILE", help="checkpoint, .pth or .safetensors (default: the one included)")
    work.add_argument("--backend", default="auto", help="decoder backend; `liif-fast info` lists them (default: auto)")
    work.add_argument(
        "--precision",
        default="auto",
        help="auto, fp32, tf32x3, tf32, bf16 or fp16 (default: auto, which is fp32; 16-bit fixed point for 8-bit "
        "pictures on CPUs that have it)",
    )
    work.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    work.add_argument("--tile", type=number(request.check_tile, int), metavar="N", help="tile side in input pixels")
    work.add_argument(
        "--memory",
        type=checked(request.parse_memory),
        metavar="M",
        help="working memory, not counting the pictures and the model, such as 1.5G or 800M (default: 640M on a CPU)",
    )
    parser.add_argument(
        "--wrap",
        nargs="?",
        const="xy",
        type=checked(wrap),
        metavar="x|y|xy",
        help="the picture repeats like a texture along both axes, or along the one named; copies join without a seam",
    )
    _add_fidelity(parser)
    parser.add_argument("--force", action="store_true", help="allow inputs and results of any number of pixels")
    parser.add_argument(
        "--compress", action="store_true", help="compress TIFF results by deflate (needs the extra `large`)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing results")
    parser.add_argument(
        "--strip-metadata", action="store_true", help="write no colour profile, EXIF data or resolution"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    parser.add_argument("--json", action="store_true", help="print one JSON object for each picture")
    parser.set_defaults(run=run)
    return parser


def _add_fidelity(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("values, bands and pages")
    group.add_argument(
        "--consistent",
        action=argparse.BooleanOptionalAction,
        help="make the mean of the result over each input pixel equal that pixel, flat areas exactly (default: for "
        "pictures of 16 bits or floating values only)",
    )
    group.add_argument(
        "--keep-hidden-colour",
        action="store_true",
        help="upscale colour under an alpha of 0 as it is, for textures (default: fill it from its surroundings)",
    )
    group.add_argument(
        "--nodata",
        type=float,
        metavar="VALUE",
        help="the value of pixels without data, such as -9999 or nan (default: what a GeoTIFF says)",
    )
    group.add_argument(
        "--bands", type=checked(bands), metavar="1,4,2", help="only these bands of a TIFF, in this order"
    )
    group.add_argument("--page", type=number(page, int), metavar="N", help="only this page of a stack or an animation")


def _add_batch(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("many pictures (into a folder, which keeps a manifest of what is complete)")
    group.add_argument(
        "--resume", action="store_true", help="skip results that are complete and unchanged, make the rest"
    )
    group.add_argument(
        "--shard",
        type=checked(shard),
        metavar="I/N",
        help="make part I of N only, one part for each process or machine; auto: the part given by torchrun or srun",
    )
    group.add_argument(
        "--ray",
        type=checked(address),
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="work on Ray, with an actor for each GPU or every 4 cores, here or on a cluster (auto, HOST:PORT)",
    )
    group.add_argument(
        "--ray-cores", type=number(cores, float), metavar="N", help="cores for each actor, such as 8 or 0.5"
    )


def _add_size(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("size of the result (default: -s 4)")
    side = number(lambda value: request.check_side(value, "side"), int)
    group.add_argument(
        "-s", "--scale", type=number(request.check_scale, float), metavar="S", help="factor, such as 3.7 or 0.5"
    )
    group.add_argument("--size", type=checked(size), metavar="WxH", help="exact size in pixels")
    group.add_argument(
        "--resolution", type=checked(resolution), metavar="H,W", help="exact size in pixels, height first"
    )
    group.add_argument(
        "--width", type=side, metavar="W", help="exact width; the height follows in proportion, or from --height"
    )
    group.add_argument(
        "--height", type=side, metavar="H", help="exact height; the width follows in proportion, or from --width"
    )
    group.add_argument(
        "--roi",
        type=checked(roi),
        metavar="x,y,w,h",
        help="upscale this part of the input only; a size is then the size of that part",
    )


def run(args: argparse.Namespace) -> int:
    """Upscale every input; the exit code is 0, 1 when some failed, 2 for wrong usage."""
    from liif_fast.cli import pipes
    from liif_fast.cli.reporting import Reporter

    names = [*args.inputs, *args.input]
    if pipes.PIPE in (*names, args.output):
        return pipes.run(names, args, run_files)
    return run_files(args, names, Reporter(args.quiet, args.json))


def run_files(args: argparse.Namespace, names: Sequence[str], report: Reporter) -> int:
    """Upscale the files, folders and patterns `names` as `args` say; the exit code is that of `run`."""
    try:
        if not names:
            raise UsageError("expected at least one picture file, got none")
        asked = _request(args)
        from liif_fast.cli import targets

        notes: list[str] = []

        items, folder = targets.plan(names, args.output, _label(asked), args.recursive, args.format, notes.append)
        if folder is None and (args.resume or args.shard or args.ray is not None):
            raise UsageError(
                "-o: expected a folder, which keeps a manifest of what is complete, for --resume, --shard and --ray"
            )
        settings = _settings(args, asked)
        if folder is not None:
            from liif_fast.batch import boxes

            items = boxes.divide(items, settings)
        if args.shard is not None:
            items = _share(args, items, report)
        for text in notes:
            report.note(text)
        _make(args, settings, items, folder, report)
    except LiifError as error:
        report.refuse(error)
        return 2
    return report.end()


def _request(args: argparse.Namespace) -> Request:
    """Return the size and the part that are asked for; UsageError when the options contradict each other."""
    given = {
        "-s": args.scale is not None,
        "--size": args.size is not None,
        "--resolution": args.resolution is not None,
        "--width/--height": args.width is not None or args.height is not None,
    }
    chosen = [name for name, present in given.items() if present]
    if len(chosen) > 1:
        raise UsageError(f"expected one way to say the size, got {' and '.join(chosen)}")
    scale = args.scale if chosen else DEFAULT_SCALE
    return Request(scale, args.size or args.resolution, args.width, args.height, args.roi)


def _label(asked: Request) -> str:
    """Return what the default name of a result says of its size, such as `x4`."""
    if asked.scale is not None:
        label = f"x{asked.scale:g}"
    elif asked.size is not None:
        label = f"{asked.size[1]}x{asked.size[0]}"
    else:
        label = f"{asked.width or ''}x{asked.height or ''}"
    return label if asked.roi is None else f"{label}_roi{'-'.join(map(str, asked.roi))}"


def _share(args: argparse.Namespace, items: list[Item], report: Reporter) -> list[Item]:
    mine: list[Item] = args.shard.share(items)
    what = "pictures" if all(item.part is None for item in items) else "pictures and boxes"
    report.note(f"shard {args.shard}: {len(mine)} of {len(items)} {what}")
    return mine


def _settings(args: argparse.Namespace, asked: Request) -> Settings:
    from liif_fast.batch.conversion import Settings

    settings = Settings(asked, **{name: getattr(args, name) for name in Settings._fields if name != "request"})
    if args.shard is not None and args.device is None:
        settings = settings._replace(device=args.shard.device())
    return settings


def _make(
    args: argparse.Namespace, settings: Settings, items: list[Item], folder: Path | None, report: Reporter
) -> None:
    """Make all items, here or on Ray; LiifError before the first one when the model, its device or Ray is missing."""
    from liif_fast.batch.manifest import Manifest

    # Pillow logs errors that it also raises, which are reported here.
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    if args.ray is not None:
        from liif_fast.batch import cluster

        assert folder is not None
        orders = cluster.Orders(settings, folder, secrets.token_hex(8), args.resume, args.overwrite, os.getcwd())
        cluster.run(items, orders, report, args.ray, args.ray_cores)
        return
    from liif_fast.batch import boxes
    from liif_fast.batch.conversion import Converter
    from liif_fast.batch.runner import Runner

    convert = Converter(settings)
    manifest = None if folder is None else Manifest(folder, settings.identity(), everything=args.resume)
    if manifest is not None and args.resume:
        manifest.sweep()
    gathering = report if manifest is None else boxes.Gathering(items, report, manifest)
    try:
        Runner(convert, gathering, manifest, args.overwrite, report.watch).run(items)
    finally:
        if manifest is not None:
            manifest.close()
