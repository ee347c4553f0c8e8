"""What an exact load costs beside DuckDB's own bulk load of the same file.

    python benchmarks/load.py [--rows 1000000] [--formats parquet csv.gz] [--repeat 1]

57 columns: 12 decimals (doubles in the Parquet file), 4 times, 41 texts. `bulk` is
`INSERT INTO plain SELECT * FROM read_…` with the types that DuckDB finds by itself; `typed` the same into
the table that the load fills, without proof, rejects or lineage. Each runs in a process of its own, one
after the other, so that the peaks of memory are theirs; the ratio is of rows per second.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from shared.core.lineage import Fence, Slice, Writer  # noqa: E402 -- as is `python benchmarks/load.py`
from shared.warehouse import (  # noqa: E402 -- see above
    Column,
    ColumnType,
    Files,
    Load,
    Reading,
    SourceFile,
    Table,
)
from shared.warehouse.duckdb import DuckdbWarehouse  # noqa: E402 -- see above

DECIMALS = (
    "BilledCost",
    "EffectiveCost",
    "ListCost",
    "ContractedCost",
    "ListUnitPrice",
    "ContractedUnitPrice",
    "ConsumedQuantity",
    "PricingQuantity",
    "CommitmentDiscountQuantity",
    "PricingCurrencyEffectiveCost",
    "PricingCurrencyListUnitPrice",
    "PricingCurrencyContractedUnitPrice",
)
TIMES = ("BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd")
TEXTS = ("BillingCurrency", "Tags", *(f"Text{place}" for place in range(39)))
READS = {"parquet": "read_parquet($path)", "csv.gz": "read_csv($path)", "csv": "read_csv($path)"}
MEMORY = "220MB"  # of the bulk loads: the CSV file does not always fit the warehouse's own limit


def _expressions() -> list[str]:
    """SQL of the columns of row `i`: few and many different values, short and long, some nulls."""
    made = [
        f'CAST(((i * {7919 + 13 * place}) % 100000003) / 1e{7 + place % 3} AS DOUBLE) AS "{name}"'
        for place, name in enumerate(DECIMALS)
    ]
    starts = ("'2024-09-01'", "'2024-10-01'", "'2024-09-01'", "'2024-09-01 01:00:00'")
    for place, (name, start) in enumerate(zip(TIMES, starts, strict=True)):
        hours = " + to_hours(CAST(i % 720 AS INTEGER))" if place > 1 else ""
        made.append(f'TIMESTAMP {start}{hours} AS "{name}"')
    made += ["'USD' AS BillingCurrency", "'{\"team\": \"t' || (i % 50) || '\"}' AS Tags"]
    for place in range(39):
        if place < 4:
            text = f"'arn:aws:ec2:us-east-1:123456789012:instance/i-' || lpad(to_hex(i * {place + 7}), 17, '0')"
        elif place < 12:
            text = f"'sku-{place}-' || ((i * {place}) % 5000)"
        elif place < 20:
            text = f"CASE WHEN i % 3 > 0 THEN 'value {place} ' || (i % 200) END"
        else:
            text = f"'text {place} ' || (i % {place})"
        made.append(f"{text} AS Text{place}")
    return made


def make(path: Path, rows: int) -> None:
    """Writes the file `path`; its suffix says how."""
    options = {
        "parquet": "FORMAT parquet, COMPRESSION snappy",
        "csv.gz": "FORMAT csv, HEADER, COMPRESSION gzip",
        "csv": "FORMAT csv, HEADER",
    }
    kind = path.name.partition(".")[2]
    duckdb.connect().execute(
        f"COPY (SELECT {', '.join(_expressions())} FROM range({rows}) r(i)) "
        f"TO '{path}' ({options[kind]})"
    )


def bulk(path: Path, database: Path, *, typed: bool) -> float:
    """Seconds of DuckDB's own load."""
    connection = duckdb.connect(str(database))
    for setting in (
        "threads = 2",
        f"memory_limit = '{MEMORY}'",
        "preserve_insertion_order = false",
    ):
        connection.execute(f"SET {setting}")
    # what a load has, too; without them the Parquet file does not fit the memory
    for setting in ("write_buffer_row_group_count = 1", "disable_parquet_prefetching = true"):
        connection.execute(f"SET {setting}")
    read = READS[path.name.partition(".")[2]]
    if typed:
        columns = [f'"{name}" DECIMAL(38,18)' for name in DECIMALS]
        columns += [f'"{name}" TIMESTAMP' for name in TIMES] + [
            f'"{name}" VARCHAR' for name in TEXTS
        ]
        connection.execute(f"CREATE TABLE plain ({', '.join(columns)})")
    else:
        connection.execute(f"CREATE TABLE plain AS FROM {read} LIMIT 0", {"path": str(path)})
    start = time.perf_counter()
    connection.execute(f"INSERT INTO plain SELECT * FROM {read}", {"path": str(path)})
    return time.perf_counter() - start


