"""Subscriptions over HTTP: entered, run, and read as costs that tie to their invoices."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from typing import Any

import pytest

from shared.errors import CODES
from tests.e2e.conftest import Tenant
from tests.support.focus import check_focus
from tests.support.subscriptions import fields
from tests.support.system import Reply, System

COST = "subscription/costs/subscription_cost"


def entry(name: str, **changes: Any) -> dict[str, Any]:
    return {"subscription": name, **fields(**changes)}


def enter(system: System, tenant: Tenant, *versions: dict[str, Any], dry: bool = False) -> Reply:
    query = "?dry_run=true" if dry else ""
    path = f"/admin/subscriptions/{tenant.slug}{query}"
    return system.call("POST", path, {"versions": list(versions)})


def changes(reply: Reply) -> dict[str, str]:
    assert reply.status == 200, reply
    return {one["subscription_id"]: one["change"] for one in reply.json["subscriptions"]}


def table(system: System, tenant: Tenant, sql: str) -> list[tuple[Any, ...]]:
    return system.app.warehouse().query(f"{tenant.slug}_test", sql, {}).rows


def test_a_month_of_subscriptions_ties_to_its_invoices_in_every_currency(
    system: System, tenant: Tenant
) -> None:
    entered = enter(
        system,
        tenant,
        entry("slack", start="2026-01-01", unit_price="12.505", seats=7, plan="Business+"),
        entry("jira", start="2026-01-01", currency="JPY", unit_price="1001.5", seats=3),
        entry("jira", start="2026-01-11", currency="JPY", unit_price="1001.5", seats=4),
        entry(
            "erp", start="2026-01-01", currency="KWD", unit_price="10.0005", seats=1, cycle="weekly"
        ),
        entry("wiki", start="2026-01-01", unit_price="0", seats=1),
    )
    assert changes(entered) == dict.fromkeys(["erp", "jira", "slack", "wiki"], "entered")
    days = {
        "start_date": "2026-01-01",
        "end_date": "2026-01-31",
        "parameters": {"lookback_days": 0},
    }
    run = system.run(tenant.slug, COST, days, key=tenant.key)
    assert (run["status"], run["outcome"]) == ("completed", "ok"), run
    billed: dict[str, Decimal] = defaultdict(Decimal)
    spent: dict[str, Decimal] = defaultdict(Decimal)
    for currency, cost, effective in table(
        system,
        tenant,
        "SELECT BillingCurrency, BilledCost, EffectiveCost FROM focus_costs"
        " WHERE x_CycleEnd <= '2026-02-01'",
    ):
        billed[currency] += cost
        spent[currency] += effective
    invoices = {
        "USD": Decimal("87.54"),  # 7 x 12.505 = 87.535
        "JPY": Decimal(3005 + 678),  # 3 x 1001.5 = 3004.5; 1001.5 x 21/31 = 678.4
        "KWD": 4 * Decimal("10.001"),
    }
    assert billed == spent == invoices
    report = check_focus(system.app.warehouse(), f"{tenant.slug}_test")
    assert report.rows > 31 * 4
    (wiki,) = table(
        system,
        tenant,
        "SELECT COUNT(*), SUM(EffectiveCost) FROM focus_costs WHERE ResourceId = 'wiki'",
    )
    assert wiki == (32, 0)


def test_the_same_entries_again_change_nothing_and_a_dry_run_never_does(
    system: System, tenant: Tenant
) -> None:
    both = (entry("slack"), entry("slack", start="2026-03-01", seats=5), entry("zoom"))
    assert changes(enter(system, tenant, *both, dry=True)) == {
        "slack": "entered",
        "zoom": "entered",
    }
    path = f"/admin/subscriptions/{tenant.slug}"
    assert system.call("GET", path).json == {"subscriptions": [], "next": None}
    assert changes(enter(system, tenant, *both)) == {"slack": "entered", "zoom": "entered"}
    before = system.call("GET", path).json
    assert changes(enter(system, tenant, *both)) == {"slack": "unchanged", "zoom": "unchanged"}
    more = entry("slack", start="2026-05-01", seats=6)
    dry = enter(system, tenant, more, dry=True)
    assert changes(dry) == {"slack": "changed"}
    (one,) = dry.json["subscriptions"]
    assert [version["end"] for version in one["before"]] == ["2026-03-01", None]
    assert [version["end"] for version in one["after"]] == ["2026-03-01", "2026-05-01", None]
    assert system.call("GET", path).json == before


def test_what_is_wrong_is_told_at_once_and_nothing_is_entered(
    system: System, tenant: Tenant
) -> None:
    wrong = [
        entry("a", seats=0),
        entry("b", seats=None),
        entry("c", end="2026-01-15"),
        entry("d", cycle="fortnightly"),
        entry("e", currency="USX"),
        entry("f", unit_price="-5"),
        entry("g", unit_price=5.5),
        entry("h", category="Busines Applications"),
        entry("i", subcategory="Gaming"),
        entry("j", discount="30.01"),
        entry("k", end="2026-03-01"),
        entry("k", start="2026-02-28"),
        entry("A B"),
        entry("l", anchor="2026-01-16", end="2026-01-10", currency="usd"),
    ]
    reply = enter(system, tenant, entry("fine"), *wrong)
    assert (reply.status, reply.json["error"]) == (400, "invalid_request")
    found = {fault["field"]: fault["message"] for fault in reply.json["faults"]}
    assert set(found) == {
        "versions[1].seats",
        "versions[2].seats",
        "versions[3].end",
        "versions[4].cycle",
        "versions[5].currency",
        "versions[6].unit_price",
        "versions[7].unit_price",
        "versions[8].category",
        "versions[9].subcategory",
        "versions[10].discount",
        "versions[12].start",
        "versions[13].subscription",
        "versions[14].anchor",
        "versions[14].end",
        "versions[14].currency",
    }
    assert "did you mean 'Business Applications'?" in found["versions[8].category"]
    assert found["versions[12].start"] == "overlaps the version that begins on 2026-01-15"
    assert system.call("GET", f"/admin/subscriptions/{tenant.slug}").json["subscriptions"] == []


def test_a_change_closes_a_version_and_what_has_begun_stays(system: System, tenant: Tenant) -> None:
    path = f"/admin/subscriptions/{tenant.slug}/slack"
    made = system.call("PUT", path, fields())
    assert made.status == 201, made
    assert system.call("PUT", path, fields()).status == 200
    changed = system.call("PUT", path, fields(start="2026-02-01", seats=9))
    assert changed.status == 200
    assert [(one["start"], one["end"], one["seats"]) for one in changed.json["versions"]] == [
        ("2026-01-15", "2026-02-01", 3),
        ("2026-02-01", None, 9),
    ]
    assert changed.json["versions"][1]["anchor"] == "2026-01-15"
    for refused in (
        system.call("PUT", path, fields(seats=4)),
        system.call("PUT", path, fields(start="2026-01-20", end="2026-02-02")),
        system.call("POST", f"{path}/end", {"day": "2026-01-15"}),
        enter(system, tenant, entry("slack", seats=4), entry("other")),
    ):
        assert (refused.status, refused.json["error"]) == (409, "conflict"), refused
    assert system.call("GET", path).json == changed.json


def test_an_end_a_refund_and_a_void_are_in_the_history_with_who_did_it(
    system: System, tenant: Tenant
) -> None:
    path = f"/admin/subscriptions/{tenant.slug}/slack"
    enter(system, tenant, entry("slack"))
    credit = {"day": "2026-02-01", "amount": "5.50", "reason": "outage"}
    for _ in range(2):
        assert system.call("PUT", f"{path}/refunds/CN-1", credit).status == 200
        assert system.call("POST", f"{path}/end", {"day": "2026-04-01"}).status == 200
        assert system.call("DELETE", path).status == 204
        system.call("PUT", path, fields())
    refused = system.call("PUT", f"{path}/refunds/CN-2", {**credit, "amount": "5.505"})
    assert [fault["field"] for fault in refused.json["faults"]] == ["amount"]
    history = system.call("GET", f"{path}/history?limit=3").json
    assert [one["verb"] for one in history["revisions"]] == [
        "subscription.entered",
        "subscription.voided",
        "subscription.ended",
    ]
    older = system.call("GET", f"{path}/history?cursor={history['next']}").json
    numbers = [one["revision"] for one in (*history["revisions"], *older["revisions"])]
    assert numbers == list(range(numbers[0], 0, -1))
    assert older["next"] is None
    first = older["revisions"][-1]
    assert (first["verb"], first["versions"][0]["unit_price"]) == ("subscription.entered", "10.00")
    entries = system.call("GET", f"/admin/audit?org={tenant.slug}&limit=200").json["entries"]
    audited = [one["verb"] for one in entries if one["target"] == "slack"]
    assert len(audited) == numbers[0]
    assert "subscription.refunded" in audited
    assert {first["changed_by"]} == {one["key_name"] for one in entries if one["target"] == "slack"}


def test_subscriptions_are_listed_page_by_page(system: System, tenant: Tenant) -> None:
    names = [f"s{number:02}" for number in range(7)]
    enter(system, tenant, *map(entry, names))
    found: list[str] = []
    cursor = ""
    while True:
        query = f"?limit=3{cursor and f'&cursor={cursor}'}"
        page = system.call("GET", f"/admin/subscriptions/{tenant.slug}{query}", key=tenant.key).json
        found += [one["subscription_id"] for one in page["subscriptions"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert found == names


def test_one_that_is_not_there_is_not_found(system: System, tenant: Tenant, other: Tenant) -> None:
    enter(system, other, entry("theirs"))
    path = f"/admin/subscriptions/{tenant.slug}/theirs"
    for method, below, body in (
        ("GET", "", None),
        ("DELETE", "", None),
        ("GET", "/history", None),
        ("POST", "/end", {"day": "2026-04-01"}),
        ("PUT", "/refunds/CN-1", {"day": "2026-02-01", "amount": "1"}),
    ):
        reply = system.call(method, path + below, body)
        assert (reply.status, reply.json["error"]) == (404, "subscription_not_found"), method
    assert "subscription_not_found" in CODES


@pytest.mark.parametrize("name", ["..", "Slack", "a b", "x" * 64])
def test_a_name_that_is_none_is_refused(system: System, tenant: Tenant, name: str) -> None:
    reply = system.call("PUT", f"/admin/subscriptions/{tenant.slug}/{name}", fields())
    assert reply.status in (400, 404)
