"""`pipelines focus check`: a file on this machine, or a table of the organization, by the rules of FOCUS."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from shared.cli import show
from shared.cli.options import AsJson, Org, session
from shared.cli.show import Column
from shared.cli.stop import Code, Stop
from shared.core import focus
from shared.errors import Terminal, Transient

app = typer.Typer(no_args_is_help=True, help="Data of FOCUS, the specification of cost and usage.")

_SUFFIXES = (".csv", ".gz", ".parquet")
_VERSIONS = focus.VERSIONS[1:]


@app.command(epilog="Exit codes: 0 no rule that must hold is broken, 1 one is, 2 wrong input.")
def check(
    target: Annotated[
        str,
        typer.Argument(
            metavar="FILE|TABLE",
            help="A CSV file, also gzip, or a Parquet file; or a table or view of the organization.",
        ),
    ] = focus.TABLE,
    org: Org = None,
    start_date: Annotated[
        str | None,
        typer.Option("--from", metavar="DAY", help="Of a table: the first day of charges (UTC)."),
    ] = None,
    end_date: Annotated[
        str | None, typer.Option("--to", metavar="DAY", help="Of a table: the last day of charges.")
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(help="Of a file: judge it by this version, not by that of its columns."),
    ] = None,
    null: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="Of a CSV file: a cell that means null. Default: NULL."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge every row by the rules of FOCUS, and tell which rows break which rule."""
    if target.endswith(_SUFFIXES) or "/" in target:
        report = _of_file(Path(target), version, null)
        if as_json:
            sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
        found: dict[str, Any] = msgspec.to_builtins(report)
    else:
        client, of = session(org, as_json=as_json)
        query = {"table": target, "start_date": start_date, "end_date": end_date}
        answer = client.get("focus", "check", of, query=query)
        if as_json:
            show.verbatim(answer)
        found = answer.body
    if not as_json:
        _tell(found)
    if not found["passed"]:
        raise typer.Exit(Code.FAILED)


def _of_file(path: Path, version: str | None, null: list[str] | None) -> Any:
    from shared.bootstrap import focus_file  # noqa: PLC0415  # it imports DuckDB

    if version is not None and version not in _VERSIONS:
        known = ", ".join(_VERSIONS)
        raise Stop(Code.BAD_INPUT, f"--version {version}: is none of {known}")
    nulls = focus_file.NULLS if null is None else ("", *null)
    try:
        return focus_file.check_file(path, version=version, nulls=nulls)
    except OSError as error:
        raise Stop(Code.BAD_INPUT, f"{path}: cannot be read: {error.strerror}") from error
    except (Terminal, Transient) as error:
        raise Stop(Code.BAD_INPUT, str(error)) from error


def _tell(found: dict[str, Any]) -> None:
    days = f", {found['start_date']} to {found['end_date']}" if "start_date" in found else ""
    head = f"FOCUS {found['version']}: {found['rows']:,} rows, {found['rules']} rules{days}"
    broken = found["broken"]
    if not broken:
        show.lines(f"{head}: none is broken")
        return
    musts = sum(one["severity"] == "must" for one in broken)
    show.lines(
        f"{head}: {musts} that must hold and {len(broken) - musts} that should are broken", ""
    )
    columns = (Column("severity"), Column("rule"), Column("rows", right=True), Column("what"))
    rows = [
        (show.state(one["severity"]), one["rule"], show.count(one["rows"]), _what(one))
        for one in broken
    ]
    show.lines(show.table(columns, rows))


def _what(one: dict[str, Any]) -> str:
    samples = ", ".join(one["samples"])
    return f"{one['sentence']} ({samples})" if samples else str(one["sentence"])
