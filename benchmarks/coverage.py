"""What coverage costs on one machine: from the engine's call to the JSON, over a large `_loads` in DuckDB.

    python benchmarks/coverage.py [--days 400] [--times 10]

An organization with 25 pipelines and 50 credentials for each, every day loaded into two tables: at 400
days a million markers. Asked for are 50 sources, which is a page, and one source; the baseline is DuckDB
reading a column of all markers.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import duckdb
import msgspec

from shared.core.dates import Dates
from shared.core.parse import load_pipeline
from shared.engine.catalog import Catalog
from shared.engine.coverage import MOST_SOURCES, Asked, coverage
from shared.processors import PROCESSORS
from shared.vault import CredentialInfo
from shared.warehouse.duckdb import DuckdbWarehouse

PIPELINES, CREDENTIALS = 25, 50
LAST = date(2026, 11, 22)
NOW = datetime(2026, 11, 24, 4, tzinfo=UTC)
FILE = """\
pipeline_id: pipeline_{0}
provider: provider_{0}
domain: cost
coverage: {{tables: [raw_{0}, focus_costs], final_after_days: 3}}
steps: [{{step_id: extract, ps_type: cloud.billing_export,
  config: {{source: "file:x", export_name: x, table: raw_{0}}}}}]
"""


def fill(path: Path, days: int) -> int:
    """The markers, straight into the file: loading a million slices would take a day."""
    with duckdb.connect(str(path)) as db:
        db.execute(
            """INSERT INTO acme_bench._loads
            SELECT 'acme', 'pipeline_' || p, 'credential_' || c, day, name, 'r' || hash(p, c, day),
              'extract', 1, day + INTERVAL 30 HOUR, md5(p || '/' || c || '/' || day),
              day + INTERVAL 30 HOUR, 1000, 0, NULL, md5(CAST(day AS VARCHAR)),
              day + INTERVAL 31 HOUR, day + 1
            FROM (SELECT CAST(unnest(generate_series(?, ?, INTERVAL 1 DAY)) AS DATE) AS day),
              range(?) ps(p), range(?) cs(c),
              (SELECT unnest(['raw', 'focus_costs']) AS kind),
              LATERAL (SELECT CASE kind WHEN 'raw' THEN 'raw_' || p ELSE kind END AS name)""",
            [LAST - timedelta(days=days - 1), LAST, PIPELINES, CREDENTIALS],
        )
        (count,) = db.execute("SELECT count(*) FROM acme_bench._loads").fetchall()[0]
    return int(count)


def credentials(_: str) -> list[CredentialInfo]:
    return [
        CredentialInfo(
            org="acme",
            provider=f"provider_{pipeline}",
            credential_id=f"credential_{number}",
            version=1,
            active=True,
            created_at=NOW,
            updated_at=NOW,
        )
        for pipeline in range(PIPELINES)
        for number in range(CREDENTIALS)
    ]


def app_over(warehouse: DuckdbWarehouse) -> Any:
    catalog = Catalog(
        load_pipeline(f"a/cost/pipeline_{number}.yml", FILE.format(number).encode(), PROCESSORS)
        for number in range(PIPELINES)
    )
    return SimpleNamespace(
        catalog=lambda: catalog,
        vault=SimpleNamespace(find=credentials),
        warehouse=lambda: warehouse,
        processors=PROCESSORS,
        environment="bench",
        now=lambda: NOW,
    )


def look(app: Any, days: int, **where: str) -> Callable[[], tuple[int, int, int]]:
    """Every page of what is asked for: pages, sources, and bytes of JSON."""
    asked = Asked(Dates(LAST - timedelta(days=days - 1), LAST), timedelta(days=7), **where)

    def ask() -> tuple[int, int, int]:
        pages = sources = size = 0
        cursor = None
        while True:
            page = coverage(app, "acme", asked, MOST_SOURCES, cursor)
            pages, sources = pages + 1, sources + len(page.sources)
            size += len(msgspec.json.encode(page))
            cursor = page.next
            if cursor is None:
                return pages, sources, size

    return ask


def timed(action: Callable[[], Any], times: int) -> tuple[float, float, Any]:
    """Medians in milliseconds, of the clock and of the CPU, and what was answered."""
    taken, answer = [], None
    for _ in range(times):
        clock, cpu = time.perf_counter(), time.process_time()
        answer = action()
        taken.append((time.perf_counter() - clock, time.process_time() - cpu))
    clocks, cpus = zip(*taken, strict=True)
    return statistics.median(clocks) * 1000, statistics.median(cpus) * 1000, answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=400)
    parser.add_argument("--times", type=int, default=10)
    given = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "warehouse.duckdb"
        with closing(DuckdbWarehouse(path, Path(folder), lambda: NOW)) as warehouse:
            warehouse.create_dataset("acme_bench")
        print(f"{fill(path, given.days):,} markers, {path.stat().st_size / 2**20:.0f} MiB")
        with closing(DuckdbWarehouse(path, Path(folder), lambda: NOW)) as warehouse:
            app = app_over(warehouse)
            pipeline = {"pipeline_id": "pipeline_7"}
            for name, action in {
                "50 sources, all days": look(app, given.days, **pipeline),
                "50 sources, 35 days": look(app, 35, **pipeline),
                "1 source, all days": look(
                    app, given.days, **pipeline, credential_id="credential_7"
                ),
                "all sources, 35 days": look(app, 35),
            }.items():
                median, cpu, (pages, sources, size) = timed(action, given.times)
                figures[name] = round(median, 1)
                print(
                    f"{name:24} p50 {median:8.1f} ms, CPU {cpu:7.1f} ms  {sources:5,} sources on {pages} pages, "
                    f"{size / 1024:,.0f} KiB of JSON"
                )
            sql = "SELECT SUM(loaded) FROM _loads"
            median, cpu, _ = timed(lambda: warehouse.query("acme_bench", sql, {}), given.times)
            print(f"{'baseline: one column':24} p50 {median:8.1f} ms, CPU {cpu:7.1f} ms")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MiB")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
