"""`liif-fast serve`: zoom into pictures in a browser; a IIIF image service."""

from __future__ import annotations

import argparse
import sys

from liif_fast.cli.upscale_arguments import checked, number
from liif_fast.errors import LiifError, UsageError
from liif_fast.rendering import request

EPILOG = """\
The page shows each picture enlarged by LIIF beside bicubic interpolation, as far as one zooms, and makes files. Any
IIIF viewer can be given the address of a picture's info.json (IIIF Image API 3.0). Whoever can reach the address can
see the pictures: there are no passwords. Ctrl-C ends it, and removes what was uploaded.
"""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the command and its arguments."""
    parser = subparsers.add_parser(
        "serve",
        help="zoom into pictures in a browser",
        description="Serve pictures to a browser on this machine, to be zoomed without end.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "inputs", nargs="*", metavar="IN", help="picture files, folders, or patterns; or drop them later"
    )
    parser.add_argument("-r", "--recursive", action="store_true", help="search folders with all their subfolders")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine only)"
    )
    parser.add_argument(
        "--port", type=number(_port, int), default=8321, metavar="N", help="port, 0 for a free one (default: 8321)"
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a name of this machine that browsers may use"
    )
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="FILE",
        help="checkpoint; given several times, the page lets one choose (default: the one included)",
    )
    parser.add_argument(
        "--backend", default="auto", help="decoder backend; `liif-fast info` lists them (default: auto)"
    )
    parser.add_argument("--precision", default="auto", help="as for `liif-fast upscale` (default: auto)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: cuda if there is one)")
    size = checked(request.parse_memory)
    parser.add_argument(
        "--memory",
        type=size,
        default=2**30,
        metavar="M",
        help="what is kept of features, pictures, tiles (default: 1G)",
    )
    parser.add_argument(
        "--max-upload", type=size, default=100 * 2**20, metavar="M", help="largest upload (default: 100M)"
    )
    parser.add_argument(
        "--max-pixels",
        type=number(_megapixels, float),
        default=100.0,
        metavar="N",
        help="largest picture in megapixels",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Serve until an interrupt, which is the orderly end: the exit code is 0, 2 for what cannot be served."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        print("liif-fast serve: this needs the extra `serve`: pip install 'liif_fast[serve]'", file=sys.stderr)
        return 2
    try:
        _serve(args)
    except LiifError as error:
        print(f"liif-fast serve: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    if not args.quiet:
        print("liif-fast serve: ended", flush=True)
    return 0


def _serve(args: argparse.Namespace) -> None:
    from liif_fast.serve import server
    from liif_fast.serve.application import NO_VIEWER, VIEWER

    def note(text: str) -> None:
        if not args.quiet:
            print(f"liif-fast serve: {text}", file=sys.stderr, flush=True)

    options = server.Options(
        args.inputs,
        args.model,
        args.recursive,
        args.host,
        args.port,
        args.memory,
        args.max_upload,
        int(args.max_pixels * 1e6),
        args.backend,
        args.precision,
        args.device,
        args.allow_host,
    )
    with server.listen(args.host, args.port) as socket, server.serving(options, note) as running:
        host = f"[{args.host}]" if ":" in args.host else args.host
        address = f"http://{host}:{socket.getsockname()[1]}/"
        if args.host not in LOOPBACK:
            note(f"{args.host} is not this machine alone: whoever reaches it can see and upload pictures")
        if not VIEWER.is_file():
            note(NO_VIEWER)
        print(f"liif-fast serve: {address} (Ctrl-C ends it)", flush=True)
        if args.open:
            import webbrowser

            webbrowser.open(address)
        running.run(sockets=[socket])


def _port(value: int) -> int:
    if not 0 <= value <= 65_535:
        raise UsageError(f"port: expected a number from 0 to 65535, got {value}")
    return value


def _megapixels(value: float) -> float:
    if not 0 < value <= 100_000:
        raise UsageError(f"expected megapixels above 0, got {value:g}")
    return value
