"""Each dependency in turn slow, silent or gone, and back: nothing lost, nothing done twice.

The whole system on emulators, with a door in front of each of them. Whatever is behind the door, a caller
hears 202 or 503, never 429 for a fault of ours; and every run that was accepted ends as it should.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest

from tests.support.cloud import Backends, CloudSystem
from tests.support.credentials import aws_keys
from tests.support.doors import Door, Doors, Way
from tests.support.exports import Export, row
from tests.support.system import Reply

pytestmark = [pytest.mark.cloud, pytest.mark.slow]

FIVE, LATE, MONTH = "engine/noop/five", "engine/noop/late", "engine/load/month"
STEPS = ("one", "two", "three", "four", "five")
AWAY_SECONDS = 6.0
CALLERS = 4
PATIENCE_SECONDS = 60.0


@pytest.fixture(scope="module")
def doors(cloud_backends: Backends) -> Iterator[Doors]:
    made = Doors(cloud_backends)
    yield made
    made.close()


@pytest.fixture(scope="module")
def system(
    doors: Doors, cloud_backends: Backends, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CloudSystem]:
    with CloudSystem(
        tmp_path_factory.mktemp("doors"),
        cloud_backends,
        doors.environ,
        postgres=doors.postgres,
    ) as made:
        made.organization("warm")
        made.run("warm", FIVE)
        yield made


class Caller:
    """Asks with one idempotency key until it is told 202, as a client that obeys Retry-After."""

    def __init__(self, system: CloudSystem, org: str, address: str, number: int) -> None:
        self.answers: list[Reply] = []
        self.run_id = ""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.run_id:
            path = f"/pipelines/run/{org}/{address}"
            reply = system.call("POST", path, {}, headers={"Idempotency-Key": f"key-{number}"})
            self.answers.append(reply)
            if reply.status == 202:
                self.run_id = reply.json["run_id"]
            assert time.monotonic() < deadline, reply
            time.sleep(0.3)


def call_while_away(
    system: CloudSystem, door: Door, way: Way, org: str, address: str
) -> list[Caller]:
    """Callers that start before the door changes, while it is so, and after it is open again."""
    back = threading.Timer(AWAY_SECONDS, door.set, (Way.OPEN,))
    with ThreadPoolExecutor(CALLERS) as pool:
        first = pool.submit(Caller, system, org, address, 0)
        time.sleep(0.2)
        door.set(way)
        back.start()
        try:
            rest = [pool.submit(Caller, system, org, address, n) for n in range(1, CALLERS)]
            time.sleep(AWAY_SECONDS + 0.2)
            last = pool.submit(Caller, system, org, address, CALLERS)
            return [asked.result() for asked in (first, *rest, last)]
        finally:
            back.join()
            door.set(Way.OPEN)


def assert_as_if_nothing_had_been(
    system: CloudSystem, org: str, callers: list[Caller], status: str, attempts: int
) -> None:
    for caller in callers:
        assert {reply.status for reply in caller.answers} <= {202, 503}, caller.answers
        assert all(
            reply.json["error"] == "unavailable" and "Retry-After" in reply.headers
            for reply in caller.answers
            if reply.status == 503
        )
        run = system.ended(org, caller.run_id)
        assert run["status"] == status, run
        path = f"/pipelines/logs/{org}/{caller.run_id}/steps"
        tried: list[Any] = system.call("GET", path).json["attempts"]
        counted = [one for one in tried if one["result"] == "ok"]
        if status == "completed":
            assert sorted(one["step_id"] for one in counted) == sorted(STEPS)
        else:
            assert len([one for one in tried if one["result"] == "transient"]) == attempts
    assert len({caller.run_id for caller in callers}) == len(callers)
    quota = system.call("GET", f"/pipelines/quota/{org}").json
    assert (quota["concurrent"], quota["today"]) == (0, len(callers)), quota


@pytest.mark.parametrize("way", [Way.SLOW, Way.SILENT, Way.SHUT])
@pytest.mark.parametrize("name", ["firestore", "pubsub", "postgres"])
def test_what_every_run_needs_may_go_and_come_back(
    system: CloudSystem, doors: Doors, name: str, way: Way
) -> None:
    org = f"{name}_{way.name.lower()}"
    system.organization(org, "enterprise")
    callers = call_while_away(system, doors.by_name[name], way, org, FIVE)
    if way is Way.SHUT:
        assert any(reply.status == 503 for caller in callers for reply in caller.answers)
    assert_as_if_nothing_had_been(system, org, callers, "completed", 1)


@pytest.mark.parametrize("way", [Way.SILENT, Way.SHUT])
def test_a_retry_is_made_though_cloud_tasks_is_gone(
    system: CloudSystem, doors: Doors, way: Way
) -> None:
    org = f"tasks_{way.name.lower()}"
    system.organization(org, "enterprise")
    callers = call_while_away(system, doors.by_name["tasks"], way, org, LATE)
    assert_as_if_nothing_had_been(system, org, callers, "failed", 2)


@pytest.mark.parametrize("way", [Way.SLOW, Way.SHUT])
def test_a_credential_is_stored_whole_or_not_at_all_while_kms_is_gone(
    system: CloudSystem, doors: Doors, way: Way
) -> None:
    org = f"kms_{way.name.lower()}"
    system.organization(org)
    path = f"/admin/orgs/{org}/credentials/aws"
    stored = {"secret": aws_keys("canary0123456789")}
    doors.by_name["kms"].set(way)
    try:
        refused = system.call("PUT", f"{path}/main", stored)
    finally:
        doors.by_name["kms"].set(Way.OPEN)
    if way is Way.SHUT:
        assert (refused.status, refused.json["error"]) == (503, "unavailable")
        assert "canary" not in str(refused)
        assert system.call("GET", path).json["credentials"] == []
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (reply := system.call("PUT", f"{path}/main", stored)).status != 201:
            assert reply.status == 503, reply
            assert time.monotonic() < deadline
            time.sleep(0.2)
    else:
        assert refused.status == 201
    assert len(system.call("GET", path).json["credentials"]) == 1


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("bigquery", Way.SHUT),
        ("bigquery", Way.SILENT),
        ("storage", Way.SHUT),
        ("firestore", Way.SHUT),
        ("pubsub", Way.SHUT),
    ],
)
def test_a_month_is_loaded_once_whatever_goes_away_in_the_middle(
    system: CloudSystem, doors: Doors, name: str, way: Way
) -> None:
    org = f"month_{name}_{way.name.lower()}"
    system.organization(org, "enterprise")
    source = system.objects(org) / "exports"
    source.mkdir(parents=True)
    Export(source).deliver("2025-02", [row(number) for number in range(1, 101)])
    path = f"/admin/orgs/{org}/credentials/aws/main"
    assert system.call("PUT", path, system.source(org, "exports")).status == 201
    days = {"start_date": "2025-02-01", "end_date": "2025-02-28"}
    started = system.call("POST", f"/pipelines/run/{org}/{MONTH}", days)
    time.sleep(1.0)
    doors.by_name[name].set(way)
    time.sleep(AWAY_SECONDS)
    doors.by_name[name].set(Way.OPEN)
    run = system.ended(org, started.json["run_id"])
    assert run["status"] == "completed", run
    warehouse = system.app.warehouse()
    exact = sum(Decimal(row(number)["BilledCost"]) for number in range(1, 101))
    for table in ("aws_focus", "focus_costs"):
        sql = f"SELECT COUNT(*) AS n, SUM(BilledCost) AS cost FROM {table}"
        assert warehouse.query(f"{org}_test", sql, {}).rows == [(100, exact)]
    assert [loaded.rows for loaded in warehouse.loads(f"{org}_test")] == [100, 100]
