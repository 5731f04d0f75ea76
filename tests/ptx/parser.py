"""PTX text -> a program: parameters, registers, instructions with their operands, labels."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Union

from ptx.scalars import DTYPES


@dataclass(frozen=True)
class Register:
    """A place of the register file; type is PTX's, or "pred"."""

    index: int
    type: str


@dataclass(frozen=True)
class Literal:
    """A constant, in PTX's spelling."""

    text: str


@dataclass(frozen=True)
class Special:
    """%tid.x and its like."""

    name: str


@dataclass(frozen=True)
class Address:
    """[base + offset]; base is a register, the name of a parameter, or None for shared memory's start."""

    base: Register | str | None
    offset: int


@dataclass(frozen=True)
class Shared:
    """A variable's place in shared memory, as a value."""

    offset: int


@dataclass(frozen=True)
class Label:
    """Where a branch goes."""

    name: str


@dataclass(frozen=True)
class Sink:
    """_: a result that nobody wants."""


Operand = Union[Register, Literal, Special, Address, Shared, Label, Sink, "tuple[Operand, ...]"]


@dataclass
class Instruction:
    """One instruction: `parts` are its name's, between the dots."""

    parts: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: Register | None
    negated: bool
    text: str

    @property
    def name(self) -> str:
        return ".".join(self.parts)

    @property
    def type(self) -> str:
        return self.parts[-1]


@dataclass
class Parameter:
    """A kernel's argument: its place in the block of all arguments."""

    offset: int
    type: str
    size: int


@dataclass
class Program:
    """One kernel. `static` bytes of shared memory lie before those of the launch."""

    name: str
    threads: int
    cluster: int
    parameters: dict[str, Parameter] = field(default_factory=dict)
    parameter_bytes: int = 0
    registers: list[str] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    static: int = 0


def parse(text: str, name: str) -> Program:
    """The kernel of this name in a module's text. ValueError when there is none."""
    text = re.sub(r"/\*.*?\*/", "", re.sub(r"//[^\n]*", "", text), flags=re.S)
    found = re.search(rf"\.entry\s+{re.escape(name)}\s*\((.*?)\)(.*?)\{{", text, re.S)
    if found is None:
        raise ValueError(f"expected an entry {name!r}, got {re.findall(r'.entry +(.+?)[(]', text)}")
    head, attributes = found.groups()

    def attribute(words: str, default: int) -> int:
        match = re.search(rf"\.(?:{words})\s+(\d+)", attributes)
        return int(match[1]) if match else default

    program = Program(name, attribute("reqntid|maxntid", 0), attribute("reqnctapercluster", 1))
    _parameters(program, head)
    _Body(program, text[: found.start()]).read(_inside(text[found.end() :]))
    return program


def _inside(text: str) -> str:
    """The text up to the brace that closes what is open."""
    depth = 1
    for match in re.finditer(r"[{}]", text):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return text[: match.start()]
    raise ValueError("expected a closing brace, got the end of the text")


