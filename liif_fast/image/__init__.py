"""Picture files: formats, depth, colour profile, EXIF; a file is written whole or not at all."""

from __future__ import annotations

from liif_fast.image import kinds
from liif_fast.image.formats import FORMATS, Format, check_fits, format_of, path_that_fits, suffix_of
from liif_fast.image.header import stated_size
from liif_fast.image.metadata import notes_on_dropped
from liif_fast.image.picture import FileArray, Picture, hides_colour, mode_of, plain, size_of
from liif_fast.image.reading import Reading, read
from liif_fast.image.stacks import read_stack, stack_of, write_stack
from liif_fast.image.writing import values_of, write

__all__ = [
    "FORMATS",
    "FileArray",
    "Format",
    "Picture",
    "Reading",
    "check_fits",
    "format_of",
    "hides_colour",
    "kinds",
    "notes_on_dropped",
    "mode_of",
    "path_that_fits",
    "plain",
    "read",
    "read_stack",
    "size_of",
    "stack_of",
    "stated_size",
    "suffix_of",
    "values_of",
    "write",
    "write_stack",
]
