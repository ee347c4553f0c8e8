"""`pipelines demo`: a month of AWS costs, from an export to FOCUS rows, as a stranger would do it.

The embedded system runs in this process; everything is asked of it over HTTP. What it says is then
held against two witnesses of its own: the sums of the maker of the export, and a query of the tables.
"""

from __future__ import annotations

import calendar
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn
from rich.text import Text

from shared.bootstrap.embedded import open_embedded
from shared.cli import show
from shared.cli.client import Client
from shared.cli.dev import Server
from shared.cli.figures import (
    Figures,
    Month,
    changes,
    differences,
    imbalance,
    row_counts,
    totals,
)
from shared.cli.follow import follow
from shared.cli.runs import show_run, steps_table
from shared.cli.sample import COSTS, Sample, make_export
from shared.cli.show import Cell, Column
from shared.cli.stop import Code, Stop
from shared.core.lineage import dataset_of
from shared.settings import PLATFORM_KEY_FILE, ROOT, Settings, read_settings

ORG, PLAN = "demo", "starter"
ADDRESS = ("aws", "cost", "billing")
EXPORT_NAME = "costs"
SOURCE = "exports"
RAW_TABLE, FOCUS_TABLE = "aws_focus", "focus_costs"
SETTLED_SECONDS = 10.0


Ask: TypeAlias = Callable[[str], Sequence[object]]


def demo(rows: int, keep: Path | None) -> int:
    """The exit code: 0 only when everything is equal. Raises Stop, ConfigError, Unavailable."""
    began = time.monotonic()
    show.lines(
        Text.assemble(("pipelines demo", "bold"), " · a month of AWS costs, on this machine"), ""
    )
    with _folder(keep) as data:
        settings = replace(
            read_settings(), data=data, objects=data / "objects", configs=ROOT / "configs"
        )
        wrong = _in(settings, rows)
    took = show.seconds(time.monotonic() - began)
    if wrong:
        show.lines("", Text(f"Not everything is equal ({took}):", style="bold red"))
        show.lines(*(Text(f"  {one}") for one in wrong))
        return Code.FAILED
    show.lines("", Text(f"Everything is equal. {took} in all.", style="bold green"))
    _farewell(keep)
    return Code.OK


def _in(settings: Settings, rows: int) -> list[str]:
    """Runs the demo in a data folder; what is not as it should be."""
    began = time.monotonic()
    embedded = open_embedded(settings)
    try:
        server = Server(embedded, "127.0.0.1", 0)
        try:
            _done("start", f"API, engine and warehouse in this process, at {server.url}", began)
            client = _onboard(settings, server.url)
            sample = _deliver(settings, rows)
            dataset = dataset_of(ORG, settings.environment)
            warehouse = embedded.engine.app.warehouse()
            return _twice(client, sample, lambda sql: warehouse.query(dataset, sql, {}).rows[0])
        finally:
            server.close()
    finally:
        embedded.close()


def _onboard(settings: Settings, url: str) -> Client:
    """Makes the organization with a key and a credential; the client that has its key."""
    began = time.monotonic()
    platform = Client(url, (settings.data / PLATFORM_KEY_FILE).read_text(encoding="ascii"))
    org = platform.post("admin", "orgs", body={"slug": ORG, "name": "Demo", "plan": PLAN}).body
    key = platform.post("admin", "orgs", ORG, "keys", body={"name": "demo"}).body
    platform.call(
        "PUT",
        *("admin", "orgs", ORG, "credentials", "aws", "main"),
        body={"metadata": {"source": f"file:{SOURCE}", "export_name": EXPORT_NAME}},
    )
    limits = org["limits"]
    _done(
        "onboard",
        f"organization {ORG} (plan {PLAN}: {limits['daily']} runs a day, "
        f"{limits['concurrent']} at a time), its API key, its aws credential",
        began,
    )
    return Client(url, key["api_key"])


def _deliver(settings: Settings, rows: int) -> Sample:
    """The export, where AWS would have put it."""
    began = time.monotonic()
    with _bar("making the export", rows) as advance:
        sample = make_export(
            settings.objects / ORG / SOURCE,
            rows=rows,
            export_name=EXPORT_NAME,
            progress=lambda done, _all: advance(done),
        )
    size = sum(file.stat().st_size for file in sample.files) / 1_000_000
    _done(
        "deliver",
        f"{sample.rows:,} rows of AWS costs for {sample.period} (FOCUS 1.2, "
        f"{len(sample.files)} gzip CSV files with a manifest, {size:.1f} MB)",
        began,
    )
    return sample


