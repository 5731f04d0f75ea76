"""The command line `liif-fast`, one file for each command. Only this package prints."""

from __future__ import annotations

import argparse
import codecs
import io
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NoReturn

from liif_fast import __version__
from liif_fast.errors import SlowBackendWarning

COMMANDS = ("upscale", "serve", "info", "train", "evaluate", "tune")
USAGE = 2
INTERRUPTED = 130
_ESCAPED = "liif_fast.escaped"


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
    with _streams(), _terminable(), _plain_warnings():
        try:
            code: int = args.run(args)
            if sys.stdout is not None:
                sys.stdout.flush()
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            _forget_interrupt()
            return INTERRUPTED
        except BrokenPipeError:
            # The reader of the output has gone: print nothing more, not even when Python flushes at exit.
            sys.stdout = None
            return 1
        except OSError as error:
            if error.filename is not None:
                raise
            print(f"liif-fast: the output cannot be written: {error.strerror or error}", file=sys.stderr)
            sys.stdout = None
            return 1
    return code


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Say in one line that the kernels are missing; where in the code that was noticed means nothing to a user."""
    before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *more: Any, **named: Any) -> None:
        if issubclass(category, SlowBackendWarning):
            print(f"liif-fast: {message}", file=sys.stderr)
        else:
            before(message, category, *more, **named)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = before


@contextmanager
def _streams() -> Iterator[None]:
    """Make the standard streams take any text: also names beyond their encoding, also where a stream is closed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Otherwise a picture's file would get the number, and with it what libraries print on that stream.
            os.open(os.devnull, os.O_RDWR)
    codecs.register_error(_ESCAPED, _escaped)
    before = sys.stdout, sys.stderr
    changed = [(stream, stream.errors) for stream in before if isinstance(stream, io.TextIOWrapper)]
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        for stream, _ in changed:
            stream.reconfigure(errors=_ESCAPED)
        if sys.stderr is None:
            sys.stderr = nowhere
        try:
            yield
        finally:
            for stream, errors in changed:
                if not stream.closed:
                    stream.reconfigure(errors=errors)
            if sys.stderr is nowhere:
                sys.stderr = before[1]


def _escaped(error: UnicodeError) -> tuple[str | bytes, int]:
    """Encode what a stream's encoding lacks: undecodable bytes of a name as they are, other letters escaped."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


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
