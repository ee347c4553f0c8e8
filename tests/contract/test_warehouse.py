"""What every warehouse promises: whole slices, exact numbers, a fence, and no trace of what failed."""

from __future__ import annotations

import gzip
import itertools
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.core.lineage import Fence, LoadReceipt, Slice, Writer
from shared.errors import Stopped, Terminal
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

NOW = datetime(2124, 10, 2, 6, 30, tzinfo=UTC)  # what expires after it is there for the test
CREATED = datetime(2024, 10, 2, 6, tzinfo=UTC)
MADE = datetime(2024, 10, 2, 5, tzinfo=UTC)
SEPTEMBER = Slice("acme", "cloud_aws", "main", date(2024, 9, 1))
OCTOBER = SEPTEMBER._replace(run_date=date(2024, 10, 1))
COSTS = Table(
    "costs",
    (
        Column("Id", ColumnType.TEXT),
        Column("Cost", ColumnType.DECIMAL, NullRule.FINDING),
        Column("Currency", ColumnType.TEXT),
        Column("Start", ColumnType.TIMESTAMP),
        Column("Day", ColumnType.DATE),
        Column("Final", ColumnType.BOOLEAN),
        Column("Units", ColumnType.INTEGER),
        Column("Tags", ColumnType.JSON),
    ),
)
PROCEDURE = """/*
procedure: net_costs
description: Costs, one row for one.
output: net
totals: [Cost]
currency: Currency
parameters: {label: STRING}
columns:
  Cost: decimal finding
  Currency: text
  Label: text
  Start: timestamp
  x_source_credential_id: text
*/
WITH source AS (
  SELECT * FROM costs WHERE x_org_slug = @org_slug AND x_pipeline_run_date IN UNNEST(@run_dates)
)
SELECT x_pipeline_run_date AS _run_date, Cost, Currency, CONCAT(@label, Id) AS Label, Start,
  x_credential_id AS x_source_credential_id
FROM source
"""


@contextmanager
def duckdb_warehouse(_: pytest.FixtureRequest, folder: Path) -> Iterator[Warehouse]:
    from shared.warehouse.duckdb import DuckdbWarehouse

    with closing(
        DuckdbWarehouse(folder / "w.duckdb", folder / "procedures", lambda: NOW)
    ) as warehouse:
        yield warehouse


@contextmanager
def bigquery_warehouse(request: pytest.FixtureRequest, folder: Path) -> Iterator[Warehouse]:
    """Whatever a test has it send is GoogleSQL, also where the emulator takes more."""
    from tests.support import bigquery
    from tests.support.http_door import door
    from tests.support.statements import faults

    with door(request.getfixturevalue("bigquery_emulator").host) as before:
        made = bigquery.bigquery_warehouse(before.host, folder, now=lambda: NOW)
        with closing(made) as warehouse:
            bigquery.drop(warehouse, DATASET)
            yield warehouse
        sent = bigquery.statements(before)
        assert sent
        assert [fault for sql in sent for fault in faults(sql)] == []


Opened: TypeAlias = Callable[[pytest.FixtureRequest, Path], AbstractContextManager[Warehouse]]
BACKENDS: dict[str, Opened] = {"duckdb": duckdb_warehouse, "bigquery": bigquery_warehouse}
EVERY = ["duckdb", pytest.param("bigquery", marks=pytest.mark.cloud)]
DUCKDB = pytest.mark.parametrize("backend", ["duckdb"])
BIGQUERY = pytest.mark.parametrize("backend", [pytest.param("bigquery", marks=pytest.mark.cloud)])


@pytest.fixture(params=EVERY)
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def warehouse(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Warehouse]:
    (tmp_path / "procedures").mkdir()
    (tmp_path / "procedures" / "net_costs.sql").write_text(PROCEDURE)
    with BACKENDS[backend](request, tmp_path) as made:
        made.create_dataset(DATASET)
        yield made


EXACT = Context(prec=2000)
DATASET = "acme_test"
Cells = Mapping[str, str | None]


def writer(
    run: str = "run-1", attempt: int = 1, *, source_at: datetime = MADE, created: datetime = CREATED
) -> Writer:
    return Writer(run, "load", Fence(source_at, created, attempt))


@dataclass
class Folder:
    """Writes files and loads them."""

    path: Path
    warehouse: Warehouse
    count: int = field(default=0)

    def csv(self, rows: Sequence[Cells], name: str = "", *, cut: int = 0) -> Path:
        self.count += 1
        path = self.path / (name or f"part-{self.count}.csv.gz")
        names = list(dict.fromkeys(key for row in rows for key in row)) or ["Id"]
        lines = [",".join(names)]
        lines += [
            ",".join(
                "" if row.get(key) is None else '"' + str(row[key]).replace('"', '""') + '"'
                for key in names
            )
            for row in rows
        ]
        raw = gzip.compress(("\n".join(lines) + "\n").encode())
        path.write_bytes(raw[: len(raw) - cut] if cut else raw)
        return path

    def load(
        self,
        *paths: Path,
        by: Writer | None = None,
        covers: frozenset[Slice] = frozenset({SEPTEMBER}),
        version: str = "v1",
        promised: int | None = None,
        table: Table = COSTS,
        **options: Any,
    ) -> LoadReceipt:
        by = by or writer()
        source = Files(
            files=[SourceFile(path.name, partial(held, path), promised) for path in paths],
            read=lambda _, path: reading(path),
        )
        return self.warehouse.load(
            request(source, by, covers=covers, version=version, table=table, **options)
        )

    def rows(self, rows: Sequence[Cells], **options: Any) -> LoadReceipt:
        return self.load(self.csv(rows), **options)


def request(source: Files | Batches, by: Writer, **options: Any) -> Load:
    options = {
        "table": COSTS,
        "covers": frozenset({SEPTEMBER}),
        "totals": ("Cost",),
        "currency_column": "Currency",
        **options,
    }
    return Load(
        dataset=DATASET,
        writer=by,
        source=source,
        source_version=options.pop("version", "v1"),
        source_at=by.fence.source_at,
        **options,
    )


@contextmanager
def held(path: Path) -> Iterator[Path]:
    yield path


def reading(path: Path) -> Reading:
    if path.suffix == ".parquet":
        names = pq.read_schema(path).names
        columns = ", ".join(f'CAST("{name}" AS VARCHAR) AS "{name}"' for name in names)
        return Reading(f"SELECT {columns} FROM read_parquet($path)", {})
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt") as file:
        names = file.readline().strip().split(",")
    columns = ", ".join(f"'{name}': 'VARCHAR'" for name in names)
    table = f"read_csv($path, columns = {{{columns}}}, header = true, auto_detect = false, quote = '\"', delim = ',')"
    return Reading(f"SELECT * FROM {table}", {})