def _twice(client: Client, sample: Sample, ask: Ask) -> list[str]:
    """Runs the month, then the same month again. What differs."""
    before = _quota(client)
    first = _month(client, sample, ask)
    after = _quota(client)
    _tell_first(first, sample)
    wrong = imbalance(first.rows) + differences(first.witnesses)
    lost = first.rounding[COSTS[0]]
    _verdict(
        not wrong,
        "equal to the last decimal; "
        + (f"rounding to 18 places took {show.money(lost)}; " if lost else "")
        + f"so are {', '.join(COSTS[1:-1])} and {COSTS[-1]}",
        "not equal",
    )
    _tell_quota(before, after)

    show.lines("", Text("The same month again", style="bold"), "")
    second = _month(client, sample, ask)
    last = _quota(client)
    changed = changes(first, second)
    if last["concurrent"]:
        changed.append(f"{last['concurrent']} slots are still taken")
    _tell_second(first, second)
    _verdict(
        not changed,
        f"nothing changed; {last['concurrent']} runs at work, "
        f"{last['today']} of {last['limits']['daily']} runs of today used",
        "something changed",
    )
    return [*wrong, *differences(second.witnesses), *changed]


def _month(client: Client, sample: Sample, ask: Ask) -> Month:
    """Runs the month to its end. Raises Stop when it does not complete."""
    began = time.monotonic()
    first = date.fromisoformat(f"{sample.period}-01")
    last = first.replace(day=calendar.monthrange(first.year, first.month)[1])
    started = client.post(
        "pipelines",
        "run",
        ORG,
        *ADDRESS,
        body={"start_date": f"{first}", "end_date": f"{last}"},
    )
    run_id = started.body["run_id"]
    run = follow(client, ORG, run_id).body
    if run["status"] != "completed":
        show.lines("")
        show_run(run)
        raise Stop(Code.FAILED, f"run {run_id} did not complete")
    _done("run", f"{'/'.join(ADDRESS)} for {sample.period}: {run_id}", began)
    receipts = {
        receipt["table"]: receipt
        for proof in client.get("pipelines", "evidence", ORG, run_id).body["evidence"]
        for receipt in proof["evidence"].get("loads", ())
    }
    missing = [table for table in (RAW_TABLE, FOCUS_TABLE) if table not in receipts]
    if missing:
        raise Stop(Code.FAILED, f"run {run_id} has no evidence of {', '.join(missing)}")
    raw, focus = receipts[RAW_TABLE], receipts[FOCUS_TABLE]
    rows, rounding = row_counts(raw), totals(raw, "residue")
    consolidated = Figures(row_counts(focus)["loaded"], totals(focus, "loaded"))
    witnesses = {
        "the export itself, added by its maker": Figures(sample.rows, sample.sums),
        "evidence: read from the export": Figures(rows["extracted"], totals(raw, "source")),
        f"evidence: loaded into {RAW_TABLE}": Figures(rows["loaded"], totals(raw, "loaded")).before(
            rounding
        ),
        f"table {RAW_TABLE}": _asked(ask, RAW_TABLE).before(rounding),
        f"evidence: consolidated into {FOCUS_TABLE}": consolidated.before(rounding),
        f"table {FOCUS_TABLE}": _asked(ask, FOCUS_TABLE).before(rounding),
    }
    return Month(
        run=run,
        witnesses=witnesses,
        rows=rows,
        checksums={table: receipts[table].get("checksum", "") for table in receipts},
        rounding=rounding,
    )


def _asked(ask: Ask, table: str) -> Figures:
    """What the table itself says, asked past the engine."""
    sums = ", ".join(f"SUM({cost})" for cost in COSTS)
    rows, *costs = ask(f"SELECT COUNT(*), {sums} FROM {table}")
    return Figures(
        int(str(rows)),
        {cost: Decimal(str(value or 0)) for cost, value in zip(COSTS, costs, strict=True)},
    )


