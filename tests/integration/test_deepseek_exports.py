"""DeepSeek's exports, in both layouts and packed or not: what they say, or a reason why nothing is loaded."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared.core.secret import Secret
from shared.errors import Terminal
from shared.settings import ROOT
from shared.warehouse.duckdb import DuckdbWarehouse
from tests.support.step import BareStep, run

USAGE, COST = "genai.payg_usage", "genai.payg_cost"
SECRET = "sk-0123456789abcdef"
OLD_AMOUNT = "user_id,utc_date,model,api_key_name,api_key,type,price,amount"
OLD_COST = "user_id,utc_date,model,wallet_type,cost,currency"
NEW_AMOUNT = "user_id,start_time_iso,end_time_iso,model,api_key_name,api_key,type,price,amount"
NEW_COST = "user_id,start_time_iso,end_time_iso,model,wallet_type,cost,currency"


def old(day: str, scale: int = 1) -> tuple[list[str], list[str]]:
    """The rows of a day at two prices of a type, 0.0075 CNY a `scale` in all."""
    head = f"u1,{day},deepseek-chat"
    key = f'"team, a",{SECRET}'
    return (
        [
            f"{head},{key},input_cache_hit_tokens,0.0000002,{1000 * scale}",
            f"{head},{key},input_cache_miss_tokens,0.000002,{1000 * scale}",
            f"{head},{key},input_cache_miss_tokens,0.000001,{300 * scale}",
            f"{head},{key},output_tokens,0.000005,{1000 * scale}",
            f"{head},{key},request_count,,{7 * scale}",
        ],
        [
            f"{head},Paid,{Decimal('0.0070') * scale},CNY",
            f"{head},granted,{Decimal('0.0005') * scale},CNY",
        ],
    )


def write(folder: Path, name: str, header: str, rows: list[str], at: int = 1) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join([header, *rows, ""]).encode())
    os.utime(path, (1_790_000_000 + at, 1_790_000_000 + at))
    return path


def put(folder: Path, span: str, *days: tuple[list[str], list[str]], at: int = 1) -> None:
    write(folder, f"amount-{span}.csv", OLD_AMOUNT, [row for day in days for row in day[0]], at)
    write(folder, f"cost-{span}.csv", OLD_COST, [row for day in days for row in day[1]], at)


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[DuckdbWarehouse]:
    made = DuckdbWarehouse(
        tmp_path / "w.duckdb",
        ROOT / "configs" / "system" / "procedures",
        lambda: datetime.now(UTC),
    )
    yield made
    made.close()


@pytest.fixture
def exports(tmp_path: Path) -> Path:
    folder = tmp_path / "deepseek"
    folder.mkdir()
    return folder


def step_of(
    exports: Path, warehouse: DuckdbWarehouse, first: date, last: date, **secret: str
) -> BareStep:
    return BareStep(
        root=exports.parent,
        warehouse=warehouse,
        start_date=first,
        end_date=last,
        pipeline_id="deepseek_payg",
        provider="deepseek",
        secret=Secret(msgspec.json.encode(secret or {"source": "file:deepseek"})),
    )


MAY = (date(2026, 5, 1), date(2026, 5, 2))


def pull(ps_type: str, exports: Path, warehouse: DuckdbWarehouse, *span: date) -> Any:
    return run(ps_type, step_of(exports, warehouse, *(span or MAY)), {"lookback_days": 0})


def table(warehouse: DuckdbWarehouse, sql: str) -> list[tuple[Any, ...]]:
    return warehouse.query("acme_test", sql, {}).rows


def test_an_export_is_loaded_and_tied_to_what_the_wallets_lost(
    exports: Path, warehouse: DuckdbWarehouse
) -> None:
    put(exports, "2026-5", old("20260501"), old("2026-05-02", 10))
    pull(USAGE, exports, warehouse)
    result = pull(COST, exports, warehouse)
    assert table(
        warehouse,
        "SELECT meter, SUM(quantity), MIN(unit) FROM genai_usage GROUP BY meter ORDER BY meter",
    ) == [
        ("cached_input", 11_000, "Tokens"),
        ("input", 14_300, "Tokens"),
        ("output", 11_000, "Tokens"),
        ("requests", 77, "Requests"),
    ]
    assert result.summary.message.endswith("matched"), result.evidence
    assert table(warehouse, "SELECT SUM(amount), MIN(currency), COUNT(*) FROM genai_costs") == [
        (Decimal("0.0825"), "CNY", 8)
    ]
    assert table(
        warehouse,
        "SELECT line_item, variant, unit_price, pricing_quantity FROM genai_costs"
        " WHERE meter = 'input' AND charge_date = DATE '2026-05-01' ORDER BY unit_price",
    ) == [
        ("deepseek-chat, input_cache_miss_tokens", "at 0.000001", 1, Decimal("0.0003")),
        ("deepseek-chat, input_cache_miss_tokens", "at 0.000002", 2, Decimal("0.001")),
    ]


def test_the_key_in_the_export_is_stored_nowhere(
    exports: Path, warehouse: DuckdbWarehouse, tmp_path: Path
) -> None:
    put(exports, "2026-5", old("20260501"), old("20260502"))
    results = [pull(ps_type, exports, warehouse) for ps_type in (USAGE, COST)]
    assert SECRET not in str(results)
    warehouse.close()
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("w.duckdb*") if path.is_file())
    assert SECRET.encode() not in stored


def test_the_newer_layout_in_a_zip_is_read_as_it_is(
    exports: Path, warehouse: DuckdbWarehouse
) -> None:
    head = "u1,2026-09-01T00:00:00+08:00,2026-09-02T00:00:00+08:00,deepseek-v4"
    amount = write(
        exports / "unpacked",
        "amount-2026-09-01_2026-09-02.csv",
        NEW_AMOUNT,
        [f"{head},a,{SECRET},output_tokens,0.000002,500"],
    )
    cost = write(
        exports / "unpacked",
        "cost-2026-09-01_2026-09-02.csv",
        NEW_COST,
        [f"{head},PAID,0.001,USD"],
    )
    with zipfile.ZipFile(exports / "usage.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (amount, cost):
            archive.write(path, path.name)
            path.unlink()
    day = date(2026, 9, 1)
    result = pull(COST, exports, warehouse, day, day)
    assert table(warehouse, "SELECT charge_date, amount, currency FROM genai_costs") == [
        (day, Decimal("0.001"), "USD")
    ]
    assert result.summary.message.endswith("matched")


def test_of_two_exports_of_a_day_the_newest_counts(
    exports: Path, warehouse: DuckdbWarehouse
) -> None:
    put(exports, "2026-5", old("20260501"), old("20260502"), at=1)
    put(exports, "2026-05-02_2026-05-03", old("20260502", 3), at=2)
    pull(COST, exports, warehouse)
    assert table(
        warehouse, "SELECT charge_date, SUM(amount) FROM genai_costs GROUP BY 1 ORDER BY 1"
    ) == [(MAY[0], Decimal("0.0075")), (MAY[1], Decimal("0.0225"))]


def test_a_day_between_rows_is_empty_and_a_day_after_the_last_row_is_unknown(
    exports: Path, warehouse: DuckdbWarehouse
) -> None:
    put(exports, "2026-5", old("20260501"), old("20260503"))
    result = pull(USAGE, exports, warehouse, date(2026, 5, 1), date(2026, 5, 3))
    assert [one.rows for one in result.evidence.loads[0].slices] == [5, 0, 5]
    with pytest.raises(Terminal, match="no export answers for 2026-05-04") as caught:
        pull(USAGE, exports, warehouse, date(2026, 5, 3), date(2026, 5, 4))
    assert caught.value.code == "no_export"


def test_an_api_key_alone_is_no_source_of_usage(exports: Path, warehouse: DuckdbWarehouse) -> None:
    for ps_type in (USAGE, COST):
        step = step_of(exports, warehouse, *MAY, api_key=SECRET)
        with pytest.raises(Terminal, match="no usage source") as caught:
            run(ps_type, step, {})
        assert caught.value.code == "no_usage_source"


AMOUNTS = old("20260502")[0]


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([AMOUNTS[0].replace("input_cache_hit_tokens", "thinking_tokens")], "unknown_meter"),
        ([AMOUNTS[0].replace("0.0000002", "")], "unpriced"),
        ([AMOUNTS[0].replace(",1000", ",-1000")], "unexpected_answer"),
        ([AMOUNTS[0].replace(",1000", ",lots")], "unexpected_answer"),
        ([AMOUNTS[0].replace("20260502", "yesterday")], "unreadable_file"),
        ([AMOUNTS[0].replace(",1000", "")], "unreadable_file"),
        ([AMOUNTS[0].replace("deepseek-chat", "deepseek-new")], "export_incomplete"),
    ],
)
def test_a_row_that_cannot_be_understood_fails_the_load(
    exports: Path, warehouse: DuckdbWarehouse, rows: list[str], code: str
) -> None:
    put(exports, "2026-5", old("20260501"), old("20260502"))
    write(exports, "amount-2026-5.csv", OLD_AMOUNT, [*AMOUNTS, *rows])
    with pytest.raises(Terminal) as caught:
        pull(COST, exports, warehouse)
    assert caught.value.code == code
    assert SECRET not in str(caught.value)
    assert warehouse.loads("acme_test") == []


def test_half_an_export_a_wrong_header_and_a_cut_zip_fail(
    exports: Path, warehouse: DuckdbWarehouse
) -> None:
    put(exports, "2026-5", old("20260501"), old("20260502"))
    (exports / "cost-2026-5.csv").unlink()
    with pytest.raises(Terminal) as caught:
        pull(USAGE, exports, warehouse)
    assert caught.value.code == "export_incomplete"
    write(exports, "cost-2026-5.csv", "a,b", ["1,2"])
    with pytest.raises(Terminal) as caught:
        pull(COST, exports, warehouse)
    assert caught.value.code == "missing_column"
    (exports / "usage.zip").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(Terminal) as caught:
        pull(USAGE, exports, warehouse)
    assert caught.value.code == "unreadable_file"
