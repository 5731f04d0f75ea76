"""The command line `liif-fast`, one file for each command. Only this package prints."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import NoReturn

from liif_fast import __version__

COMMANDS = ("upscale", "info", "train", "evaluate", "tune")
USAGE = 2
INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """Reports wrong usage in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of one command, or of all; the modules of commands import what they run when they run it."""
    parser = Parser(prog="liif-fast", description="Upscale pictures to any size with LIIF.")
    parser.add_argument("--version", action="version", version=f"liif_fast {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name in COMMANDS if command not in COMMANDS else (command,):
        import_module(f"liif_fast.cli.{name}").add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0 for success, 1 for a failure, 2 for wrong usage, 130 for an interrupt."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        args = build_parser(argv[0] if argv else None).parse_args(argv)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else USAGE
    with _terminable():
        try:
            code: int = args.run(args)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            _forget_interrupt()
            return INTERRUPTED
        except BrokenPipeError:
            # The reader of the output has gone: print nothing more, not even when Python flushes at exit.
            sys.stdout = None
            return 1
    return code


def _forget_interrupt() -> None:
    """Make Python keep the exit code of this command.

    CPython notes an interrupt during the execution of a string (imports execute strings to make dataclasses). Under
    `python -m` it then ends the process by SIGINT even though the interrupt was caught, unless another string is
    executed afterwards.
    """
    exec("")


@contextmanager
def _terminable() -> Iterator[None]:
    """Treat SIGTERM as an interrupt, so that half-written results are removed."""
    try:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:
        # Only the main thread may handle signals; in another one they stay with the caller.
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