def _quota(client: Client) -> dict[str, Any]:
    """The quota when no run is being settled any more."""
    until = time.monotonic() + SETTLED_SECONDS
    while True:
        used: dict[str, Any] = client.get("pipelines", "quota", ORG).body
        if not used["concurrent"] or time.monotonic() > until:
            return used
        time.sleep(0.02)


def _tell_first(month: Month, sample: Sample) -> None:
    rows = month.rows
    columns = (
        Column("witness"),
        Column("rows", right=True),
        Column("Σ BilledCost, USD", right=True),
    )
    show.lines(
        "",
        steps_table(month.run["steps"]),
        "",
        f"{rows['extracted']:,} rows extracted = {rows['loaded']:,} loaded"
        f" + {rows['rejected']:,} rejected; {sample.credits:,} of them are credits and refunds",
        "",
        show.table(
            columns,
            [
                (name, show.count(told.rows), show.money(told.sums[COSTS[0]]))
                for name, told in month.witnesses.items()
            ],
        ),
    )


def _tell_quota(before: dict[str, Any], after: dict[str, Any]) -> None:
    limits = after["limits"]
    names = (
        ("runs at a time", "concurrent", "concurrent"),
        ("runs today", "today", "daily"),
        ("runs this month", "month", "monthly"),
    )
    rows: list[tuple[Cell, ...]] = [
        (title, show.count(before[used]), show.count(after[used]), show.limit(limits[limit]))
        for title, used, limit in names
    ]
    columns = (
        Column(f"quota of {ORG}"),
        Column("before", right=True),
        Column("after", right=True),
        Column("limit", right=True),
    )
    show.lines("", show.table(columns, rows))


def _tell_second(first: Month, second: Month) -> None:
    table = f"table {FOCUS_TABLE}"
    rows: list[tuple[Cell, ...]] = [
        (
            f"rows of {FOCUS_TABLE}",
            show.count(first.witnesses[table].rows),
            show.count(second.witnesses[table].rows),
        ),
        (
            "Σ BilledCost",
            show.money(first.witnesses[table].sums[COSTS[0]]),
            show.money(second.witnesses[table].sums[COSTS[0]]),
        ),
        *(
            (f"checksum of {name}", first.checksums[name][:16], second.checksums[name][:16])
            for name in first.checksums
        ),
    ]
    columns = (Column(""), Column("first run", right=True), Column("second run", right=True))
    show.lines("", show.table(columns, rows))


def _verdict(good: bool, yes: str, no: str) -> None:
    show.lines(Text.assemble(("✓ ", "bold green"), yes) if good else Text(f"✗ {no}", "bold red"))


def _done(what: str, text: str, began: float) -> None:
    took = show.seconds(time.monotonic() - began)
    show.lines(
        Text.assemble(("✓ ", "bold green"), (f"{what:<8}", "bold"), f" {text} ", (took, "dim"))
    )


@contextmanager
def _bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere; yields how to say how far it is."""
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        console=show.err(),
        transient=True,
        disable=not show.err().is_terminal,
    )
    with bar:
        task = bar.add_task(title, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="pipelines-demo-") as name:
            yield Path(name)
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise Stop(Code.BAD_INPUT, f"--keep {keep}: is there already, and not an empty folder")
    yield keep.absolute()


def _farewell(keep: Path | None) -> None:
    if keep is not None:
        data = f"PIPELINES_DATA={shlex.quote(str(keep))}"
        show.lines(
            "",
            "Look at what it left; the second and third in another terminal:",
            *_commands(
                f"{data} pipelines dev",
                f"{data} pipelines history --org {ORG}",
                f"{data} pipelines evidence RUN --org {ORG}",
            ),
        )
        return
    show.lines(
        "",
        "To look around, keep what it makes:",
        *_commands("pipelines demo --keep demo-data", "PIPELINES_DATA=demo-data pipelines dev"),
        "",
        "Your own export, copied to .pipelines/objects/acme/exports while `pipelines dev` runs:",
        *_commands(
            "pipelines orgs create acme",
            "pipelines credentials put aws main --org acme"
            " --metadata source=file:exports --metadata export_name=NAME",
            "pipelines run aws/cost/billing --org acme --start-date 2026-05-01",
        ),
    )


def _commands(*commands: str) -> list[Text]:
    return [Text(f"  {command}", style="cyan") for command in commands]
