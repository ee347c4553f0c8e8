"""Reads a YAML text into plain values, each of which knows its line and column.

Only what JSON can say, with the scalars of the YAML 1.2 core schema (yaml.org/spec/1.2.2, 10.3.2):
`on`, `12:30:45` and `1_000` are texts, `010` is ten. Duplicate keys, anchors, aliases, tags,
directives and a second document are faults. PyYAML gives the events; composing them here, without
recursion, is what keeps every mark and every fault.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from shared.core.nearmiss import clipped
from shared.core.places import MAX_FAULTS, UNREAD, Path
from shared.errors import Fault

MAX_BYTES = 512 * 1024
MAX_DEPTH = 32


Mark = tuple[int, int]  # line and column, from 1

_CONSTANTS: dict[str, object] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_DECIMAL = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
# What yaml.org/spec/1.2.2, 5.1 leaves out of c-printable (a list of what is in it takes re 8 ms)
_NOT_PRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]"
)


@dataclass(slots=True)
class Source:
    """One text, read. `value` is UNREAD when the text cannot be read to its end."""

    file: str
    value: Any = UNREAD
    values: dict[Path, Mark] = field(default_factory=dict)
    keys: dict[Path, Mark] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def at(self, path: Path, *, key: bool = False) -> str:
        """`file:line:column` of the value (or key) at `path`, or of the nearest that encloses it."""
        line, column = self.mark(path, key=key)
        return f"{self.file}:{line}:{column}"

    def mark(self, path: Path, *, key: bool = False) -> Mark:
        """Line and column, from 1."""
        if key and path in self.keys:
            return self.keys[path]
        while path not in self.values and path:
            path = path[:-1]
        return self.values.get(path, (1, 1))

    def add(self, mark: Mark, message: str) -> None:
        self.faults.append(Fault(f"{self.file}:{mark[0]}:{mark[1]}", message))


def read(file: str, raw: bytes) -> Source:
    """Reads `raw`; whatever is wrong with it stands in `faults`. `file` is only its name."""
    source = Source(file)
    if len(raw) > MAX_BYTES:
        source.add((1, 1), f"the file is larger than {MAX_BYTES // 1024} KiB")
        return source
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        mark = _mark_at(raw[: error.start].decode("utf-8", errors="replace"), error.start)
        source.add(mark, f"is not UTF-8 (byte 0x{raw[error.start]:02x})")
        return source
    text = text.removeprefix("\ufeff")
    if odd := _NOT_PRINTABLE.search(text):
        source.add(_mark_at(text, odd.start()), f"the character U+{ord(odd[0]):04X} is not allowed")
        return source
    _compose(source, text)
    return source


def _mark_at(text: str, index: int) -> Mark:
    before = text[:index]
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


@dataclass(slots=True)
class _Frame:
    """A list or mapping that is being read. `path` is None below a key that is refused."""

    into: dict[str, Any] | list[Any]
    path: Path | None
    key: str | None = None
    key_due: bool = True


def _compose(source: Source, text: str) -> None:
    import yaml  # noqa: PLC0415  # 11 ms, and a function that has a compiled catalog reads no YAML

    try:
        composer = _Composer(source)
        for event in _events(yaml, text):
            composer.take(event)
            if composer.over or len(source.faults) >= MAX_FAULTS:
                return
    except yaml.MarkedYAMLError as error:
        mark, message = _syntax(error, text)
        source.add(mark, message)
        return
    except yaml.YAMLError as error:  # the reader's; _NOT_PRINTABLE has caught what we know of
        source.add((1, 1), f"is not YAML: {' '.join(str(error).split())}")
        return
    if composer.result is None:
        source.add((1, 1), "the file is empty")
    else:
        source.value = composer.result


def _events(yaml: Any, text: str) -> Iterator[Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    while loader.check_event():
        yield loader.get_event()


class _Composer:
    """Builds the value from the events of the parser."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.stack: list[_Frame] = []
        self.documents = 0
        self.result: Any = None
        self.over = False

    def take(self, event: Any) -> None:
        mark = (event.start_mark.line + 1, event.start_mark.column + 1)
        match type(event).__name__:
            case "DocumentStartEvent":
                self.document(event, mark)
            case "ScalarEvent":
                self.refuse_extras(event, mark)
                self.scalar(event.value, not event.style, mark)
            case "AliasEvent":
                self.source.add(mark, f"the alias *{event.anchor} is not allowed: write it out")
                self.place(UNREAD, mark)
            case "SequenceStartEvent":
                self.refuse_extras(event, mark)
                self.open([], mark)
            case "MappingStartEvent":
                self.refuse_extras(event, mark)
                self.open({}, mark)
            case "SequenceEndEvent" | "MappingEndEvent":
                self.stack.pop()

    def document(self, event: Any, mark: Mark) -> None:
        self.documents += 1
        if self.documents > 1:
            self.source.add(mark, "a second document begins here: a file holds one")
            self.over = True
        elif event.version or event.tags:
            self.source.add((1, 1), "a %directive is not allowed")

    def refuse_extras(self, event: Any, mark: Mark) -> None:
        if event.anchor:
            self.source.add(mark, f"the anchor &{event.anchor} is not allowed")
        if event.tag:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self.source.add(mark, f"the tag {clipped(tag)} is not allowed")

    def scalar(self, text: str, plain: bool, mark: Mark) -> None:
        value: Any = text
        if plain:
            try:
                value = scalar(text)
            except ValueError as error:
                self.source.add(mark, str(error))
                value = UNREAD
        self.place(value, mark)

    def open(self, into: dict[str, Any] | list[Any], mark: Mark) -> None:
        self.stack.append(_Frame(into, self.place(into, mark)))
        if len(self.stack) > MAX_DEPTH:
            self.source.add(mark, f"is nested deeper than {MAX_DEPTH} levels")
            self.over = True

    def place(self, value: Any, mark: Mark) -> Path | None:
        """Puts a value where it belongs; answers its path, if it is one that has a path."""
        if not self.stack:
            self.result = value
            self.source.values[()] = mark
            return ()
        frame = self.stack[-1]
        if isinstance(frame.into, list):
            frame.into.append(value)
            return self.marked(frame.path, len(frame.into) - 1, mark)
        if frame.key_due:
            frame.key_due = False
            frame.key = self.key(frame, value, mark)
            return None
        frame.key_due = True
        if frame.key is None:
            return None
        frame.into[frame.key] = value
        return self.marked(frame.path, frame.key, mark)

    def marked(self, path: Path | None, key: str | int, mark: Mark) -> Path | None:
        if path is None:
            return None
        inner = (*path, key)
        self.source.values[inner] = mark
        return inner

    def key(self, frame: _Frame, value: Any, mark: Mark) -> str | None:
        """The key as a text, or None when it is refused."""
        if not isinstance(value, str):
            if frame.path is None:
                pass  # below a key that has its fault
            elif isinstance(value, list | dict):
                self.source.add(mark, 'a key must be a text (a template must be quoted: "{name}")')
            elif value is not UNREAD:
                self.source.add(mark, f"the key {_written(value)} must be quoted to be a text")
            return None
        path = None if frame.path is None else (*frame.path, value)
        if value in frame.into:
            first = f" (first in line {self.source.keys[path][0]})" if path else ""
            self.source.add(mark, f"the key {clipped(value)} is given twice{first}")
            return None
        if path is not None:
            self.source.keys[path] = mark
        return value


