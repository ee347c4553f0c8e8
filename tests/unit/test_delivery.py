from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from shared.errors import Terminal
from shared.objects.files import FolderStore
from shared.processors._delivery import Delivery, Layout, newest
from tests.support.exports import Export

FEB = date(2025, 2, 1)
NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def export(tmp_path: Path) -> Export:
    return Export(tmp_path)


def found(export: Export, period: date = FEB) -> Delivery:
    return newest(FolderStore(export.source), export.name, period, Layout.AWS)


def refused(export: Export, period: date = FEB) -> Terminal:
    with pytest.raises(Terminal) as caught:
        found(export, period)
    return caught.value


def test_overwrite_mode_has_one_manifest_whose_time_is_its_age(export: Export) -> None:
    path = export.file("2025-02", "costs-00001.csv.gz", b"x")
    export.manifest("2025-02", [path], modified_at=NOON)
    delivery = found(export)
    assert delivery.made_at == NOON
    assert [f.info.key for f in delivery.files] == [
        "costs/data/BILLING_PERIOD=2025-02/costs-00001.csv.gz"
    ]
    assert delivery.execution_id == "6f0e8f7a-0000-4000-8000-000000000001"


@pytest.mark.parametrize(
    "run", ["2025-03-01T13:14:37.728Z-6f0e8f7a", "20250301T131437.728Z-6f0e8f7a"]
)
def test_create_new_mode_tells_the_time_in_the_name_of_its_run(export: Export, run: str) -> None:
    path = export.file("2025-02", "costs-00001.csv.gz", b"x", run)
    export.manifest("2025-02", [path], run=run, modified_at=NOON)
    assert found(export).made_at == datetime(2025, 3, 1, 13, 14, 37, 728_000, UTC)


def test_of_several_runs_the_newest_is_read_and_only_its_files(export: Export) -> None:
    for day in ("03", "01", "02"):
        run = f"2025-03-{day}T00:00:00Z-run{day}"
        files = [export.file("2025-02", f"costs-0000{n}.csv.gz", b"x", run) for n in (1, 2)]
        # the order in which the runs were copied says nothing
        export.manifest("2025-02", files, run=run, execution_id=f"run{day}", modified_at=NOON)
    delivery = found(export)
    assert delivery.execution_id == "run03"
    assert len(delivery.files) == 2
    assert all("run03" in file.info.key for file in delivery.files)


def test_the_periods_manifest_and_that_of_its_run_are_one_delivery(export: Export) -> None:
    run = "2025-03-01T00:00:00Z-run01"
    files = [export.file("2025-02", "costs-00001.csv.gz", b"x", run)]
    export.manifest("2025-02", files, run=run, execution_id="run01", modified_at=NOON)
    alone = found(export)
    export.manifest("2025-02", files, execution_id="run01", modified_at=NOON)
    both = found(export)
    assert (both.made_at, both.source_version) == (alone.made_at, alone.source_version)


def test_a_periods_manifest_that_was_copied_late_does_not_hide_a_newer_run(export: Export) -> None:
    old, new = "2025-03-01T00:00:00Z-old", "2025-03-02T00:00:00Z-new"
    for run in (old, new):
        path = export.file("2025-02", "costs-00001.csv.gz", b"x", run)
        export.manifest("2025-02", [path], run=run, execution_id=run, modified_at=NOON)
    path = export.file("2025-02", "costs-00001.csv.gz", b"x", old)
    export.manifest("2025-02", [path], execution_id="old")
    assert found(export).execution_id == new


def test_files_beside_those_of_the_manifest_are_not_read(export: Export) -> None:
    wanted = export.file("2025-02", "costs-00001.csv.gz", b"x")
    export.file("2025-02", "costs-00002.csv.gz", b"left by a larger delivery")
    export.manifest("2025-02", [wanted])
    assert len(found(export).files) == 1


def test_another_content_or_another_run_is_another_version(export: Export) -> None:
    path = export.file("2025-02", "costs-00001.csv.gz", b"x")
    export.manifest("2025-02", [path])
    first = found(export).source_version
    assert first == found(export).source_version
    export.file("2025-02", "costs-00001.csv.gz", b"other")
    export.manifest("2025-02", [path])
    second = found(export).source_version
    export.manifest("2025-02", [path], execution_id="another")
    assert len({first, second, found(export).source_version}) == 3


def test_no_manifest_says_which_key_was_expected(export: Export) -> None:
    export.file("2025-02", "costs-00001.csv.gz", b"x")
    error = refused(export)
    assert error.code == "manifest_missing"
    assert "costs/metadata/BILLING_PERIOD=2025-02/costs-Manifest.json" in str(error)


