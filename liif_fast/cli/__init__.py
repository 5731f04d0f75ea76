"""The command line `liif-fast`: one file a command. Only this package prints."""

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
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of one command, or of all: a command's module is light, what it runs is imported when it runs."""
    parser = Parser(prog="liif-fast", description="Upscale pictures to any size with LIIF.")
    parser.add_argument("--version", action="version", version=f"liif_fast {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name in COMMANDS if command not in COMMANDS else (command,):
        import_module(f"liif_fast.cli.{name}").add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0 all right, 1 something failed, 2 wrong usage, 130 interrupted."""
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
            # The reader of our output has left: nothing more to say, not even when Python flushes at exit.
            sys.stdout = None
            return 1
    return code


def _forget_interrupt() -> None:
    """Make Python keep to our exit code.

    CPython notes an interrupt that leaves a string in execution (many an import makes its dataclasses so), and under
    `python -m` ends the process by SIGINT even if it was caught later, unless another string has run since.
    """
    exec("")


@contextmanager
def _terminable() -> Iterator[None]:
    """Being told to end is an interrupt too, so that what is half done is cleaned up."""
    try:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:
        # Signals belong to the main thread; elsewhere they are the caller's.
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