@pytest.fixture
def folder(tmp_path: Path, warehouse: Warehouse) -> Folder:
    return Folder(tmp_path, warehouse)


def ask(warehouse: Warehouse, sql: str, **params: Value) -> list[tuple[Value, ...]]:
    return warehouse.query(DATASET, sql, params).rows


def everything(warehouse: Warehouse, table: str = "costs") -> tuple[object, ...]:
    """What the table, `_loads` and `_rejects` hold."""
    rows = ask(warehouse, f"SELECT * FROM {table}") if exists(warehouse, table) else []
    rejects = ask(warehouse, "SELECT * FROM _rejects")
    return sorted(map(str, rows)), warehouse.loads(DATASET), sorted(map(str, rejects))


def exists(warehouse: Warehouse, table: str) -> bool:
    try:
        ask(warehouse, f"SELECT 1 FROM {table} LIMIT 1")
    except Terminal:
        return False
    return True


def refused(code: str, load: Callable[[], object]) -> str:
    with pytest.raises(Terminal) as caught:
        load()
    assert caught.value.code == code, caught.value
    return str(caught.value)


# -- what a load leaves


def test_a_load_is_in_its_slice_with_lineage_marker_and_totals(folder: Folder) -> None:
    receipt = folder.rows(
        [
            {"Id": "a", "Cost": "1.10", "Currency": "USD"},
            {"Id": "b", "Cost": "-0.000000000000000001", "Currency": "USD"},
            {"Id": "c", "Cost": "5", "Currency": "EUR"},
        ]
    )
    assert (receipt.extracted, receipt.loaded, receipt.rejected) == (3, 3, 0)
    assert {(t.currency, t.source, t.loaded) for t in receipt.totals} == {
        ("USD", Decimal("1.099999999999999999"), Decimal("1.099999999999999999")),
        ("EUR", Decimal(5), Decimal(5)),
    }
    assert receipt.committed_at == NOW
    assert ask(
        folder.warehouse,
        "SELECT DISTINCT x_org_slug, x_pipeline_id, x_credential_id, x_pipeline_run_date, x_run_id, "
        "x_ingested_at, x_ingestion_date FROM costs",
    ) == [("acme", "cloud_aws", "main", date(2024, 9, 1), "run-1", NOW, NOW.date())]
    (loaded,) = folder.warehouse.loads(DATASET, LoadsOf(tables=("costs",)))
    assert loaded.slice == SEPTEMBER
    assert (loaded.source_version, loaded.source_at, loaded.run_id) == ("v1", MADE, "run-1")
    assert (loaded.rows, loaded.rejected, loaded.attempt) == (3, 0, 1)
    assert folder.warehouse.loads(DATASET, LoadsOf(tables=("other",))) == []


def test_what_is_loaded_can_be_asked_for_in_parts(folder: Folder) -> None:
    other = SEPTEMBER._replace(credential_id="other")
    second = OCTOBER._replace(pipeline_id="cloud_oci")
    for slice_ in (SEPTEMBER, OCTOBER, other, second):
        folder.rows([{"Id": "a"}], covers=frozenset({slice_}))
    folder.rows([{"Id": "a"}], table=COSTS._replace(name="costs_2"))

    def told(limit: int = 100, **where: Any) -> list[tuple[Slice, str]]:
        found = folder.warehouse.loads(DATASET, LoadsOf(**where), limit)
        return [(loaded.slice, loaded.table) for loaded in found]

    every = [
        (SEPTEMBER, "costs"),
        (OCTOBER, "costs"),
        (SEPTEMBER, "costs_2"),
        (other, "costs"),
        (second, "costs"),
    ]
    assert told() == every
    assert told(2) == every[:2]
    assert told(tables=("costs_2", "none")) == [every[2]]
    assert told(pipelines=("cloud_oci",)) == [every[4]]
    assert told(pipelines=("cloud_aws", "cloud_oci"), credential_id="other") == [every[3]]
    assert told(first=date(2024, 9, 2)) == [every[1], every[4]]
    assert told(first=date(2024, 10, 1), last=date(2024, 10, 1)) == [every[1], every[4]]
    assert told(last=date(2024, 9, 30)) == [every[0], *every[2:4]]
    assert told(after=("cloud_aws", "main")) == every[3:]
    assert told(after=("cloud_aws", "other")) == every[4:]
    assert told(after=("cloud_aws", "main"), last=date(2024, 9, 30)) == [every[3]]
    assert told(after=("cloud_oci", "main")) == []
    (loaded,) = folder.warehouse.loads(DATASET, LoadsOf(tables=("costs_2",)))
    assert (loaded.run_created_at, loaded.committed_at) == (CREATED, NOW)


def test_looking_at_what_is_loaded_makes_no_dataset(warehouse: Warehouse) -> None:
    for _ in range(2):
        assert warehouse.loads("nobody_test") == []


def test_the_same_month_again_changes_nothing_but_who_loaded_it(folder: Folder) -> None:
    rows = [{"Id": str(n), "Cost": f"{n}.5", "Currency": "USD"} for n in range(50)]
    first = folder.rows(rows)
    content = sorted(map(str, ask(folder.warehouse, "SELECT Id, Cost, Currency FROM costs")))
    later = folder.rows(
        list(reversed(rows)), by=writer("run-2", created=CREATED + timedelta(hours=1))
    )
    assert later.checksum == first.checksum
    assert later.totals == first.totals
    assert (
        sorted(map(str, ask(folder.warehouse, "SELECT Id, Cost, Currency FROM costs"))) == content
    )
    changed = folder.rows(
        [*rows[1:], {**rows[0], "Cost": "0.51"}],
        by=writer("run-3", created=CREATED + timedelta(hours=2)),
    )
    assert changed.checksum != first.checksum


def test_a_slice_is_replaced_whole_also_by_nothing(folder: Folder) -> None:
    both = frozenset({SEPTEMBER, OCTOBER})
    rows = [
        {"Id": "s", "Cost": "1", "_run_date": "2024-09-01"},
        {"Id": "o", "Cost": "2", "_run_date": "2024-10-01"},
    ]
    receipt = folder.rows(rows, covers=both)
    assert [(s.run_date.month, s.rows) for s in receipt.slices] == [(9, 1), (10, 1)]
    receipt = folder.rows(rows[1:], covers=both, by=writer(attempt=2))
    assert [(s.run_date.month, s.rows) for s in receipt.slices] == [(9, 0), (10, 1)]
    assert ask(folder.warehouse, "SELECT Id FROM costs") == [("o",)]
    empty = folder.load(covers=frozenset({OCTOBER}), by=writer(attempt=3))
    assert (empty.extracted, empty.loaded) == (0, 0)
    assert ask(folder.warehouse, "SELECT Id FROM costs") == []
    assert {
        (made.slice.run_date.month, made.rows, made.attempt)
        for made in folder.warehouse.loads(DATASET)
    } == {
        (9, 0, 2),
        (10, 0, 3),
    }


