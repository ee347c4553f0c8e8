"""The tick starts what schedules say: each due time once, whatever it was away for and whoever dies."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shared.app import App
from shared.bus import Outgoing
from shared.core.message import StartMessage, Topic, decode
from shared.core.run import RunStatus
from shared.core.schedule import Enrolment, due_times
from shared.core.spec import Catchup, Overlap, Schedule
from shared.engine.schedules import fire_due, refresh, set_due
from shared.errors import NotFound, Unavailable
from shared.journal import Journal
from shared.log import Level, Log
from shared.schedules.sqlite import SqliteSchedules

DAY = timedelta(days=1)


class Place:
    """A tick's whole world: schedules in SQLite, a clock, a list of messages, and which runs are at work."""

    def __init__(self, path: Path, start: datetime) -> None:
        self._journal = Journal(path)
        self.at = start
        self.pipelines: dict[str, Schedule | None] = {}
        self.sent: list[StartMessage] = []
        self.at_work: set[str] = set()
        self.refuses = False
        self.schedules = SqliteSchedules(self._journal)
        unused = cast("Any", None)
        self.app = App(
            runs=cast("Any", self),
            bus=cast("Any", self),
            accounts=unused,
            subscriptions=unused,
            schedules=self.schedules,
            vault=unused,
            warehouse=unused,
            objects=unused,
            http=unused,
            catalog=lambda: cast("Any", self),
            providers=unused,
            processors={},
            timing=unused,
            project_id="test",
            environment="test",
            code_version="test",
            log=Log(Level.ERROR, stream=io.StringIO()),
            now=lambda: self.at,
            monotonic=unused,
            sleep=unused,
            random=unused,
            new_id=unused,
        )

    def get(self, address: str) -> Any:
        if address not in self.pipelines:
            raise NotFound(f"no pipeline {address}")
        return SimpleNamespace(schedule=self.pipelines[address])

    def publish(self, messages: Sequence[Outgoing]) -> None:
        if self.refuses:
            raise Unavailable("the bus is away")
        for message in messages:
            assert message.topic is Topic.STARTS
            self.sent.append(decode(message.body, StartMessage))

    def run_status(self, run_id: str) -> RunStatus:
        return RunStatus.RUNNING if run_id in self.at_work else RunStatus.COMPLETED

    def wanted(
        self, org: str, schedule: Schedule, schedule_id: str = "daily", **own: Any
    ) -> Enrolment:
        address = f"test/cost/{schedule_id}"
        self.pipelines[address] = schedule
        wanted = Enrolment(
            org=org,
            schedule_id=schedule_id,
            address=address,
            created_at=self.at,
            updated_at=self.at,
            **own,
        )
        return set_due(self.app, wanted)

    def enrol(self, *given: Any, **own: Any) -> Enrolment:
        (stored,) = self.schedules.write([self.wanted(*given, **own)])
        return stored

    def until(self, end: datetime, step: timedelta) -> None:
        while self.at < end:
            self.at += step
            fire_due(self.app)

    def started(self, org: str = "acme") -> list[datetime]:
        return [message.due_at for message in self.sent if message.org == org]

    def close(self) -> None:
        self._journal.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "state.db", datetime(2028, 1, 1, tzinfo=UTC))
    yield made
    made.close()


def due(schedule: Schedule, begin: datetime, end: datetime) -> list[datetime]:
    return list(takewhile(lambda at: at <= end, due_times(schedule, begin)))


def test_a_year_in_three_zones_with_an_outage_has_exactly_the_runs_that_the_policy_says(
    place: Place,
) -> None:
    begin, end = place.at, datetime(2029, 1, 1, tzinfo=UTC)  # a leap year
    # from before the clocks change in Berlin to after it
    away = datetime(2028, 3, 25, 7, 1, tzinfo=UTC)
    back = away + 2 * DAY
    zones = {"acme": "Europe/Berlin", "bolt": "America/New_York", "cove": "Australia/Lord_Howe"}
    policies = {
        f"{catchup}-{name}": Schedule(cron=cron, catchup=catchup)
        for catchup in Catchup
        for name, cron in {
            "nightly": "30 2 * * *",
            "monthly": "0 6 1 * *",
            "leap": "0 12 29 2 *",
        }.items()
    }
    expected: dict[tuple[str, str], list[datetime]] = {}
    for org, zone in zones.items():
        for schedule_id, policy in policies.items():
            place.enrol(org, policy, schedule_id, cron=policy.cron, timezone=zone)
            own = Schedule(cron=policy.cron, timezone=zone, catchup=policy.catchup)
            every = due(own, begin, end)
            missed = [at for at in every if away < at <= back]
            late = missed[:-1] if policy.catchup is Catchup.LAST else missed
            lost = [] if policy.catchup is Catchup.ALL else late
            expected[org, schedule_id] = [at for at in every if at not in lost]

    place.until(away, timedelta(minutes=9))
    place.at = back
    place.until(end, timedelta(minutes=9))

    found: dict[tuple[str, str], list[datetime]] = {}
    for message in place.sent:
        found.setdefault((message.org, message.schedule_id), []).append(message.due_at)
    assert found == expected
    told = place.schedules.skipped("acme", "none-nightly")
    assert [(one.skip.count, one.skip.reason) for one in told] == [(2, "missed")]
    assert place.schedules.skipped("acme", "all-nightly") == []


