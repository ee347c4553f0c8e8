"""`pipelines subscriptions`: what an organization pays for plans and seats."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from shared.cli import show
from shared.cli.client import Client, Refused
from shared.cli.options import AsJson, Org, session
from shared.cli.show import Cell, Column

app = typer.Typer(
    help="SaaS subscriptions: plans, seats and prices; docs/subscriptions.md.",
    no_args_is_help=True,
)

Id = Annotated[str, typer.Argument(metavar="ID", help="Its name: slack, zoom_eu.")]
Day = Annotated[str, typer.Argument(metavar="DAY", help="A day like 2026-07-01.")]


@app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV or YAML, a version a row.")],
    org: Org = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be different.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Enter the versions of a file: all of them, or none. The same file again changes nothing."""
    from shared.cli.subscription_file import faulty, placed, read  # noqa: PLC0415  # it knows the types

    found = read(file)
    client, org = session(org, as_json=as_json)
    query = {"dry_run": "true"} if dry_run else None
    try:
        answer = client.call("POST", "admin", "subscriptions", org, query=query, body=found.body)
    except Refused as refused:
        if as_json or not refused.faults:
            raise
        raise faulty(placed(refused.faults, found.places)) from refused
    if as_json:
        show.verbatim(answer)
        return
    entered = answer.body["subscriptions"]
    rows = [row for one in entered for row in _differences(one)]
    if rows:
        columns = (Column("subscription"), Column("change"), Column("from"), Column("what"))
        show.lines(show.table(columns, rows))
    counts = dict.fromkeys(("entered", "changed", "unchanged"), 0)
    for one in entered:
        counts[one["change"]] += 1
    told = ", ".join(f"{count:,} {word}" for word, count in counts.items())
    show.lines(f"{told}{' (dry run: nothing is stored)' if dry_run else ''}")


@app.command("list")
def list_subscriptions(org: Org = None, as_json: AsJson = False) -> None:
    """Every subscription with its last version."""
    client, org = session(org, as_json=as_json)
    if as_json:
        for answer in _pages(client, org):
            show.verbatim(answer)
        return
    rows = [row for page in _pages(client, org) for row in page.body["subscriptions"]]
    if not rows:
        show.lines(
            f"{org} has no subscription. Enter some: pipelines subscriptions import FILE --org {org}"
        )
        return
    columns = (Column("subscription"), *_COLUMNS)
    show.lines(
        show.table(
            columns,
            [
                (
                    row["subscription_id"],
                    *(_cells(row["versions"][-1]) if row["versions"] else _VOID),
                )
                for row in rows
            ],
        )
    )


@app.command("show")
def show_subscription(
    subscription_id: Id,
    org: Org = None,
    history: Annotated[
        bool, typer.Option("--history", help="Also who changed it, and when.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """One subscription with its versions and refunds."""
    client, org = session(org, as_json=as_json)
    path = ("admin", "subscriptions", org, subscription_id)
    answer = client.get(*path, "history") if history else client.get(*path)
    if as_json:
        show.verbatim(answer)
        return
    revisions = answer.body["revisions"] if history else [answer.body]
    _one(revisions[0])
    if history:
        columns = (Column("revision", right=True), Column("at (UTC)"), Column("what"), Column("by"))
        show.lines(
            "",
            show.table(
                columns,
                [
                    (
                        str(one["revision"]),
                        show.utc(one["changed_at"]),
                        one["verb"].partition(".")[2],
                        one["changed_by"],
                    )
                    for one in revisions
                ],
            ),
        )


@app.command()
def end(subscription_id: Id, day: Day, org: Org = None, as_json: AsJson = False) -> None:
    """End a subscription: DAY is the first day without it."""
    client, org = session(org, as_json=as_json)
    answer = client.post("admin", "subscriptions", org, subscription_id, "end", body={"day": day})
    if as_json:
        show.verbatim(answer)
    else:
        _one(answer.body)


@app.command()
def refund(
    subscription_id: Id,
    ref: Annotated[str, typer.Argument(metavar="REF", help="The number of the credit note.")],
    amount: Annotated[str, typer.Argument(help="In the subscription's currency: 12.50.")],
    day: Day,
    reason: Annotated[str, typer.Option(help="For people.")] = "",
    org: Org = None,
    as_json: AsJson = False,
) -> None:
    """Enter a credit note of the vendor. The same again changes nothing."""
    client, org = session(org, as_json=as_json)
    body = {"day": day, "amount": amount, "reason": reason}
    answer = client.call(
        "PUT", "admin", "subscriptions", org, subscription_id, "refunds", ref, body=body
    )
    if as_json:
        show.verbatim(answer)
    else:
        _one(answer.body)


@app.command()
def void(subscription_id: Id, org: Org = None, as_json: AsJson = False) -> None:
    """Take back a subscription that was entered by mistake. Its history stays."""
    client, org = session(org, as_json=as_json)
    client.call("DELETE", "admin", "subscriptions", org, subscription_id)
    if not as_json:
        show.lines(f"{subscription_id} of {org} is void; run its days again to be rid of its costs")


_COLUMNS = (
    Column("product"),
    Column("price", right=True),
    Column("seats", right=True),
    Column("cycle"),
    Column("from"),
    Column("until"),
)
_VOID = ("void", *(show.NOTHING for _ in _COLUMNS[1:]))


def _pages(client: Client, org: str) -> Iterator[Any]:
    cursor: str | None = None
    while True:
        answer = client.get("admin", "subscriptions", org, query={"limit": "200", "cursor": cursor})
        yield answer
        cursor = answer.body["next"]
        if cursor is None:
            return


def _one(row: dict[str, Any]) -> None:
    versions, refunds = row["versions"], row["refunds"]
    if not versions:
        show.lines(f"{row['subscription_id']} is void")
        return
    show.lines(
        show.record(
            [
                ("subscription", row["subscription_id"]),
                ("vendor", versions[-1]["vendor"]),
                ("category", versions[-1]["category"]),
                ("changed", f"{show.utc(row['changed_at'])} UTC by {row['changed_by']}"),
            ]
        ),
        "",
        show.table(_COLUMNS, [_cells(version) for version in versions]),
    )
    if refunds:
        columns = (Column("refund"), Column("day"), Column("amount", right=True), Column("reason"))
        rows = [
            (one["ref"], one["day"], show.money(one["amount"]), one["reason"]) for one in refunds
        ]
        show.lines("", show.table(columns, rows))


def _cells(version: dict[str, Any]) -> tuple[Cell, ...]:
    plan = f" {version['plan']}" if version["plan"] else ""
    return (
        f"{version['product']}{plan}",
        f"{show.money(version['unit_price'])} {version['currency']}",
        show.count(version["seats"]),
        version["cycle"],
        version["start"],
        version["end"] or show.NOTHING,
    )


def _differences(one: dict[str, Any]) -> Iterator[tuple[Cell, ...]]:
    """A row for each version that is new or no longer as it was."""
    before = {version["start"]: version for version in one["before"]}
    after = one["after"]
    for previous, version in pairwise([None, *after]):
        was = before.get(version["start"])
        if version == was:
            continue
        model = was or previous
        what = (
            ", ".join(
                f"{name} {show.value(model[name])} → {show.value(version[name])}"
                for name in version
                if version[name] != model[name] and (was or name not in ("start", "end"))
            )
            if model
            else "{}, {} × {}, {}".format(*_cells(version))
        )
        word = one["change"] if not model else "changed" if was else "version"
        yield one["subscription_id"], word, version["start"], what
