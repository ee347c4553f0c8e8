from __future__ import annotations

import csv
import gzip
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from shared.cli.sample import COSTS, Sample, make_export
from shared.core import focus


def rows_of(sample: Sample) -> list[dict[str, str]]:
    found = []
    for path in sample.files:
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            found += list(csv.DictReader(file))
    return found


def test_a_sample_is_an_export_of_aws_with_its_exact_sums(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    sample = make_export(
        tmp_path, rows=700, period="2025-02", files=3, progress=lambda *done: told.append(done)
    )
    rows = rows_of(sample)
    assert len(rows) == sample.rows == 700
    assert sample.sums == {cost: sum(Decimal(row[cost]) for row in rows) for cost in COSTS}
    assert sample.credits == sum(row["BilledCost"].startswith("-") for row in rows) > 0
    assert {row["BillingPeriodStart"] for row in rows} == {"2025-02-01T00:00:00Z"}
    assert {row["BillingPeriodEnd"] for row in rows} == {"2025-03-01T00:00:00Z"}
    for row in rows:
        start, end = (
            datetime.fromisoformat(row[f"ChargePeriod{edge}"]) for edge in ("Start", "End")
        )
        assert datetime(2025, 2, 1, tzinfo=UTC) <= start < end <= datetime(2025, 3, 1, tzinfo=UTC)
    assert focus.detect(rows[0]) == "1.2"
    assert told == [(233, 700), (466, 700), (700, 700)]
    manifest = json.loads(sample.manifest.read_text())
    assert [path.rpartition("/")[2] for path in manifest["dataFiles"]] == [
        path.name for path in sample.files
    ]
    assert [column["name"] for column in manifest["columns"]] == list(rows[0])


def test_the_same_arguments_make_the_same_files(tmp_path: Path) -> None:
    first = make_export(tmp_path / "a", rows=60, files=2, seed=7)
    second = make_export(tmp_path / "b", rows=60, files=2, seed=7)
    other = make_export(tmp_path / "c", rows=60, files=2, seed=8)
    contents = [[path.read_bytes() for path in sample.files] for sample in (first, second, other)]
    assert contents[0] == contents[1] != contents[2]
    assert first.manifest.read_text() == second.manifest.read_text() != other.manifest.read_text()