def _parameters(program: Program, head: str) -> None:
    offset = 0
    for declared in filter(None, map(str.strip, head.split(","))):
        plain = re.sub(r"\.ptr(\s+\.(?!align)\w+)*(\s+\.align\s+\d+)?", "", declared)
        match = re.fullmatch(r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?", plain.strip())
        if match is None:
            raise ValueError(f"expected a parameter, got {declared!r}")
        size = DTYPES[match[2]].itemsize * int(match[4] or 1)
        align = int(match[1] or DTYPES[match[2]].itemsize)
        offset = -(-offset // align) * align
        program.parameters[match[3]] = Parameter(offset, match[2], size)
        offset += size
    program.parameter_bytes = offset


class _Body:
    """Reads statements; names of registers and labels belong to the braces that they are declared in."""

    def __init__(self, program: Program, before: str) -> None:
        self.program = program
        self.ranges: list[tuple[str, str]] = []
        self.scopes: list[dict[str, Register]] = [{}]
        self.numbers: list[int] = [0]  # of the open braces
        self.opened = 0
        self.labels: dict[int, set[str]] = {0: set()}
        self.parents: dict[int, int | None] = {0: None}
        self.shared: dict[str, int] = {}
        self.dynamic: set[str] = set()
        for statement in before.split(";"):
            self._shared(statement.strip().split("\n")[-1].strip())

    def read(self, body: str) -> None:
        statements = list(_statements(re.sub(r"^\s*\.(?:loc|file)\b[^\n]*$", "", body, flags=re.M)))
        self._find_labels(statements)
        self.opened, self.numbers = 0, [0]
        for statement in statements:
            if statement == "{":
                self._open()
                self.scopes.append({})
            elif statement == "}":
                self.numbers.pop()
                self.scopes.pop()
            elif statement.endswith(":"):
                self.program.labels[f"{statement[:-1]}@{self.numbers[-1]}"] = len(self.program.instructions)
            elif statement.startswith(".reg"):
                self._registers(statement)
            elif statement.startswith("."):
                self._shared(statement)
            else:
                self.program.instructions.append(self._instruction(statement))

    def _open(self) -> None:
        self.opened += 1
        self.numbers.append(self.opened)

    def _find_labels(self, statements: list[str]) -> None:
        for statement in statements:
            if statement == "{":
                parent = self.numbers[-1]
                self._open()
                self.labels[self.opened], self.parents[self.opened] = set(), parent
            elif statement == "}":
                self.numbers.pop()
            elif statement.endswith(":"):
                self.labels[self.numbers[-1]].add(statement[:-1])

    def _shared(self, statement: str) -> None:
        match = re.search(r"\.shared\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)\s*(?:\[(\d*)\])?$", statement)
        if match is None:
            return
        if ".extern" in statement:
            self.dynamic.add(match[3])
            return
        align = int(match[1] or DTYPES[match[2]].itemsize)
        self.program.static = -(-self.program.static // align) * align
        self.shared[match[3]] = self.program.static
        self.program.static += DTYPES[match[2]].itemsize * int(match[4] or 1)

    def _registers(self, statement: str) -> None:
        match = re.fullmatch(r"\.reg\s+\.(\w+)\s+(.*)", statement, re.S)
        assert match is not None, statement
        for name in map(str.strip, match[2].split(",")):
            numbered = re.fullmatch(r"([%\w$]+)<\d+>", name)
            if numbered:
                self.ranges.append((numbered[1], match[1]))
                self.ranges.sort(key=lambda entry: -len(entry[0]))
            else:
                self.scopes[-1][name] = self._new(match[1])

    def _new(self, kind: str) -> Register:
        self.program.registers.append(kind)
        return Register(len(self.program.registers) - 1, kind)

    def _register(self, name: str) -> Register | None:
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        for prefix, kind in self.ranges:
            if name.startswith(prefix) and name[len(prefix) :].isdigit():
                self.scopes[0][name] = self._new(kind)
                return self.scopes[0][name]
        return None

    def _instruction(self, statement: str) -> Instruction:
        match = re.fullmatch(r"(?:@(!?)([%\w$]+)\s+)?([\w.:]+)\s*(.*)", statement, re.S)
        if match is None:
            raise ValueError(f"expected an instruction, got {statement!r}")
        guard = self._register(match[2]) if match[2] else None
        operands = tuple(self._operand(text) for text in _split(re.sub(r"\s+", " ", match[4])))
        return Instruction(tuple(match[3].split(".")), operands, guard, bool(match[1]), statement)

    def _operand(self, text: str) -> Operand:
        if text.startswith("{"):
            return tuple(self._operand(part) for part in _split(text[1:-1]))
        if "|" in text:
            return tuple(self._operand(part.strip()) for part in text.split("|"))
        if text.startswith("["):
            return self._address(text[1:-1].strip())
        if text == "_":
            return Sink()
        register = self._register(text)
        if register is not None:
            return register
        if text.startswith("%"):
            return Special(text)
        if re.match(r"-?\d", text):
            return Literal(text)
        if text in self.program.parameters:
            return Shared(self.program.parameters[text].offset)
        if text in self.shared or text in self.dynamic:
            return Shared(self._shared_offset(text))
        return Label(self._label(text))

    def _address(self, text: str) -> Address:
        match = re.fullmatch(r"([%\w$]+)\s*(?:\+\s*(-?\w+))?", text)
        if match is None:
            raise ValueError(f"expected an address, got {text!r}")
        name, offset = match[1], int(match[2] or "0", 0)
        if name in self.program.parameters:
            return Address(name, offset)
        if name in self.shared or name in self.dynamic:
            return Address(None, offset + self._shared_offset(name))
        register = self._register(name)
        if register is None:
            return Address(None, int(name, 0) + offset)
        return Address(register, offset)

    def _shared_offset(self, name: str) -> int:
        return self.shared.get(name, -(-self.program.static // 16) * 16)

    def _label(self, name: str) -> str:
        place: int | None = self.numbers[-1]
        while place is not None:
            if name in self.labels[place]:
                return f"{name}@{place}"
            place = self.parents[place]
        raise ValueError(f"expected a register, a number or a label, got {name!r}")


def _statements(body: str) -> list[str]:
    """Instructions and declarations without their semicolons, labels with their colon, braces that open scopes."""
    found, current = [], ""
    for sign in body:
        if sign in "{}" and not current.strip():
            found.append(sign)
            current = ""
        elif sign == ";" or (sign == ":" and re.fullmatch(r"\s*[\w$]+", current)):
            if current.strip():
                found.append(current.strip() + (":" if sign == ":" else ""))
            current = ""
        else:
            current += sign
    return found


def _split(text: str) -> list[str]:
    """What stands between commas that no bracket holds."""
    found, depth, current = [], 0, ""
    for sign in text:
        depth += (sign in "{[") - (sign in "}]")
        if sign == "," and depth == 0:
            found.append(current.strip())
            current = ""
        else:
            current += sign
    return [*found, current.strip()] if current.strip() else found
