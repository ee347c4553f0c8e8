"""Generative AI over HTTP: what the providers answer is what stands in the tables, and in FOCUS, to the digit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from shared.core.providers import FILE
from tests.e2e.conftest import Opener, Tenant
from tests.support.focus import check_focus
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
from tests.support.providers import point_at
from tests.support.system import System

FIRST, LAST = date(2026, 10, 31), date(2026, 11, 1)
DAYS = {"start_date": str(FIRST), "end_date": str(LAST)}

# Nine procedures on the emulator of BigQuery take minutes.
ON_EMULATORS = pytest.param("cloud", marks=[pytest.mark.cloud, pytest.mark.slow])
pytestmark = pytest.mark.parametrize(
    "opener", ["embedded", ON_EMULATORS], indirect=True, scope="module"
)


@pytest.fixture(scope="module")
def reports() -> Iterator[dict[str, Reports]]:
    openai, anthropic = OpenAIReports(), AnthropicReports()
    with openai.api, anthropic.api:
        yield {"openai": openai, "anthropic": anthropic}


@pytest.fixture(scope="module")
def system(opener: Opener, reports: dict[str, Reports]) -> Iterator[System]:
    """A system whose providers are the test's, and may be asked as fast as it likes."""
    made = opener()
    registry = made.settings.configs / FILE
    fast = re.sub(r"requests_per_minute: \d+", "requests_per_minute: 100000", registry.read_text())
    registry.write_text(fast)
    for name, fake in reports.items():
        point_at(made.settings.configs, name, fake.api.url)
    with made:
        yield made


@pytest.fixture
def customer(system: System, tenant: Tenant, reports: dict[str, Reports]) -> Tenant:
    """An organization with an account at both providers, and two days at each."""
    for name in reports:
        stored = system.call(
            "PUT",
            f"/admin/orgs/{tenant.slug}/credentials/{name}/main",
            {"secret": {"api_key": ADMIN_KEYS[name]}, "metadata": {"account_id": f"{name}-org"}},
        )
        assert stored.status == 201, stored
    for fake in reports.values():
        fake.results.clear()
        fake.totals.clear()
    openai, anthropic = reports["openai"].results, reports["anthropic"].results
    openai["usage/completions", FIRST] = [completion()]
    openai["usage/completions", LAST] = [completion(), completion(project_id=None, batch=True)]
    openai["usage/web_search_calls", LAST] = [{"num_requests": 5, "model": "gpt-5"}]
    openai["costs", FIRST] = [
        openai_cost("0.1", "gpt-5, input", quantity=80_000, quantity_unit="tokens"),
        openai_cost("0.000000123456789012", "priority | gpt-5, output, long context"),
    ]
    openai["costs", LAST] = [
        openai_cost("3.3333333333", "gpt-5, output", quantity=7_000_000, quantity_unit="tokens"),
        openai_cost("-0.5", "Promotional credit", project_id=None),
        openai_cost("0", "Vector storage", quantity=0.5, quantity_unit="gibibyte_hours"),
    ]
    anthropic["usage_report/messages", FIRST] = [message_usage()]
    anthropic["cost_report", FIRST] = [
        anthropic_cost("412.5075"),
        anthropic_cost("2", cost_type="web_search", token_type=None, model=None, description="Web"),
    ]
    return tenant


def openai_totals(reports: dict[str, Reports]) -> None:
    """The same costs, not grouped."""
    reports["openai"].totals = {
        FIRST: [openai_cost("0.100000123456789012", None)],
        LAST: [openai_cost("2.8333333333", None)],
    }
    reports["anthropic"].totals = {FIRST: [anthropic_cost("414.5075")]}


def table(system: System, tenant: Tenant, sql: str) -> list[tuple[Any, ...]]:
    return system.app.warehouse().query(f"{tenant.slug}_test", sql, {}).rows


def load(system: System, tenant: Tenant, *addresses: str) -> list[dict[str, Any]]:
    runs = []
    for address in addresses:
        run = system.run(tenant.slug, address, DAYS, key=tenant.key)
        assert run["status"] == "completed", run
        runs.append(run)
    return runs


ALL = ("genai/payg/openai", "genai/payg/anthropic", "genai/unified/consolidate")


