from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.core import parquet
from shared.core.parquet import Kind

TYPES = {
    "BilledCost": (pa.float64(), 0.1, Kind.PLAIN),
    "exact": (pa.decimal128(38, 18), Decimal("0.1"), Kind.PLAIN),
    "text": (pa.string(), "ü", Kind.PLAIN),
    "binary": (pa.binary(), b"b", Kind.PLAIN),
    "flag": (pa.bool_(), True, Kind.PLAIN),
    "day": (pa.date32(), date(2025, 2, 1), Kind.PLAIN),
    "millis": (pa.timestamp("ms"), datetime(2025, 2, 1), Kind.TIMESTAMP),  # noqa: DTZ001  # as AWS
    "micros": (pa.timestamp("us", tz="UTC"), datetime(2025, 2, 1, tzinfo=UTC), Kind.TIMESTAMP),
    "nanos": (pa.timestamp("ns"), datetime(2025, 2, 1), Kind.TIMESTAMP),  # noqa: DTZ001  # as AWS
    "Tags": (pa.map_(pa.string(), pa.string()), [("a", "b")], Kind.NESTED),
    "list": (pa.list_(pa.int64()), [1], Kind.NESTED),
    "struct": (
        pa.struct({"deep": pa.struct({"er": pa.list_(pa.string())}), "x": pa.int8()}),
        {"deep": {"er": ["a"]}, "x": 1},
        Kind.NESTED,
    ),
    "last": (pa.int64(), 1, Kind.PLAIN),
}


def footer_of(path: Path) -> bytes:
    content = path.read_bytes()
    length = parquet.footer_length(content[-parquet.TAIL :])
    return content[-parquet.TAIL - length : -parquet.TAIL]


@pytest.fixture
def table() -> pa.Table:
    return pa.table(
        {name: pa.array([value, None], kind) for name, (kind, value, _) in TYPES.items()}
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"version": "1.0"}, {"use_deprecated_int96_timestamps": True}, {"compression": "snappy"}],
)
def test_a_footer_tells_columns_kinds_and_rows(
    tmp_path: Path, table: pa.Table, options: dict[str, object]
) -> None:
    pq.write_table(table, tmp_path / "file.parquet", **options)
    schema = parquet.schema(footer_of(tmp_path / "file.parquet"))
    assert {c.name: c.kind for c in schema.columns} == {n: t[2] for n, t in TYPES.items()}
    assert [c.name for c in schema.columns] == list(TYPES)
    assert schema.rows == 2


def test_a_file_of_many_columns_and_row_groups_is_told_right(tmp_path: Path) -> None:
    wide = pa.table({f"column {n}": pa.array(range(100)) for n in range(300)})
    pq.write_table(wide, tmp_path / "file.parquet", row_group_size=10)
    schema = parquet.schema(footer_of(tmp_path / "file.parquet"))
    assert len(schema.columns) == 300
    assert schema.rows == 100


def test_a_footer_cut_anywhere_is_a_value_error_or_whole(tmp_path: Path, table: pa.Table) -> None:
    pq.write_table(table, tmp_path / "file.parquet")
    footer = footer_of(tmp_path / "file.parquet")
    whole = parquet.schema(footer)
    for length in range(len(footer)):
        try:
            assert parquet.schema(footer[:length]) == whole
        except ValueError:
            continue


@pytest.mark.parametrize("tail", [b"", b"PAR1", b"\0\0\0\0PAR2", b"xxxxxxxxPAR1"])
def test_what_does_not_end_as_parquet_is_none(tail: bytes) -> None:
    with pytest.raises(ValueError, match="cut off"):
        parquet.footer_length(tail)


def test_a_footer_that_would_not_fit_into_memory_is_not_read() -> None:
    with pytest.raises(ValueError, match="4,294,967,295 bytes"):
        parquet.footer_length(b"\xff\xff\xff\xffPAR1")
