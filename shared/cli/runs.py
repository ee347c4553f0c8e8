"""Starts runs, follows them and shows what is known of them."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypeAlias

import typer
from rich.text import Text

from shared.cli import show
from shared.cli.client import Answer, Refused
from shared.cli.follow import follow, said
from shared.cli.options import AsJson, Org, Session, pairs, session
from shared.cli.show import Cell, Column
from shared.cli.stop import Code, Stop

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The id of the run.")]
IdempotencyKey: TypeAlias = Annotated[
    str | None, typer.Option(metavar="KEY", help="The same key starts the same run once.")
]
NoWait: TypeAlias = Annotated[
    bool, typer.Option("--no-wait", help="Return when the run is accepted.")
]
_MOST_WAITS = 5  # to show of a wide run
EXIT_CODES = (
    "Exit codes: 0 completed; 1 failed or cancelled; 2 bad input (the API answered 4xx); "
    "3 a limit of the plan is reached (429); 4 the API cannot be reached or is in trouble (5xx); "
    "130 interrupted (the run goes on)."
)


def run(
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="PROVIDER/DOMAIN/PIPELINE: aws/cost/billing.")
    ],
    org: Org = None,
    start_date: Annotated[
        str | None, typer.Option(metavar="DAY", help="First day, UTC (default: yesterday).")
    ] = None,
    end_date: Annotated[
        str | None, typer.Option(metavar="DAY", help="Last day, included (default: the first).")
    ] = None,
    credential_id: Annotated[
        str | None, typer.Option(metavar="ID", help="Needed where there are several.")
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="A variable of the pipeline. true, 5 and 0.1 are read as JSON, else it is text. "
            "May be repeated.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done; change nothing.")
    ] = False,
    idempotency_key: IdempotencyKey = None,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Run a pipeline for an organization and follow it to its end."""
    at = address_of(address)
    client, org = talk = session(org, as_json=as_json)
    asked: dict[str, Any] = {
        "start_date": start_date,
        "end_date": end_date,
        "credential_id": credential_id,
        "parameters": parameters(param or []) or None,
        "dry_run": dry_run or None,
    }
    # A key of our own lets the start be sent again when the connection breaks.
    key = idempotency_key or uuid.uuid4().hex
    answer = client.post(
        "pipelines",
        "run",
        org,
        *at,
        body={name: value for name, value in asked.items() if value is not None},
        headers={"Idempotency-Key": key},
    )
    if dry_run and as_json:
        show.verbatim(answer)
    elif dry_run:
        _preview(answer.body)
    else:
        _go_on(talk, answer, f"of {address}", no_wait=no_wait, as_json=as_json)


def retry(
    run_id: RunId,
    org: Org = None,
    mode: Annotated[
        str,
        typer.Option(
            help="resume: go on where the run stopped; rerun: all of it again, "
            "with the pipeline as it is now."
        ),
    ] = "resume",
    idempotency_key: IdempotencyKey = None,
    no_wait: NoWait = False,
    as_json: AsJson = False,
) -> None:
    """Run again what has ended, as a run of its own, and follow it to its end."""
    talk = session(org, as_json=as_json)
    answer = talk.client.post(
        "pipelines",
        "retry",
        talk.org,
        run_id,
        body={"mode": mode},
        headers={"Idempotency-Key": idempotency_key or uuid.uuid4().hex},
    )
    _go_on(talk, answer, f"retries {run_id}", no_wait=no_wait, as_json=as_json)


def _go_on(talk: Session, answer: Answer, what: str, *, no_wait: bool, as_json: bool) -> None:
    """Tells of an accepted run, and follows it to its end unless nobody waits. Raises Exit, Stop."""
    org, run_id = talk.org, answer.body["run_id"]
    if no_wait:
        if as_json:
            show.verbatim(answer)
        else:
            show.err().print(f"accepted; follow it: pipelines status RUN --org {org}")
            show.lines(run_id)
        return
    replayed = " (started before with this key)" if "idempotency-replayed" in answer.headers else ""
    show.err().print(f"run {run_id} {what} for {org}{replayed}")
    ended = _followed(talk, run_id)
    if as_json:
        show.verbatim(ended)
    else:
        show_run(ended.body)
    if ended.body["status"] != "completed":
        raise typer.Exit(Code.FAILED)


