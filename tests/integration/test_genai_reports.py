"""Usage and costs of OpenAI and Anthropic over HTTP: every number as the provider says it, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared.core.lineage import Verdict
from shared.core.providers import Rate
from shared.core.secret import Secret
from shared.errors import Terminal, Transient
from shared.settings import ROOT
from shared.step import StepResult
from shared.warehouse.duckdb import DuckdbWarehouse
from tests.support.api import Asked, Said, Write, cut
from tests.support.genai import (
    ADMIN_KEYS,
    AnthropicReports,
    OpenAIReports,
    Reports,
    anthropic_cost,
    completion,
    message_usage,
    openai_cost,
)
from tests.support.step import BareStep, run

DAY = date(2026, 11, 20)
USAGE, COST = "genai.payg_usage", "genai.payg_cost"


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
def openai() -> Iterator[OpenAIReports]:
    reports = OpenAIReports()
    with reports.api:
        yield reports


@pytest.fixture
def anthropic() -> Iterator[AnthropicReports]:
    reports = AnthropicReports()
    with reports.api:
        yield reports


def step_of(
    reports: Reports, warehouse: DuckdbWarehouse, first: date = DAY, last: date = DAY
) -> BareStep:
    return BareStep(
        root=Path(),
        warehouse=warehouse,
        start_date=first,
        end_date=last,
        pipeline_id=f"{reports.name}_payg",
        provider=reports.name,
        secret=Secret(msgspec.json.encode({"api_key": ADMIN_KEYS[reports.name]})),
        base_urls={"api": f"{reports.api.url}/v1"},
        limits=Rate(requests_per_minute=100_000),
    )


def pull(ps_type: str, step: BareStep, **config: Any) -> StepResult:
    return run(ps_type, step, {"lookback_days": 0, **config})


def table(warehouse: DuckdbWarehouse, sql: str) -> list[tuple[Any, ...]]:
    return warehouse.query("acme_test", sql, {}).rows


def meters(warehouse: DuckdbWarehouse) -> dict[str, Decimal]:
    return dict(table(warehouse, "SELECT meter, SUM(quantity) FROM genai_usage GROUP BY meter"))


def test_openai_tokens_are_loaded_once_though_its_totals_contain_their_parts(
    openai: OpenAIReports, warehouse: DuckdbWarehouse
) -> None:
    openai.results["usage/completions", DAY] = [completion()]
    pull(USAGE, step_of(openai, warehouse))
    assert meters(warehouse) == {
        "input": 5200,
        "input_audio": 500,
        "input_image": 300,
        "cached_input": 2300,
        "cached_input_audio": 150,
        "cached_input_image": 50,
        "cache_write": 500,
        "output": 1100,
        "output_audio": 100,
        "requests": 14,
    }
    (tokens,) = table(warehouse, "SELECT SUM(quantity) FROM genai_usage WHERE unit = 'Tokens'")
    assert tokens == (9000 + 1200,)


def test_every_endpoint_of_openai_is_asked_and_told_apart(
    openai: OpenAIReports, warehouse: DuckdbWarehouse
) -> None:
    counted: dict[str, dict[str, Any]] = {
        "embeddings": {"input_tokens": 16, "num_model_requests": 2, "model": "e-3"},
        "moderations": {"input_tokens": 8, "num_model_requests": 1, "model": "m-1"},
        "images": {
            "images": 3,
            "num_model_requests": 2,
            "size": "1024x1024",
            "source": "image.edit",
        },
        "audio_speeches": {"characters": 45, "num_model_requests": 1},
        "audio_transcriptions": {"seconds": 20, "num_model_requests": 1},
        "vector_stores": {"usage_bytes": 1024},
        "code_interpreter_sessions": {"num_sessions": 4},
        "web_search_calls": {"num_requests": 5, "num_model_requests": 2, "context_level": "low"},
        "file_search_calls": {"num_requests": 6, "vector_store_id": "vs_1"},
    }
    for endpoint, result in counted.items():
        openai.results[f"usage/{endpoint}", DAY] = [result]
    proof = pull(USAGE, step_of(openai, warehouse)).evidence
    assert sorted(
        table(
            warehouse,
            "SELECT service, meter, quantity, unit, variant FROM genai_usage WHERE meter <> 'requests'",
        )
    ) == [
        ("audio_speeches", "characters", 45, "Characters", None),
        ("audio_transcriptions", "audio_seconds", 20, "Seconds", None),
        ("code_interpreter_sessions", "sessions", 4, "Sessions", None),
        ("embeddings", "input", 16, "Tokens", None),
        ("file_search_calls", "file_searches", 6, "Searches", "vs_1"),
        ("images", "images", 3, "Images", "1024x1024 image.edit"),
        ("moderations", "input", 8, "Tokens", None),
        ("vector_stores", "storage_bytes", 1024, "Bytes", None),
        ("web_search_calls", "web_searches", 5, "Searches", "low"),
    ]
    assert len(proof.objects) == 10
    assert all("1 days answered" in said for said in proof.objects)


def test_the_parts_of_anthropics_input_are_disjoint_as_they_come(
    anthropic: AnthropicReports, warehouse: DuckdbWarehouse
) -> None:
    anthropic.results["usage_report/messages", DAY] = [
        message_usage(),
        message_usage(service_tier="batch", api_key_id=None, workspace_id=None),
    ]
    pull(USAGE, step_of(anthropic, warehouse))
    assert meters(warehouse) == {
        "input": 2000,
        "cached_input": 800,
        "cache_write_5m": 60,
        "cache_write_1h": 14,
        "output": 500,
        "web_searches": 4,
    }
    assert sorted(
        table(warehouse, "SELECT DISTINCT service_tier, is_batch, project_id FROM genai_usage")
    ) == [("batch", True, None), ("standard", False, "wrkspc_1")]


def test_anthropics_cents_are_dollars_here(
    anthropic: AnthropicReports, warehouse: DuckdbWarehouse
) -> None:
    anthropic.results["cost_report", DAY] = [anthropic_cost("123.45"), anthropic_cost("0.0001")]
    anthropic.totals[DAY] = [anthropic_cost("123.4501")]
    result = pull(COST, step_of(anthropic, warehouse))
    assert table(warehouse, "SELECT SUM(amount), MIN(currency) FROM genai_costs") == [
        (Decimal("1.234501"), "USD")
    ]
    assert result.summary.message.endswith("matched")


def test_openais_amounts_are_dollars_as_number_or_as_text(
    openai: OpenAIReports, warehouse: DuckdbWarehouse
) -> None:
    text = openai_cost("0", "web search tool calls")
    text["amount"] = {"value": "0.000000000000000123", "currency": "usd"}
    openai.results["costs", DAY] = [
        openai_cost("0.1", "gpt-5, input", quantity=80_000, quantity_unit="tokens"),
        openai_cost("-0.30", "Promotional credit"),
        text,
    ]
    openai.totals[DAY] = [openai_cost("-0.199999999999999877", None)]
    result = pull(COST, step_of(openai, warehouse))
    assert table(
        warehouse,
        "SELECT line_item, amount, quantity, pricing_quantity, pricing_unit, unit_price, meter, model"
        " FROM genai_costs ORDER BY amount",
    ) == [
        ("Promotional credit", Decimal("-0.30"), None, None, None, None, None, None),
        ("web search tool calls", Decimal("1.23E-16"), None, None, None, None, None, None),
        (
            "gpt-5, input",
            Decimal("0.1"),
            80_000,
            Decimal("0.08"),
            "1000000 Tokens",
            Decimal("1.25"),
            "input",
            "gpt-5",
        ),
    ]
    (total,) = result.evidence.loads[0].totals
    assert (total.source, total.loaded) == (Decimal("-0.199999999999999877"),) * 2
    assert result.summary.message.endswith("matched")


def test_a_total_that_the_rows_do_not_reach_is_told(
    openai: OpenAIReports, warehouse: DuckdbWarehouse
) -> None:
    openai.results["costs", DAY] = [openai_cost("1.10", "gpt-5, input")]
    openai.totals[DAY] = [openai_cost("1.25", None)]
    result = pull(COST, step_of(openai, warehouse))
    (drift,) = result.evidence.findings
    assert (drift.code, drift.message) == (
        "drift",
        "genai_costs: loaded 1.1 USD, the total of openai is 1.25: a difference of -0.15",
    )
    assert result.summary.warnings == 1


def test_currencies_are_compared_and_kept_apart(
    openai: OpenAIReports, warehouse: DuckdbWarehouse
) -> None:
    euro = openai_cost("0", "gpt-5, output", amount={"value": "2.50", "currency": "eur"})
    openai.results["costs", DAY] = [openai_cost("1.10", "gpt-5, input"), euro]
    result = pull(COST, step_of(openai, warehouse))
    assert [
        (one.currency, one.loaded, one.told, one.verdict) for one in result.evidence.reconciliations
    ] == [
        ("EUR", Decimal("2.5"), Decimal("2.5"), Verdict.MATCHED),
        ("USD", Decimal("1.1"), Decimal("1.1"), Verdict.MATCHED),
    ]


def test_a_day_without_usage_is_confirmed_and_loaded_as_empty(
    openai: OpenAIReports, warehouse: DuckdbWarehouse
) -> None:
    result = pull(USAGE, step_of(openai, warehouse))
    assert result.summary.no_data
    assert result.evidence.loads[0].slices[0].rows == 0
    assert [load.rows for load in warehouse.loads("acme_test")] == [0]


def test_a_day_without_an_answer_is_no_day_without_usage(
    openai: OpenAIReports, warehouse: DuckdbWarehouse
) -> None:
    openai.silent = {date(2026, 11, 19)}
    with pytest.raises(Transient, match=r"no answer for 2026-11-19") as caught:
        pull(USAGE, step_of(openai, warehouse, date(2026, 11, 18), DAY))
    assert caught.value.code == "no_answer"
    assert warehouse.loads("acme_test") == []


@pytest.mark.parametrize("buckets", [31, 7])
def test_a_backfill_of_forty_days_is_asked_in_pieces_and_loaded_whole(
    openai: OpenAIReports, warehouse: DuckdbWarehouse, buckets: int
) -> None:
    openai.buckets = buckets
    first = date(2026, 10, 12)
    step = step_of(openai, warehouse, first, DAY)
    for load in step_days(step):
        openai.results["usage/completions", load] = [completion()]
    pull(USAGE, step)
    (found,) = table(
        warehouse,
        "SELECT COUNT(DISTINCT usage_date), SUM(quantity) FROM genai_usage WHERE meter = 'input'",
    )
    assert found == (40, 40 * 5200)


def step_days(step: BareStep) -> list[date]:
    from shared.core.period import days

    return days(step.start_date, step.end_date)


def test_a_day_that_grew_is_replaced_by_the_look_back(
    openai: OpenAIReports, warehouse: DuckdbWarehouse
) -> None:
    openai.results["costs", DAY] = [openai_cost("1.00", "gpt-5, input")]
    pull(COST, step_of(openai, warehouse))
    openai.results["costs", DAY] = [openai_cost("1.75", "gpt-5, input")]
    later = step_of(openai, warehouse, date(2026, 11, 22), date(2026, 11, 22))
    later = later.another(run_id="r2", run_created_at=datetime(2026, 11, 23, tzinfo=UTC))
    run(COST, later, {"lookback_days": 2})
    assert table(warehouse, "SELECT charge_date, amount FROM genai_costs") == [
        (DAY, Decimal("1.75"))
    ]


def refusals(provider: str) -> list[Any]:
    def body(message: str) -> dict[str, Any]:
        error = {"message": message, "type": "error", "param": None, "code": None}
        return {"error": error} if provider == "openai" else {"type": "error", "error": error}

    return [
        (Said(401, body("Incorrect API key provided")), Terminal, "unauthorized"),
        (Said(403, body("Missing scopes: api.usage.read")), Terminal, "forbidden"),
        (Said(429, body("Rate limited"), {"retry-after": "7"}), Transient, None),
        (Said(500, body("The server had an error")), Transient, None),
        (Said(200, b'{"object": "page", "data": [{"ob'), Transient, "unreadable_answer"),
        (cut(b'{"object": "page", "data": ['), Transient, None),
        (Said(200, {"data": [], "has_more": True, "next_page": None}), Transient, "cut_answer"),
        (Said(200, {"data": []}), Terminal, "unexpected_answer"),
        (Said(200, {"data": [{"results": []}], "has_more": False}), Terminal, "unexpected_answer"),
    ]


def second(said: Said | Write) -> Callable[[Asked, int], Said | Write | None]:
    """The second page is that."""
    return lambda _, before: said if before == 1 else None


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_what_is_no_whole_answer_fails_and_loads_nothing(
    provider: str,
    openai: OpenAIReports,
    anthropic: AnthropicReports,
    warehouse: DuckdbWarehouse,
) -> None:
    reports: Reports = {"openai": openai, "anthropic": anthropic}[provider]
    reports.buckets = 1
    for ps_type, (said, kind, code) in product([USAGE, COST], refusals(provider)):
        reports.api.asked.clear()
        reports.fault = second(said)
        with pytest.raises(kind) as caught:
            pull(ps_type, step_of(reports, warehouse, date(2026, 11, 18), DAY))
        assert code is None or caught.value.code == code
        if isinstance(said, Said) and said.status == 429:
            assert caught.value.retry_after == timedelta(seconds=7)
        assert ADMIN_KEYS[provider] not in str(caught.value)
        assert warehouse.loads("acme_test") == []


def test_a_cursor_that_comes_again_ends_the_step(
    openai: OpenAIReports, warehouse: DuckdbWarehouse
) -> None:
    page = {"object": "page", "data": [], "has_more": True, "next_page": "page_again"}
    openai.fault = lambda asked, before: Said(200, page)
    with pytest.raises(Terminal, match="would never end") as caught:
        pull(COST, step_of(openai, warehouse))
    assert caught.value.code == "repeated_page"
    assert len(openai.api.asked) == 2


def test_a_day_that_is_answered_twice_is_not_added_up(
    openai: OpenAIReports, warehouse: DuckdbWarehouse
) -> None:
    bucket = {"start_time": 1795132800, "end_time": 1795219200, "results": []}
    openai.fault = lambda asked, before: Said(200, {"data": [bucket, bucket], "has_more": False})
    with pytest.raises(Terminal) as caught:
        pull(COST, step_of(openai, warehouse))
    assert caught.value.code == "repeated_day"


@pytest.mark.parametrize(
    "changes",
    [
        {"input_cached_tokens": 9001},
        {"input_text_tokens": 5201},
        {"output_audio_tokens": 101},
        {"input_tokens": -1},
        {"input_tokens": "9000"},
        {"output_tokens": None},
        {"batch": "no"},
    ],
)
def test_completions_whose_parts_contradict_their_whole_are_not_loaded(
    openai: OpenAIReports, warehouse: DuckdbWarehouse, changes: dict[str, Any]
) -> None:
    openai.results["usage/completions", DAY] = [completion(**changes)]
    with pytest.raises(Terminal) as caught:
        pull(USAGE, step_of(openai, warehouse))
    assert caught.value.code == "unexpected_answer"
    assert warehouse.loads("acme_test") == []


@pytest.mark.parametrize(
    "value", ["1e400000000000000000000", '"NaN"', '"12,5"', "null", "true", "[1]"]
)
def test_an_amount_that_is_no_number_is_not_loaded(
    openai: OpenAIReports, warehouse: DuckdbWarehouse, value: str
) -> None:
    openai.results["costs", DAY] = [openai_cost(value, "gpt-5, input")]
    with pytest.raises((Terminal, Transient)):
        pull(COST, step_of(openai, warehouse))
    assert warehouse.loads("acme_test") == []


def test_a_count_that_nobody_knows_is_told(
    openai: OpenAIReports, anthropic: AnthropicReports, warehouse: DuckdbWarehouse
) -> None:
    openai.results["usage/completions", DAY] = [completion(input_video_tokens=5, hint="x")]
    result = pull(USAGE, step_of(openai, warehouse))
    assert [(one.code, one.message.split(": ")[-1]) for one in result.evidence.findings] == [
        ("unknown_field", "input_video_tokens")
    ]
    anthropic.results["usage_report/messages", DAY] = [message_usage(thinking_tokens=5)]
    result = pull(USAGE, step_of(anthropic, warehouse))
    assert [one.code for one in result.evidence.findings] == ["unknown_field"]


def test_usage_of_the_priority_tier_is_loaded_and_said_to_have_no_cost(
    anthropic: AnthropicReports, warehouse: DuckdbWarehouse
) -> None:
    anthropic.results["usage_report/messages", DAY] = [message_usage(service_tier="priority")]
    result = pull(USAGE, step_of(anthropic, warehouse))
    assert [one.code for one in result.evidence.findings] == ["priority_tier"]
    assert meters(warehouse)["output"] == 250
