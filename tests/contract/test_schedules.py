"""What every backend of schedules promises. A new one adds itself to `schedules`, nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from shared.accounts.sqlite import SqliteAccounts
from shared.core.plans import Limits
from shared.core.schedule import Enrolment, Skip
from shared.core.spec import Catchup, Overlap
from shared.journal import Journal
from shared.schedules import Schedules, Skipped
from shared.schedules.sqlite import SqliteSchedules

NOON = datetime(2026, 3, 10, 12, 0, 0, 123456, tzinfo=UTC)
HOUR = timedelta(hours=1)
PLANS = {"starter": Limits(daily=6, monthly=180, concurrent=1)}


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.cloud)])
def schedules(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Schedules]:
    """A database that has the organizations acme and globex."""
    if request.param == "sqlite":
        journal = Journal(tmp_path / "state.db")
        accounts: Any = SqliteAccounts(journal, PLANS)
        made: Schedules = SqliteSchedules(journal)
        close = journal.close
    else:
        from shared.accounts.postgres import PostgresAccounts
        from shared.schedules.postgres import PostgresSchedules
        from tests.support.postgres import server

        database = server().database()
        accounts = PostgresAccounts(server().dsn(database), PLANS)
        made = PostgresSchedules(server().dsn(database), connections=4)

        def close() -> None:
            accounts.close()
            server().drop(database)

    for org in ("acme", "globex"):
        accounts.create_organization(org, org, "starter", NOON)
    yield made
    made.close()
    close()


def enrolment(schedule_id: str = "daily", org: str = "acme", **fields: Any) -> Enrolment:
    base = {"address": "aws/cost/billing", "created_at": NOON, "updated_at": NOON}
    return Enrolment(org=org, schedule_id=schedule_id, **{**base, **fields})


WHOLE = enrolment(
    cron="0 6 * * *",
    timezone="Europe/Berlin",
    overlap=Overlap.ALLOW,
    catchup=Catchup.LAST,
    credential_id="main",
    parameters={"allow_empty": True, "days": [1, 2]},
    timing="0 6 * * * Europe/Berlin",
    due_at=NOON + HOUR,
    last_due_at=NOON - HOUR,
    last_run_id="r1",
)


def test_what_was_written_is_read_to_the_last_field(schedules: Schedules) -> None:
    assert schedules.write([WHOLE]) == [WHOLE]
    assert schedules.enrolment("acme", "daily") == WHOLE
    assert schedules.enrolment("acme", "other") is None
    assert schedules.enrolment("globex", "daily") is None


def test_a_write_that_follows_what_is_stored_takes_its_place(schedules: Schedules) -> None:
    schedules.write([WHOLE])
    after = replace(WHOLE, version=2, due_at=None, enabled=False)
    assert schedules.write([after]) == [after]
    assert schedules.enrolment("acme", "daily") == after
    assert schedules.due(NOON + 100 * HOUR) == []


def test_whoever_read_an_older_one_writes_nothing(schedules: Schedules) -> None:
    schedules.write([WHOLE])
    schedules.write([replace(WHOLE, version=2)])
    late = replace(WHOLE, version=2, enabled=False)
    again = replace(WHOLE, version=1, enabled=False)
    ahead = replace(WHOLE, version=7)
    unknown = enrolment("unknown", version=2)
    assert schedules.write([late]) == []
    assert schedules.write([again, ahead, unknown][:1]) == []
    assert schedules.write([ahead]) == []
    assert schedules.write([unknown]) == []
    assert schedules.enrolment("acme", "daily") == replace(WHOLE, version=2)
    assert schedules.enrolment("acme", "unknown") is None


def test_the_same_write_twice_is_once(schedules: Schedules) -> None:
    assert schedules.write([WHOLE]) == [WHOLE]
    assert schedules.write([WHOLE]) == [WHOLE]
    second = replace(WHOLE, version=2, last_run_id="r2")
    skip = Skipped(
        org="acme",
        schedule_id="daily",
        skip=Skip(first=NOON, last=NOON, count=1, reason="overlap"),
        at=NOON,
    )
    for _ in range(2):
        assert schedules.write([second], [skip]) == [second]
    assert schedules.skipped("acme", "daily") == [skip]


def test_of_those_who_write_at_once_one_is_first(schedules: Schedules) -> None:
    schedules.write([WHOLE])
    rivals = [replace(WHOLE, version=2, last_run_id=f"r{number}") for number in range(16)]
    with ThreadPoolExecutor(8) as pool:
        written = [
            one for won in pool.map(lambda one: schedules.write([one]), rivals) for one in won
        ]
    assert len(written) == 1
    assert schedules.enrolment("acme", "daily") == written[0]


def test_many_are_written_and_only_those_that_follow(schedules: Schedules) -> None:
    many = [enrolment(f"s{number:03}", org) for org in ("acme", "globex") for number in range(100)]
    assert schedules.write(many) == many
    mixed = [
        replace(one, version=2 if number % 2 else 5, last_run_id="r1")
        for number, one in enumerate(many)
    ]
    assert schedules.write(mixed) == [one for one in mixed if one.version == 2]
    assert schedules.write([]) == []


def test_what_is_due_comes_earliest_first_and_in_parts(schedules: Schedules) -> None:
    dues = {"third": 3, "first": 1, "second": 2, "later": 20}
    schedules.write([enrolment(name, due_at=NOON + dues[name] * HOUR) for name in dues])
    schedules.write([enrolment("never")])

    def names(found: list[Enrolment]) -> list[str]:
        return [one.schedule_id for one in found]

    assert names(schedules.due(NOON + 3 * HOUR)) == ["first", "second", "third"]
    assert names(schedules.due(NOON + 3 * HOUR, 2)) == ["first", "second"]
    assert names(schedules.due(NOON + 3 * HOUR, 2, 1)) == ["second", "third"]
    assert names(schedules.due(NOON + HOUR - timedelta(microseconds=1))) == []


def test_they_are_listed_by_organization_and_name(schedules: Schedules) -> None:
    names = ["a", "a-b", "a_b", "ab", "z9"]
    schedules.write([enrolment(name, org) for org in ("globex", "acme") for name in names])
    of_acme = schedules.enrolments("acme", ("acme", "a-b"), 2)
    assert [one.schedule_id for one in of_acme] == ["a_b", "ab"]
    found: list[tuple[str, str]] = []
    while page := schedules.enrolments(None, found[-1] if found else ("", ""), 3):
        found += [(one.org, one.schedule_id) for one in page]
    assert found == [(org, name) for org in ("acme", "globex") for name in names]


def test_a_schedule_that_ends_keeps_what_it_skipped(schedules: Schedules) -> None:
    skips = [
        Skipped(
            org="acme",
            schedule_id="daily",
            skip=Skip(first=NOON + n * HOUR, last=NOON + n * HOUR, count=n + 1, reason="missed"),
            at=NOON,
        )
        for n in range(3)
    ]
    schedules.write([WHOLE], skips)
    assert schedules.remove("acme", "daily")
    assert not schedules.remove("acme", "daily")
    assert schedules.enrolment("acme", "daily") is None
    assert schedules.skipped("acme", "daily") == skips[::-1]
    assert schedules.skipped("acme", "daily", NOON + 2 * HOUR) == skips[1::-1]
    assert schedules.skipped("acme", "daily", limit=1) == skips[2:]
    assert schedules.skipped("globex", "daily") == []
    assert schedules.write([WHOLE]) == [WHOLE], "it can begin again"
