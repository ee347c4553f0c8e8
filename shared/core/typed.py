"""Reads plain values into typed records and reports every fault, not the first.

msgspec converts, but stops at its first fault and knows no line. So the type is walked here first;
msgspec has the last word, and where the walk let something pass, its message becomes the fault.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from msgspec import inspect as kinds

from shared.core.nearmiss import clipped, did_you_mean, listed
from shared.core.places import JSON, MAX_FAULTS, Path, Places, Unread, fault
from shared.core.template import NAME, parse
from shared.errors import Fault, Invalid

T = TypeVar("T")

_LISTS = (
    kinds.ListType,
    kinds.VarTupleType,
    kinds.SetType,
    kinds.FrozenSetType,
    kinds.CollectionType,
)
# Written as texts: the Python type and an example.
_WRITTEN: dict[type[kinds.Type], tuple[type, str]] = {
    kinds.DateType: (date, "a day like 2026-01-31"),
    kinds.DateTimeType: (datetime, "a time like 2026-01-31T06:00:00Z"),
    kinds.TimeType: (time, "a time of day like 06:00:00"),
    kinds.TimeDeltaType: (timedelta, "a duration like PT30M"),
    kinds.DecimalType: (Decimal, "a number"),
    kinds.UUIDType: (UUID, "a UUID"),
}


def from_json(value: object, kind: type[T], *, what: str = "the body") -> T:
    """`value`, as JSON was decoded, as a `kind`. Raises Invalid with all faults, each at its path."""
    faults = check(value, kind)
    if faults:
        count = "a fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise Invalid(f"{what} has {count}", faults)
    return msgspec.convert(value, kind)


def check(
    value: object,
    kind: type,
    places: Places = JSON,
    path: Path = (),
    *,
    templates: bool = False,
) -> list[Fault]:
    """Everything that keeps `value`, which stands at `path`, from being a `kind`.

    With `templates`, a text that holds one is taken on trust where a text could stand, and a text
    that is nothing but one template everywhere.
    """
    walk = _Walk(places, templates)
    walk.value(_type_info(kind), value, path)
    if not walk.faults and not walk.on_trust:
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            message, inner = _where(str(error))
            walk.add((*path, *inner), message)
    return walk.faults


@lru_cache(maxsize=512)
def _type_info(kind: type) -> kinds.Type:
    return kinds.type_info(kind)


class _Walk:
    """One walk over a value. `on_trust` says that something was left for later."""

    def __init__(self, places: Places, templates: bool) -> None:
        self.places = places
        self.templates = templates
        self.faults: list[Fault] = []
        self.on_trust = False

    def add(self, path: Path, message: str, *, key: bool = False) -> None:
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(fault(self.places, path, message, key=key))

    def value(self, node: kinds.Type, value: object, path: Path) -> None:
        while isinstance(node, kinds.Metadata):
            node = node.type
        if isinstance(value, Unread):
            self.on_trust = True
        elif not (self.templates and isinstance(value, str) and self.is_template(node, value)):
            self.plain(node, value, path)

    def is_template(self, node: kinds.Type, text: str) -> bool:
        if "{" not in text and "}" not in text:
            return False
        template = parse(text)
        self.on_trust = True
        # what is left of a stray brace or a doubled one is checked when it is resolved
        return template.whole is not None or _takes_text(node)

    def plain(self, node: kinds.Type, value: object, path: Path) -> None:
        if isinstance(node, kinds.UnionType):
            self.union(node, value, path)
        elif not _fits(node, value):
            self.add(path, self.mismatch(node, value))
        elif isinstance(node, kinds.StructType):
            self.struct(node, value, path)  # type: ignore[arg-type]  # _fits has seen a dict
        elif isinstance(node, kinds.DictType):
            self.mapping(node, value, path)  # type: ignore[arg-type]  # _fits has seen a dict
        elif isinstance(node, _LISTS):
            self.sequence(node, value, path)  # type: ignore[arg-type]  # _fits has seen a list
        elif isinstance(node, kinds.EnumType | kinds.LiteralType):
            self.choice(node, value, path)
        elif isinstance(node, kinds.IntType | kinds.FloatType):
            self.number(node, value, path)  # type: ignore[arg-type]  # _fits has seen a number
        elif isinstance(node, kinds.StrType):
            self.text(node, value, path)  # type: ignore[arg-type]  # _fits has seen a text
        elif type(node) in _WRITTEN:
            self.written(node, value, path)

    def mismatch(self, node: kinds.Type, value: object) -> str:
        hint = ""
        if self.templates and isinstance(value, dict) and len(value) == 1:
            [(key, inner)] = value.items()
            if inner is None and NAME.fullmatch(str(key)):
                hint = f': a template must be quoted: "{{{key}}}"'
        elif _takes_text(node) and isinstance(value, bool | int | float):
            hint = ": quote it"
        elif isinstance(node, _LISTS) and isinstance(value, str) and self.places.echo:
            hint = f": write [{value}]" if len(value) <= 60 and "\n" not in value else ""
        return f"must be {_name(node)}, not {_kind(value)}{hint}"

    def union(self, node: kinds.UnionType, value: object, path: Path) -> None:
        options = [_bare(option) for option in node.types]
        fitting = [option for option in options if _fits(option, value)]
        if isinstance(value, dict) and (
            tagged := [s for s in fitting if isinstance(s, kinds.StructType) and s.tag_field]
        ):
            fitting = self.tagged(tagged, value, path)
            if not fitting:
                return
        if not fitting:
            self.add(path, self.mismatch(node, value))
            return
        kept = self.faults
        first: list[Fault] | None = None
        for option in fitting:
            self.faults = []
            self.value(option, value, path)
            if not self.faults:
                first = []
                break
            first = first if first is not None else self.faults
        self.faults = kept + (first or [])

    def tagged(
        self, options: list[kinds.StructType], value: dict[str, object], path: Path
    ) -> list[kinds.Type]:
        """The one struct that the tag names, or a fault."""
        name = options[0].tag_field or ""
        tags = {option.tag: option for option in options}
        tag = value.get(name)
        if isinstance(tag, str | int) and tag in tags:
            return [tags[tag]]
        message = "is missing" if name not in value else "is none of them"
        self.add((*path, name), f"{message}; allowed: {listed(map(str, tags))}")
        return []

    def struct(self, node: kinds.StructType, value: dict[str, object], path: Path) -> None:
        known = {field.encode_name: field for field in node.fields}
        if node.tag_field:
            known.pop(node.tag_field, None)
        for key, inner in value.items():
            if key in known:
                self.value(known[key].type, inner, (*path, key))
            elif node.forbid_unknown_fields and key != node.tag_field:
                near = did_you_mean(str(key), known)
                message = f"is not a known key{near}; known: {', '.join(known) or 'none'}"
                self.add((*path, key), message, key=True)
        for name, field in known.items():
            if field.required and name not in value:
                self.add((*path, name), "is missing")

    def mapping(self, node: kinds.DictType, value: dict[object, object], path: Path) -> None:
        self.length(node.min_length, node.max_length, len(value), "entries", path)
        for key, inner in value.items():
            at = (*path, key if isinstance(key, str) else str(key))
            walk = _Walk(self.places, templates=False)
            walk.value(node.key_type, key, at)
            if walk.faults:
                message = f"is no valid key: it {walk.faults[0].message}"
                label = self.places.label(at)
                self.add(at, message.replace(f"{label} ", "", 1) if label else message, key=True)
            self.value(node.value_type, inner, at)

    def sequence(self, node: Any, value: Sequence[object], path: Path) -> None:
        self.length(node.min_length, node.max_length, len(value), "entries", path)
        for index, inner in enumerate(value):
            if len(self.faults) >= MAX_FAULTS:
                return
            self.value(node.item_type, inner, (*path, index))

    def length(
        self, least: int | None, most: int | None, found: int, unit: str, path: Path
    ) -> None:
        if least is not None and found < least:
            short = "must not be empty" if least == 1 else f"must have at least {least} {unit}"
            self.add(path, short)
        if most is not None and found > most:
            self.add(path, f"has {found} {unit}, at most {most} are allowed")

    def choice(self, node: kinds.EnumType | kinds.LiteralType, value: object, path: Path) -> None:
        allowed = _allowed(node)
        if value in allowed and type(value) in {type(one) for one in allowed}:
            return
        near = did_you_mean(value, map(str, allowed)) if isinstance(value, str) else ""
        found = f" {clipped(value)}" if isinstance(value, str) and self.places.echo else ""
        words = ", ".join(map(str, allowed))
        self.add(path, f"must be one of {words}; not{found or ' this one'}{near}")

    def number(self, node: kinds.IntType | kinds.FloatType, value: float, path: Path) -> None:
        for limit, holds, words in (
            (node.ge, operator.ge, "at least"),
            (node.gt, operator.gt, "more than"),
            (node.le, operator.le, "at most"),
            (node.lt, operator.lt, "less than"),
        ):
            if limit is not None and not holds(value, limit):
                self.add(path, f"must be {words} {limit}, not {value}")

    def text(self, node: kinds.StrType, value: str, path: Path) -> None:
        self.length(node.min_length, node.max_length, len(value), "characters", path)
        if node.pattern is None or (node.min_length and not value):
            return
        # `$` also matches before a last line feed, which no pattern of ours means
        stray = node.pattern.endswith("$") and value.endswith("\n")
        if stray or not re.search(node.pattern, value):
            found = f", not {clipped(value)}" if self.places.echo else ""
            self.add(path, f"must match {node.pattern}{found}")

    def written(self, node: kinds.Type, value: object, path: Path) -> None:
        kind, example = _WRITTEN[type(node)]
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError:
            self.add(path, f"must be {example}")


def _bare(node: kinds.Type) -> kinds.Type:
    while isinstance(node, kinds.Metadata):
        node = node.type
    return node


def _allowed(node: kinds.EnumType | kinds.LiteralType) -> list[object]:
    if isinstance(node, kinds.EnumType):
        return [member.value for member in node.cls]
    return list(node.values)


def _fits(node: kinds.Type, value: object) -> bool:
    """Is the value of the right kind, whatever is inside it? Kinds unknown here fit: msgspec sees."""
    match _bare(node):
        case kinds.NoneType():
            return value is None
        case kinds.BoolType():
            return isinstance(value, bool)
        case kinds.IntType():
            return isinstance(value, int) and not isinstance(value, bool)
        case kinds.FloatType():
            return isinstance(value, int | float) and not isinstance(value, bool)
        case kinds.DecimalType():
            return isinstance(value, str | int | float | Decimal) and not isinstance(value, bool)
        case kinds.StrType():
            return isinstance(value, str)
        case kinds.EnumType() | kinds.LiteralType() as choice:
            return any(
                type(value) is type(one) or _both_texts(value, one) for one in _allowed(choice)
            )
        case kinds.StructType() | kinds.DictType():
            return isinstance(value, dict)
        case (
            kinds.ListType()
            | kinds.VarTupleType()
            | kinds.SetType()
            | kinds.FrozenSetType()
            | kinds.CollectionType()
        ):
            return isinstance(value, list | tuple)
        case kinds.UnionType(types=options):
            return any(_fits(option, value) for option in options)
        case bare if type(bare) in _WRITTEN:
            return isinstance(value, str | _WRITTEN[type(bare)][0])
    return True


def _both_texts(one: object, other: object) -> bool:
    return isinstance(one, str) and isinstance(other, str)


def _takes_text(node: kinds.Type) -> bool:
    """Could a text stand here, whatever it says?"""
    match _bare(node):
        case kinds.UnionType(types=options):
            return any(_takes_text(option) for option in options)
        case kinds.StrType() | kinds.AnyType() | kinds.EnumType() | kinds.LiteralType():
            return True
        case bare:
            return type(bare) in _WRITTEN


def _name(node: kinds.Type) -> str:
    """The kind of value that a fault asks for."""
    match _bare(node):
        case kinds.UnionType(types=options):
            names = [_name(one) for one in options if not isinstance(_bare(one), kinds.NoneType)]
            return " or ".join(dict.fromkeys(names))
        case kinds.NoneType():
            return "empty"
        case kinds.BoolType():
            return "true or false"
        case kinds.IntType():
            return "a whole number"
        case kinds.FloatType():
            return "a number"
        case kinds.StructType() | kinds.DictType():
            return "a mapping"
        case kinds.EnumType() | kinds.LiteralType() as choice:
            return f"one of {', '.join(map(str, _allowed(choice)))}"
        case kinds.StrType():
            return "a text"
        case bare if isinstance(bare, _LISTS):
            return "a list"
        case bare:
            return _WRITTEN[type(bare)][1] if type(bare) in _WRITTEN else "something else"


def _kind(value: object) -> str:
    """The kind of a value that was found."""
    match value:
        case None:
            return "empty"
        case bool():
            return "true" if value else "false"
        case int():
            return "a whole number"
        case float():
            return "a number"
        case str():
            return "a text"
        case dict():
            return "a mapping"
        case list() | tuple():
            return "a list"
    return "that"


_PLACE = re.compile(r"(?P<message>.*) - at `(?P<place>.*)`", re.DOTALL)
_PART = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>[0-9]+)\]")


def _where(message: str) -> tuple[str, Path]:
    """The message of msgspec, split into what and where: "Expected `int` - at `$.a[0]`"."""
    if found := _PLACE.fullmatch(message):
        parts = _PART.finditer(found["place"])
        path = tuple(part["name"] or int(part["index"]) for part in parts)
        return f"is not valid: {found['message']}", path
    return f"is not valid: {message}", ()