def test_other_slices_and_tables_are_not_touched(folder: Folder) -> None:
    other = SEPTEMBER._replace(credential_id="second")
    folder.rows([{"Id": "a"}])
    folder.rows([{"Id": "b"}], covers=frozenset({other}))
    folder.rows([{"Id": "c"}], table=COSTS._replace(name="costs_2"))
    folder.rows([], covers=frozenset({other}), by=writer(attempt=2))
    assert ask(folder.warehouse, "SELECT Id FROM costs") == [("a",)]
    assert ask(folder.warehouse, "SELECT Id FROM costs_2") == [("c",)]


def test_several_files_are_one_load(folder: Folder) -> None:
    paths = [folder.csv([{"Id": f"{n}", "Cost": "0.1"}]) for n in range(3)]
    assert folder.load(*paths).totals[0].loaded == Decimal("0.3")


def test_batches_of_an_api_are_loaded_like_files(warehouse: Warehouse) -> None:
    batches: list[list[dict[str, Value]]] = [
        [
            {
                "Id": "a",
                "Cost": Decimal("1E-7"),
                "Units": 3,
                "Final": True,
                "Day": date(2024, 9, 2),
            },
            {"Id": "b", "Cost": "2.5", "Start": datetime(2024, 9, 1, 5, tzinfo=UTC)},
        ],
        [{"Id": "c", "Cost": None, "Tags": '{"a": 1}'}],
    ]
    receipt = warehouse.load(request(Batches(batches=batches), writer()))
    assert (receipt.loaded, receipt.totals[0].loaded) == (3, Decimal("2.5000001"))
    assert ask(warehouse, "SELECT Id, Units, Final, Day, Start FROM costs ORDER BY Id") == [
        ("a", 3, True, date(2024, 9, 2), None),
        ("b", None, None, None, datetime(2024, 9, 1, 5, tzinfo=UTC)),
        ("c", None, None, None, None),
    ]
    refused(
        "invalid_load",
        lambda: warehouse.load(
            request(Batches(batches=[[{"Cost": 1.5}]]), writer(attempt=2))  # type: ignore[dict-item]  # the fault under test
        ),
    )


def test_parquet_doubles_become_their_shortest_decimals(folder: Folder) -> None:
    path = folder.path / "a.parquet"
    costs = [0.1, 1e-7, 1234567.1, 2.0, None, 5e-324]
    pq.write_table(pa.table({"Cost": pa.array(costs, pa.float64())}), path)
    receipt = folder.load(path)
    (total,) = receipt.totals
    assert total.loaded == Decimal("1234569.2000001")
    assert total.rounded == 1
    assert total.source == EXACT.add(total.loaded, total.residue)
    assert total.residue == Decimal("5E-324")


# -- casting


DECIMALS = {
    "0": "0",
    "1E-5": "0.00001",
    "1.5e+3": "1500",
    "-.5": "-0.5",
    "5.": "5",
    "99999999999999999999.999999999999999999": "99999999999999999999.999999999999999999",
    "0.0000000000000000005": "0.000000000000000001",
    "-0.0000000000000000005": "-0.000000000000000001",
    "4.9999999e-19": "0",
    "123456789012345678901234567890e-15": "123456789012345.678901234567890",
}


def test_decimals_are_the_sources_digits(folder: Folder) -> None:
    receipt = folder.rows([{"Currency": text, "Cost": text} for text in DECIMALS])
    stored = ask(folder.warehouse, "SELECT Currency, Cost FROM costs")
    assert sorted(stored) == sorted((text, Decimal(value)) for text, value in DECIMALS.items())
    assert {total.currency: total.source for total in receipt.totals} == {
        text: Decimal(text) for text in DECIMALS
    }
    for total in receipt.totals:
        assert total.source == EXACT.add(total.loaded, total.residue)


NO_NUMBERS = [
    *("+1", "$1", "1,000", "NaN", "inf", "1_000", " 1", "1 ", "0x1", "-", ".", "1e", "١"),
    *("100000000000000000000", "99999999999999999999.9999999999999999995", "1e999", "1e-99999"),
]


def test_what_is_not_a_number_is_rejected(folder: Folder) -> None:
    rows = [{"Id": "bad", "Cost": text, "Currency": "USD"} for text in NO_NUMBERS]
    rows.append({"Id": "ok", "Cost": "1", "Currency": "USD"})
    receipt = folder.rows(rows, max_reject_ratio=Decimal("0.95"))
    bad = len(NO_NUMBERS)
    assert (receipt.extracted, receipt.loaded, receipt.rejected) == (bad + 1, 1, bad)
    assert receipt.slices[0].rejected == bad
    rejects = ask(
        folder.warehouse,
        "SELECT reason, source_row, source_file, row_number, table_name FROM _rejects "
        "ORDER BY row_number",
    )
    assert len(rejects) == bad
    for place, (text, reject) in enumerate(zip(NO_NUMBERS, rejects, strict=True), start=1):
        reason, source, *where = reject
        assert str(reason).startswith(f"Cost: '{text}' is not a number")
        assert json.loads(str(source)) == {"Id": "bad", "Cost": text, "Currency": "USD"}
        assert where == ["part-1.csv.gz", place, "costs"]
    message = refused("reject_threshold", lambda: folder.rows(rows, by=writer(attempt=2)))
    assert "'+1'" in message


TEXTS: list[tuple[str, str, object]] = [
    ("Start", "2024-09-01 00:00:00", datetime(2024, 9, 1, tzinfo=UTC)),
    ("Start", "2024-09-01T00:00:00Z", datetime(2024, 9, 1, tzinfo=UTC)),
    ("Start", "2024-09-01T00:00Z", datetime(2024, 9, 1, tzinfo=UTC)),
    ("Start", "2024-09-01", datetime(2024, 9, 1, tzinfo=UTC)),
    ("Start", "2024-09-01T01:02:03.456Z", datetime(2024, 9, 1, 1, 2, 3, 456000, tzinfo=UTC)),
    ("Start", "2024-09-01T00:00:00+02:00", datetime(2024, 8, 31, 22, tzinfo=UTC)),
    ("Start", "2024-09-01 00:00:00-0530", datetime(2024, 9, 1, 5, 30, tzinfo=UTC)),
    ("Day", "2024-09-01", date(2024, 9, 1)),
    ("Day", "2024-09-01T00:00:00Z", date(2024, 9, 1)),
    ("Final", "true", True),
    ("Final", "FALSE", False),
    ("Units", "-12", -12),
    ("Units", "12.0", 12),
    ("Tags", '{"a": [1, null]}', '{"a": [1, null]}'),
]


