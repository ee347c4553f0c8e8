"""Exports as they should not be: a clear error, and everything is exactly what it was."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.errors import StepError, Terminal, Transient
from shared.step import StepResult
from shared.warehouse import LoadsOf, Value
from shared.warehouse.duckdb import DuckdbWarehouse
from tests.support.exports import HEADER, Export, csv_gz, csv_text, row
from tests.support.step import CREATED, BareStep, run

PROCEDURES = Path(__file__).parents[2] / "configs" / "system" / "procedures"
CONFIG = {
    "source": "file:.",
    "export_name": "costs",
    "table": "aws_focus",
    "custom_columns": {"x_Discounts": "json", "x_Operation": "text", "x_ServiceCode": "text"},
}
FIRST = datetime(2025, 2, 20, tzinfo=UTC)
GOOD = [row(n) for n in range(5)]


class Scene:
    """A month that is loaded, and a later run that meets what a test has put into its place."""

    def __init__(self, export: Export, warehouse: DuckdbWarehouse) -> None:
        self.export = export
        self.step = BareStep(
            export.source, warehouse, date(2025, 2, 1), date(2025, 2, 28), run_id="r1"
        )
        self.export.deliver("2025-02", GOOD, at=FIRST)
        self.extract(self.step)
        self.before = self.everything()
        self.later = self.step.another(run_id="r2", run_created_at=CREATED + timedelta(1))

    def extract(self, step: BareStep, **changes: Any) -> StepResult:
        return run("cloud.billing_export", step, CONFIG | changes)

    def query(self, sql: str) -> list[tuple[Value, ...]]:
        return self.step.warehouse.query(self.step.dataset, sql, {}).rows

    def everything(self) -> tuple[object, ...]:
        rejects = self.query("SELECT * FROM _rejects ORDER BY 1, 2, 3, 4, 5, 6")
        rows = self.query("SELECT * FROM aws_focus ORDER BY ChargeDescription")
        return rows, rejects, self.step.warehouse.loads(self.step.dataset)

    def refuse(self, **changes: Any) -> StepError:
        """The error of the later run, after which everything is what it was."""
        with pytest.raises(StepError) as caught:
            self.extract(self.later, **changes)
        assert self.everything() == self.before
        return caught.value

    def put(self, *contents: bytes, name: str = "costs-{}.csv.gz", **fields: object) -> list[str]:
        """A newer delivery with these files."""
        paths = [
            self.export.file("2025-02", name.format(number), content)
            for number, content in enumerate(contents, start=1)
        ]
        self.export.manifest("2025-02", paths, **fields)  # type: ignore[arg-type]  # free fields
        return paths


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    export = Export(tmp_path / "objects")
    export.source.mkdir()
    warehouse = DuckdbWarehouse(tmp_path / "warehouse.duckdb", PROCEDURES, lambda: CREATED)
    warehouse.create_dataset("acme_test")
    yield Scene(export, warehouse)
    warehouse.close()


def test_a_missing_manifest(scene: Scene) -> None:
    scene.export.manifest("2025-02", []).unlink()
    error = scene.refuse()
    assert isinstance(error, Terminal)
    assert error.code == "manifest_missing"
    assert "costs/metadata/BILLING_PERIOD=2025-02/costs-Manifest.json" in str(error)


def test_one_missing_month_stops_the_run_before_the_others_are_touched(scene: Scene) -> None:
    scene.export.deliver("2025-02", [row(9)])
    later = scene.later.another(end_date=date(2025, 3, 1))
    with pytest.raises(Terminal, match="2025-03"):
        scene.extract(later)
    assert scene.everything() == scene.before


def test_a_manifest_that_names_a_missing_file(scene: Scene) -> None:
    paths = scene.put(csv_gz([row(1)]))
    scene.export.manifest("2025-02", [*paths, paths[0].replace("costs-1", "costs-2")])
    error = scene.refuse()
    assert error.code == "file_missing"
    assert "costs-2.csv.gz" in str(error)


def test_a_manifest_that_names_a_file_outside(scene: Scene) -> None:
    (scene.export.source / "secret").write_text("x")
    scene.export.manifest("2025-02", ["../secret"])
    assert scene.refuse().code == "manifest_path"


@pytest.mark.parametrize("promised", [2, 4])
def test_a_manifest_that_promises_fewer_or_more_rows_than_there_are(
    scene: Scene, promised: int
) -> None:
    paths = scene.put(csv_gz([row(n) for n in range(3)]), csv_gz([row(7)]))
    scene.export.manifest(
        "2025-02",
        [
            {"blobName": paths[0], "dataRowCount": promised},
            {"blobName": paths[1], "dataRowCount": 1},
        ],
    )
    error = scene.refuse()
    assert isinstance(error, Terminal)
    assert error.code == "row_count"
    assert "costs-1.csv.gz" in str(error)


def cut(content: bytes, share: float) -> bytes:
    return content[: int(len(content) * share)]


@pytest.mark.parametrize(
    "cutting",
    [
        lambda content: cut(content, 0.02),
        lambda content: cut(content, 0.5),
        lambda content: cut(content, 0.99),
        lambda content: content[:-9],
        lambda content: content[:-8],
        lambda content: content[:-4],
        lambda content: content[:-1],
    ],
)
def test_a_truncated_gzip(scene: Scene, cutting: Callable[[bytes], bytes]) -> None:
    whole = csv_gz([row(n) for n in range(4_000)])
    scene.put(csv_gz([row(1)]), cutting(whole))
    error = scene.refuse()
    assert isinstance(error, Terminal)
    assert error.code == "unreadable_file"
    assert "costs-2.csv.gz" in str(error)
    assert str(scene.export.source) not in str(error)


def test_an_error_names_the_object_and_no_folder_of_the_machine(
    scene: Scene, tmp_path: Path
) -> None:
    pq.write_table(pa.table({name: [row(1)[name]] * 9_000 for name in HEADER}), tmp_path / "whole")
    content = bytearray((tmp_path / "whole").read_bytes())
    content[20:60] = b"x" * 40
    for spoilt, name in (
        (csv_gz([row(n) for n in range(4_000)])[:-4_000], "costs-{}.csv.gz"),
        (bytes(content), "costs-{}.parquet"),
    ):
        scene.put(spoilt, name=name)
        error = scene.refuse()
        assert error.code == "unreadable_file"
        assert str(error).startswith("costs/data/BILLING_PERIOD=2025-02/costs-1.")
        assert str(tmp_path) not in str(error)


def test_a_truncated_parquet(scene: Scene, tmp_path: Path) -> None:
    table = pa.table({name: [row(n)[name] for n in range(2_000)] for name in HEADER})
    pq.write_table(table, tmp_path / "whole.parquet")
    content = (tmp_path / "whole.parquet").read_bytes()
    for share in (0.01, 0.5, 0.999):
        scene.put(cut(content, share), name="costs-{}.snappy.parquet")
        error = scene.refuse()
        assert error.code == "unreadable_file"
        assert "costs-1.snappy.parquet" in str(error)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        gzip.compress(b"", mtime=0),
        b"PAR1",
        gzip.compress(csv_text([row(1)]).encode() + b"one,cell too few\n", mtime=0),
        gzip.compress(csv_text([row(1)]).encode().replace(b"charge", b"\xff\xfe")),
    ],
)
def test_a_file_that_cannot_be_read(scene: Scene, content: bytes) -> None:
    scene.put(content)
    error = scene.refuse()
    assert isinstance(error, Terminal)
    assert error.code in {"unreadable_file", "missing_column"}
    assert "costs-1.csv.gz" in str(error)


@pytest.mark.parametrize(
    "cell", ["twelve", "$1.50", "1,000.00", "1.5 USD", "nan", "inf", "--1", "0x1"]
)
def test_a_cost_that_is_not_a_number_fails_the_load(scene: Scene, cell: str) -> None:
    scene.put(csv_gz([row(1), row(2, BilledCost=cell)]))
    error = scene.refuse()
    assert isinstance(error, Terminal)
    assert error.code == "reject_threshold"
    assert "BilledCost" in str(error)


def test_under_the_threshold_the_good_rows_are_in_and_the_rejects_are_listed(scene: Scene) -> None:
    scene.put(csv_gz([row(1), row(2, BilledCost="twelve"), *(row(n) for n in range(3, 21))]))
    result = scene.extract(scene.later, max_reject_ratio=0.05)
    assert (result.summary.extracted, result.summary.loaded, result.summary.rejected) == (20, 19, 1)
    assert result.summary.warnings
    ((rejects,),) = scene.query("SELECT COUNT(*) FROM _rejects")
    assert rejects == 1
    assert scene.query("SELECT COUNT(*) FROM aws_focus") == [(19,)]


def test_one_reject_too_many_fails_the_load(scene: Scene) -> None:
    rows = [row(1, BilledCost="x"), row(2, BilledCost="x"), *(row(n) for n in range(3, 21))]
    scene.put(csv_gz(rows))
    assert scene.refuse(max_reject_ratio=0.05).code == "reject_threshold"


@pytest.mark.parametrize("column", ["BilledCost", "BillingPeriodStart", "ServiceName"])
def test_a_missing_mandatory_column(scene: Scene, column: str) -> None:
    header = [name for name in HEADER if name != column]
    scene.put(csv_gz([row(1)]), csv_gz([row(2)], header))
    error = scene.refuse()
    assert error.code == "missing_column"
    assert column in str(error)
    assert "costs-2.csv.gz" in str(error)


def test_a_column_that_is_there_twice(scene: Scene) -> None:
    scene.put(csv_gz([row(1)], [*HEADER, "billedcost"]))
    error = scene.refuse()
    assert error.code == "duplicate_column"


def test_an_unknown_column_is_kept_and_told(scene: Scene) -> None:
    header = [*HEADER, 'Odd "name", with it', "x_run_id", "Empty"]
    cells = [row(1) | {'Odd "name", with it': "kept", "x_run_id": "not ours"}, row(2)]
    scene.put(csv_gz(cells, header))
    result = scene.extract(scene.later)
    (receipt,) = result.evidence.loads
    told = ('Odd "name", with it', "x_run_id", "Empty")
    for name in told:
        assert name in receipt.unknown_columns
    assert scene.query(
        "SELECT TO_JSON_STRING(x_unknown), x_run_id FROM aws_focus ORDER BY ChargeDescription"
    ) == [('{"Odd \\"name\\", with it":"kept","x_run_id":"not ours"}', "r2"), (None, "r2")]


def test_two_runs_of_the_month_in_one_folder_are_not_added_up(scene: Scene) -> None:
    # create-new mode, and what a larger delivery in overwrite mode has left
    scene.export.file("2025-02", "costs-00009.csv.gz", csv_gz([row(90)]))
    for day in (1, 2):
        name = f"2025-03-0{day}T00:00:00Z-run{day}"
        files = [
            scene.export.file("2025-02", f"costs-{n}.csv.gz", csv_gz([row(n)]), name)
            for n in range(1, day + 2)
        ]
        scene.export.manifest("2025-02", files, run=name, execution_id=f"run{day}")
    result = scene.extract(scene.later)
    assert result.summary.loaded == 3
    assert scene.query("SELECT COUNT(*) FROM aws_focus") == [(3,)]


def test_an_older_manifest_after_a_newer_one(scene: Scene) -> None:
    scene.export.deliver("2025-02", [row(1)], at=FIRST - timedelta(days=1))
    error = scene.refuse()
    assert isinstance(error, Terminal)
    assert error.code == "superseded"


def test_a_row_of_another_month(scene: Scene) -> None:
    scene.put(csv_gz([row(1), row(2, "2025-01")]))
    error = scene.refuse()
    assert error.code == "outside_covers"
    assert "2025-01" in str(error)


@pytest.mark.parametrize("start", ["", "02/01/2025", "never"])
def test_a_row_without_a_month_is_rejected(scene: Scene, start: str) -> None:
    scene.put(csv_gz([row(1), row(2, BillingPeriodStart=start)]))
    error = scene.refuse()
    assert error.code == "reject_threshold"
    result = scene.extract(scene.later, max_reject_ratio=0.5)
    assert (result.summary.loaded, result.summary.rejected) == (1, 1)


def test_files_without_rows_are_not_taken_for_an_empty_month(scene: Scene) -> None:
    scene.put(csv_gz([]), csv_gz([]))
    error = scene.refuse()
    assert isinstance(error, Terminal)
    assert error.code == "empty_export"
    assert "allow_empty" in str(error)


def test_a_manifest_without_files_is_not_taken_for_an_empty_month(scene: Scene) -> None:
    scene.export.manifest("2025-02", [])
    assert scene.refuse().code == "empty_export"


def test_one_file_without_rows_among_others_is_fine(scene: Scene) -> None:
    scene.put(csv_gz([]), csv_gz([row(1)]), csv_gz([]))
    assert scene.extract(scene.later).summary.loaded == 1


@pytest.mark.parametrize(
    "confirmed", ["by the manifest", "by each file", "without a file", "by us"]
)
def test_a_confirmed_empty_month_empties_its_slice(scene: Scene, confirmed: str) -> None:
    (path,) = scene.put(csv_gz([]))
    changes = {}
    match confirmed:
        case "by the manifest":
            scene.export.manifest("2025-02", [path], dataRowCount=0)
        case "by each file":
            scene.export.manifest("2025-02", [{"blobName": path, "dataRowCount": 0}])
        case "without a file":
            scene.export.manifest("2025-02", [], dataRowCount=0)
        case _:
            changes = {"allow_empty": True}
    result = scene.extract(scene.later, **changes)
    assert result.summary.no_data
    assert result.evidence.loads[0].loaded == 0
    assert scene.query("SELECT COUNT(*) FROM aws_focus") == [(0,)]
    (loaded,) = scene.step.warehouse.loads(scene.step.dataset, LoadsOf(tables=("aws_focus",)))
    assert (loaded.rows, loaded.run_id) == (0, "r2")


@pytest.mark.parametrize("cell", ["", "NULL"])
def test_a_null_in_a_mandatory_cost_is_a_finding(scene: Scene, cell: str) -> None:
    scene.put(csv_gz([row(1), row(2, ContractedCost=cell)]))
    result = scene.extract(scene.later)
    assert (result.summary.loaded, result.summary.rejected) == (2, 0)
    assert result.summary.warnings
    (finding,) = (f for f in result.evidence.loads[0].findings if "ContractedCost" in f.message)
    assert finding.rows == 1
    assert scene.query("SELECT COUNT(*) FROM aws_focus WHERE ContractedCost IS NULL") == [(1,)]


def test_a_file_takes_no_memory_that_it_chooses(scene: Scene) -> None:
    wide = ",".join(f"c{number}" for number in range(200_000))
    for header in (wide, wide * 2, '"a\n",' * 500_000):
        scene.put(gzip.compress(f"{header}\n1\n".encode()))
        error = scene.refuse()
        assert error.code == "unreadable_file"
        assert "more than" in str(error)


def test_what_has_more_values_than_there_are_currencies_is_none(scene: Scene) -> None:
    scene.put(csv_gz([row(n, BillingCurrency=f"C{n}") for n in range(10_001)]))
    error = scene.refuse()
    assert error.code == "too_many_currencies"
    assert "BillingCurrency" in str(error)


def test_a_file_that_is_replaced_while_it_is_read_comes_again(scene: Scene) -> None:
    scene.put(csv_gz([row(1)]), csv_gz([row(2)]))
    path = scene.export.source / "costs/data/BILLING_PERIOD=2025-02/costs-1.csv.gz"

    class Refreshed(BareStep):
        def check(self) -> None:
            if self.checks == 1:
                path.write_bytes(csv_gz([row(9), row(8)]))
            super().check()

    later = scene.later
    step = Refreshed(
        later.root,
        later.warehouse,
        later.start_date,
        later.end_date,
        run_id=later.run_id,
        run_created_at=later.run_created_at,
    )
    with pytest.raises(Transient) as caught:
        scene.extract(step)
    assert caught.value.code == "export_changed"
    assert scene.everything() == scene.before


def test_a_file_that_is_broken_because_it_is_being_replaced_comes_again(scene: Scene) -> None:
    paths = scene.put(csv_gz([row(1)]), csv_gz([row(2)]))
    path = scene.export.source / "costs/data/BILLING_PERIOD=2025-02/costs-1.csv.gz"
    scene.export.manifest("2025-02", paths)

    class Refreshed(BareStep):
        def check(self) -> None:
            if self.checks == 1:
                path.write_bytes(csv_gz([row(n) for n in range(99)])[:-9])  # not yet whole
            super().check()

    later = scene.later
    step = Refreshed(
        later.root,
        later.warehouse,
        later.start_date,
        later.end_date,
        run_id=later.run_id,
        run_created_at=later.run_created_at,
    )
    with pytest.raises(Transient) as caught:
        scene.extract(step)
    assert caught.value.code == "export_changed"
    assert scene.everything() == scene.before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"table": "Aws Focus"}, "table"),
        ({"custom_columns": {"x_run_id": "text"}}, "x_run_id"),
        ({"custom_columns": {"billedcost": "decimal"}}, "BilledCost"),
        ({"custom_columns": {"x_a": "text", "X_A": "text"}}, "twice"),
        ({"custom_columns": {"bad name": "text"}}, "regex"),
        ({"max_reject_ratio": 1.5}, "max_reject_ratio"),
        ({"export_name": "../other"}, "export_name"),
        ({"dialect": "guess"}, "dialect"),
        ({"tabel": "x"}, "tabel"),
    ],
)
def test_a_wrong_configuration_is_refused_before_anything_is_read(
    scene: Scene, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        scene.extract(scene.later, **changes)