def load(path: Path, database: Path, rows: int) -> float:
    """Seconds of the warehouse's load."""
    at = datetime(2024, 10, 2, tzinfo=UTC)
    warehouse = DuckdbWarehouse(database, database.parent, lambda: datetime.now(UTC))
    columns = [Column(name, ColumnType.DECIMAL) for name in DECIMALS]
    columns += [Column(name, ColumnType.TIMESTAMP) for name in TIMES]
    columns += [Column(name) for name in TEXTS]
    read = READS[path.name.partition(".")[2]].replace(
        "read_csv($path", "read_csv($path, all_varchar = true"
    )
    cells = ", ".join(f'CAST("{column.name}" AS VARCHAR) AS "{column.name}"' for column in columns)
    sql = f"SELECT {cells}, '2024-09-01' AS _run_date FROM {read}"
    warehouse.create_dataset("acme_bench")
    start = time.perf_counter()
    receipt = warehouse.load(
        Load(
            dataset="acme_bench",
            table=Table("costs", tuple(columns)),
            covers=frozenset({Slice("acme", "cloud_aws", "main", date(2024, 9, 1))}),
            writer=Writer("run", "load", Fence(at, at, 1)),
            source=Files(
                files=[SourceFile(path.name, lambda: nullcontext(path), rows)],
                read=lambda *_: Reading(sql, {}),
            ),
            source_version="v1",
            source_at=at,
            totals=DECIMALS[:4],
            currency_column="BillingCurrency",
        )
    )
    seconds = time.perf_counter() - start
    assert receipt.loaded == rows
    warehouse.close()
    return seconds


def _alone(kind: str, path: Path, rows: int) -> list[float]:
    """Seconds, CPU seconds and peak MiB of one task in a process of its own.

    Also of `make`: Linux counts what a parent held when it started a process as that process's peak.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [
            sys.executable,
            __file__,
            "--one",
            kind,
            str(path),
            str(Path(folder) / "w.duckdb"),
        ]
        answer = subprocess.run(
            [*command, "--rows", str(rows)], check=True, capture_output=True, text=True
        )
    measured: list[float] = json.loads(answer.stdout.splitlines()[-1])
    return measured


def _one(kind: str, path: Path, database: Path, rows: int) -> None:
    seconds = 0.0
    if kind == "make":
        make(path, rows)
    elif kind == "load":
        seconds = load(path, database, rows)
    else:
        seconds = bulk(path, database, typed=kind == "typed")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([seconds, time.process_time(), peak]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument(
        "--formats", nargs="+", default=["parquet", "csv.gz"], choices=sorted(READS)
    )
    parser.add_argument("--repeat", type=int, default=1, help="the best of so many runs counts")
    parser.add_argument(
        "--one", nargs=3, metavar=("KIND", "FILE", "DATABASE"), help=argparse.SUPPRESS
    )
    given = parser.parse_args()
    if given.one:
        _one(given.one[0], Path(given.one[1]), Path(given.one[2]), given.rows)
        return
    print(f"{given.rows:,} rows x 57 columns, 2 threads")
    print(
        f"{'':>10} {'':>6} {'seconds':>8} {'CPU s':>7} {'rows/s':>9} {'ratio':>6} {'peak MiB':>9}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for kind in given.formats:
            path = Path(folder) / f"costs.{kind}"
            _alone("make", path, given.rows)
            best: dict[str, list[float]] = {}
            for _ in range(given.repeat):
                for what in ("bulk", "typed", "load"):
                    measured = _alone(what, path, given.rows)
                    best[what] = min(best.get(what, measured), measured)
            for what, (seconds, cpu, peak) in best.items():
                print(
                    f"{kind:>10} {what:>6} {seconds:>8.2f} {cpu:>7.2f} {given.rows / seconds:>9,.0f} "
                    f"{best['bulk'][0] / seconds:>6.2f} {peak:>9.0f}"
                )
            path.unlink()


if __name__ == "__main__":
    main()