def test_each_type_reads_its_texts(folder: Folder) -> None:
    folder.rows(
        [{"Id": f"{place:02}", column: text} for place, (column, text, _) in enumerate(TEXTS)]
    )
    rows = folder.warehouse.query(DATASET, "SELECT * FROM costs ORDER BY Id", {})
    for (column, text, stored), row in zip(TEXTS, rows.rows, strict=True):
        value = dict(zip(rows.columns, row, strict=True))[column]
        if column == "Tags":  # a warehouse may write its JSON with other spaces
            assert json.loads(str(value)) == json.loads(str(stored))
        else:
            assert value == stored, text


def test_an_empty_text_is_a_text_or_null(folder: Folder) -> None:
    folder.rows([{"Id": "", "Cost": "1"}])
    assert ask(folder.warehouse, "SELECT COALESCE(Id, '') FROM costs") == [("",)]


OTHER_TEXTS = [
    ("Start", "2024-02-30 00:00:00"),
    ("Start", "yesterday"),
    ("Start", "infinity"),
    ("Start", "2024-09-01T00:00:00 Europe/Berlin"),
    ("Start", "-024-09-01 00:00:00"),
    ("Day", "2024-09-01T12:00:00Z"),
    ("Day", "epoch"),
    ("Final", "yes"),
    ("Units", "1.5"),
    ("Units", "9223372036854775808"),
    ("Tags", "{a: 1}"),
]


def test_each_type_rejects_other_texts(folder: Folder) -> None:
    rows = [{"Id": "a", column: text} for column, text in OTHER_TEXTS]
    receipt = folder.rows(rows, max_reject_ratio=Decimal(1))
    assert receipt.rejected == len(OTHER_TEXTS)
    reasons = ask(folder.warehouse, "SELECT reason FROM _rejects ORDER BY row_number")
    for (column, text), (reason,) in zip(OTHER_TEXTS, reasons, strict=True):
        assert str(reason).startswith(f"{column}: '{text}' is not ")


def test_a_null_is_a_finding_or_a_reject_as_the_column_says(folder: Folder) -> None:
    receipt = folder.rows([{"Id": "a", "Cost": None}, {"Id": "b", "Cost": "1"}])
    assert [(f.code, f.rows) for f in receipt.findings] == [("null", 1)]
    assert ask(folder.warehouse, "SELECT COUNT(*) FROM costs WHERE Cost IS NULL") == [(1,)]
    strict = COSTS._replace(
        columns=tuple(
            c._replace(null=NullRule.REJECT) if c.name in {"Cost", "Currency"} else c
            for c in COSTS.columns
        )
    )
    receipt = folder.rows(
        [{"Id": "a", "Cost": None, "Currency": "X"}, {"Id": "b", "Cost": "1", "Currency": "X"}],
        table=strict,
        by=writer(attempt=2),
        max_reject_ratio=Decimal("0.5"),
    )
    assert (receipt.loaded, receipt.rejected) == (1, 1)
    assert ask(folder.warehouse, "SELECT reason FROM _rejects") == [("Cost: is null",)]
    message = refused(
        "reject_threshold",
        lambda: folder.rows([{"Id": "a", "Cost": "1"}], table=strict, by=writer(attempt=3)),
    )
    assert "Currency: is null" in message


def test_a_rejected_row_is_money_too(folder: Folder) -> None:
    receipt = folder.rows(
        [
            {"Id": "a", "Cost": "7.25", "Start": "never"},
            {"Id": "b", "Cost": "100000000000000000000"},
            {"Id": "c", "Cost": "0.1234567890123456789", "Start": "never"},
            {"Id": "d", "Cost": "1"},
        ],
        max_reject_ratio=Decimal("0.75"),
    )
    (total,) = receipt.totals
    assert total.loaded == 1
    assert total.rejected == Decimal("100000000000000000007.3734567890123456789")
    assert (total.residue, total.rounded) == (Decimal(0), 0)


_NUMBERS = st.from_regex(r"-?[0-9]{1,45}(\.[0-9]{0,60})?([eE][-+]?[0-9]{1,2})?", fullmatch=True)
_DIGITS = st.lists(st.one_of(_NUMBERS, st.text("0123456789.-+eE_ ,", max_size=12)), max_size=40)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts=_DIGITS)
@DUCKDB
def test_whatever_the_digits_nothing_is_lost(folder: Folder, texts: list[str]) -> None:
    _nothing_is_lost(folder, texts)


@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts=_DIGITS)
@BIGQUERY
def test_whatever_the_digits_nothing_is_lost_in_bigquery(folder: Folder, texts: list[str]) -> None:
    # The emulator's sums have 38 digits, BigQuery's twice as many.
    _nothing_is_lost(folder, [text for text in texts if len(text) < 18 or not number(text)])


def _nothing_is_lost(folder: Folder, texts: list[str]) -> None:
    receipt = folder.rows(
        [{"Id": "x", "Cost": text} for text in texts],
        by=writer(f"run-{folder.count}", created=CREATED + timedelta(minutes=folder.count)),
        max_reject_ratio=Decimal(1),
    )
    assert receipt.extracted == receipt.loaded + receipt.rejected == len(texts)
    stored = [row[0] for row in ask(folder.warehouse, "SELECT Cost FROM costs")]
    loaded = Decimal(0)
    for value in stored:
        if value is not None:
            loaded = EXACT.add(loaded, Decimal(str(value)))
    source = Decimal(0)
    for text in texts:
        if number(text):
            source = EXACT.add(source, Decimal(text))
    totals = receipt.totals
    if not texts:
        assert totals == ()
        return
    (total,) = totals
    assert total.loaded == loaded
    assert total.source == source
    assert total.source == EXACT.add(EXACT.add(total.loaded, total.rejected), total.residue)
    # every row was rounded by at most half a unit
    assert abs(total.residue) <= total.rounded * Decimal("5E-19")


