"""Puts variables into values: `{name}` or `${name}`, and `{{`, `}}` for the braces themselves.

A dollar sign before a value is written `$${name}`.

Only texts inside values are templates, never keys. A text that is nothing but one template becomes
the variable with its type; inside a longer text only a text, a number or a boolean can stand. What
was put in is not looked at again, so a value that comes from outside cannot name a variable.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import NamedTuple

from shared.core.nearmiss import clipped, did_you_mean, listed
from shared.core.places import JSON, MAX_FAULTS, Path, Places, fault
from shared.core.record import Json
from shared.errors import Fault, Invalid

NAME = re.compile(r"[a-z_][a-z0-9_]*")
_TOKEN = re.compile(r"\{\{|\}\}|\$?\{([a-z_][a-z0-9_]*)\}|[{}]")


class Name(NamedTuple):
    """A place in a text where a variable goes."""

    name: str


class Template(NamedTuple):
    """A text in its parts. `stray` is the first brace that is neither doubled nor part of a name."""

    parts: tuple[str | Name, ...]
    stray: str | None = None

    @property
    def names(self) -> list[str]:
        return [part.name for part in self.parts if isinstance(part, Name)]

    @property
    def whole(self) -> str | None:
        """The name, when the text is nothing but one template."""
        match self.parts:
            case (Name(name),):
                return name
        return None


def parse(text: str) -> Template:
    """The text in its parts; any text can be parsed."""
    if "{" not in text and "}" not in text:
        return Template((text,))
    parts: list[str | Name] = []
    stray, literal, end = None, "", 0
    for token in _TOKEN.finditer(text):
        literal += text[end : token.start()]
        end = token.end()
        if token[1] is not None:
            if literal:
                parts.append(literal)
            literal = ""
            parts.append(Name(token[1]))
        else:
            literal += token[0][0]
            if len(token[0]) == 1:
                stray = stray or token[0]
    literal += text[end:]
    if literal or not parts:
        parts.append(literal)
    return Template(tuple(parts), stray)


def escape(text: str) -> str:
    """The template that resolves to `text`, whatever is in it."""
    return text.replace("{", "{{").replace("}", "}}")


def names_in(value: Json) -> frozenset[str]:
    """The names of the variables that `value`, with everything inside it, asks for."""
    return frozenset(name for _, text in _texts(value, ()) for name in parse(text).names)


def check_templates(
    value: Json,
    known: Collection[str],
    places: Places = JSON,
    path: Path = (),
    *,
    prefixes: tuple[str, ...] = (),
    say: Callable[[str, Collection[str]], str] | None = None,
) -> list[Fault]:
    """The faults of all templates in `value`: stray braces, and names that are not known.

    A name with one of `prefixes` is taken on trust: only the run knows whether it exists. `say` words
    the fault of an unknown name, as `unknown` does.
    """
    say = say or unknown
    faults: list[Fault] = []
    for place, text in _texts(value, path):
        template = parse(text)
        if template.stray:
            message = (
                f"has a lone '{template.stray}' in {clipped(text)}: "
                "write {{ or }} for a brace, {name} for a variable"
                if places.echo
                else f"has a lone '{template.stray}': write it twice for the brace itself"
            )
            faults.append(fault(places, place, message))
        faults.extend(
            fault(places, place, say(name, known))
            for name in dict.fromkeys(template.names)
            if name not in known and not name.startswith(prefixes or ("\0",))
        )
        if len(faults) >= MAX_FAULTS:
            break
    return faults


def unknown(name: str, known: Collection[str]) -> str:
    """Says that there is no such variable, and which there are."""
    near = did_you_mean(name, known)
    rest = "" if near else f"; known: {listed(known)}"
    return f"names the variable {clipped(name)}, which does not exist{near}{rest}"


def resolve(
    value: Json,
    variables: Mapping[str, Json],
    places: Places = JSON,
    path: Path = (),
    *,
    say: Callable[[str, Collection[str]], str] | None = None,
) -> Json:
    """`value` with every template replaced. Raises Invalid with all faults, worded by `say`."""
    faults = check_templates(value, variables, places, path, say=say)
    if faults:
        raise Invalid("the templates cannot be resolved", faults)
    resolved = _resolve(value, variables, places, path, faults)
    if faults:
        raise Invalid("the templates cannot be resolved", faults)
    return resolved


def _texts(value: Json, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _texts(inner, (*path, index))


def _resolve(
    value: Json, variables: Mapping[str, Json], places: Places, path: Path, faults: list[Fault]
) -> Json:
    if isinstance(value, dict):
        return {
            key: _resolve(inner, variables, places, (*path, str(key)), faults)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [
            _resolve(inner, variables, places, (*path, index), faults)
            for index, inner in enumerate(value)
        ]
    if not isinstance(value, str) or ("{" not in value and "}" not in value):
        return value
    template = parse(value)
    if (name := template.whole) is not None:
        if not _is_json(variables[name]):
            faults.append(fault(places, path, f"cannot hold {name!r}: it is not a plain value"))
            return None
        return variables[name]
    text = ""
    for part in template.parts:
        if isinstance(part, str):
            text += part
        elif (word := _word(variables[part.name])) is not None:
            text += word
        else:
            message = f"cannot hold {part.name!r} inside a text: only a text, a number or a boolean"
            faults.append(fault(places, path, message))
    return text


def _is_json(value: object) -> bool:
    return value is None or isinstance(value, str | bool | int | float | list | dict)


def _word(value: object) -> str | None:
    """How a value reads inside a text, as JSON would write it; None when it cannot stand there."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return None
