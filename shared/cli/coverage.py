"""`pipelines coverage`: a calendar of every source, a letter a day, or the ranges that are to be run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any, NamedTuple

import typer
from rich.text import Text

from shared.cli import show
from shared.cli.options import AsJson, Org, Session, session
from shared.cli.stop import Code, Stop
from shared.core.period import Unit


class _Mark(NamedTuple):
    """How a day looks, and what that means."""

    letter: str
    style: str
    meaning: str


_MARKS = {
    ("loaded", True): _Mark("#", "green", "loaded, final"),
    ("loaded", False): _Mark("+", "cyan", "loaded, may still change"),
    ("empty", True): _Mark("0", "green", "empty, final"),
    ("empty", False): _Mark("o", "cyan", "empty, may still change"),
    ("missing", False): _Mark("!", "bold red", "missing"),
    ("pending", False): _Mark(".", "dim", "pending: not to be expected yet"),
    ("outside", False): _Mark("-", "dim", "outside: before the first day, or out of use"),
}
_RULER = "         1   5    10   15   20   25   30"


def coverage(
    org: Org = None,
    start_date: Annotated[
        str | None, typer.Option(metavar="DAY", help="First day, UTC (default: 35 days).")
    ] = None,
    end_date: Annotated[
        str | None, typer.Option(metavar="DAY", help="Last day, included (default: yesterday).")
    ] = None,
    pipeline: Annotated[
        str | None, typer.Option(metavar="ID", help="Of the pipeline with this id only.")
    ] = None,
    provider: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of this provider only.")
    ] = None,
    credential_id: Annotated[
        str | None, typer.Option(metavar="ID", help="With this credential only.")
    ] = None,
    gaps: Annotated[
        bool, typer.Option("--gaps", help="The runs that would fill what is missing, a line each.")
    ] = False,
    due: Annotated[
        bool,
        typer.Option("--due", help="The runs that would look again at what may have changed."),
    ] = False,
    older_than: Annotated[
        int,
        typer.Option(
            metavar="DAYS",
            help="With --due: nobody has looked for so long, or a look makes it final.",
            min=0,
            max=400,
        ),
    ] = 7,
    limit: Annotated[
        int | None, typer.Option(help="With --json: sources on a page.", min=1, max=50)
    ] = None,
    cursor: Annotated[
        str | None, typer.Option(help="With --json: where the page before ended.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Which days are loaded, missing, empty, and which may still change."""
    if gaps and due:
        raise Stop(Code.BAD_INPUT, "--gaps and --due: give one of them")
    if not as_json and (limit or cursor):
        raise Stop(Code.BAD_INPUT, "--limit and --cursor: are for --json; else every page is shown")
    talk = session(org, as_json=as_json)
    query = {
        "start_date": start_date,
        "end_date": end_date,
        "pipeline_id": pipeline,
        "provider": provider,
        "credential_id": credential_id,
        "older_than_days": str(older_than),
        "limit": None if limit is None else str(limit),
        "cursor": cursor,
    }
    if as_json:
        show.verbatim(talk.client.get("pipelines", "coverage", talk.org, query=query))
    elif gaps or due:
        _commands(talk, query, "gaps" if gaps else "due")
    else:
        _calendars(talk, query)


def _pages(talk: Session, query: dict[str, str | None]) -> Iterator[dict[str, Any]]:
    while True:
        page = talk.client.get("pipelines", "coverage", talk.org, query=query).body
        yield page
        if page["next"] is None:
            return
        query = {**query, "cursor": page["next"]}


def _commands(talk: Session, query: dict[str, str | None], which: str) -> None:
    """A command a range, and nothing else, so that it can be handed to a shell."""
    found = 0
    for page in _pages(talk, query):
        for source in page["sources"]:
            for span in source[which]:
                found += 1
                print(shlex.join(_run_of(talk.org, source, span)))  # however wide the terminal
    if not found:
        what = "no day is missing" if which == "gaps" else "nothing is due for another look"
        show.err().print(f"{what}, {page['start_date']} to {page['end_date']}")


def _run_of(org: str, source: dict[str, Any], span: dict[str, Any]) -> list[str]:
    command = ["pipelines", "run", source["pipeline"], "--org", org]
    if source["credential_id"] != "none":
        command += ["--credential-id", source["credential_id"]]
    return [*command, "--start-date", span["start_date"], "--end-date", span["end_date"]]


def _calendars(talk: Session, query: dict[str, str | None]) -> None:
    used: set[tuple[str, bool]] = set()
    shown = missing = 0
    for page in _pages(talk, query):
        if not shown:
            at = show.utc(page["at"])[:16]
            show.lines(f"{talk.org}, {page['start_date']} to {page['end_date']}, at {at} UTC")
        for source in page["sources"]:
            shown += 1
            missing += source["counts"]["missing"]
            show.lines("", *_calendar(source, used))
    if not shown:
        show.lines("no source: there is no credential of a provider whose days are counted")
        return
    show.lines("", *_legend(used))
    if missing:
        show.err().print("what is missing, as runs that would load it: add --gaps")


def _calendar(source: dict[str, Any], used: set[tuple[str, bool]]) -> list[Text]:
    counts = ", ".join(f"{n} {state}" for state, n in source["counts"].items() if n)
    head = Text.assemble(
        (source["pipeline"], "bold"),
        f"  {source['credential_id']}",
        "" if source["in_use"] else "  (out of use)",
        (f"  by {source['unit']}; {counts}", "dim"),
    )
    months: dict[date, Text] = {}
    for span in source["days"]:
        key = (span["state"], span["final"])
        used.add(key)
        start, end = (date.fromisoformat(span[name]) for name in ("start_date", "end_date"))
        for month in Unit.MONTH.firsts(start, end):
            first, last = max(start, month), min(end, Unit.MONTH.last(month))
            blank = Text(f"{month:%Y-%m}  " + " " * (first.day - 1))
            letters = _MARKS[key].letter * ((last - first).days + 1)
            months.setdefault(month, blank).append(letters, _MARKS[key].style)
    return [head, Text(_RULER, style="dim"), *months.values()]


def _legend(used: set[tuple[str, bool]]) -> list[Text]:
    return [
        Text.assemble((mark.letter, mark.style), f" {mark.meaning}")
        for key, mark in _MARKS.items()
        if key in used
    ]