def number(text: str) -> bool:
    """Our grammar, told another way."""
    mantissa, _, exponent = text.replace("E", "e").partition("e")
    whole, _, fraction = mantissa.removeprefix("-").partition(".")
    if "e" in text.lower():
        digits = exponent[1:] if exponent[:1] in {"+", "-"} else exponent
        if not (digits.isdigit() and len(digits) <= 3):
            return False
    return (whole + fraction).isdigit() and mantissa.count(".") <= 1


# -- what a load refuses, changing nothing


def test_a_failed_load_changes_nothing(folder: Folder) -> None:
    folder.rows([{"Id": "a", "Cost": "1"}, {"Id": "b", "Cost": "x"}], max_reject_ratio=Decimal(1))
    before = everything(folder.warehouse)
    good = folder.csv([{"Id": "n", "Cost": "5"}])
    again = writer(attempt=2)

    broken = folder.csv([{"Id": str(n), "Cost": "1"} for n in range(5000)], cut=40)
    assert broken.name in refused("unreadable_file", lambda: folder.load(good, broken, by=again))
    wrong = folder.csv([{"Id": "n", "Cost": "5"}])
    raw = bytearray(wrong.read_bytes())
    raw[-8] ^= 0xFF  # of the checksum
    wrong.write_bytes(raw)
    assert "data check" in refused("unreadable_file", lambda: folder.load(wrong, by=again))
    parquet = folder.path / "b.parquet"
    pq.write_table(pa.table({"Cost": pa.array(range(9000), pa.int64())}), parquet)
    parquet.write_bytes(parquet.read_bytes()[:-10])
    unread = Files(
        files=[SourceFile("b.parquet", lambda: held(parquet))],
        read=lambda *_: Reading(
            "SELECT CAST(Cost AS VARCHAR) AS Cost FROM read_parquet($path)", {}
        ),
    )
    refused("unreadable_file", lambda: folder.warehouse.load(request(unread, again)))
    ragged = folder.path / "ragged.csv"
    ragged.write_text("Id,Cost\na,1\nb,2,3,4\n")
    refused("unreadable_file", lambda: folder.load(ragged, by=again))
    assert "promises 2" in refused("row_count", lambda: folder.load(good, promised=2, by=again))
    stray = folder.csv([{"Id": "n", "Cost": "5", "_run_date": "2024-08-01"}])
    assert "2024-08-01 (1 rows)" in refused(
        "outside_covers", lambda: folder.load(good, stray, by=again)
    )
    rejected = folder.csv([{"Id": "n", "Cost": "five"}])
    assert "'five'" in refused("reject_threshold", lambda: folder.load(good, rejected, by=again))
    refused(
        "reject_threshold",
        lambda: folder.load(good, rejected, by=again, max_reject_ratio=Decimal("0.49")),
    )
    changed = COSTS._replace(columns=(Column("Cost", ColumnType.TEXT), *COSTS.columns[2:]))
    refused("schema_change", lambda: folder.load(good, by=again, table=changed, totals=()))
    refused("invalid_load", lambda: folder.load(good, by=again, covers=frozenset()))
    refused("invalid_load", lambda: folder.load(good, by=again, totals=("Id",)))
    refused(
        "invalid_load", lambda: folder.load(good, by=again, table=COSTS._replace(name='x"; --'))
    )
    two = frozenset({SEPTEMBER, OCTOBER._replace(org="other")})
    refused("invalid_load", lambda: folder.load(good, by=again, covers=two))
    odd = folder.csv([{"Id": "n", "Colour": "5"}])
    assert "Colour" in refused("invalid_load", lambda: folder.load(odd, by=again))

    assert everything(folder.warehouse) == before
    folder.load(good, by=again)
    assert ask(folder.warehouse, "SELECT Id FROM costs") == [("n",)]
    assert ask(folder.warehouse, "SELECT COUNT(*) FROM _rejects") == [(0,)]


def test_a_row_without_a_date_is_rejected_not_lost(folder: Folder) -> None:
    receipt = folder.rows(
        [{"Id": "a", "_run_date": "2024-09-01"}, {"Id": "b", "_run_date": "soon"}],
        max_reject_ratio=Decimal("0.5"),
    )
    assert (receipt.extracted, receipt.loaded, receipt.rejected) == (2, 1, 1)


def test_a_reading_may_reject_a_row_itself(folder: Folder) -> None:
    receipt = folder.rows(
        [{"Id": "a", "_reject": None}, {"Id": "b", "_reject": "is a footer"}],
        max_reject_ratio=Decimal("0.5"),
    )
    assert receipt.rejected == 1
    assert ask(folder.warehouse, "SELECT reason FROM _rejects") == [("is a footer",)]


def test_an_exception_of_the_source_changes_nothing(warehouse: Warehouse) -> None:
    def batches() -> Iterator[list[dict[str, Value]]]:
        yield [{"Id": "a"}]
        raise ConnectionError("gone")

    before = everything(warehouse)
    with pytest.raises(ConnectionError):
        warehouse.load(request(Batches(batches=batches()), writer()))
    assert everything(warehouse) == before


# -- columns


def test_new_columns_are_added_and_told(folder: Folder) -> None:
    folder.rows([{"Id": "a"}])
    wider = COSTS._replace(
        columns=(*COSTS.columns, Column("Region"), Column("Tax", ColumnType.DECIMAL))
    )
    receipt = folder.rows(
        [{"Id": "b", "Region": "eu", "Tax": "0.19"}],
        table=wider,
        covers=frozenset({OCTOBER}),
    )
    assert receipt.added_columns == ("Region", "Tax")
    assert ask(folder.warehouse, "SELECT Id, Region, Tax FROM costs ORDER BY Id") == [
        ("a", None, None),
        ("b", "eu", Decimal("0.19")),
    ]
    narrow = folder.rows([{"Id": "c"}], by=writer(attempt=2))
    assert narrow.added_columns == ()


def test_unknown_columns_are_kept_and_told(folder: Folder) -> None:
    path = folder.csv([{"Id": "a", "_unknown": '{"x_new": "1"}'}])
    source = Files(
        files=[SourceFile(path.name, lambda: held(path))],
        read=lambda _, path: reading(path)._replace(unknown_columns=("x_new",)),
    )
    receipt = folder.warehouse.load(request(source, writer(), unknown_column="x_unknown"))
    assert receipt.unknown_columns == ("x_new",)
    assert ask(folder.warehouse, "SELECT JSON_VALUE(x_unknown, '$.x_new') FROM costs") == [("1",)]


# -- the fence


OLDER = {
    "older source": writer(
        "run-0", 9, source_at=MADE - timedelta(seconds=1), created=CREATED + timedelta(days=1)
    ),
    "older run": writer("run-0", 9, created=CREATED - timedelta(seconds=1)),
    "earlier attempt": writer("run-1", 1),
    "another at the same fence": writer("run-0", 2),
}


