"""What is told of an error of DuckDB."""

from __future__ import annotations

import pytest

from shared.warehouse.session import told


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("IO Error: end of GZIP stream: /data/acme/x.gz", "IO Error: end of GZIP stream: x.gz"),
        (
            'Failed to read file "/my data/acme/b.parquet": bad',
            'Failed to read file "b.parquet": bad',
        ),
        ("could not write '/d/w.duckdb.tmp/1.tmp': full", "could not write '1.tmp': full"),
        (
            "lock on '/d/w.db' is held in /usr/bin/py (PID 3)",
            "lock on 'w.db' is held in py (PID 3)",
        ),
        ("cannot convert 5/6, a/b/c or 2024/05/06", "cannot convert 5/6, a/b/c or 2024/05/06"),
        ("first\nsecond", "first"),
        ("x" * 600, "x" * 500),
    ],
)
def test_an_error_is_one_line_without_folders(said: str, expected: str) -> None:
    assert told(ValueError(said)) == expected


def test_a_file_goes_by_the_name_of_its_object() -> None:
    error = ValueError("end of GZIP stream: /data/acme/x.gz")
    assert told(error, "/data/acme/x.gz", "exports/x.gz") == "end of GZIP stream: exports/x.gz"
