"""A month of costs to try things with: a FOCUS 1.2 export, laid out as AWS Data Exports delivers it.

The rows are made up by focus-data-toolkit; the same arguments give the same files. The sums that a load
of them must reach are added here, in decimals, from the text that is written, by none of our loaders.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from functools import cache
from hashlib import sha256
from importlib import import_module
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import IO, Any
from uuid import UUID

COSTS = ("BilledCost", "ContractedCost", "EffectiveCost", "ListCost")
# AWS' FOCUS 1.2 table has these beyond the specification's columns.
AWS_COLUMNS = ("x_Discounts", "x_Operation", "x_ServiceCode")
_BATCH = 2_500
# The toolkit knows one month and uses 28 days of it, which every month has.
_TOOLKIT_MONTH = date(2026, 5, 1)
_TOOLKIT_NEXT = date(2026, 6, 1)
_TIMES = ("BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd")

Row = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What was made. `sums` has the four costs, exactly as the files add up to; all are in USD."""

    folder: Path
    export_name: str
    period: str
    rows: int
    credits: int
    sums: dict[str, Decimal]
    manifest: Path
    files: tuple[Path, ...]


@dataclass(slots=True)
class _Tally:
    """What has been written so far."""

    rows: int = 0
    credits: int = 0
    sums: dict[str, Decimal] = field(default_factory=lambda: dict.fromkeys(COSTS, Decimal(0)))

    def add(self, row: Row) -> None:
        self.rows += 1
        self.credits += row["BilledCost"].startswith("-")
        for cost in COSTS:
            self.sums[cost] += Decimal(row[cost])


def make_export(
    folder: Path,
    *,
    rows: int = 100_000,
    period: str = "2026-05",
    files: int = 4,
    seed: int = 1,
    export_name: str = "costs",
    progress: Callable[[int, int], None] | None = None,
) -> Sample:
    """Writes the export of `period` (YYYY-MM) below `folder`, which becomes a source of exports.

    An export of the period that is there already is replaced as AWS does in overwrite mode: files
    under their names, the manifest last. `progress` is told how many of how many rows are written.
    """
    partition = f"BILLING_PERIOD={period}"
    data = folder / export_name / "data" / partition
    data.mkdir(parents=True, exist_ok=True)
    made = _rows(rows, date.fromisoformat(f"{period}-01"), seed)
    tally = _Tally()
    paths = []
    columns: Sequence[str] = ()
    for number in range(1, files + 1):
        path = data / f"{export_name}-{number:05d}.csv.gz"
        # without a time in its header, so that the same rows are the same bytes
        with (
            path.open("wb") as raw,
            gzip.GzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
            TextIOWrapper(packed, encoding="utf-8", newline="") as text,
        ):
            columns = _write(text, islice(made, rows * number // files - tally.rows), tally)
        paths.append(path)
        if progress is not None:
            progress(tally.rows, rows)
    manifest = folder / export_name / "metadata" / partition / f"{export_name}-Manifest.json"
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(
        json.dumps(
            {
                "executionId": str(UUID(bytes=_digest("execution", period, seed, rows)[:16])),
                "columns": [{"name": name} for name in columns],
                "dataFiles": [
                    f"s3://sample-bucket/{path.relative_to(folder).as_posix()}" for path in paths
                ],
            },
            indent=2,
        )
    )
    return Sample(
        folder=folder,
        export_name=export_name,
        period=period,
        rows=tally.rows,
        credits=tally.credits,
        sums=tally.sums,
        manifest=manifest,
        files=tuple(paths),
    )


def _write(text: IO[str], rows: Iterator[Row], tally: _Tally) -> tuple[str, ...]:
    """Writes the rows with their header and returns its names."""
    columns = (*_toolkit().COLUMNS, *AWS_COLUMNS)
    out = csv.DictWriter(text, columns, lineterminator="\n")
    out.writeheader()
    for row in rows:
        tally.add(row)
        out.writerow(row)
    return columns


def _rows(rows: int, month: date, seed: int) -> Iterator[Row]:
    """The rows one by one, from batches with seeds of their own: memory stays small."""
    for start in range(0, rows, _BATCH):
        count = min(_BATCH, rows - start)
        batch_seed = int.from_bytes(_digest("rows", seed, start)[:8], "big")
        for row in _toolkit().generate_rows(count, batch_seed, include_credits=True):
            for column in _TIMES:
                row[column] = _moved(row[column], month)
            row["InvoiceId"] = row["InvoiceId"].replace(f"{_TOOLKIT_MONTH:%Y-%m}", f"{month:%Y-%m}")
            yield _as_aws(row)


@cache
def _moved(time: str, month: date) -> str:
    """A time of the toolkit's month in another one; the end of the month is its end."""
    day, hour = date.fromisoformat(time[:10]), time[10:]
    if day == _TOOLKIT_NEXT:
        moved = (month + timedelta(days=31)).replace(day=1)
    else:
        moved = month + (day - _TOOLKIT_MONTH)
    return f"{moved}{hour}"


def _as_aws(row: Row) -> Row:
    service = row["ServiceName"]
    row["x_ServiceCode"] = service.replace(" ", "")
    row["x_Operation"] = f"{row['ChargeCategory']}:{row['ResourceType'] or 'None'}".replace(" ", "")
    row["x_Discounts"] = "{}"
    return row


def _toolkit() -> Any:
    # On demand: it takes 0.1 s to import, and its module fills itself at run time.
    return import_module("focus_data_toolkit.generators.generate_aws_focus_1_2")


def _digest(*parts: object) -> bytes:
    return sha256("/".join(map(str, parts)).encode()).digest()