def test_a_load_behind_a_newer_one_is_superseded(folder: Folder) -> None:
    folder.rows([{"Id": "new"}], by=writer(attempt=2), version="v2")
    before = everything(folder.warehouse)
    stale = folder.csv([{"Id": "old"}])
    for why, older in OLDER.items():
        message = refused("superseded", partial(folder.load, stale, by=older, version="v1"))
        for part in ("2024-09-01", "'v2'", "run-1"):
            assert part in message, why
    assert everything(folder.warehouse) == before


def test_one_newer_slice_supersedes_the_whole_load(folder: Folder) -> None:
    folder.rows([{"Id": "new"}], by=writer(attempt=2), covers=frozenset({OCTOBER}))
    rows = [{"Id": "x", "_run_date": "2024-09-01"}]
    refused("superseded", lambda: folder.rows(rows, covers=frozenset({SEPTEMBER, OCTOBER})))
    assert ask(folder.warehouse, "SELECT Id FROM costs") == [("new",)]


NEWER = {
    "newer source": writer(
        "run-0", 1, source_at=MADE + timedelta(seconds=1), created=CREATED - timedelta(days=1)
    ),
    "later run": writer("run-2", 1, created=CREATED + timedelta(seconds=1)),
    "later attempt": writer("run-1", 3),
    "the same attempt": writer("run-1", 2),
    "the same source": writer("run-0", 2),
}


def test_a_newer_load_or_the_same_again_replaces(folder: Folder) -> None:
    for place, (why, newer) in enumerate(NEWER.items()):
        slices = frozenset({SEPTEMBER._replace(credential_id=f"c{place}")})
        folder.rows([{"Id": "old"}], by=writer(attempt=2), covers=slices)
        folder.rows([{"Id": why}], by=newer, covers=slices)
    assert {row[0] for row in ask(folder.warehouse, "SELECT Id FROM costs")} == set(NEWER)
    assert [made.run_id for made in folder.warehouse.loads(DATASET)] == [
        newer.run_id for newer in NEWER.values()
    ]


# -- stopping


def test_a_check_that_stops_the_load_changes_nothing(folder: Folder) -> None:
    folder.rows([{"Id": "a"}])
    before = everything(folder.warehouse)
    paths = [folder.csv([{"Id": str(n)}]) for n in range(3)]
    calls = 0

    def counting() -> None:
        nonlocal calls
        calls += 1

    folder.load(*paths, by=writer(attempt=2), check=counting)
    folder.rows([{"Id": "a"}], by=writer(attempt=3))
    assert calls > len(paths), "between the files and before the commit"
    before = everything(folder.warehouse)
    for stop_at in itertools.count(1):  # until it is done before it is stopped
        left = stop_at

        def check() -> None:
            nonlocal left
            left -= 1
            if not left:
                raise Stopped("taken away")

        try:
            folder.load(*paths, by=writer(attempt=4), check=check)
        except Stopped:
            assert everything(folder.warehouse) == before
        else:
            break
    assert stop_at > len(paths)


def test_an_interrupted_load_stops_and_changes_nothing(folder: Folder) -> None:
    folder.rows([{"Id": "a"}])
    before = everything(folder.warehouse)
    by = writer(attempt=2)
    started = threading.Event()
    endless = (
        "SELECT CAST(a.i * b.i AS VARCHAR) AS Id FROM range(1000000) a(i), range(1000000) b(i) "
        "WHERE $path <> ''"
    )

    def read(_: SourceFile, __: Path) -> Reading:
        started.set()
        return Reading(endless, {})

    slow = Files(files=[SourceFile("slow", lambda: held(folder.csv([])))], read=read)
    raised: list[BaseException] = []

    def load() -> None:
        try:
            folder.warehouse.load(request(slow, by))
        except Stopped as exc:
            raised.append(exc)

    thread = threading.Thread(target=load)
    thread.start()
    assert started.wait(60)
    time.sleep(0.2)  # so that a statement runs
    folder.warehouse.interrupt(writer("run-9"))  # somebody else's
    assert not raised
    folder.warehouse.interrupt(by)
    thread.join(20)
    assert not thread.is_alive()
    assert len(raised) == 1
    assert everything(folder.warehouse) == before
    folder.warehouse.interrupt(by)  # nothing runs: nothing happens


# -- many at once