def _written(value: object) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def scalar(text: str) -> Any:
    """What a plain scalar means in YAML 1.2. Raises ValueError for a number that JSON cannot say."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _DECIMAL.fullmatch(text):
        # int() refuses thousands of digits, and beyond 19 of them none fits
        return _whole(int(text) if len(text.lstrip("+-0")) <= 19 else 1 << 64)
    if _OCTAL.fullmatch(text):
        return _whole(int(text, 0))
    if _HEXADECIMAL.fullmatch(text):
        return _whole(int(text, 0))
    if _FLOAT.fullmatch(text):
        number = float(text)
        if math.isinf(number):
            raise ValueError("the number is too large; quote it if it is a text")
        return number
    if _NOT_FINITE.fullmatch(text):
        raise ValueError("the number is not finite; quote it if it is a text")
    return text


def _whole(number: int) -> int:
    if not -(1 << 63) <= number < 1 << 63:
        raise ValueError("the number does not fit in 64 bits; quote it if it is a text")
    return number


def _syntax(error: Any, text: str) -> tuple[Mark, str]:
    """The parser's complaint in words that say what to do, at the place where to do it."""
    problem, context = error.problem or "", error.context or ""
    mark = error.problem_mark or error.context_mark
    begin = error.context_mark or mark
    if mark is None:
        return (1, 1), f"is not YAML: {problem}"
    lines = text.splitlines() or [""]
    line = lines[mark.line] if mark.line < len(lines) else ""
    here = (mark.line + 1, mark.column + 1)
    there = (begin.line + 1, begin.column + 1)
    indentation = line[: len(line) - len(line.lstrip())]
    if "\t" in indentation:
        return (mark.line + 1, indentation.index("\t") + 1), "a tab in the indentation: use spaces"
    if "alias" in context or "anchor" in context:
        return there, "a text that begins with * or & must be quoted"
    if "cannot start any token" in problem:
        return here, f"a text that begins with {line[mark.column : mark.column + 1]} must be quoted"
    if "quoted scalar" in context:
        return there, "the quote that opens here is never closed"
    if "mapping values are not allowed" in problem:
        return here, "': ' inside a value: quote the value, or mend the indentation"
    if line[: mark.column].rstrip().endswith("}"):
        return here, 'text after a closing brace: a template must be quoted: "{name}…"'
    detail = f"{context}, {problem}" if context else problem
    return here, f"is not YAML: {detail}"
