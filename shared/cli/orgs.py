"""`pipelines orgs`: the organizations of the platform."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from shared.cli import show
from shared.cli.options import AsJson, client
from shared.cli.show import Column
from shared.cli.stop import Code, Stop

app = typer.Typer(help="Organizations: who may run what, and how much.", no_args_is_help=True)

Slug = Annotated[str, typer.Argument(metavar="ORG", help="Short name: acme, acme_eu.")]


@app.command("list")
def list_orgs(as_json: AsJson = False) -> None:
    """Every organization with its plan."""
    answer = client(as_json=as_json).get("admin", "orgs")
    if as_json:
        show.verbatim(answer)
        return
    rows = answer.body["organizations"]
    if not rows:
        show.lines("There is no organization yet. Make one: pipelines orgs create ORG")
        return
    columns = (
        Column("org"),
        Column("name"),
        Column("status"),
        Column("plan"),
        Column("a day", right=True),
        Column("a month", right=True),
        Column("at a time", right=True),
        Column("created (UTC)"),
    )
    show.lines(
        show.table(
            columns,
            [
                (
                    row["slug"],
                    row["name"],
                    show.state(row["status"]),
                    row["plan"],
                    *_limits(row),
                    show.utc(row["created_at"]),
                )
                for row in rows
            ],
        )
    )


@app.command()
def create(
    org: Slug,
    name: Annotated[str | None, typer.Option(help="Name for people (default: ORG).")] = None,
    plan: Annotated[str, typer.Option(help="What it may use; configs/system/plans.yml.")] = (
        "starter"
    ),
    as_json: AsJson = False,
) -> None:
    """Make an organization. Its API key comes next: pipelines keys create."""
    body = {"slug": org, "plan": plan} | ({} if name is None else {"name": name})
    answer = client(as_json=as_json).post("admin", "orgs", body=body)
    if as_json:
        show.verbatim(answer)
    else:
        _one(answer.body)


@app.command("show")
def show_org(org: Slug, as_json: AsJson = False) -> None:
    """One organization with its plan and limits."""
    answer = client(as_json=as_json).get("admin", "orgs", org)
    if as_json:
        show.verbatim(answer)
    else:
        _one(answer.body)


@app.command()
def status(
    org: Slug,
    value: Annotated[
        str, typer.Argument(metavar="STATUS", help="ACTIVE, TRIAL, SUSPENDED or CANCELLED.")
    ],
    as_json: AsJson = False,
) -> None:
    """Set the status of the subscription. Only ACTIVE and TRIAL may run."""
    answer = client(as_json=as_json).post(
        "admin", "orgs", org, "status", body={"status": value.upper()}
    )
    if as_json:
        show.verbatim(answer)
    else:
        _one(answer.body)


@app.command()
def plan(
    org: Slug,
    name: Annotated[
        str | None, typer.Argument(metavar="[PLAN]", help="Left out, it stays as it is.")
    ] = None,
    daily: Annotated[int | None, typer.Option(help="Runs a day of its own.", min=0)] = None,
    monthly: Annotated[int | None, typer.Option(help="Runs a month of its own.", min=0)] = None,
    concurrent: Annotated[
        int | None, typer.Option(help="Runs at a time of its own; needed with the others.", min=0)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set the plan. Without limits of its own an organization has those of its plan."""
    if concurrent is None and (daily is not None or monthly is not None):
        raise Stop(Code.BAD_INPUT, "--daily and --monthly need --concurrent")
    body: dict[str, Any] = {} if name is None else {"plan": name}
    if concurrent is not None:
        body["limits"] = {"daily": daily, "monthly": monthly, "concurrent": concurrent}
    answer = client(as_json=as_json).post("admin", "orgs", org, "plan", body=body)
    if as_json:
        show.verbatim(answer)
    else:
        _one(answer.body)


def _one(row: dict[str, Any]) -> None:
    daily, monthly, concurrent = _limits(row)
    show.lines(
        show.record(
            [
                ("org", row["slug"]),
                ("name", row["name"]),
                ("status", show.state(row["status"])),
                (
                    "plan",
                    f"{row['plan']}: {daily} a day, {monthly} a month, {concurrent} at a time",
                ),
                ("created", show.utc(row["created_at"]) + " UTC"),
            ]
        )
    )


def _limits(row: dict[str, Any]) -> tuple[str, str, str]:
    limits = row["limits"]
    return (
        show.limit(limits.get("daily")),
        show.limit(limits.get("monthly")),
        show.limit(limits.get("concurrent")),
    )