def test_loads_at_once_are_as_loads_in_turn(folder: Folder, backend: str) -> None:
    count = {"duckdb": 8, "bigquery": 4}[backend]  # whose emulator takes a second for each
    errors: list[BaseException] = []
    months = [SEPTEMBER._replace(run_date=date(2024, 1 + place, 1)) for place in range(count)]
    paths = [
        folder.csv([{"Id": f"{m}-{n}", "Cost": "1"} for n in range(200)]) for m in range(count)
    ]

    def load(place: int) -> None:
        try:
            for attempt in (1, 2):
                table = COSTS._replace(name=f"costs_{place % 2}")
                folder.load(
                    paths[place],
                    covers=frozenset({months[place]}),
                    table=table,
                    by=writer(f"run-{place}", attempt),
                )
        except BaseException as exc:  # noqa: BLE001 -- told by the test's own thread
            errors.append(exc)

    threads = [threading.Thread(target=load, args=(place,)) for place in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    loads = folder.warehouse.loads(DATASET)
    assert [(made.rows, made.attempt) for made in loads] == [(200, 2)] * count
    for table in ("costs_0", "costs_1"):
        assert ask(folder.warehouse, f"SELECT COUNT(*), SUM(Cost) FROM {table}") == [
            (100 * count, Decimal(100 * count))
        ]


def test_of_two_loads_of_a_slice_at_once_the_newer_one_stays(folder: Folder) -> None:
    paths = [folder.csv([{"Id": f"{n}"}]) for n in range(6)]
    outcomes: list[str] = []

    def load(attempt: int) -> None:
        try:
            folder.load(paths[attempt - 1], by=writer(attempt=attempt), version=f"v{attempt}")
            outcomes.append("loaded")
        except Terminal as exc:
            outcomes.append(exc.code)

    threads = [threading.Thread(target=load, args=(n,)) for n in range(6, 0, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(outcomes) <= {"loaded", "superseded"}
    assert ask(folder.warehouse, "SELECT Id FROM costs") == [("5",)]
    assert [made.attempt for made in folder.warehouse.loads(DATASET)] == [6]


# -- procedures


def test_a_procedure_fills_its_table_like_a_load(folder: Folder) -> None:
    folder.rows(
        [
            {"Id": "a", "Cost": "1.25", "Currency": "USD", "Start": "2024-09-01T00:00Z"},
            {"Id": "b", "Cost": None, "Currency": "USD"},
        ]
    )
    first = call(folder.warehouse, by=writer("run-1"))
    assert (first.extracted, first.loaded, first.table) == (2, 2, "net")
    assert [(t.column, t.currency, t.source, t.loaded) for t in first.totals] == [
        ("Cost", "USD", Decimal("1.25"), Decimal("1.25"))
    ]
    assert [(f.message, f.rows) for f in first.findings] == [("Cost is null", 1)]
    assert ask(
        folder.warehouse,
        "SELECT Label, Cost, Start, x_source_credential_id, x_pipeline_run_date, x_run_id FROM net "
        "WHERE Cost IS NOT NULL",
    ) == [
        ("~a", Decimal("1.25"), datetime(2024, 9, 1, tzinfo=UTC), "main", date(2024, 9, 1), "run-1")
    ]
    again = call(folder.warehouse, by=writer("run-2", created=CREATED + timedelta(hours=1)))
    assert again.checksum == first.checksum
    assert ask(folder.warehouse, "SELECT COUNT(*) FROM net") == [(2,)]
    assert {(made.table, made.run_id) for made in folder.warehouse.loads(DATASET)} == {
        ("costs", "run-1"),
        ("net", "run-2"),
    }
    stale = writer("run-0", created=CREATED - timedelta(hours=1))
    (folder.path / "procedures" / "net_costs.sql").write_text(PROCEDURE + "\n-- another version\n")
    refused("superseded", lambda: call(folder.warehouse, by=stale))


def call(warehouse: Warehouse, by: Writer | None = None, **arguments: Value) -> LoadReceipt:
    return warehouse.call(
        DATASET,
        "net_costs",
        arguments or {"label": "~"},
        writer=by or writer(),
        covers=frozenset({SEPTEMBER}),
        check=lambda: None,
    )


LOSING = [
    ("FROM source\n", "FROM source WHERE Cost > 0\n", "unbalanced"),
    ("_run_date, Cost,", "_run_date, Cost + CAST('0.01' AS BIGNUMERIC) AS Cost,", "unbalanced"),
    ("FROM source\n", "FROM source CROSS JOIN UNNEST([1, 2])\n", "unbalanced"),
    ("x_pipeline_run_date AS", "DATE '2024-08-01' AS", "outside_covers"),
    ("x_pipeline_run_date AS", "CAST(NULL AS DATE) AS", "outside_covers"),
    (" Start,", " Id AS Start,", "procedure"),
    ("CONCAT(@label, Id)", "CONCAT(@label, CAST(CAST(Id AS INT64) AS STRING))", "procedure"),
    ("FROM costs", "FROM costs_of_nobody", "procedure"),
    ("FROM costs", "FROM other.costs", "procedure"),
    ("procedure: net_costs", "procedure: net_cost", "procedure"),
]


def test_a_procedure_that_loses_anything_changes_nothing(folder: Folder) -> None:
    folder.rows(
        [{"Id": "a", "Cost": "1", "Currency": "USD"}, {"Id": "b", "Cost": "-1", "Currency": "USD"}]
    )
    call(folder.warehouse)
    before = everything(folder.warehouse, "net")
    for old, new, code in LOSING:
        assert old in PROCEDURE
        text = PROCEDURE.replace(old, new, 1)
        (folder.path / "procedures" / "net_costs.sql").write_text(text)
        refused(code, lambda: call(folder.warehouse, by=writer(attempt=2)))
    assert everything(folder.warehouse, "net") == before


def test_arguments_of_a_procedure_are_checked(warehouse: Warehouse) -> None:
    assert "'lable' is not a parameter" in refused("arguments", lambda: call(warehouse, lable="x"))
    refused(
        "unknown_procedure",
        lambda: warehouse.call(
            DATASET,
            "../net_costs",
            {},
            writer=writer(),
            covers=frozenset({SEPTEMBER}),
            check=lambda: None,
        ),
    )


# -- queries


def test_a_query_is_googlesql_with_named_parameters(folder: Folder) -> None:
    folder.rows([{"Id": str(n), "Cost": f"{n}.1", "Start": "2024-09-01T05:00Z"} for n in range(5)])
    answer = folder.warehouse.query(
        DATASET,
        "SELECT Id, SAFE_CAST(Id AS INT64) AS n, Cost, TIMESTAMP_TRUNC(Start, DAY) AS day FROM costs "
        "WHERE Cost >= @least AND Start < @until AND Id IN UNNEST(['1', '3', '4']) ORDER BY Id",
        {"least": Decimal(2), "until": datetime(2024, 9, 2, tzinfo=UTC)},
    )
    assert answer.columns == ("Id", "n", "Cost", "day")
    assert answer.rows == [
        ("3", 3, Decimal("3.1"), datetime(2024, 9, 1, tzinfo=UTC)),
        ("4", 4, Decimal("4.1"), datetime(2024, 9, 1, tzinfo=UTC)),
    ]
    assert len(folder.warehouse.query(DATASET, "SELECT Id FROM costs", {}, limit=2).rows) == 2
    assert ask(folder.warehouse, "SELECT Id FROM costs ORDER BY Id DESC LIMIT 1") == [("4",)]


REFUSED = [
    "DELETE FROM costs WHERE TRUE",
    "SELECT 1; DROP TABLE costs",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM other.costs",
    "SELECT * FROM costs WHERE Id = ?",
    "SELECT * FROM costs WHERE Id = @id",
    "SELECT FROM",
    "SELECT * FROM nothing_there",
    "SELECT Colour FROM costs",
]


def test_a_query_reads_the_organizations_tables_only(folder: Folder) -> None:
    folder.rows([{"Id": "a"}])
    for sql in REFUSED:
        with pytest.raises(Terminal):
            ask(folder.warehouse, sql)
    assert ask(folder.warehouse, "SELECT COUNT(*) FROM costs") == [(1,)]


def test_a_value_is_never_sql(folder: Folder) -> None:
    folder.rows([{"Id": "a' OR '1'='1"}])
    sql = "SELECT COUNT(*) FROM costs WHERE Id = @id"
    assert ask(folder.warehouse, sql, id="x' OR '1'='1") == [(0,)]
    assert ask(folder.warehouse, sql, id="a' OR '1'='1") == [(1,)]


# -- any sequence


@dataclass(frozen=True)
class Op:
    """A load of a month from a source of some age by some attempt, which may fail on the way."""

    month: int
    age: int
    run: int
    attempt: int
    rows: int
    fails: str


_OPS = st.builds(
    Op,
    month=st.integers(1, 2),
    age=st.integers(1, 3),
    run=st.integers(1, 2),
    attempt=st.integers(1, 2),
    rows=st.integers(0, 3),
    fails=st.sampled_from(["", "", "", "reject", "stop", "source"]),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(ops=st.lists(_OPS, max_size=12))
@DUCKDB
def test_any_sequence_of_loads_leaves_the_newest_of_each_slice(
    backend: str,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
    ops: list[Op],
) -> None:
    _in_a_new_one(backend, tmp_path_factory, request, ops)


@settings(
    max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(ops=st.lists(_OPS, min_size=4, max_size=5))
@BIGQUERY
def test_any_sequence_of_loads_leaves_the_newest_of_each_slice_in_bigquery(
    backend: str,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
    ops: list[Op],
) -> None:
    _in_a_new_one(backend, tmp_path_factory, request, ops)


def _in_a_new_one(
    backend: str,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
    ops: list[Op],
) -> None:
    with BACKENDS[backend](request, tmp_path_factory.mktemp("sequence")) as warehouse:
        _sequence(warehouse, ops)


def _sequence(warehouse: Warehouse, ops: list[Op]) -> None:
    warehouse.create_dataset(DATASET)
    model: dict[int, tuple[Fence, str, list[str]]] = {}
    for op in ops:
        by = writer(
            f"run-{op.run}",
            op.attempt,
            source_at=MADE + timedelta(hours=op.age),
            created=CREATED + timedelta(hours=op.run),
        )
        version = f"v{op.age}"
        ids = [f"{op}-{n}" for n in range(op.rows)]
        there = model.get(op.month)
        newer = there is None or there[0] <= by.fence
        expected = ("" if newer else "superseded") or {
            "reject": "reject_threshold" if op.rows else "",
            "stop": "stopped",
            "source": "gone",
        }.get(op.fails, "")
        got = _one(warehouse, op, by, version, ids)
        assert got == expected, op
        if not expected:
            model[op.month] = (by.fence, version, ids)
        for month in (1, 2):
            day = date(2024, month, 1)
            held_ids = [
                row[0]
                for row in (
                    ask(warehouse, "SELECT Id FROM costs WHERE x_pipeline_run_date = @day", day=day)
                    if exists(warehouse, "costs")
                    else []
                )
            ]
            loads = [made for made in warehouse.loads(DATASET) if made.slice.run_date == day]
            if month in model:
                fence, version, kept = model[month]
                assert sorted(map(str, held_ids)) == sorted(kept)
                assert [(made.source_version, made.attempt, made.rows) for made in loads] == [
                    (version, fence.attempt, len(kept))
                ]
            else:
                assert held_ids == []
                assert loads == []


def _one(warehouse: Warehouse, op: Op, by: Writer, version: str, ids: list[str]) -> str:
    def batches() -> Iterator[list[dict[str, Value]]]:
        yield [{"Id": id_, "Cost": "x" if op.fails == "reject" else "1"} for id_ in ids]
        if op.fails == "source":
            raise ConnectionError

    checks = 0

    def check() -> None:
        nonlocal checks
        checks += 1
        if op.fails == "stop" and checks > 1:
            raise Stopped("taken away")

    slice_ = SEPTEMBER._replace(run_date=date(2024, op.month, 1))
    try:
        warehouse.load(
            request(
                Batches(batches=batches()),
                by,
                covers=frozenset({slice_}),
                version=version,
                check=check,
            )
        )
    except Terminal as exc:
        return exc.code
    except Stopped:
        return "stopped"
    except ConnectionError:
        return "gone"
    return ""


# -- killed

# Loads the same month again and again, each time all rows anew, and says so before and after.
_CHILD = """
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from shared.core.lineage import Fence, Slice, Writer
from shared.warehouse import Column, Files, Load, Reading, SourceFile, Table
from shared.warehouse.duckdb import DuckdbWarehouse
from contextlib import nullcontext

path, rows = Path(sys.argv[1]), int(sys.argv[2])
at = datetime(2024, 10, 2, tzinfo=UTC)
warehouse = DuckdbWarehouse(path, path.parent, lambda: at)
first = max((one.attempt for one in warehouse.loads("acme_test")), default=0) + 1
for attempt in range(first, first + 1000):
    sql = f"SELECT 'v{attempt}' AS Id, CAST(i AS VARCHAR) AS Cost FROM range({rows} + {attempt}) r(i) WHERE $path <> ''"
    print("start", attempt, flush=True)
    warehouse.load(Load(
        dataset="acme_test",
        table=Table("costs", (Column("Id"), Column("Cost"))),
        covers=frozenset({Slice("acme", "cloud_aws", "main", date(2024, 9, 1))}),
        writer=Writer("run", "load", Fence(at, at, attempt)),
        source=Files(files=[SourceFile("f", lambda: nullcontext(path))], read=lambda *_: Reading(sql, {})),
        source_version=f"v{attempt}",
        source_at=at,
    ))
    print("loaded", attempt, flush=True)
"""


@pytest.mark.kill
@pytest.mark.parametrize("seed", range(6))
def test_a_killed_load_is_there_whole_or_not_at_all(tmp_path: Path, seed: int) -> None:
    from shared.warehouse.duckdb import DuckdbWarehouse

    chance = random.Random(seed)
    path = tmp_path / "w.duckdb"
    rows = 150_000
    answered = 0
    for round_ in range(3):
        command = [sys.executable, "-c", _CHILD, str(path), str(rows)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            wanted = "loaded" if round_ == 0 else "start"
            for line in child.stdout:
                word, attempt = line.split()
                if word == "loaded":
                    answered = int(attempt)
                if word == wanted:
                    break
            if wanted == "start":  # somewhere inside the load: one takes 0.2-0.6 s
                time.sleep(chance.uniform(0, 0.6))
            child.kill()
            for line in child.stdout:
                word, attempt = line.split()
                if word == "loaded":
                    answered = int(attempt)
        warehouse = DuckdbWarehouse(path, tmp_path, lambda: NOW)
        try:
            (loaded,) = warehouse.loads(DATASET)
            assert loaded.attempt >= answered, "what was answered is there"
            assert loaded.rows == rows + loaded.attempt
            held_rows = ask(warehouse, "SELECT Id, COUNT(*) FROM costs GROUP BY Id")
            assert held_rows == [(loaded.source_version, loaded.rows)], f"seed {seed}"
        finally:
            warehouse.close()
