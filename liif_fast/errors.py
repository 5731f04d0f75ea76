"""The package's own exceptions: each message is one line that says what was expected, what came and what to do."""

from __future__ import annotations


class LiifError(Exception):
    """Base of every error that a user can mend; its message is meant to be shown as it is."""


class UsageError(LiifError, ValueError):
    """An argument has the wrong shape, type or value."""


class BackendError(LiifError, RuntimeError):
    """The backend that was asked for cannot run here, or cannot run this decoder."""


class CheckpointError(LiifError, ValueError):
    """A file does not hold a model that this package can read."""


class ImageError(LiifError, ValueError):
    """A file does not hold a picture that this package can read, or cannot be written."""
