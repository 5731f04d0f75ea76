"""Which function builds the effect of an instruction, by the instruction's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ptx.parser import Instruction

if TYPE_CHECKING:
    from ptx.warp import Warp

# What an instruction does to a warp, for the lanes of a mask (None: all of them).
Effect = Callable[["Warp", Any], None]
Builder = Callable[[Instruction], Effect]
BUILDERS: dict[str, Builder] = {}


class Unknown(NotImplementedError):
    """An instruction, a form of one or an operand that the interpreter does not know."""


def instruction(*names: str) -> Callable[[Builder], Builder]:
    """The decorated function builds every instruction whose name starts with one of these."""

    def register(builder: Builder) -> Builder:
        BUILDERS.update(dict.fromkeys(names, builder))
        return builder

    return register


def build(ins: Instruction) -> Effect:
    """The effect of an instruction: its longest registered name decides."""
    for length in range(len(ins.parts), 0, -1):
        builder = BUILDERS.get(".".join(ins.parts[:length]))
        if builder is not None:
            return builder(ins)
    raise Unknown(f"unknown instruction {ins.name}: {ins.text}")
