"""`pipelines audit`: who changed what on the platform, and when."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from shared.cli import show
from shared.cli.options import AsJson, client
from shared.cli.show import Column


def audit(
    org: Annotated[
        str | None, typer.Option("--org", "-o", metavar="ORG", help="Of this organization only.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Changes on a page.", min=1, max=200)] = 50,
    cursor: Annotated[str | None, typer.Option(help="Where the page before ended.")] = None,
    as_json: AsJson = False,
) -> None:
    """Changes through the API's /admin, the newest first."""
    query = {"org": org, "limit": str(limit), "cursor": cursor}
    answer = client(as_json=as_json).get("admin", "audit", query=query)
    if as_json:
        show.verbatim(answer)
        return
    columns = (
        Column("at (UTC)"),
        Column("org"),
        Column("what"),
        Column("of"),
        Column("before"),
        Column("after"),
        Column("by"),
        Column("request"),
    )
    show.lines(show.table(columns, [_row(one) for one in answer.body["entries"]]))
    if answer.body["next"]:
        show.err().print(f"there are more: --cursor {answer.body['next']}")


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        show.utc(one["at"]),
        one["org"] or show.NOTHING,
        one["verb"],
        one["target"],
        show.NOTHING if one["before"] is None else show.value(one["before"]),
        show.NOTHING if one["after"] is None else show.value(one["after"]),
        f"{one['key_name']} ({one['key_id']})",
        one["request_id"],
    )
