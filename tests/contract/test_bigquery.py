"""What the warehouse in BigQuery does on a bad day, and what it sends on any."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from shared.core.lineage import Fence, LoadReceipt, Slice, Writer
from shared.errors import StepError, Stopped, Terminal, Transient
from shared.warehouse import (
    Batches,
    Column,
    ColumnType,
    Files,
    Load,
    LoadsOf,
    NullRule,
    Reading,
    SourceFile,
    Table,
    Value,
    Warehouse,
)
from shared.warehouse.bigquery import BigQueryWarehouse
from shared.warehouse.bigquery_jobs import IN_THE_WAY, RESUBMISSIONS, TRIES, Jobs, Work
from shared.warehouse.duckdb import DuckdbWarehouse
from shared.warehouse.staging import Staging
from tests.support.bigquery import PROJECT, bigquery_warehouse, drop, hurry
from tests.support.bigquery import jobs as sent_jobs
from tests.support.emulators import Emulator
from tests.support.gcs import CloudStorage
from tests.support.http_door import Answer, Asked, Behind, Door, door, dropped, lost, refused

pytestmark = [pytest.mark.cloud, pytest.mark.slow]

DATASET = "acme_bad_day"
NOW = datetime(2124, 10, 2, 6, 30, tzinfo=UTC)
AT = datetime(2024, 10, 2, 5, tzinfo=UTC)
SEPTEMBER = Slice("Acme", "cloud.aws", "main", date(2024, 9, 1))
COSTS = Table(
    "costs",
    (
        Column("Id", description="Whose it is"),
        Column("Cost", ColumnType.DECIMAL, NullRule.FINDING),
        Column("Currency"),
        Column("Start", ColumnType.TIMESTAMP),
        Column("Tags", ColumnType.JSON),
    ),
)
PROCEDURE = """/*
procedure: net_costs
description: Costs, one row for one; nobody's "costs".
output: net
totals: [Cost]
currency: Currency
parameters: {label: STRING, since: DATE}
columns:
  Cost: decimal finding
  Currency: text
  Label: text
  Tags: json
*/
WITH source AS (
  SELECT * FROM costs
  WHERE x_org_slug = @org_slug AND x_pipeline_run_date IN UNNEST(@run_dates)
    AND x_pipeline_run_date >= @since
)
SELECT x_pipeline_run_date AS _run_date, Cost, Currency, CONCAT(@label, Id) AS Label, Tags FROM source
"""
Cells = Mapping[str, Value]
ROWS: list[Cells] = [
    {"Id": "a", "Cost": "1.5", "Currency": "USD", "Tags": '{"n": 1}'},
    {"Id": "b", "Cost": "2", "Currency": "USD", "Start": "2024-09-01T01:02:03Z"},
]


def writer(attempt: int = 1, run: str = "run-1") -> Writer:
    return Writer(run, "load", Fence(AT, AT, attempt))


def never() -> None:
    pass


def request(
    rows: Sequence[Cells] = ROWS,
    by: Writer | None = None,
    check: Callable[[], None] = never,
    **options: Any,
) -> Load:
    by = by or writer()
    options = {"source": Batches(batches=[rows]), "covers": frozenset({SEPTEMBER}), **options}
    return Load(
        dataset=DATASET,
        table=COSTS,
        writer=by,
        source_version=f"v{by.fence.attempt}",
        source_at=by.fence.source_at,
        totals=("Cost",),
        currency_column="Currency",
        check=check,
        **options,
    )


@pytest.fixture
def before(bigquery_emulator: Emulator) -> Iterator[Door]:
    with door(bigquery_emulator.host) as opened:
        yield opened


@pytest.fixture
def opened(before: Door, tmp_path: Path) -> Iterator[Callable[..., BigQueryWarehouse]]:
    """Makes warehouses that stand behind the door, each as in a process of its own."""
    (tmp_path / "procedures").mkdir()
    (tmp_path / "procedures" / "net_costs.sql").write_text(PROCEDURE)
    made: list[BigQueryWarehouse] = []

    def make(**options: Any) -> BigQueryWarehouse:
        made.append(bigquery_warehouse(before.host, tmp_path, now=lambda: NOW, **options))
        return made[-1]

    first = make()
    drop(first, DATASET)
    first.create_dataset(DATASET)
    before.asked.clear()
    yield make
    for warehouse in made:
        warehouse.close()


@pytest.fixture
def warehouse(opened: Callable[..., BigQueryWarehouse]) -> BigQueryWarehouse:
    return opened()


def held(warehouse: Warehouse) -> list[object]:
    answer = warehouse.query(DATASET, "SELECT Id FROM costs ORDER BY Id", {})
    return [row[0] for row in answer.rows]


def call(warehouse: Warehouse, by: Writer | None = None) -> LoadReceipt:
    return warehouse.call(
        DATASET,
        "net_costs",
        {"label": "~", "since": date(2024, 1, 1)},
        writer=by or writer(),
        covers=frozenset({SEPTEMBER}),
        check=never,
    )


def posted(statement: str) -> Callable[[Asked], bool]:
    """The requests that start a job of the statement."""
    return lambda asked: asked.method == "POST" and asked.says("/jobs", f"-{statement}-")


def ids(before: Door) -> list[str]:
    return [job["jobReference"]["jobId"] for job in sent_jobs(before)]


# -- an answer is lost


STATEMENTS = ["known", "staging", "verify", "commit"]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_lost_answer_does_nothing_twice(
    warehouse: BigQueryWarehouse, before: Door, statement: str
) -> None:
    fits = posted(statement)
    if statement == "staging":
        fits = lambda asked: "/upload/" in asked.path  # noqa: E731  # one line says it
    before.fault(lost, fits)
    receipt = warehouse.load(request())
    assert receipt.loaded == 2
    sent = ids(before)
    assert len(sent) == len(set(sent)) + 1, "one was sent again, under the same id"
    assert all(job.endswith("-0") for job in sent), "and none was run again"
    again = max(set(sent), key=sent.count)
    assert any(asked.method == "GET" and asked.says(again) for asked in before.asked)
    assert held(warehouse) == ["a", "b"]


def test_a_procedure_whose_answer_is_lost_ran_once(
    warehouse: BigQueryWarehouse, before: Door
) -> None:
    warehouse.load(request())
    before.asked.clear()
    before.fault(lost, posted("call-0"))
    before.fault(lost, posted("procedure"))
    assert call(warehouse).loaded == 2
    assert [job for job in ids(before) if not job.endswith("-0")] == []
    rows = warehouse.query(DATASET, "SELECT Label FROM net ORDER BY Label", {}).rows
    assert rows == [("~a",), ("~b",)]


# -- a job with this id is there already


@contextmanager
def jobs(before: Door) -> Iterator[tuple[Jobs, Any]]:
    """The jobs of a warehouse, and a client to start some behind their back."""
    made = Jobs(
        PROJECT,
        location="US",
        maximum_bytes_billed=10**9,
        sleep=hurry,
        random=lambda: 0.5,
        emulator=f"http://{before.host}",
    )
    with closing(made):
        yield made, made._client()


SLOW = "SELECT SUM(MOD(a * b, 7)) FROM UNNEST(GENERATE_ARRAY(1, 60000)) a, UNNEST(GENERATE_ARRAY(1, 10000)) b"


_works = itertools.count(1)


def work() -> Work:
    """Of a name that no other test has used."""
    return Work(f"w{os.getpid()}-{next(_works)}", {"org": "Acme"})


def test_a_job_that_is_done_is_asked_for_its_answer(before: Door) -> None:
    with jobs(before) as (made, client):
        mine = work()
        client.query("SELECT 1 AS x", job_id=mine.job_id("q", 0), job_retry=None).result()
        assert made.rows(made.query(mine, "q", "SELECT 2 AS x")).rows == [(1,)]


def test_a_job_that_runs_is_waited_for(before: Door) -> None:
    with jobs(before) as (made, client):
        mine = work()
        started = client.query(SLOW, job_id=mine.job_id("q", 0), job_retry=None)
        assert started.state == "RUNNING"
        done = made.query(mine, "q", "SELECT 2 AS x")
        assert (done.id, done.job.state) == (mine.job_id("q", 0), "DONE")
        assert made.rows(done).rows != [(2,)]


def test_a_job_that_failed_is_followed_by_the_next(before: Door) -> None:
    with jobs(before) as (made, client):
        mine = work()
        for again in range(2):
            client.query("SELECT nothing", job_id=mine.job_id("q", again), job_retry=None)
        done = made.query(mine, "q", "SELECT 2 AS x", passing=IN_THE_WAY)
        assert done.id == mine.job_id("q", 2)
        assert made.rows(done).rows == [(2,)]


def test_a_job_that_fails_for_good_says_which_it_was(before: Door) -> None:
    with jobs(before) as (made, _):
        mine = work()
        with pytest.raises(Terminal, match=r"invalidQuery.*nothing") as caught:
            made.query(mine, "q", "SELECT nothing")
        assert mine.job_id("q", 0) in str(caught.value)


# -- the reasons of BigQuery


def ended(reason: str) -> Any:
    """The job is done, and its end was an error."""

    def fault(_: Asked, behind: Behind) -> Answer:
        answer = behind()
        job = answer.json
        error = {"reason": reason, "message": "an error"}
        job["status"] = {"state": "DONE", "errorResult": error, "errors": [error]}
        return answer._replace(body=json.dumps(job).encode())

    return fault


def test_a_commit_that_ended_in_an_error_after_all_is_done_once(
    warehouse: BigQueryWarehouse, before: Door
) -> None:
    before.fault(ended("jobBackendError"), posted("commit"))
    assert warehouse.load(request()).loaded == 2
    commits = [job for job in ids(before) if "-commit-" in job]
    # The second finds that the slice has moved, and the third names where it is now.
    assert [job[-10:] for job in commits] == ["commit-0-0", "commit-0-1", "commit-1-0"]
    assert held(warehouse) == ["a", "b"]
    assert len(warehouse.loads(DATASET)) == 1


@pytest.mark.parametrize(
    "fault",
    [
        refused(403, "rateLimitExceeded"),
        refused(403, "quotaExceeded"),
        refused(503, "backendError"),
        refused(500, ""),
        refused(429, "rateLimitExceeded"),
        dropped,
        ended("jobRateLimitExceeded"),
        ended("tableUnavailable"),
    ],
    ids=["rate", "quota", "503", "500", "429", "dropped", "job rate", "table"],
)
def test_what_passes_is_waited_for(warehouse: BigQueryWarehouse, before: Door, fault: Any) -> None:
    for statement in ("known", "commit"):
        before.fault(fault, posted(statement), 2)
    before.fault(refused(503, "backendError"), lambda asked: asked.says("/tables"), 2)
    assert warehouse.load(request()).loaded == 2
    assert held(warehouse) == ["a", "b"]


def test_what_does_not_pass_is_told_at_once(warehouse: BigQueryWarehouse, before: Door) -> None:
    before.fault(refused(403, "accessDenied", "Access Denied: costs"), posted("commit"), 99)
    with pytest.raises(Terminal, match=r"accessDenied.*dataEditor") as caught:
        warehouse.load(request())
    (commit,) = [job for job in ids(before) if "-commit-" in job]
    assert commit in str(caught.value)
    assert staging(warehouse) == []


def test_what_never_passes_ends_as_transient(warehouse: BigQueryWarehouse, before: Door) -> None:
    before.fault(ended("rateLimitExceeded"), posted("verify"), 99)
    with pytest.raises(Transient, match="rateLimitExceeded"):
        warehouse.load(request())
    assert len([job for job in ids(before) if "-verify-" in job]) == RESUBMISSIONS + 1


def test_bigquery_gone_is_transient_after_few_tries(tmp_path: Path) -> None:
    pauses: list[float] = []
    with closing(bigquery_warehouse("127.0.0.1:9", tmp_path, sleep=pauses.append)) as gone:
        for ask in (
            lambda: gone.create_dataset(DATASET),
            lambda: gone.query(DATASET, "SELECT 1 AS x", {}),
            lambda: gone.load(request()),
        ):
            pauses.clear()
            with pytest.raises(Transient, match="no answer"):
                ask()
            assert len(pauses) == TRIES - 1
            assert sum(pauses) < 15


def test_bigquery_that_does_not_answer_is_transient_after_few_tries(
    opened: Callable[..., BigQueryWarehouse], before: Door
) -> None:
    def silent(_: Asked, __: Behind) -> None:
        time.sleep(0.5)

    before.fault(silent, lambda _: True, 99)
    slow = opened(timeout_seconds=0.1)
    for ask in (
        lambda: slow.create_dataset(DATASET),
        lambda: slow.query(DATASET, "SELECT 1 AS x", {}),
    ):
        before.asked.clear()
        with pytest.raises(Transient, match="no answer"):
            ask()
        assert len(before.asked) == TRIES


def test_bigquery_that_goes_in_the_middle_changes_nothing(
    warehouse: BigQueryWarehouse, before: Door
) -> None:
    warehouse.load(request())
    for statement in ("staging", "verify", "commit"):
        before.fault(dropped, posted(statement), TRIES)
        if statement == "staging":
            before.rules[-1].fits = lambda asked: "/upload/" in asked.path
        with pytest.raises(Transient):
            warehouse.load(request([{"Id": "new"}], writer(2)))
        assert before.rules[-1].left == 0
    assert held(warehouse) == ["a", "b"]
    warehouse.load(request([{"Id": "new"}], writer(2)))
    assert held(warehouse) == ["new"]


# -- two at once


def both(*loads: Callable[[], object]) -> list[str]:
    """What became of loads at once."""
    outcomes: list[str] = []

    def run(load: Callable[[], object]) -> None:
        try:
            load()
            outcomes.append("loaded")
        except StepError as exc:
            outcomes.append(exc.code)

    threads = [threading.Thread(target=run, args=(load,)) for load in loads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(outcomes)


def together(count: int) -> Any:
    """Holds requests back until there are `count` of them."""
    gate = threading.Barrier(count)

    def fault(_: Asked, behind: Behind) -> Answer:
        gate.wait(20)
        return behind()

    return fault


def test_of_two_first_loads_of_a_slice_at_once_one_stays(
    opened: Callable[..., BigQueryWarehouse], before: Door
) -> None:
    # The table is there, and empty: neither finds anything to delete.
    opened().load(request([], covers=frozenset({SEPTEMBER._replace(credential_id="other")})))
    before.fault(together(2), posted("commit-0"), 2)
    outcomes = both(
        lambda: opened().load(request([{"Id": "old"}], writer(1))),
        lambda: opened().load(request([{"Id": "new"}], writer(2))),
    )
    assert outcomes in (["loaded", "loaded"], ["loaded", "superseded"])
    assert held(opened()) == ["new"]
    commits = [job for job in ids(before) if "-commit-0-" in job]
    assert any(not job.endswith("-0") for job in commits), "one was in the other's way"


def test_loads_of_two_slices_at_once_both_stay(
    opened: Callable[..., BigQueryWarehouse], before: Door
) -> None:
    october = SEPTEMBER._replace(run_date=date(2024, 10, 1))
    opened().load(request([{"Id": "first"}]))
    before.fault(together(2), posted("commit-0"), 2)
    outcomes = both(
        lambda: opened().load(request([{"Id": "s"}], writer(2))),
        lambda: opened().load(request([{"Id": "o"}], writer(2), covers=frozenset({october}))),
    )
    assert outcomes == ["loaded", "loaded"]
    assert held(opened()) == ["o", "s"]
    assert [made.rows for made in opened().loads(DATASET)] == [1, 1]


def first(do: Callable[[], object]) -> Any:
    """Does something else before the request is passed on."""

    def fault(_: Asked, behind: Behind) -> Answer:
        do()
        return behind()

    return fault


def test_a_late_writer_is_superseded_inside_the_transaction(
    opened: Callable[..., BigQueryWarehouse], before: Door
) -> None:
    opened().load(request([{"Id": "first"}], writer(1)))  # in the partition of all that follows
    newer = lambda: opened().load(request([{"Id": "new"}], writer(3)))  # noqa: E731  # one line
    before.fault(first(newer), posted("commit-0"))
    with pytest.raises(Terminal, match="attempt 3") as caught:
        opened().load(request([{"Id": "old"}], writer(2)))
    assert caught.value.code == "superseded"
    assert held(opened()) == ["new"]
    assert staging(opened()) == []


def test_a_slice_that_moved_meanwhile_is_looked_for_again(
    opened: Callable[..., BigQueryWarehouse], before: Door
) -> None:
    older = lambda: opened().load(request([{"Id": "old"}], writer(1)))  # noqa: E731  # one line
    before.fault(first(older), posted("commit-0"))
    opened().load(request([{"Id": "new"}], writer(2)))
    assert held(opened()) == ["new"]
    assert any("-commit-1-" in job for job in ids(before))


def test_a_procedure_whose_input_moved_meanwhile_reads_it_again(
    opened: Callable[..., BigQueryWarehouse], before: Door
) -> None:
    later = Writer("run-2", "load", Fence(AT + timedelta(hours=1), AT, 1))
    opened().load(request())
    renewed = lambda: opened().load(request([{"Id": "c", "Cost": "7"}], later))  # noqa: E731
    before.fault(first(renewed), posted("call-0"))
    receipt = call(opened())
    assert (receipt.loaded, receipt.source_at) == (1, later.fence.source_at)
    assert opened().query(DATASET, "SELECT Label FROM net", {}).rows == [("~c",)]


# -- stopped, killed


def test_an_interrupt_cancels_the_job(before: Door) -> None:
    with jobs(before) as (made, client):
        mine = work()
        stopped: list[BaseException] = []

        def wait() -> None:
            try:
                made.query(mine, "q", SLOW.replace("10000)", "600000)"))
            except Stopped as exc:
                stopped.append(exc)

        thread = threading.Thread(target=wait)
        thread.start()
        while not any(asked.method == "GET" for asked in before.asked):
            hurry(1)
        mine.interrupt()
        thread.join(20)
        assert not thread.is_alive()
        assert len(stopped) == 1
        while (job := client.get_job(mine.job_id("q", 0))).state != "DONE":
            hurry(1)
        assert job.error_result["reason"] == "stopped"


def test_a_commit_that_was_over_before_it_could_be_stopped_stands(
    opened: Callable[..., BigQueryWarehouse], before: Door
) -> None:
    warehouse, watching = opened(), opened()
    warehouse.load(request([]))
    stop = False

    def running(_: Asked, behind: Behind) -> Answer:
        nonlocal stop
        answer = behind()
        while not held(watching):  # it may take longer than the emulator waits with its answer
            hurry(1)
        stop = True
        job = {**answer.json, "status": {"state": "RUNNING"}}
        return answer._replace(body=json.dumps(job).encode())

    def check() -> None:
        if stop:
            raise Stopped("taken away")

    before.fault(running, posted("commit"))
    assert warehouse.load(request(by=writer(2), check=check)).loaded == 2
    assert any(asked.says("/cancel") for asked in before.asked)
    assert held(warehouse) == ["a", "b"]


# Loads rows of one id, and is killed on the way to the commit.
_CHILD = """
import sys
from pathlib import Path
from tests.contract.test_bigquery import NOW, request, writer
from tests.support.bigquery import bigquery_warehouse