def test_source_loaded_and_focus_are_one_number(
    system: System, customer: Tenant, reports: dict[str, Reports]
) -> None:
    openai_totals(reports)
    runs = load(system, customer, *ALL)
    for run in runs[:2]:
        cost = next(step for step in run["steps"] if step["step_id"] == "cost")
        assert cost["summary"]["message"].endswith("matched"), cost
    by_provider = {
        "openai": Decimal("2.933333456756789012"),
        "anthropic": Decimal("4.145075"),
    }
    for sql in (
        "SELECT provider, SUM(amount) FROM genai_costs GROUP BY provider",
        "SELECT provider, SUM(amount) FROM genai_unified_costs GROUP BY provider",
        "SELECT x_genai_provider, SUM(BilledCost) FROM focus_costs GROUP BY x_genai_provider",
        "SELECT x_genai_provider, SUM(ListCost) FROM focus_costs GROUP BY x_genai_provider",
    ):
        assert dict(table(system, customer, sql)) == by_provider, sql
    report = check_focus(system.app.warehouse(), f"{customer.slug}_test")
    assert report.rows == 7
    assert table(
        system,
        customer,
        "SELECT provider, tokens, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens,"
        " requests FROM genai_unified_usage WHERE usage_date = DATE '2026-10-31' ORDER BY provider",
    ) == [
        ("anthropic", 1687, 1000, 400, 37, 250, 0),
        ("openai", 10200, 6000, 2500, 500, 1200, 14),
    ]


def test_rows_of_focus_say_what_was_bought_and_in_which_month(
    system: System, customer: Tenant, reports: dict[str, Reports]
) -> None:
    load(system, customer, *ALL)
    columns = (
        "ChargeDescription, ChargeCategory, CAST(BillingPeriodStart AS STRING), ServiceName, SubAccountId,"
        " SubAccountType, SkuMeter, ConsumedQuantity, ConsumedUnit, PricingQuantity, PricingUnit, ListUnitPrice"
    )
    rows = table(system, customer, f"SELECT {columns} FROM focus_costs ORDER BY 1")
    by_name = {row[0]: row[1:] for row in rows}
    sold = by_name["gpt-5, input"]
    assert sold[1].startswith("2026-10-01")
    assert (sold[0], *sold[2:]) == (
        "Usage",
        "OpenAI API",
        "proj_1",
        "Project",
        "Input Tokens",
        80_000,
        "Tokens",
        Decimal("0.08"),
        "1000000 Tokens",
        Decimal("1.25"),
    )
    credit = by_name["Promotional credit"]
    assert (credit[0], credit[3], credit[4]) == ("Credit", None, None)
    assert credit[1].startswith("2026-11-01")
    assert by_name["Claude Sonnet 4.5 Usage - Output Tokens"][4:6] == ("Workspace", "Output Tokens")


def test_the_same_days_again_leave_the_same_rows_and_late_growth_takes_their_place(
    system: System, customer: Tenant, reports: dict[str, Reports]
) -> None:
    load(system, customer, *ALL)
    kept = "SELECT x_row_id, BilledCost FROM focus_costs"
    before = dict(table(system, customer, kept))
    load(system, customer, *ALL)
    assert dict(table(system, customer, kept)) == before
    reports["openai"].results["costs", FIRST][0] = openai_cost(
        "0.2", "gpt-5, input", quantity=160_000, quantity_unit="tokens"
    )
    load(system, customer, *ALL)
    after = dict(table(system, customer, kept))
    assert after.keys() == before.keys()
    assert sorted(Decimal(cost) for name, cost in after.items() if cost != before[name]) == [
        Decimal("0.2")
    ]


def test_a_revoked_key_fails_both_steps_and_leaves_what_was_loaded(
    system: System, customer: Tenant, reports: dict[str, Reports]
) -> None:
    load(system, customer, "genai/payg/openai")
    before = table(system, customer, "SELECT SUM(amount), COUNT(*) FROM genai_costs")
    put = f"/admin/orgs/{customer.slug}/credentials/openai/main"
    assert system.call("PUT", put, {"secret": {"api_key": "sk-admin-revoked-key"}}).status == 200
    run = system.run(customer.slug, "genai/payg/openai", DAYS, key=customer.key)
    assert run["status"] == "failed"
    assert {step["error"]["code"] for step in run["steps"]} == {"unauthorized"}
    assert "sk-admin" not in str(run)
    assert table(system, customer, "SELECT SUM(amount), COUNT(*) FROM genai_costs") == before


def test_two_credentials_of_one_account_are_counted_once(
    system: System, customer: Tenant, reports: dict[str, Reports]
) -> None:
    second = f"/admin/orgs/{customer.slug}/credentials/openai/second"
    body = {
        "secret": {"api_key": ADMIN_KEYS["openai"]},
        "metadata": {"account_id": "openai-org"},
    }
    assert system.call("PUT", second, body).status == 201
    for credential in ("main", "second"):
        run = system.run(customer.slug, "genai/payg/openai", {**DAYS, "credential_id": credential})
        assert run["status"] == "completed", run
    load(system, customer, "genai/unified/consolidate")
    (loaded,) = table(system, customer, "SELECT COUNT(*) FROM genai_costs")
    (unified,) = table(system, customer, "SELECT COUNT(*) FROM genai_unified_costs")
    assert (loaded[0], unified[0]) == (10, 5)
    (usage,) = table(
        system, customer, "SELECT SUM(tokens) FROM genai_unified_usage WHERE provider = 'openai'"
    )
    assert usage == (3 * 10200,)
