"""Reads plain values into typed records and reports every fault, not the first.

msgspec converts, but stops at its first fault and knows no line. So the type is walked here first;
msgspec has the last word, and where the walk let something pass, its message becomes the fault.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import msgspec
from msgspec import inspect as nodes

from shared.core.kinds import LISTS, WRITTEN, allowed, bare, fits, kind_of, name_of, takes_text
from shared.core.nearmiss import clipped, did_you_mean, listed
from shared.core.places import JSON, MAX_FAULTS, Path, Places, Unread, fault
from shared.core.record import Record
from shared.core.template import NAME, parse
from shared.errors import Fault, Invalid

T = TypeVar("T")


def from_json(value: object, kind: type[T], *, what: str = "the body") -> T:
    """`value`, as JSON was decoded, as a `kind`. Raises Invalid with all faults, each at its path."""
    faults = check(value, kind)
    if faults:
        count = "a fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise Invalid(f"{what} has {count}", faults)
    return msgspec.convert(value, kind)


def from_texts(texts: Mapping[str, str], kind: type[T], *, what: str) -> T:
    """A record whose fields were all given as texts: the query of a URL. Raises Invalid with all faults.

    A number is of digits, a switch `true` or `false`; a day where a time is wanted is its midnight UTC.
    """
    return from_json(plain(texts, kind), kind, what=what)


def plain(texts: Mapping[str, str], kind: type) -> dict[str, object]:
    """The values that the texts say of the fields of a record; a text itself where it says none."""
    fields = _fields(kind)
    return {name: _plain(fields.get(name), text) for name, text in texts.items()}


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


def _fields(kind: type) -> dict[str, nodes.Type]:
    record = _type_info(kind)
    fields = record.fields if isinstance(record, nodes.StructType) else ()
    return {field.encode_name: field.type for field in fields}


def _plain(node: nodes.Type | None, text: str) -> object:
    """What the text says of a value of that type; the text itself where it says none."""
    match node if node is None else bare(node):
        case nodes.UnionType(types=options):
            (some,) = (one for one in options if not isinstance(bare(one), nodes.NoneType))
            return _plain(some, text)
        case nodes.IntType() if _WHOLE.fullmatch(text):
            return int(text)
        case nodes.BoolType() if text in ("true", "false"):
            return text == "true"
        case nodes.DateTimeType() if _DAY.fullmatch(text):
            return f"{text}T00:00:00Z"
    return text


_WHOLE = re.compile(r"-?[0-9]{1,100}")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@lru_cache(maxsize=512)
def _type_info(kind: type) -> nodes.Type:
    return nodes.type_info(kind)


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

    def value(self, node: nodes.Type, value: object, path: Path) -> None:
        node = bare(node)
        if isinstance(value, Unread):
            self.on_trust = True
        elif not (self.templates and isinstance(value, str) and self.is_template(node, value)):
            self.plain(node, value, path)

    def is_template(self, node: nodes.Type, text: str) -> bool:
        if "{" not in text and "}" not in text:
            return False
        template = parse(text)
        self.on_trust = True
        # what is left of a stray brace or a doubled one is checked when it is resolved
        return template.whole is not None or takes_text(node)

    def plain(self, node: nodes.Type, value: object, path: Path) -> None:
        if isinstance(node, nodes.UnionType):
            self.union(node, value, path)
        elif not fits(node, value):
            self.add(path, self.mismatch(node, value))
        elif isinstance(node, nodes.StructType):
            self.struct(node, value, path)  # type: ignore[arg-type]  # fits has seen a dict
        elif isinstance(node, nodes.DictType):
            self.mapping(node, value, path)  # type: ignore[arg-type]  # fits has seen a dict
        elif isinstance(node, LISTS):
            self.sequence(node, value, path)  # type: ignore[arg-type]  # fits has seen a list
        elif isinstance(node, nodes.EnumType | nodes.LiteralType):
            self.choice(node, value, path)
        elif isinstance(node, nodes.IntType | nodes.FloatType):
            self.number(node, value, path)  # type: ignore[arg-type]  # fits has seen a number
        elif isinstance(node, nodes.StrType):
            self.text(node, value, path)  # type: ignore[arg-type]  # fits has seen a text
        elif type(node) in WRITTEN:
            self.written(node, value, path)

    def mismatch(self, node: nodes.Type, value: object) -> str:
        hint = ""
        if self.templates and isinstance(value, dict) and len(value) == 1:
            [(key, inner)] = value.items()
            if inner is None and NAME.fullmatch(str(key)):
                hint = f': a template must be quoted: "{{{key}}}"'
        elif isinstance(value, bool | int | float) and "a text" in name_of(node):
            hint = ": quote it"
        elif isinstance(node, LISTS) and isinstance(value, str) and self.places.echo:
            hint = f": write [{value}]" if len(value) <= 60 and "\n" not in value else ""
        return f"must be {name_of(node)}, not {kind_of(value)}{hint}"

    def union(self, node: nodes.UnionType, value: object, path: Path) -> None:
        options = [bare(option) for option in node.types]
        fitting = [option for option in options if fits(option, value)]
        if isinstance(value, dict) and (
            tagged := [s for s in fitting if isinstance(s, nodes.StructType) and s.tag_field]
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
        self, options: list[nodes.StructType], value: dict[str, object], path: Path
    ) -> list[nodes.Type]:
        """The one struct that the tag names, or a fault."""
        name = options[0].tag_field or ""
        tags = {option.tag: option for option in options}
        tag = value.get(name)
        if isinstance(tag, str | int) and tag in tags:
            return [tags[tag]]
        message = "is missing" if name not in value else "is none of them"
        self.add((*path, name), f"{message}; allowed: {listed(map(str, tags))}")
        return []

    def struct(self, node: nodes.StructType, value: dict[str, object], path: Path) -> None:
        known = {field.encode_name: field for field in node.fields}
        if node.tag_field:
            known.pop(node.tag_field, None)
        good: dict[str, object] = {}
        for key, inner in value.items():
            if key in known:
                if self.has_form(known[key].type, inner, (*path, key)):
                    good[key] = inner
            elif node.forbid_unknown_fields and key != node.tag_field:
                near = did_you_mean(str(key), known)
                message = f"is not a known key{near}; known: {', '.join(known) or 'none'}"
                self.add((*path, key), message, key=True)
        for name, field in known.items():
            if field.required and name not in value:
                self.add((*path, name), "is missing")
        if issubclass(node.cls, Record) and not self.templates:
            for inside, said in node.cls.contradictions(good):
                self.add((*path, *inside), said)

    def has_form(self, node: nodes.Type, value: object, path: Path) -> bool:
        """Checks the value. Is it right itself, whatever is inside of it?"""
        before = len(self.faults)
        self.value(node, value, path)
        place = self.places.at(path)
        return not isinstance(value, Unread) and all(
            found.where != place for found in self.faults[before:]
        )

    def mapping(self, node: nodes.DictType, value: dict[object, object], path: Path) -> None:
        self.length(node.min_length, node.max_length, len(value), "entries", path)
        for key, inner in value.items():
            at = (*path, key if isinstance(key, str) else str(key))
            walk = _Walk(JSON, templates=False)  # whose messages do not repeat the key
            walk.value(node.key_type, key, at)
            for wrong in walk.faults:
                self.add(at, f"is no valid key: it {wrong.message}", key=True)
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

    def choice(self, node: nodes.EnumType | nodes.LiteralType, value: object, path: Path) -> None:
        choices = allowed(node)
        if value in choices and type(value) in {type(one) for one in choices}:
            return
        near = did_you_mean(value, map(str, choices)) if isinstance(value, str) else ""
        found = f" {clipped(value)}" if isinstance(value, str) and self.places.echo else ""
        words = ", ".join(map(str, choices))
        self.add(path, f"must be one of {words}; not{found or ' this one'}{near}")

    def number(self, node: nodes.IntType | nodes.FloatType, value: float, path: Path) -> None:
        for limit, holds, words in (
            (node.ge, operator.ge, "at least"),
            (node.gt, operator.gt, "more than"),
            (node.le, operator.le, "at most"),
            (node.lt, operator.lt, "less than"),
        ):
            if limit is not None and not holds(value, limit):
                self.add(path, f"must be {words} {limit}, not {value}")

    def text(self, node: nodes.StrType, value: str, path: Path) -> None:
        self.length(node.min_length, node.max_length, len(value), "characters", path)
        if node.pattern is None or (node.min_length and not value):
            return
        # `$` also matches before a last line feed, which no pattern of ours means
        stray = node.pattern.endswith("$") and value.endswith("\n")
        if stray or not re.search(node.pattern, value):
            found = f", not {clipped(value)}" if self.places.echo else ""
            self.add(path, f"must match {node.pattern}{found}")

    def written(self, node: nodes.Type, value: object, path: Path) -> None:
        kind, example = WRITTEN[type(node)]
        try:
            msgspec.convert(value, kind)
        except msgspec.ValidationError:
            self.add(path, f"must be {example}")


_PLACE = re.compile(r"(?P<message>.*) - at `(?P<place>.*)`", re.DOTALL)
_PART = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>[0-9]+)\]")


def _where(message: str) -> tuple[str, Path]:
    """The message of msgspec, split into what and where: "Expected `int` - at `$.a[0]`"."""
    if found := _PLACE.fullmatch(message):
        parts = _PART.finditer(found["place"].partition("[...]")[0])  # [...] is any key of a dict
        path = tuple(part["name"] or int(part["index"]) for part in parts)
        return f"is not valid: {found['message']}", path
    return f"is not valid: {message}", ()