def _followed(talk: Session, run_id: str) -> Answer:
    try:
        return follow(talk.client, talk.org, run_id)
    except KeyboardInterrupt:
        raise Stop(
            Code.INTERRUPTED,
            f"interrupted; run {run_id} goes on",
            hint=f"pipelines status {run_id} --org {talk.org}, or pipelines cancel {run_id}"
            f" --org {talk.org}",
        ) from None


def status(run_id: RunId, org: Org = None, as_json: AsJson = False) -> None:
    """A run with its steps, as it stands."""
    client, org = session(org, as_json=as_json)
    answer = client.get("pipelines", "status", org, run_id)
    if as_json:
        show.verbatim(answer)
    else:
        show_run(answer.body)


def cancel(run_id: RunId, org: Org = None, as_json: AsJson = False) -> None:
    """Ask for the end of a run. A run that has ended stays as it is."""
    client, org = session(org, as_json=as_json)
    answer = client.post("pipelines", "cancel", org, run_id)
    if as_json:
        show.verbatim(answer)
    else:
        show.lines(Text.assemble(f"run {run_id} is ", show.state(answer.body["status"])))


def logs(
    run_id: RunId,
    org: Org = None,
    step: Annotated[str | None, typer.Option(metavar="STEP", help="Of this step only.")] = None,
    steps: Annotated[
        bool, typer.Option("--steps", help="Every attempt instead of the lines.")
    ] = False,
    transitions: Annotated[
        bool, typer.Option("--transitions", help="Every move instead of the lines.")
    ] = False,
    level: Annotated[
        str | None, typer.Option(help="DEBUG, INFO, WARNING or ERROR: of this level and above.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what is written until the run ends.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What the steps of a run wrote; or its attempts; or its moves."""
    of_lines = step is not None or level is not None or follow
    if steps + transitions + of_lines > 1:
        raise Stop(
            Code.BAD_INPUT,
            "--steps and --transitions: give one of them, without --step, --level and --follow",
        )
    client, org = talk = session(org, as_json=as_json)
    if steps or transitions:
        answer = client.get("pipelines", "logs", org, run_id, "steps" if steps else "transitions")
        if as_json:
            show.verbatim(answer)
        elif steps:
            _attempts(answer.body["attempts"])
        else:
            _transitions(answer.body["transitions"])
        return
    query = {"step_id": step, "level": level, "limit": "200"}
    if follow:
        query["follow"] = "true"
    try:
        for answer in _pages(talk, run_id, query):
            if as_json:
                show.verbatim(answer)
            else:
                _lines(answer.body["lines"])
    except KeyboardInterrupt:
        raise Stop(
            Code.INTERRUPTED, f"interrupted; what happens to run {run_id}, goes on"
        ) from None


def _pages(talk: Session, run_id: str, query: dict[str, str | None]) -> Iterator[Answer]:
    """The lines there are; and where one follows, those that come, until the run ends."""
    cursor = None
    while True:
        answer = _page(talk, run_id, {**query, "cursor": cursor})
        yield answer
        new = answer.body["next"]
        # At the end of a run at work the cursor stays where it is.
        if new is None or (new == cursor and "follow" not in query):
            return
        cursor = new


def _page(
    talk: Session,
    run_id: str,
    query: dict[str, str | None],
    sleep: Callable[[float], None] = time.sleep,
) -> Answer:
    """The lines behind the cursor; where too many others follow, as soon as there is a place."""
    while True:
        try:
            return talk.client.get("pipelines", "logs", talk.org, run_id, query=query)
        except Refused as refused:
            if (refused.answer.body or {}).get("error") != "too_many_followers":
                raise
            sleep(float(refused.answer.headers["retry-after"]))


def history(
    org: Org = None,
    pipeline_id: Annotated[
        str | None, typer.Option("--pipeline", metavar="ID", help="Its pipeline_id.")
    ] = None,
    status: Annotated[
        str | None, typer.Option(help="pending, running, cancelling, completed, failed, cancelled.")
    ] = None,
    outcome: Annotated[str | None, typer.Option(help="ok, ok_with_warnings, no_data.")] = None,
    trigger: Annotated[
        str | None, typer.Option(help="api, schedule, event, backfill, retry.")
    ] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Created at or after.")] = None,
    before: Annotated[str | None, typer.Option(metavar="TIME", help="Created before.")] = None,
    limit: Annotated[int, typer.Option(help="Runs on a page.", min=1, max=200)] = 20,
    cursor: Annotated[str | None, typer.Option(help="Where the page before ended.")] = None,
    as_json: AsJson = False,
) -> None:
    """Runs of an organization, newest first."""
    client, org = session(org, as_json=as_json)
    query = {
        "pipeline_id": pipeline_id,
        "status": status,
        "outcome": outcome,
        "trigger": trigger,
        "created_from": since,
        "created_before": before,
        "limit": str(limit),
        "cursor": cursor,
    }
    answer = client.get("pipelines", "history", org, query=query)
    if as_json:
        show.verbatim(answer)
        return
    found = answer.body["runs"]
    if not found:
        show.lines(f"{org} has no such run" if any([*query.values()][:6]) else f"{org} has no runs")
        return
    columns = (
        Column("run"),
        Column("pipeline"),
        Column("days"),
        Column("status"),
        Column("time", right=True),
        Column("steps", right=True),
        Column("trigger"),
        Column("created (UTC)"),
    )
    show.lines(
        show.table(
            columns,
            [
                (
                    one["run_id"],
                    one["pipeline"],
                    _days(one),
                    _status(one),
                    show.seconds(one["duration_seconds"]),
                    f"{one['steps_done']}/{one['steps_total']}",
                    one["trigger"],
                    show.utc(one["created_at"]),
                )
                for one in found
            ],
        )
    )
    if answer.body["next"]:
        show.err().print(f"there are more: --cursor {answer.body['next']}")


def evidence(run_id: RunId, org: Org = None, as_json: AsJson = False) -> None:
    """What the steps of a run proved: rows, totals to the last decimal, checksums."""
    client, org = session(org, as_json=as_json)
    answer = client.get("pipelines", "evidence", org, run_id)
    if as_json:
        show.verbatim(answer)
        return
    if not answer.body["evidence"]:
        show.lines(f"run {run_id} has no evidence yet")
    for position, proof in enumerate(answer.body["evidence"]):
        if position:
            show.lines("")
        _evidence(proof, run_id)


def quota(org: Org = None, as_json: AsJson = False) -> None:
    """What an organization has used of its limits, and when they start again."""
    client, org = session(org, as_json=as_json)
    answer = client.get("pipelines", "quota", org)
    if as_json:
        show.verbatim(answer)
        return
    used, limits = answer.body, answer.body["limits"]
    rows: list[tuple[Cell, ...]] = []
    for name, count, limit, reset in (
        ("at a time", used["concurrent"], limits.get("concurrent"), None),
        ("today", used["today"], limits.get("daily"), used["daily_resets_at"]),
        ("this month", used["month"], limits.get("monthly"), used["monthly_resets_at"]),
    ):
        full = limit is not None and count >= limit
        rows.append(
            (
                name,
                Text(show.count(count), style="bold red" if full else ""),
                show.limit(limit),
                show.NOTHING if limit is None else show.count(max(0, limit - count)),
                "when a run ends" if reset is None else show.utc(reset),
            )
        )
    columns = (
        Column("runs"),
        Column("used", right=True),
        Column("limit", right=True),
        Column("left", right=True),
        Column("starts again (UTC)"),
    )
    show.lines(
        show.table(columns, rows),
        Text(f"{used['succeeded']:,} succeeded, {used['failed']:,} failed", style="dim"),
    )
    for held in used["reservations"]:
        text = f"{held['run_id']} holds a slot until it ends, {show.utc(held['expires_at'])} UTC at the latest"
        show.lines(Text(text, style="dim"))


def catalog(
    address: Annotated[
        str | None, typer.Argument(metavar="[ADDRESS]", help="One pipeline, whole.")
    ] = None,
    org: Org = None,
    as_json: AsJson = False,
) -> None:
    """The pipelines that can be run, or what one of them takes."""
    client, org = session(org, as_json=as_json)
    answer = client.get("pipelines", "catalog", org, *(address_of(address) if address else ()))
    if as_json:
        show.verbatim(answer)
        return
    if address:
        _pipeline(answer.body)
        return
    columns = (Column("address"), Column("provider"), Column("steps"), Column("what it does"))
    show.lines(
        show.table(
            columns,
            [
                (
                    one["address"],
                    one["provider"],
                    show.value(one["steps"]),
                    one["description"] or one["name"],
                )
                for one in answer.body["pipelines"]
            ],
        )
    )


def _pipeline(one: dict[str, Any]) -> None:
    needs, schedule = one["credential"], one["schedule"]
    show.lines(
        show.record(
            [
                ("pipeline", one["address"]),
                ("what it does", one["description"] or one["name"]),
                ("credential", f"of {needs['provider']}" if needs["needed"] else "none"),
                (
                    "schedule",
                    f"{schedule['cron']} ({schedule['timezone']})" if schedule else "none",
                ),
            ]
        ),
        "",
        show.table(
            (Column("parameter"), Column("default"), Column("type"), Column("")),
            [
                (
                    given["name"],
                    show.value(given["default"]),
                    given["type"] or "any",
                    given["description"],
                )
                for given in one["parameters"]
            ],
        ),
        "",
        show.table(
            (Column("step"), Column("processor"), Column("after")),
            [
                (step["step_id"], step["ps_type"], show.value(step["depends_on"]))
                for step in one["steps"]
            ],
        ),
    )


def address_of(text: str) -> tuple[str, str, str]:
    """The three parts of an address. Raises Stop."""
    parts = text.strip("/").split("/")
    if len(parts) != 3 or not all(parts):
        raise Stop(
            Code.BAD_INPUT,
            f"{text!r} is no address: PROVIDER/DOMAIN/PIPELINE, such as aws/cost/billing",
            hint="pipelines catalog lists them",
        )
    return parts[0], parts[1], parts[2]


def parameters(given: list[str]) -> dict[str, Any]:
    """`--param key=value`: what is JSON is read as JSON, everything else is text. Raises Stop."""

    def no_number(text: str) -> Any:
        raise ValueError(text)  # NaN and Infinity are words

    found: dict[str, Any] = {}
    for key, text in pairs("param", given).items():
        try:
            found[key] = json.loads(text, parse_constant=no_number)
        except ValueError:
            found[key] = text
    return found


def show_run(one: dict[str, Any]) -> None:
    """A run with its steps."""
    head: list[tuple[str, Cell]] = [
        ("run", one["run_id"]),
        ("pipeline", f"{one['pipeline']} for {one['org']}"),
        ("days", _days(one)),
        ("credential", one["credential_id"]),
        ("created", f"{show.utc(one['created_at'])} UTC by {one['trigger']}"),
        ("status", _status(one, took=True)),
    ]
    if one["parameters"]:
        head.insert(4, ("parameters", show.value(one["parameters"])))
    if one["waits_for"]:
        head.append(("progress", _progress(one)))
        waits = [wait for wait in one["waits_for"] if wait["what"] != "step"]
        head += [("waits for", _wait(wait, one)) for wait in waits[:_MOST_WAITS]]
    head += [
        (name, one[link])
        for name, link in (("retry of", "retry_of"), ("retried by", "retried_by"))
        if one[link]
    ]
    show.lines(show.record(head), "", steps_table(one["steps"]))
    for step in one["steps"]:
        if step["error"] and step["status"] not in ("completed", "cancelled"):
            show.lines(
                "",
                Text.assemble(
                    (f"{step['step_id']}: {step['error']['code']}", "bold red"),
                    f"\n  {step['error']['message']}",
                ),
            )


def _progress(one: dict[str, Any]) -> str:
    states = ", ".join(f"{count} {state}" for state, count in one["progress"]["steps"].items())
    return f"{one['progress']['percent']} %: {states}"


def _wait(wait: dict[str, Any], one: dict[str, Any]) -> str:
    text = one["waiting_for"] or "a slot" if wait["what"] == "quota" else f"a {wait['what']}"
    place = f" for {wait['step_id']}" if wait["step_id"] else ""
    until = f" until {show.utc(wait['until'])} UTC" if wait["until"] else ""
    return text + place + until


def steps_table(steps: list[dict[str, Any]]) -> Any:
    """The steps of a run with their times and rows; a column that is zero throughout is left out."""
    optional = [
        name
        for name in ("rejected", "deduplicated")
        if any((step["summary"] or {}).get(name) for step in steps) or name == "rejected"
    ]
    columns = (
        Column("step"),
        Column("status"),
        Column("attempt", right=True),
        Column("time", right=True),
        Column("extracted", right=True),
        Column("loaded", right=True),
        *(Column(name, right=True) for name in optional),
        Column(""),
    )
    rows: list[tuple[Cell, ...]] = []
    for step in steps:
        summary = step["summary"]
        numbers = [
            show.NOTHING if summary is None else show.count(summary.get(name, 0))
            for name in ("extracted", "loaded", *optional)
        ]
        rows.append(
            (
                step["step_id"],
                show.state(step["status"]),
                f"{step['attempt']}/{step['max_attempts']}" if step["attempt"] else show.NOTHING,
                show.seconds(step["duration_seconds"]),
                *numbers,
                _note(step),
            )
        )
    return show.table(columns, rows)


def _note(step: dict[str, Any]) -> str:
    summary = step["summary"] or {}
    warnings = summary.get("warnings", 0)
    notes = [
        said(summary) if summary.get("message") or summary.get("no_data") else "",
        "" if not warnings else f"{warnings} warning{'' if warnings == 1 else 's'}",
        step["reason"] or "",
        f"from {step['from_run']}" if step["from_run"] else "",
    ]
    return "; ".join(filter(None, notes))


def _status(one: dict[str, Any], *, took: bool = False) -> Text:
    text = show.state(one["status"])
    if one["outcome"] and one["outcome"] != "ok":
        text = Text.assemble(text, (f" ({one['outcome']})", "yellow"))
    if took and one["duration_seconds"] is not None:
        text = Text.assemble(text, f" in {show.seconds(one['duration_seconds'])}")
    return text


def _days(one: dict[str, Any]) -> str:
    first, last = str(one["start_date"]), str(one["end_date"])
    return first if first == last else f"{first} to {last}"


def _lines(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        severity = row["severity"]
        fields = row["fields"]
        show.lines(
            Text.assemble(
                (show.clock(row["time"]), "dim"),
                f"  {row['step_id']}.{row['attempt']}  ",
                show.state(severity.ljust(7)) if severity not in ("WARNING", "ERROR") else "",
                (severity.ljust(7), "yellow" if severity == "WARNING" else "bold red")
                if severity in ("WARNING", "ERROR")
                else "",
                f"  {row['message']}",
                (f"  {show.value(fields)}" if fields else "", "dim"),
            )
        )


def _attempts(rows: list[dict[str, Any]]) -> None:
    columns = (
        Column("step"),
        Column("attempt", right=True),
        Column("result"),
        Column("started (UTC)"),
        Column("time", right=True),
        Column("loaded", right=True),
        Column("error"),
    )
    show.lines(
        show.table(
            columns,
            [
                (
                    row["step_id"],
                    str(row["attempt"]),
                    show.state(row["result"] or row["status"]),
                    show.utc(row["started_at"]),
                    show.seconds(row["duration_seconds"]),
                    show.count((row["summary"] or {}).get("loaded", 0)),
                    f"{row['error']['code']}: {row['error']['message']}" if row["error"] else "",
                )
                for row in rows
            ],
        )
    )


def _transitions(rows: list[dict[str, Any]]) -> None:
    columns = (Column("at (UTC)"), Column("what"), Column("to"), Column("why"))
    show.lines(
        show.table(
            columns,
            [
                (
                    f"{show.utc(row['at'])[:10]} {show.clock(row['at'])}",
                    "run" if row["step_id"] is None else f"{row['step_id']}.{row['attempt'] or 0}",
                    show.state(row["to"]),
                    row["reason"] or "",
                )
                for row in rows
            ],
        )
    )


def _evidence(proof: dict[str, Any], run_id: str) -> None:
    found = proof["evidence"]
    credential = found.get("credential_id", "none")
    if found.get("credential_version"):
        credential += f", version {found['credential_version']}"
    there = "" if proof["run_id"] == run_id else f" of run {proof['run_id']}"
    show.lines(
        Text(f"{proof['step_id']}, attempt {proof['attempt']}{there}", style="bold"),
        show.record([("  credential", credential)]),
    )
    for name in found.get("objects", ()):
        show.lines(show.record([("  read", name)]))
    for receipt in found.get("loads", ()):
        _receipt(receipt)
    if found.get("reconciliations"):
        show.lines(reconciled_table(found["reconciliations"]))
    _findings(found.get("findings", ()))


def _receipt(receipt: dict[str, Any]) -> None:
    slices = ", ".join(one["run_date"] for one in receipt.get("slices", ()))
    numbers = [f"{show.count(receipt['extracted'])} extracted"] + [
        f"{show.count(receipt.get(name, 0))} {name}"
        for name in ("loaded", "rejected", "deduplicated")
    ]
    fields: list[tuple[str, Cell]] = [
        ("  table", receipt["table"]),
        ("  slices", slices or show.NOTHING),
        ("  rows", ", ".join(numbers)),
        ("  source", f"{receipt['source_version']} of {show.utc(receipt['source_at'])} UTC"),
        ("  committed", f"{show.utc(receipt.get('committed_at'))} UTC"),
        ("  checksum", receipt.get("checksum") or show.NOTHING),
    ]
    for name in ("added_columns", "unknown_columns"):
        if receipt.get(name):
            fields.append((f"  {name.replace('_', ' ')}", show.value(receipt[name])))
    show.lines(show.record(fields))
    totals = receipt.get("totals", ())
    if totals:
        columns = (
            Column("total"),
            Column("currency"),
            Column("source", right=True),
            Column("loaded", right=True),
            Column("rejected", right=True),
            Column("rounding", right=True),
        )
        rows = [
            (
                one["column"],
                one["currency"],
                *(
                    show.money(one.get(name, "0"))
                    for name in ("source", "loaded", "rejected", "residue")
                ),
            )
            for one in totals
        ]
        show.lines(show.table(columns, rows, indent=4))
    _findings(receipt.get("findings", ()))


def reconciled_table(totals: list[dict[str, Any]]) -> Any:
    """What was loaded, beside what the provider says itself."""
    columns = (
        Column("reconciled"),
        Column("currency"),
        Column("days"),
        Column("loaded", right=True),
        Column("provider's", right=True),
        Column(""),
    )
    rows = [
        (
            f"{one['table']}.{one['column']}",
            one["currency"],
            _days(one),
            show.money(one["loaded"]),
            show.NOTHING if one["told"] is None else show.money(one["told"]),
            show.state(one["verdict"]),
        )
        for one in totals
    ]
    return show.table(columns, rows, indent=2)


def _findings(findings: Any) -> None:
    for one in findings:
        rows = f" ({show.count(one['rows'])} rows)" if one.get("rows") else ""
        show.lines(Text.assemble("  ", (one["code"], "yellow"), f"  {one['message']}{rows}"))


def _preview(seen: dict[str, Any]) -> None:
    plan, params = seen["plan"], seen["params"]
    left = ", ".join(
        f"{show.limit(seen[name])} {what}"
        for name, what in (
            ("concurrent_left", "at a time"),
            ("daily_left", "today"),
            ("monthly_left", "this month"),
        )
    )
    show.lines(
        show.record(
            [
                ("dry run", f"{plan['address']} for {seen['org']}; nothing was started"),
                ("days", _days(params)),
                ("credential", params.get("credential_id", "none")),
                ("runs left", left),
            ]
        ),
        "",
        show.table(
            (
                Column("step"),
                Column("processor"),
                Column("after"),
                Column("timeout", right=True),
                Column("attempts", right=True),
                Column("config"),
            ),
            [
                (
                    step["step_id"],
                    step["ps_type"],
                    show.value(step.get("depends_on", [])),
                    show.seconds(step.get("timeout_seconds", 540)),
                    str(step.get("retry", {}).get("max_attempts", 3)),
                    "disabled"
                    if step.get("enabled") is False
                    else show.value(step.get("config", {})),
                )
                for step in plan["steps"]
            ],
        ),
    )