warehouse = bigquery_warehouse(sys.argv[1], Path(sys.argv[2]), now=lambda: NOW)
warehouse.load(request([{"Id": "killed"}], writer(2)))
"""


@pytest.mark.kill
def test_killed_between_staging_and_commit_nothing_has_changed(
    opened: Callable[..., BigQueryWarehouse], before: Door, tmp_path: Path
) -> None:
    warehouse = opened()
    warehouse.load(request())
    child = subprocess.Popen([sys.executable, "-c", _CHILD, before.host, str(tmp_path / "child")])

    def kill(_: Asked, __: Behind) -> None:
        child.kill()
        child.wait()

    before.fault(kill, posted("commit"))
    assert child.wait(60) == -9
    assert held(warehouse) == ["a", "b"]
    (left,) = staging(warehouse)
    table = warehouse._jobs._client().get_table(f"{PROJECT}.{DATASET}.{left}")
    assert table.expires == NOW + timedelta(days=1), "nobody has to come and drop it"
    warehouse.load(request([{"Id": "again"}], writer(3)))
    assert held(warehouse) == ["again"]


# -- what is left, and what is sent


def staging(warehouse: BigQueryWarehouse) -> list[str]:
    listed = warehouse._jobs._client().list_tables(f"{PROJECT}.{DATASET}")
    return [table.table_id for table in listed if table.table_id.startswith("_staging")]


def test_nothing_is_left_of_a_load(
    warehouse: BigQueryWarehouse, before: Door, tmp_path: Path
) -> None:
    bad: list[Cells] = [*ROWS, {"Id": "c", "Cost": "x"}]
    warehouse.load(request(bad, max_reject_ratio=Decimal("0.5")))

    def check() -> None:
        if any("-verify-" in job for job in ids(before)):
            raise Stopped("taken away")

    before.asked.clear()
    with pytest.raises(Stopped):
        warehouse.load(request(by=writer(2), check=check))
    assert any(asked.says("_staging_") for asked in before.asked)
    assert staging(warehouse) == []
    assert [path for path in (tmp_path / "scratch").iterdir() if path.name != "duckdb"] == []


def test_tables_are_partitioned_clustered_and_described(
    warehouse: BigQueryWarehouse, before: Door
) -> None:
    warehouse.load(request())
    sent = {
        asked.json["tableReference"]["tableId"]: asked.json
        for asked in before.asked
        if asked.method == "POST" and asked.path.split("?")[0].endswith("/tables")
    }
    costs = sent["costs"]
    assert costs["timePartitioning"]["field"] == "x_ingestion_date"
    assert costs["clustering"]["fields"] == [
        "x_org_slug",
        "x_pipeline_id",
        "x_credential_id",
        "x_pipeline_run_date",
    ]
    fields = {made["name"]: made for made in costs["schema"]["fields"]}
    assert (fields["Cost"]["type"], fields["Cost"]["mode"]) == ("BIGNUMERIC", "NULLABLE")
    assert fields["Id"]["description"] == "Whose it is"
    lineage = [name for name, made in fields.items() if made["mode"] == "REQUIRED"]
    assert len(lineage) == 7
    assert all(fields[name]["description"] for name in lineage)
    (other,) = [made for name, made in sent.items() if name != "costs"]
    assert int(other["expirationTime"]) == (NOW + timedelta(days=1)).timestamp() * 1000


def test_what_is_loaded_is_kept_and_asked_for_by_the_month(
    warehouse: BigQueryWarehouse, before: Door
) -> None:
    """So that coverage of a year reads twelve partitions of however many there are."""
    drop(warehouse, "acme_ledger")
    warehouse.create_dataset("acme_ledger")
    made = [
        asked.json["timePartitioning"]
        for asked in before.asked
        if asked.method == "POST" and asked.says("x_pipeline_run_date")
    ]
    assert made == [{"field": "x_pipeline_run_date", "type": "MONTH"}] * 2
    before.asked.clear()
    where = LoadsOf(tables=("costs",), first=date(2024, 9, 1), last=date(2024, 10, 5))
    assert warehouse.loads("acme_ledger", where) == []
    (job,) = sent_jobs(before)
    sql = job["configuration"]["query"]["query"]
    assert (
        "WHERE table_name IN (@table_name_0) AND x_pipeline_run_date >= DATE '2024-09-01' "
        "AND x_pipeline_run_date <= DATE '2024-10-05'"
    ) in sql


def test_every_job_says_whose_it_is_and_what_it_may_cost(
    warehouse: BigQueryWarehouse, before: Door
) -> None:
    warehouse.load(request())
    call(warehouse)
    warehouse.query(DATASET, "SELECT 1 AS x", {})
    for job in sent_jobs(before):
        job_id, configuration = job["jobReference"]["jobId"], job["configuration"]
        assert job["jobReference"]["location"] == "US"
        if job_id.startswith("query-"):
            assert configuration["labels"] == {"dataset": DATASET}
        else:
            assert job_id.startswith("run-1-load-1-")
            assert configuration["labels"] == {
                "org": "acme",
                "pipeline": "cloud_aws",
                "run": "run-1",
                "step": "load",
            }
        if "query" in configuration:
            assert int(configuration["query"]["maximumBytesBilled"]) == 10 * 2**30


def test_a_delete_names_the_partitions_it_changes(
    warehouse: BigQueryWarehouse, before: Door
) -> None:
    warehouse.load(request())
    before.asked.clear()
    warehouse.load(request(by=writer(2)))
    (commit,) = [job for job in sent_jobs(before) if "-commit-" in job["jobReference"]["jobId"]]
    sql = commit["configuration"]["query"]["query"]
    assert f"DELETE FROM `{DATASET}`.`costs`" in sql
    assert f"x_ingestion_date IN (DATE '{NOW.date()}')" in sql
    assert "run-1" not in sql
    assert "Acme" not in sql, "values are parameters"


def test_both_warehouses_give_the_same_receipt(
    warehouse: BigQueryWarehouse, tmp_path: Path
) -> None:
    rows: list[Cells] = [
        *ROWS,
        {"Id": "c", "Cost": "0.1234567890123456789", "Currency": "EUR"},
        {"Id": "d", "Cost": None},
        {"Id": "e", "Cost": "7.25", "Start": "never", "Currency": "USD"},
    ]
    embedded = DuckdbWarehouse(tmp_path / "w.duckdb", tmp_path / "procedures", lambda: NOW)
    with closing(embedded):
        receipts = []
        for one in (warehouse, embedded):
            loaded = one.load(request(rows, max_reject_ratio=Decimal("0.5")))
            called = call(one)
            assert len(loaded.checksum) == len(called.checksum) == 16
            receipts.append([replace(loaded, checksum=""), replace(called, checksum="")])
            marked = one.query(
                DATASET, "SELECT checksum FROM _loads WHERE table_name = 'net'", {}
            ).rows
            assert marked == [(called.checksum,)]
        assert receipts[0] == receipts[1]


# -- large loads


def _large(path: Path) -> Files:
    """Three files; together they are more than goes from the disk at once."""
    sql = (
        "SELECT md5(CAST(i AS VARCHAR)) AS Id, '0.01' AS Cost, 'USD' AS Currency "
        "FROM range(1000) r(i) WHERE $path <> ''"
    )
    path.write_text("")
    return Files(
        files=[SourceFile(f"f{n}", lambda: nullcontext(path)) for n in range(3)],
        read=lambda *_: Reading(sql, {}),
    )


def test_a_large_load_passes_cloud_storage_in_one_job(
    opened: Callable[..., BigQueryWarehouse],
    before: Door,
    gcs_emulator: CloudStorage,
    tmp_path: Path,
) -> None:
    bucket = gcs_emulator.make()
    staging = Staging(bucket, emulator=f"http://{gcs_emulator.server}")
    warehouse = opened(staging=staging, direct_bytes=50_000)
    receipt = warehouse.load(request(source=_large(tmp_path / "empty")))
    assert (receipt.loaded, receipt.totals[0].loaded) == (3000, Decimal(30))
    (load,) = [job for job in sent_jobs(before) if "load" in job["configuration"]]
    uris = load["configuration"]["load"]["sourceUris"]
    assert len(uris) == 3
    assert all(uri.startswith(f"gs://{bucket}/staging/{DATASET}/") for uri in uris)
    objects = [path for path in (gcs_emulator.folder / bucket).rglob("*") if path.is_file()]
    assert objects == [], "they are deleted afterwards"


def test_without_a_bucket_a_large_load_goes_in_several_jobs(
    opened: Callable[..., BigQueryWarehouse], before: Door, tmp_path: Path
) -> None:
    warehouse = opened(direct_bytes=50_000)
    receipt = warehouse.load(request(source=_large(tmp_path / "empty")))
    assert (receipt.loaded, receipt.totals[0].loaded) == (3000, Decimal(30))
    uploads = [asked for asked in before.asked if asked.says("/upload/", "jobReference")]
    assert len(uploads) == 2
