"""`pipelines schedules`: what an organization has run by itself, when next, and what was left out."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from shared.cli import show
from shared.cli.options import AsJson, Org, session
from shared.cli.runs import parameters
from shared.cli.show import Column

app = typer.Typer(help="What an organization has run by itself, and when.", no_args_is_help=True)

Schedule = Annotated[str, typer.Argument(metavar="SCHEDULE", help="Its name, as `list` shows it.")]


@app.command("list")
def list_schedules(org: Org = None, as_json: AsJson = False) -> None:
    """Every schedule, with the time at which it is due next."""
    client, org = session(org, as_json=as_json)
    answer = client.get("pipelines", "schedules", org)
    if as_json:
        show.verbatim(answer)
        return
    rows = answer.body["schedules"]
    if not rows:
        show.lines(f"{org} has no schedule yet: pipelines schedules put NAME PIPELINE --org {org}")
        return
    columns = (
        Column("schedule"),
        Column("pipeline"),
        Column("when"),
        Column("next (UTC)"),
        Column("last (UTC)"),
        Column("its run"),
    )
    show.lines(
        show.table(
            columns,
            [
                (
                    row["schedule_id"],
                    row["pipeline"],
                    _when(row),
                    show.utc(row["next"][0]) if row["next"] else "never",
                    show.utc(row["last_due_at"]),
                    show.value(row["last_run_id"]),
                )
                for row in rows
            ],
        )
    )


@app.command("show")
def show_schedule(schedule_id: Schedule, org: Org = None, as_json: AsJson = False) -> None:
    """One schedule, with the next ten times at which it is due."""
    client, org = session(org, as_json=as_json)
    answer = client.get("pipelines", "schedules", org, schedule_id)
    if as_json:
        show.verbatim(answer)
        return
    one = answer.body
    show.lines(
        show.record(
            [
                ("schedule", one["schedule_id"]),
                ("pipeline", one["pipeline"]),
                ("when", _when(one)),
                ("overlap", show.value(one["overlap"])),
                ("catchup", show.value(one["catchup"])),
                ("its own", show.value(one["own"] or None)),
                ("credential", show.value(one["credential_id"])),
                ("parameters", show.value(one["parameters"] or None)),
                ("last (UTC)", show.utc(one["last_due_at"])),
                ("its run", show.value(one["last_run_id"])),
                *(
                    ("next (UTC)" if not n else "", show.utc(at))
                    for n, at in enumerate(one["next"])
                ),
            ]
        )
    )


@app.command()
def put(
    schedule_id: Annotated[str, typer.Argument(metavar="SCHEDULE", help="A name: aws-daily.")],
    pipeline: Annotated[str, typer.Argument(help="Its address: aws/cost/billing.")],
    org: Org = None,
    cron: Annotated[
        str | None, typer.Option(help='"0 6 * * *" or @daily (default: the pipeline\'s).')
    ] = None,
    timezone: Annotated[
        str | None, typer.Option(metavar="ZONE", help="Of the expression: Europe/Berlin.")
    ] = None,
    overlap: Annotated[
        str | None, typer.Option(help="skip or allow: while the run before still works.")
    ] = None,
    catchup: Annotated[
        str | None, typer.Option(help="none, last or all: of those that were missed.")
    ] = None,
    credential_id: Annotated[
        str | None, typer.Option("--credential", metavar="ID", help="If there are several.")
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A parameter of its runs.")
    ] = None,
    disabled: Annotated[
        bool, typer.Option("--disabled", help="Keep it, but start nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Have a pipeline run by itself, or change when it does."""
    client, org = session(org, as_json=as_json)
    given: dict[str, Any] = {
        "cron": cron,
        "timezone": timezone,
        "overlap": overlap,
        "catchup": catchup,
        "credential_id": credential_id,
        "parameters": parameters(param or []) or None,
    }
    body = {name: value for name, value in given.items() if value is not None}
    body |= {"pipeline": pipeline, "enabled": not disabled}
    answer = client.call("PUT", "pipelines", "schedules", org, schedule_id, body=body)
    if as_json:
        show.verbatim(answer)
        return
    following = answer.body["next"]
    until = f"next at {show.utc(following[0])} UTC" if following else "it is never due"
    show.lines(f"schedule {schedule_id} of {org}: {pipeline}, {_when(answer.body)}; {until}")


@app.command()
def remove(schedule_id: Schedule, org: Org = None, as_json: AsJson = False) -> None:
    """End it. Runs that it started go on."""
    client, org = session(org, as_json=as_json)
    client.call("DELETE", "pipelines", "schedules", org, schedule_id)
    if not as_json:
        show.lines(f"schedule {schedule_id} of {org} has ended")


@app.command()
def skipped(
    schedule_id: Schedule,
    org: Org = None,
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=200)] = 50,
    before: Annotated[
        str | None, typer.Option(help="Those that begin before it: `next` of the page before.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What it was due for and did not start, the newest first, with the reason."""
    client, org = session(org, as_json=as_json)
    query = {"limit": str(limit), "before": before}
    answer = client.get("pipelines", "schedules", org, schedule_id, "skipped", query=query)
    if as_json:
        show.verbatim(answer)
        return
    rows = answer.body["skipped"]
    if not rows:
        show.lines(f"schedule {schedule_id} of {org} has started whatever it was due for")
        return
    columns = (
        Column("from (UTC)"),
        Column("to (UTC)"),
        Column("times", right=True),
        Column("reason"),
    )
    show.lines(
        show.table(
            columns,
            [
                (show.utc(row["first"]), show.utc(row["last"]), str(row["count"]), row["reason"])
                for row in rows
            ],
        )
    )


def _when(row: dict[str, Any]) -> str:
    if row["cron"] is None:
        return "the pipeline has no schedule any more"
    off = "" if row["enabled"] else " (off)"
    return f"{row['cron']} {row['timezone']}{off}"
