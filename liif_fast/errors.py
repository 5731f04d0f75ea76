"""The package's own exceptions: each message is one line that says what was expected, what came and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class LiifError(Exception):
    """Base of every error that a user can mend; its message is meant to be shown as it is."""


class UsageError(LiifError, ValueError):
    """An argument has the wrong shape, type or value."""


class BackendError(LiifError, RuntimeError):
    """The backend that was asked for cannot run here, or cannot run this decoder."""


class SlowBackendWarning(RuntimeWarning):
    """A decoder runs without its kernels; the message says why, and what would help."""


class CheckpointError(LiifError, ValueError):
    """A file does not hold a model that this package can read."""


class ImageError(LiifError, ValueError):
    """A file does not hold a picture that this package can read, or cannot be written."""


def one_line(error: object) -> str:
    """What a library says of an error, on one line; the error's type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def suggestion(got: str, known: Iterable[str]) -> str:
    """Return the end of a message about a wrong name, `; did you mean 'repeat'?`; it is empty when no name is near."""
    near = get_close_matches(str(got), list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