def test_every_organization_starts_once_when_all_are_due_in_one_minute(place: Place) -> None:
    orgs = [f"org_{number:03}" for number in range(500)]
    nightly = Schedule(cron="0 6 * * *")
    place.schedules.write(
        [place.wanted(org, nightly, f"p{number}") for number in range(10) for org in orgs]
    )

    place.until(place.at + timedelta(hours=6, minutes=1), timedelta(minutes=1))

    started = Counter((message.org, message.schedule_id) for message in place.sent)
    assert len(started) == 5000
    assert set(started.values()) == {1}


def test_a_tick_that_dies_after_its_messages_sends_the_same_ones_again(place: Place) -> None:
    enrolled = place.enrol("acme", Schedule(cron="0 6 * * *"))
    write = place.schedules.write

    def dies(*_: object) -> list[Enrolment]:
        raise Unavailable("killed here")

    place.at += timedelta(hours=6, seconds=5)
    cast("Any", place.schedules).write = dies
    with pytest.raises(Unavailable):
        fire_due(place.app)
    cast("Any", place.schedules).write = write
    fire_due(place.app)
    fire_due(place.app)

    assert len(place.sent) == 2
    assert len({enrolled.run_id(message.due_at) for message in place.sent}) == 1


def test_what_the_bus_did_not_take_is_still_due(place: Place) -> None:
    place.enrol("acme", Schedule(cron="0 6 * * *"))
    place.at += timedelta(hours=6, seconds=5)
    place.refuses = True
    with pytest.raises(Unavailable):
        fire_due(place.app)

    place.refuses = False
    place.at += timedelta(minutes=1)
    fire_due(place.app)

    assert place.started() == [datetime(2028, 1, 1, 6, tzinfo=UTC)]


def test_a_run_that_still_works_is_not_overlapped_and_that_is_told(place: Place) -> None:
    enrolled = place.enrol("acme", Schedule(cron="0 * * * *"))
    place.until(place.at + timedelta(hours=1), timedelta(minutes=1))
    place.at_work.add(enrolled.run_id(place.started()[0]))
    place.until(place.at + timedelta(hours=2), timedelta(minutes=1))
    place.at_work.clear()
    place.until(place.at + timedelta(hours=1), timedelta(minutes=1))

    assert [at.hour for at in place.started()] == [1, 4]
    assert {
        (one.skip.first.hour, one.skip.reason) for one in place.schedules.skipped("acme", "daily")
    } == {
        (2, "overlap"),
        (3, "overlap"),
    }


def test_those_that_wait_for_their_turn_do_not_hold_up_the_others(place: Place) -> None:
    one_by_one = Schedule(cron="0 * * * *", catchup=Catchup.ALL)
    place.schedules.write(
        [
            place.wanted(
                f"org_{number:03}", one_by_one, last_run_id="at-work", last_due_at=place.at
            )
            for number in range(600)  # more than a page
        ]
    )
    place.at_work.add("at-work")
    place.enrol("zebra", Schedule(cron="30 1 * * *"))

    place.until(place.at + timedelta(hours=2), timedelta(minutes=10))

    assert len(place.started("zebra")) == 1
    assert len(place.sent) == 1


def test_an_outage_does_not_flood_a_provider(place: Place) -> None:
    place.enrol("acme", Schedule(cron="*/5 * * * *", catchup=Catchup.ALL, overlap=Overlap.ALLOW))
    place.at += timedelta(hours=5)

    per_tick = [fire_due(place.app) for _ in range(8)]

    assert per_tick == [10, 10, 10, 10, 10, 10, 0, 0]
    assert len(set(place.started())) == 60


def test_a_release_that_changes_a_schedule_is_followed_at_once(place: Place) -> None:
    place.enrol("acme", Schedule(cron="0 6 1 * *"))
    place.pipelines["test/cost/daily"] = Schedule(cron="0 6 * * *")

    assert refresh(place.app) == 1
    assert refresh(place.app) == 0
    place.until(place.at + DAY, timedelta(minutes=5))

    assert place.started() == [datetime(2028, 1, 1, 6, tzinfo=UTC)]


def test_a_schedule_of_a_pipeline_that_is_gone_is_never_due(place: Place) -> None:
    place.enrol("acme", Schedule(cron="0 6 * * *"))
    place.pipelines.clear()

    place.until(place.at + 2 * DAY, timedelta(hours=1))

    assert place.sent == []
    kept = place.schedules.enrolment("acme", "daily")
    assert kept is not None
    assert kept.due_at is None
