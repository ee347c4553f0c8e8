"""How values look to a person: numbers at the right, times in UTC, states in colour; plain in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import Any, NamedTuple, TypeAlias

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from shared.cli.client import Answer, Refused
from shared.cli.stop import Stop
from shared.errors import ConfigError
from shared.settings import read_client_settings

Cell: TypeAlias = "str | Text"

NOTHING = "–"
_PIPE_WIDTH = 10_000  # a program reads it: no line is broken
_STYLES = {
    "completed": "green",
    "ok": "green",
    "running": "cyan",
    "queued": "cyan",
    "open": "cyan",
    "failed": "bold red",
    "terminal": "bold red",
    "cancelled": "yellow",
    "cancelling": "yellow",
    "skipped": "yellow",
    "overdue": "bold red",
    "lost": "yellow",
    "transient": "yellow",
    "ACTIVE": "green",
    "TRIAL": "cyan",
    "SUSPENDED": "bold red",
    "CANCELLED": "yellow",
    "must": "bold red",
    "should": "yellow",
    "matched": "green",
    "drift": "bold red",
    "unverifiable": "yellow",
    "WARNING": "yellow",
    "ERROR": "bold red",
}


class Column(NamedTuple):
    """A column of a table; `right` for numbers."""

    name: str
    right: bool = False


@cache
def out() -> Console:
    """Where answers go."""
    return _console(stderr=False)


@cache
def err() -> Console:
    """Where progress and errors go."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    try:
        plain = read_client_settings().plain
    except ConfigError:  # it is what is going to be told
        plain = False
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(
        file=stream,
        width=width,
        force_terminal=False if plain else None,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=width is not None,
    )


def verbatim(answer: Answer) -> None:
    """The API's bytes as they came."""
    sys.stdout.flush()
    sys.stdout.buffer.write(answer.raw)
    sys.stdout.buffer.flush()


def table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]], *, indent: int = 0) -> Table:
    """A table without lines: two spaces between columns, numbers at the right."""
    made = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    if indent:
        made.add_column("", width=indent - 2, no_wrap=True)
    for column in columns:
        made.add_column(
            column.name,
            justify="right" if column.right else "left",
            no_wrap=column.right,
            overflow="fold",
        )
    for row in rows:
        made.add_row(*([""] if indent else []), *row)
    return made


def record(pairs: Iterable[tuple[str, Cell]]) -> Table:
    """Names and values, one a line."""
    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs:
        made.add_row(name, value)
    return made


def lines(*parts: RenderableType) -> None:
    """Prints the parts to the answer's stream; in a pipe, no line ends in blanks."""
    to = out()
    for part in parts:
        if to.is_terminal:
            to.print(part)
            continue
        with to.capture() as captured:
            to.print(part)
        told = captured.get().splitlines()
        to.file.write("".join(line.rstrip() + "\n" for line in told))
    to.file.flush()


def state(word: str | None) -> Text:
    """A status, an outcome or a severity in its colour."""
    return Text(word or NOTHING, style=_STYLES.get(word or "", ""))


def count(number: int | None) -> str:
    """100,000; nothing for what was not counted."""
    return NOTHING if number is None else f"{number:,}"


def limit(number: int | None) -> str:
    """A limit of a plan, where None is none."""
    return "unlimited" if number is None else f"{number:,}"


def seconds(value: float | None) -> str:
    """12 ms, 1.2 s, 2 min 05 s, 30 min, 1 h 05 min."""
    if value is None:
        return NOTHING
    if value < 0.0995:
        return f"{value * 1000:.0f} ms"
    if value < 59.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min" + (f" {whole % 60:02d} s" if whole % 60 else "")
    minutes = round(value / 60)
    return f"{minutes // 60} h" + (f" {minutes % 60:02d} min" if minutes % 60 else "")


def utc(text: str | None) -> str:
    """2026-01-31 23:59:59 for an ISO time of any zone; the column says that it is UTC."""
    return NOTHING if text is None else f"{_utc(text):%Y-%m-%d %H:%M:%S}"


def clock(text: str | None) -> str:
    """23:59:59.123, where the day is known."""
    return NOTHING if text is None else f"{_utc(text):%H:%M:%S.%f}"[:-3]


def _utc(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def money(value: Decimal | str) -> str:
    """Every digit that counts, and the thousands apart; at least two places."""
    number = Decimal(value)
    digits = f"{number:,f}"
    whole, _, fraction = digits.partition(".")
    return f"{whole}.{fraction.rstrip('0').ljust(2, '0')}"


def value(anything: Any) -> str:
    """A JSON value in a cell."""
    if isinstance(anything, str):
        return anything
    if isinstance(anything, list):
        return ", ".join(value(one) for one in anything) or NOTHING
    if isinstance(anything, dict):
        return " ".join(f"{name}={value(one)}" for name, one in anything.items()) or NOTHING
    if anything is None:
        return NOTHING
    return str(anything).lower() if isinstance(anything, bool) else str(anything)


def problem(stop: Stop) -> None:
    """Why the command ended, what is wrong line by line, and what to do about it: on stderr."""
    if isinstance(stop, Refused) and stop.verbatim:
        verbatim(stop.answer)
    to = err()
    to.print(Text.assemble(("error: ", "bold red"), stop.message))
    for fault in stop.faults:
        to.print(
            Text.assemble("  ", (fault.where, "bold"), " " if fault.where else "", fault.message)
        )
    if stop.hint:
        to.print(Text.assemble("  ", stop.hint))
    if stop.note:
        to.print(Text.assemble("  ", (stop.note, "dim")))
