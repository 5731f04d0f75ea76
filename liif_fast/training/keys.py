"""Sections of a configuration: frozen dataclasses whose fields say what each key takes and what it means."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, NamedTuple, TypeVar

from liif_fast.errors import UsageError, suggestion
from liif_fast.models import registry

S = TypeVar("S")
Builders = Mapping[str, Callable[..., Any]]


@dataclass(frozen=True)
class Component:
    """A published `{name, args}` specification of a data set, a wrapper, a model or an optimizer."""

    name: str
    args: Mapping[str, Any]


class Kind(NamedTuple):
    """What a key takes.

    words: completes the sentence "expected ...", in messages and in the documentation.
    read: takes the value as written and its dotted name; returns the value to work with, or raises UsageError.
    section: the dataclass of a key that holds further keys.
    """

    words: str
    read: Callable[[Any, str], Any]
    section: type[Any] | None = None


class DocumentedKey(NamedTuple):
    """One row of the documentation: the dotted name, what the key takes, its default and what it means."""

    key: str
    type: str
    default: str
    text: str


def key(kind: Kind, text: str, default: Any = MISSING, unset: str = "") -> Any:
    """Declares one key of a section; a key without a default is required.

    text: documents the key in one line. unset: says in the documentation what the default None stands for.
    """
    return field(default=default, metadata={"kind": kind, "text": text, "unset": unset})


def required(section: type[Any], name: str) -> Any:
    """Declares a key of another section again, as a required one."""
    return field(metadata=next(key.metadata for key in fields(section) if key.name == name))


def value(words: str, fits: Callable[[Any], bool]) -> Kind:
    """A key that takes the values for which `fits` is true."""

    def read(written: Any, name: str) -> Any:
        if not fits(written):
            raise UsageError(f"{name}: expected {words}, got {written!r}")
        return written

    return Kind(words, read)


def section(of: type[Any]) -> Kind:
    """A key that holds the keys of the dataclass `of`."""
    names = ", ".join(key.name for key in fields(of))
    return Kind(f"a mapping with the keys {names}", lambda written, name: read_section(of, written, name), of)


def component(builders: Builders | None = None, given: Collection[str] = ()) -> Kind:
    """A key that takes a Component.

    builders: the known names and what each builds; the args are compared with the parameters. Without them the name
    and the args are checked by whoever builds the component.
    given: parameters that are not the user's to set.
    """

    def read(written: Any, name: str) -> Component:
        check_keys(written, ("name", "args"), name)
        if builders is not None:
            _check_component(written, builders, name, given)
        return Component(written.get("name"), written.get("args") or {})

    return Kind("a name and its args", read)


def whole_number(least: int) -> Kind:
    """A key that takes a whole number of `least` or more."""
    return value(f"a whole number of {least} or more", lambda written: is_whole(written) and written >= least)


def number(words: str, fits: Callable[[float], bool]) -> Kind:
    """A key that takes the whole or floating-point numbers for which `fits` is true."""
    return value(words, lambda written: is_number(written) and fits(written))


def is_whole(written: Any) -> bool:
    return isinstance(written, int) and not isinstance(written, bool)


def is_number(written: Any) -> bool:
    return isinstance(written, (int, float)) and not isinstance(written, bool)


def read_section(of: type[S], written: Any, name: str) -> S:
    """The dataclass `of` from a mapping as it was written; a null counts as a key that is not there.

    name: the dotted name of the section, empty for the whole configuration.
    Raises UsageError for unknown and missing keys and for values that a key does not take.
    """
    where, prefix = (name, f"{name}.") if name else ("configuration", "")
    keys: tuple[Field[Any], ...] = fields(of)  # type: ignore[arg-type]
    check_keys(written, [key.name for key in keys], where)
    needed = [key.name for key in keys if key.default is MISSING]
    missing = [name for name in needed if written.get(name) is None]
    # Of a single required key, its own message says more.
    if missing and len(needed) > 1:
        raise UsageError(f"{where}: expected the keys {', '.join(needed)}; missing: {', '.join(missing)}")
    values = {
        key.name: key.metadata["kind"].read(written.get(key.name), prefix + key.name)
        for key in keys
        if key.name in needed or written.get(key.name) is not None
    }
    return of(**values)


def check_keys(written: Any, keys: Collection[str], where: str) -> None:
    """Raises UsageError unless `written` is a mapping and all its keys are among `keys`."""
    if not isinstance(written, Mapping):
        raise UsageError(f"{where}: expected a mapping with the keys {', '.join(keys)}, got {written!r}")
    for name in written:
        if name not in keys:
            hint = suggestion(name, keys) or f"; known keys: {', '.join(sorted(keys))}"
            raise UsageError(f"{where}: unknown key {name!r}{hint}")


def document(of: type[Any], prefix: str = "", seen: dict[type[Any], str] | None = None) -> list[DocumentedKey]:
    """The keys of a section and of the sections in it, in their order; a section used twice is written out once."""
    seen = {} if seen is None else seen
    rows = []
    for declared in fields(of):
        kind, name = declared.metadata["kind"], prefix + declared.name
        words = kind.words if kind.section is None else "a mapping"
        first = kind.section is not None and kind.section not in seen
        if kind.section is not None and not first:
            words = f"a mapping with the keys of {seen[kind.section]}"
        rows.append(DocumentedKey(name, words, _default(declared), declared.metadata["text"]))
        if first:
            seen[kind.section] = name
            rows += document(kind.section, f"{name}.", seen)
    return rows


def _default(declared: dataclasses.Field[Any]) -> str:
    if declared.default is MISSING:
        return "required"
    if isinstance(declared.default, bool):
        return str(declared.default).lower()
    unset: str = declared.metadata["unset"]
    return unset if declared.default is None else str(declared.default)


def _check_component(written: Mapping[str, Any], builders: Builders, where: str, given: Collection[str]) -> None:
    """Raises UsageError for an unknown name or argument of a component, or of a model among its arguments."""
    name, args = written.get("name"), written.get("args") or {}
    if not isinstance(name, str) or name not in builders:
        hint = suggestion(str(name), builders)
        raise UsageError(f"{where}: expected one of {', '.join(sorted(builders))}, got {name!r}{hint}")
    parameters = inspect.signature(builders[name]).parameters
    if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
        check_keys(args, [parameter for parameter in parameters if parameter not in given], f"{where}.args")
    for argument, inner in args.items():
        if argument.endswith("_spec") and inner is not None:
            check_keys(inner, ("name", "args"), f"{where}.args.{argument}")
            _check_component(inner, registry, f"{where}.args.{argument}", ("self", "in_dim"))
