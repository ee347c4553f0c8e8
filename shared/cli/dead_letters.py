"""`pipelines dead-letters`: messages that nobody could handle, and what becomes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

import typer

from shared.cli import show
from shared.cli.client import Client
from shared.cli.options import AsJson, client
from shared.cli.show import Column
from shared.cli.stop import Code, Stop

app = typer.Typer(
    help="Messages that nobody could handle, with the reason. For operators.", no_args_is_help=True
)

_AT_ONCE = 200  # what the API gives in one answer

Letters: TypeAlias = Annotated[
    list[str] | None, typer.Argument(metavar="LETTER...", help="Ids, as `list` shows them.")
]
All: TypeAlias = Annotated[bool, typer.Option("--all", help="All that `list` shows.")]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before --all.")]


@app.command("list")
def list_letters(
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=_AT_ONCE)] = _AT_ONCE,
    as_json: AsJson = False,
) -> None:
    """Those that were parked first."""
    answer = client(as_json=as_json).get("admin", "dead-letters", query={"limit": str(limit)})
    if as_json:
        show.verbatim(answer)
        return
    rows = answer.body["dead_letters"]
    if not rows:
        show.lines("There is no dead letter.")
        return
    columns = (
        Column("letter"),
        Column("topic"),
        Column("org"),
        Column("run"),
        Column("tried", right=True),
        Column("parked (UTC)"),
        Column("reason"),
    )
    show.lines(
        show.table(
            columns,
            [
                (
                    row["id"],
                    row["topic"],
                    row["org"] or show.NOTHING,
                    row["run_id"] or show.NOTHING,
                    show.count(row["deliveries"]),
                    show.utc(row["parked_at"]),
                    row["reason"],
                )
                for row in rows
            ],
        )
    )


@app.command("show")
def show_letter(
    letter: Annotated[str, typer.Argument(metavar="LETTER", help="Its id, as `list` shows it.")],
    as_json: AsJson = False,
) -> None:
    """One letter, with the whole message."""
    answer = client(as_json=as_json).get("admin", "dead-letters", letter)
    if as_json:
        show.verbatim(answer)
        return
    one = answer.body
    show.lines(
        show.record(
            [
                ("letter", one["id"]),
                ("topic", one["topic"]),
                ("reason", one["reason"]),
                ("tried", show.count(one["deliveries"])),
                ("published", show.utc(one["published_at"]) + " UTC"),
                ("parked", show.utc(one["parked_at"]) + " UTC"),
                ("attributes", show.value(one["attributes"])),
            ]
        ),
        "",
        _readable(one),
    )


@app.command()
def redrive(
    letters: Letters = None, *, every: All = False, yes: Yes = False, as_json: AsJson = False
) -> None:
    """Publish messages again. What still cannot be handled is parked again."""
    _each(
        letters,
        "redrive",
        "redriven",
        lambda api, letter: api.post("admin", "dead-letters", letter, "redrive"),
        every=every,
        yes=yes,
        as_json=as_json,
    )


@app.command()
def drop(
    letters: Letters = None, *, every: All = False, yes: Yes = False, as_json: AsJson = False
) -> None:
    """Delete messages for good. The tick sees to the runs they were of."""
    _each(
        letters,
        "drop",
        "dropped",
        lambda api, letter: api.call("DELETE", "admin", "dead-letters", letter),
        every=every,
        yes=yes,
        as_json=as_json,
    )


def _each(
    letters: list[str] | None,
    verb: str,
    done: str,
    act: Callable[[Client, str], object],
    *,
    every: bool,
    yes: bool,
    as_json: bool,
) -> None:
    if every == bool(letters):
        raise Stop(Code.BAD_INPUT, f"{verb} which? give their ids, or --all")
    api = client(as_json=as_json)
    wanted = letters or []
    if every:
        answer = api.get("admin", "dead-letters", query={"limit": str(_AT_ONCE)})
        wanted = [row["id"] for row in answer.body["dead_letters"]]
        if wanted and not yes:
            typer.confirm(f"{verb} {_counted(len(wanted))}?", abort=True, err=True)
    for letter in wanted:
        act(api, letter)
    if as_json:
        show.lines(json.dumps({done: wanted}))
        return
    show.lines(f"{done} {_counted(len(wanted))}")
    if len(wanted) == _AT_ONCE and every:
        show.err().print("there may be more: give the command again")


def _counted(number: int) -> str:
    return "1 dead letter" if number == 1 else f"{number} dead letters"


def _readable(one: dict[str, Any]) -> str:
    """The message, indented where it is JSON."""
    if one["body"] is None:
        return f"base64: {one['body_base64']}"
    try:
        return json.dumps(json.loads(one["body"]), indent=2, ensure_ascii=False)
    except ValueError:
        return str(one["body"])
