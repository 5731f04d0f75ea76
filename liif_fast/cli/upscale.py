"""`liif-fast upscale`: picture files to larger (or smaller) picture files."""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from liif_fast.cli.upscale_arguments import address, checked, cores, number, resolution, roi, shard, size, suffix, wrap
from liif_fast.errors import LiifError, UsageError
from liif_fast.rendering import tiling

if TYPE_CHECKING:
    from liif_fast.batch.conversion import Settings
    from liif_fast.batch.plan import Item
    from liif_fast.cli.reporting import Reporter

DEFAULT_SCALE = 4.0
EPILOG = f"""\
Without -o the result lies beside the input as NAME_x3.7.EXT. The name - stands for a picture on the standard input, or
for the result on the standard output. A file appears whole or not at all. An input is never overwritten, another
existing file only with --overwrite. What is in a folder, or matches a pattern, goes to the same place below the folder
OUT; OUT/.liif-fast records what is done, for --resume. Results of more than {tiling.MAX_PIXELS // 10**6} megapixels
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
    parser.add_argument("inputs", nargs="*", metavar="IN", help="picture files, folders, patterns such as '**/*.jpg'")
    parser.add_argument("-i", "--input", nargs="+", action="extend", default=[], metavar="IN", help="more of them")
    parser.add_argument("-o", "--output", metavar="OUT", help="a file, or a folder (existing, or ending in /), or -")
    parser.add_argument(
        "--format", type=checked(suffix), metavar="EXT", help="png, tif ... for results without a name of their own"
    )
    parser.add_argument("-r", "--recursive", action="store_true", help="folders with all that is in them")
    _add_size(parser)
    _add_batch(parser)
    work = parser.add_argument_group("how")
    work.add_argument("--model", metavar="FILE", help="checkpoint, .pth or .safetensors (default: the one included)")
    work.add_argument("--backend", default="auto", help="decoder backend; `liif-fast info` lists them (default: auto)")
    work.add_argument(
        "--precision",
        default="auto",
        help="auto, fp32, tf32x3, tf32, bf16 or fp16 (default: auto: fp32, but for pictures of 8 bits 16-bit fixed "
        "point where a CPU has it)",
    )
    work.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    work.add_argument("--tile", type=number(tiling.check_tile, int), metavar="N", help="tile side in input pixels")
    work.add_argument(
        "--memory",
        type=checked(tiling.parse_memory),
        metavar="M",
        help="working memory beside the pictures and the model, such as 1.5G or 800M (default: 640M on a CPU)",
    )
    parser.add_argument(
        "--wrap",
        nargs="?",
        const="xy",
        type=checked(wrap),
        metavar="x|y|xy",
        help="the picture repeats, as a texture does, along both axes or the one named: no seams between copies",
    )
    parser.add_argument("--force", action="store_true", help="allow results, and inputs, of any number of pixels")
    parser.add_argument("--compress", action="store_true", help="deflate TIFF results (needs the extra `large`)")
    parser.add_argument("--overwrite", action="store_true", help="replace existing results")
    parser.add_argument(
        "--strip-metadata", action="store_true", help="leave out colour profile, EXIF data and resolution"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="only errors")
    parser.add_argument("--json", action="store_true", help="one JSON object a picture on the standard output")
    parser.set_defaults(run=run)
    return parser


def _add_batch(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("many pictures (into a folder, where a record of what is done is kept)")
    group.add_argument("--resume", action="store_true", help="skip what is complete and unchanged, make the rest")
    group.add_argument(
        "--shard",
        type=checked(shard),
        metavar="I/N",
        help="only part I of N, each for a process or machine of its own; auto: the part that torchrun or srun gives",
    )
    group.add_argument(
        "--ray",
        type=checked(address),
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="on Ray, an actor on each GPU or every 4 cores, of this machine or a cluster's (auto, HOST:PORT)",
    )
    group.add_argument(
        "--ray-cores", type=number(cores, float), metavar="N", help="cores of an actor, such as 8 or 0.5"
    )


def _add_size(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how large (default: -s 4)")
    side = number(lambda value: tiling.check_side(value, "side"), int)
    group.add_argument(
        "-s", "--scale", type=number(tiling.check_scale, float), metavar="S", help="factor, such as 3.7 or 0.5"
    )
    group.add_argument("--size", type=checked(size), metavar="WxH", help="exact size in pixels")
    group.add_argument("--resolution", type=checked(resolution), metavar="H,W", help="the same, height first")
    group.add_argument("--width", type=side, metavar="W", help="exact width, the height in proportion (unless given)")
    group.add_argument("--height", type=side, metavar="H", help="exact height, the width in proportion (unless given)")
    group.add_argument(
        "--roi", type=checked(roi), metavar="x,y,w,h", help="only this part of the input; a size is then that part's"
    )


def run(args: argparse.Namespace) -> int:
    """Upscale every input; the exit code is 0, 1 when some failed, 2 for wrong usage."""
    from liif_fast.cli.reporting import Reporter

    names = [*args.inputs, *args.input]
    if "-" in (*names, args.output):
        from liif_fast.cli import pipes

        return pipes.run(names, args, run)
    report = Reporter(args.quiet, args.json)
    try:
        if not names:
            raise UsageError("expected at least one picture file, got none")
        sizes = _sizes(args)
        from liif_fast.cli import targets

        items, folder = targets.plan(names, args.output, _label(args, sizes), args.recursive, args.format)
        if folder is None and (args.resume or args.shard or args.ray is not None):
            raise UsageError(
                "-o: expected a folder, where a record of what is done is kept, for --resume, --shard and --ray"
            )
        settings = _settings(args, sizes)
        if folder is not None:
            from liif_fast.batch import boxes

            items = boxes.divide(items, settings)
        if args.shard is not None:
            items = _share(args, items)
        _make(args, settings, items, folder, report)
    except LiifError as error:
        print(f"liif-fast upscale: {error}", file=sys.stderr)
        return 2
    return report.end()


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


def _share(args: argparse.Namespace, items: list[Item]) -> list[Item]:
    mine: list[Item] = args.shard.share(items)
    if not args.quiet:
        what = "pictures" if all(item.part is None for item in items) else "pictures and boxes"
        print(f"shard {args.shard}: {len(mine)} of {len(items)} {what}", file=sys.stderr)
    return mine


def _settings(args: argparse.Namespace, sizes: dict[str, Any]) -> Settings:
    from liif_fast.batch.conversion import Settings

    names = ("model", "backend", "precision", "device", "tile", "memory", "wrap", "force", "strip_metadata", "compress")
    settings = Settings(sizes, **{name: getattr(args, name) for name in names})
    if args.shard is not None and args.device is None:
        settings = settings._replace(device=args.shard.device())
    return settings


def _make(
    args: argparse.Namespace, settings: Settings, items: list[Item], folder: Path | None, report: Reporter
) -> None:
    """Everything, here or on Ray; LiifError when the model, its device or Ray cannot be had, before the first item."""
    from liif_fast.batch.manifest import Manifest

    # Pillow logs what it then raises; a message of ours says it already.
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
    told = report if manifest is None else boxes.Gathering(items, report, manifest)
    try:
        Runner(convert, told, manifest, args.overwrite, report.watch).run(items)
    finally:
        if manifest is not None:
            manifest.close()