def test_the_manifest_of_another_export_or_month_does_not_count(export: Export) -> None:
    Export(export.source, "other").manifest("2025-02", [])
    export.manifest("2025-01", [])
    assert refused(export).code == "manifest_missing"


def test_a_missing_file_is_named_with_its_manifest(export: Export) -> None:
    path = export.file("2025-02", "costs-00001.csv.gz", b"x")
    export.manifest("2025-02", [path, path.replace("00001", "00002")])
    error = refused(export)
    assert error.code == "file_missing"
    assert "costs-00002.csv.gz" in str(error)
    assert "costs-Manifest.json" in str(error)


@pytest.mark.parametrize(
    "path",
    [
        "s3://bucket/costs/data/BILLING_PERIOD=2025-01/costs-00001.csv.gz",
        "s3://bucket/other/data/BILLING_PERIOD=2025-02/costs-00001.csv.gz",
        "s3://bucket/costs/data/BILLING_PERIOD=2025-02/../BILLING_PERIOD=2025-02/costs-00001.csv.gz",
        "s3://bucket/costs/data/BILLING_PERIOD=2025-02/",
        "s3://bucket/costs/data/BILLING_PERIOD=2025-02//costs-00001.csv.gz",
        "/etc/passwd",
        "../../secret",
        "costs-00001.csv.gz",
        "",
    ],
)
def test_a_path_outside_of_the_period_is_refused(export: Export, path: str) -> None:
    export.file("2025-02", "costs-00001.csv.gz", b"x")
    export.manifest("2025-02", [path])
    assert refused(export).code == "manifest_path"


@pytest.mark.parametrize("prefix", ["s3://bucket/a/b/costs/", "costs/", "a/costs/", ""])
def test_absolute_and_relative_paths_lead_to_the_same_file(export: Export, prefix: str) -> None:
    export.file("2025-02", "costs-00001.csv.gz", b"x")
    export.manifest("2025-02", [f"{prefix}data/BILLING_PERIOD=2025-02/costs-00001.csv.gz"])
    assert found(export).files[0].info.key == "costs/data/BILLING_PERIOD=2025-02/costs-00001.csv.gz"


def test_a_file_named_twice_is_refused(export: Export) -> None:
    path = export.file("2025-02", "costs-00001.csv.gz", b"x")
    export.manifest("2025-02", [path, path.removeprefix("s3://bucket/some/prefix/")])
    error = refused(export)
    assert error.code == "manifest_unreadable"
    assert "double" in str(error)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"dataFiles": "a"}',
        b'{"reportKeys": []}',
        b"\xff\xfe",
        b'{"dataFiles": ["\xff"]}',
        b'{"dataFiles": [], "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=range(9),
)
def test_what_is_no_manifest_is_refused_by_name(export: Export, content: bytes) -> None:
    export.manifest("2025-02", []).write_bytes(content)
    error = refused(export)
    assert error.code == "manifest_unreadable"
    assert "costs-Manifest.json" in str(error)


def test_counts_and_sizes_of_a_manifest_are_held_against_the_files(export: Export) -> None:
    path = export.file("2025-02", "costs-00001.csv.gz", b"12345")
    named = {"blobName": path, "byteCount": 5, "dataRowCount": 7}
    export.manifest("2025-02", [named], dataRowCount=7)
    delivery = found(export)
    assert (delivery.files[0].rows, delivery.rows) == (7, 7)
    export.manifest("2025-02", [named], dataRowCount=8)
    assert refused(export).code == "row_count"
    export.manifest("2025-02", [named | {"byteCount": 6}])
    assert refused(export).code == "file_size"


def test_a_count_for_all_is_the_count_of_an_only_file(export: Export) -> None:
    path = export.file("2025-02", "costs-00001.csv.gz", b"x")
    export.manifest("2025-02", [path], dataRowCount=7)
    assert found(export).files[0].rows == 7


@pytest.mark.parametrize(("fields", "empty"), [({}, False), ({"dataRowCount": 0}, True)])
def test_only_a_number_confirms_that_there_is_nothing(
    export: Export, fields: dict[str, Any], empty: bool
) -> None:
    export.manifest("2025-02", [], **fields)
    assert found(export).confirmed_empty is empty


def test_a_manifest_that_promises_rows_and_names_no_file_is_refused(export: Export) -> None:
    export.manifest("2025-02", [], dataRowCount=1)
    assert refused(export).code == "row_count"
