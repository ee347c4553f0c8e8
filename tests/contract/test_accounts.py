"""What every backend of accounts promises. A new one adds its class to BACKENDS and NAMES, nothing else."""

from __future__ import annotations

import dataclasses
import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from shared.accounts import (
    Accounts,
    AuditEntry,
    Author,
    Change,
    Held,
    Limits,
    NotAllowed,
    OrgStatus,
    Refused,
    ReservationStatus,
    Reserved,
    Scope,
    Spent,
)
from shared.accounts.sqlite import SqliteAccounts
from shared.errors import Conflict, Invalid, NotFound, Unavailable
from shared.journal import Journal
from tests.support.examples import examples

PLANS = {
    "starter": Limits(daily=6, monthly=180, concurrent=1),
    "enterprise": Limits(daily=None, monthly=None, concurrent=50),
}
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
TICK = timedelta(microseconds=1)


class Backend(Protocol):
    """One database, which can be killed, broken, and written to behind the port's back."""

    accounts: Accounts

    def crash(self) -> None:
        """Killed at this moment and started again: what was not durable is gone."""

    def restart(self, plans: dict[str, Limits]) -> None: ...

    def disconnect(self) -> None:
        """The database cannot be reached from now on."""

    def write_status(self, org: str, status: str) -> None: ...

    def stored(self) -> bytes:
        """Every byte at rest."""

    def close(self) -> None: ...


class SqliteBackend:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._life = 0
        self._open(PLANS)

    def _open(self, plans: dict[str, Limits]) -> None:
        self._journal = Journal(self._folder / f"{self._life}.db")
        self.accounts: Accounts = SqliteAccounts(self._journal, plans)

    def crash(self) -> None:
        # What a killed process leaves: the two files as they are, without a last commit.
        before, after = self._life, self._life + 1
        for suffix in ("", "-wal"):
            source = self._folder / f"{before}.db{suffix}"
            if source.exists():
                shutil.copy(source, self._folder / f"{after}.db{suffix}")
        self._journal.close()
        self._life = after
        self._open(PLANS)

    def restart(self, plans: dict[str, Limits]) -> None:
        self._journal.close()
        self._open(plans)

    def disconnect(self) -> None:
        self._journal.close()

    def write_status(self, org: str, status: str) -> None:
        self._journal.write(
            lambda db: db.execute(
                "UPDATE organizations SET status = ? WHERE slug = ?", (status, org)
            )
        )

    def stored(self) -> bytes:
        self._journal.sync()
        return b"".join(path.read_bytes() for path in self._folder.iterdir())

    def close(self) -> None:
        self._journal.close()


class PostgresBackend:
    """A database of its own on the one server; killed is its every connection, and the client."""

    def __init__(self, folder: Path) -> None:
        from shared.accounts.postgres import PostgresAccounts
        from tests.support.postgres import server

        self._make = PostgresAccounts
        self._server = server()
        self._database = self._server.database()
        self._door = self._server.door()
        self._open(PLANS)

    def _open(self, plans: dict[str, Limits]) -> None:
        dsn = self._server.dsn(self._database, host=self._door)
        self.accounts: Accounts = self._make(dsn, plans, patience=timedelta(seconds=60))

    def crash(self) -> None:
        self._server.cut(self._database)
        self.accounts.close()
        self._open(PLANS)

    def restart(self, plans: dict[str, Limits]) -> None:
        self.accounts.close()
        self._open(plans)

    def disconnect(self) -> None:
        shutil.rmtree(self._door)
        self._server.cut(self._database)

    def write_status(self, org: str, status: str) -> None:
        with self._server.admin(self._database) as db:
            db.execute(
                "update accounts.organizations set status = %s where slug = %s", (status, org)
            )

    def stored(self) -> bytes:
        return self._server.stored()

    def close(self) -> None:
        self.accounts.close()
        self._server.drop(self._database)


BACKENDS: dict[str, Callable[[Path], Backend]] = {
    "sqlite": SqliteBackend,
    "postgres": PostgresBackend,
}
NAMES = ["sqlite", pytest.param("postgres", marks=pytest.mark.cloud)]


@pytest.fixture(params=NAMES)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    made = BACKENDS[request.param](tmp_path)
    yield made
    made.close()


@pytest.fixture
def accounts(backend: Backend) -> Accounts:
    backend.accounts.create_organization("acme", "Acme Ltd", "starter", NOON)
    return backend.accounts


def reserve(
    accounts: Accounts, run_id: str, now: datetime = NOON, org: str = "acme"
) -> Reserved | Spent | Refused | NotAllowed:
    return accounts.reserve(run_id, org, now, now + HOUR)


def settle(
    accounts: Accounts,
    run_id: str,
    now: datetime = NOON,
    *,
    succeeded: bool = True,
    our_fault: bool = False,
) -> None:
    accounts.settle(run_id, "acme", now, succeeded=succeeded, our_fault=our_fault)


def counters(accounts: Accounts, now: datetime = NOON, org: str = "acme") -> tuple[int, ...]:
    """Concurrent, today, this month, succeeded, failed."""
    usage = accounts.usage(org, now)
    assert usage is not None
    return usage.concurrent, usage.today, usage.month, usage.succeeded, usage.failed


def unlimit(accounts: Accounts, daily: int | None = None, monthly: int | None = None) -> None:
    limits = Limits(daily=daily, monthly=monthly, concurrent=50)
    accounts.set_plan("acme", "starter", limits)


# --- a reservation and its ends ---


def test_a_reservation_takes_a_slot_and_one_run_of_the_day_and_the_month(
    accounts: Accounts,
) -> None:
    assert reserve(accounts, "r1") == Reserved(NOON + HOUR)
    assert counters(accounts) == (1, 1, 1, 0, 0)


def test_reserving_twice_is_once_and_answers_the_rows_own_expiry(accounts: Accounts) -> None:
    reserve(accounts, "r1")
    again = accounts.reserve("r1", "acme", NOON + MINUTE, NOON + 5 * HOUR)
    assert again == Reserved(NOON + HOUR)
    assert counters(accounts) == (1, 1, 1, 0, 0)


def test_a_settled_reservation_frees_its_slot_and_is_counted_once(accounts: Accounts) -> None:
    reserve(accounts, "r1")
    for _ in range(3):
        settle(accounts, "r1")
    assert counters(accounts) == (0, 1, 1, 1, 0)


def test_a_settled_reservation_cannot_be_reserved_again(accounts: Accounts) -> None:
    reserve(accounts, "r1")
    settle(accounts, "r1")
    assert reserve(accounts, "r1") == Spent(ReservationStatus.SETTLED)
    assert counters(accounts) == (0, 1, 1, 1, 0)


def test_a_second_settle_cannot_change_the_first(accounts: Accounts) -> None:
    reserve(accounts, "r1")
    settle(accounts, "r1", succeeded=False)
    settle(accounts, "r1", succeeded=True)
    settle(accounts, "r1", succeeded=False, our_fault=True)
    assert counters(accounts) == (0, 1, 1, 0, 1)


def test_settling_what_was_never_reserved_refuses_the_reserve_still_in_flight(
    accounts: Accounts,
) -> None:
    settle(accounts, "r1", succeeded=False, our_fault=True)
    assert reserve(accounts, "r1") == Spent(ReservationStatus.VOID)
    settle(accounts, "r1")
    assert counters(accounts) == (0, 0, 0, 0, 0)


def test_a_run_that_failed_by_our_fault_gives_its_day_and_month_back(accounts: Accounts) -> None:
    reserve(accounts, "r1")
    settle(accounts, "r1", succeeded=False, our_fault=True)
    settle(accounts, "r1", succeeded=False, our_fault=True)
    assert counters(accounts) == (0, 0, 0, 0, 1)


def test_a_run_that_succeeded_gives_nothing_back(accounts: Accounts) -> None:
    reserve(accounts, "r1")
    settle(accounts, "r1", succeeded=True, our_fault=True)
    assert counters(accounts) == (0, 1, 1, 1, 0)


def test_a_released_reservation_gives_everything_back_once(accounts: Accounts) -> None:
    reserve(accounts, "r1")
    accounts.release("r1")
    accounts.release("r1")
    settle(accounts, "r1")
    assert counters(accounts) == (0, 0, 0, 0, 0)
    assert reserve(accounts, "r1") == Spent(ReservationStatus.RELEASED)


def test_releasing_what_was_never_reserved_does_nothing(accounts: Accounts) -> None:
    accounts.release("r1")
    assert reserve(accounts, "r1") == Reserved(NOON + HOUR)


def test_a_settled_run_cannot_be_released(accounts: Accounts) -> None:
    reserve(accounts, "r1")
    settle(accounts, "r1")
    accounts.release("r1")
    assert counters(accounts) == (0, 1, 1, 1, 0)


def test_an_expired_reservation_gives_its_slot_to_the_next_run_without_a_tick(
    accounts: Accounts,
) -> None:
    reserve(accounts, "r1")
    later = NOON + HOUR + TICK
    assert reserve(accounts, "r2", later) == Reserved(later + HOUR)
    assert reserve(accounts, "r1", later) == Spent(ReservationStatus.EXPIRED)
    assert counters(accounts, later) == (1, 2, 2, 0, 0)


def test_a_reservation_is_held_up_to_its_expiry(accounts: Accounts) -> None:
    reserve(accounts, "r1")
    assert accounts.sweep(NOON + HOUR) == 0
    assert isinstance(reserve(accounts, "r2", NOON + HOUR), Refused)


def test_sweep_and_settle_free_the_slot_once_between_them(accounts: Accounts) -> None:
    unlimit(accounts)
    reserve(accounts, "r1")
    accounts.reserve("r2", "acme", NOON, NOON + 9 * HOUR)
    assert accounts.sweep(NOON + 2 * HOUR) == 1
    assert accounts.sweep(NOON + 2 * HOUR) == 0
    settle(accounts, "r1", NOON + 2 * HOUR)
    settle(accounts, "r1", NOON + 2 * HOUR)
    assert counters(accounts) == (1, 2, 2, 1, 0)


def test_a_sweep_frees_the_slots_of_every_organization(accounts: Accounts) -> None:
    unlimit(accounts)
    accounts.create_organization("beta", "Beta", "enterprise", NOON)
    for number in range(3):
        reserve(accounts, f"a{number}")
        reserve(accounts, f"b{number}", org="beta")
    assert accounts.sweep(NOON + 2 * HOUR) == 6
    assert counters(accounts)[0] == counters(accounts, org="beta")[0] == 0


def test_a_run_that_never_was_gives_its_day_back_after_expiry_too(accounts: Accounts) -> None:
    reserve(accounts, "r1")
    accounts.sweep(NOON + 2 * HOUR)
    accounts.release("r1")
    accounts.release("r1")
    assert counters(accounts) == (0, 0, 0, 0, 0)


def test_a_purge_deletes_what_is_over_and_old_and_changes_no_counter(accounts: Accounts) -> None:
    unlimit(accounts)
    for run_id in ("settled", "released", "held"):
        accounts.reserve(run_id, "acme", NOON, NOON + 9 * HOUR)
    reserve(accounts, "expired")
    settle(accounts, "settled")
    accounts.release("released")
    settle(accounts, "void")
    late = NOON + 2 * HOUR
    reserve(accounts, "young", late)
    settle(accounts, "young", late)
    accounts.sweep(late)
    before = counters(accounts)
    assert accounts.purge(NOON) == 0
    assert accounts.purge(late) == 4
    assert accounts.purge(late) == 0
    assert counters(accounts) == before
    assert reserve(accounts, "held") == Reserved(NOON + 9 * HOUR)
    assert reserve(accounts, "young", late) == Spent(ReservationStatus.SETTLED)
    for run_id in ("settled", "released", "expired", "void"):
        assert reserve(accounts, run_id, late) == Reserved(late + HOUR), run_id


def test_a_purge_takes_the_oldest_first_and_no_more_than_asked(accounts: Accounts) -> None:
    unlimit(accounts)
    for number in (3, 1, 4, 2, 0):
        reserve(accounts, f"r{number}", NOON + number * MINUTE)
        settle(accounts, f"r{number}", NOON + number * MINUTE)
    assert accounts.purge(NOON + HOUR, 2) == 2
    there = [reserve(accounts, f"r{number}") for number in range(5)]
    assert there.count(Spent(ReservationStatus.SETTLED)) == 3
    assert there[:2] == [Reserved(NOON + HOUR)] * 2
    assert accounts.purge(NOON + HOUR, 5) == 3


def test_purges_at_once_beside_settles_leave_the_counters_true(accounts: Accounts) -> None:
    unlimit(accounts)
    for number in range(40):
        reserve(accounts, f"r{number}")
    accounts.sweep(NOON + 2 * HOUR)

    def settle_some(first: int) -> None:
        for number in range(first, first + 10):
            settle(accounts, f"r{number}", NOON + 2 * HOUR)

    def purge_some() -> None:
        for _ in range(10):
            accounts.purge(NOON + HOUR, 3)

    threads = [threading.Thread(target=settle_some, args=(first,)) for first in (0, 10, 20, 30)]
    threads += [threading.Thread(target=purge_some) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    concurrent, today, month, succeeded, _ = counters(accounts)
    assert (concurrent, today, month) == (0, 40, 40)
    assert succeeded <= 40  # one purged before its settle is no longer known


def test_a_run_id_of_another_organization_is_a_conflict_and_takes_nothing(
    accounts: Accounts,
) -> None:
    accounts.create_organization("beta", "Beta", "starter", NOON)
    reserve(accounts, "r1")
    with pytest.raises(Conflict):
        reserve(accounts, "r1", org="beta")
    assert counters(accounts, org="beta") == (0, 0, 0, 0, 0)


def test_orphans_are_the_held_unconfirmed_reservations_older_than_asked(
    accounts: Accounts,
) -> None:
    unlimit(accounts)
    for number, run_id in enumerate(("old", "confirmed", "settled", "released", "young")):
        reserve(accounts, run_id, NOON + number * MINUTE)
    accounts.confirm("confirmed")
    settle(accounts, "settled")
    accounts.release("released")
    found = accounts.orphans(NOON + 4 * MINUTE)
    assert [(orphan.run_id, orphan.org) for orphan in found] == [("old", "acme")]
    assert [orphan.run_id for orphan in accounts.orphans(NOON + 5 * MINUTE)] == ["old", "young"]
    assert [orphan.run_id for orphan in accounts.orphans(NOON + 5 * MINUTE, 1)] == ["old"]


def test_confirming_twice_or_too_late_changes_no_counter(accounts: Accounts) -> None:
    reserve(accounts, "r1")
    accounts.confirm("r1")
    accounts.confirm("r1")
    settle(accounts, "r1")
    accounts.confirm("r1")
    accounts.confirm("unknown")
    assert counters(accounts) == (0, 1, 1, 1, 0)


def test_what_holds_a_slot_is_listed_until_it_is_over(accounts: Accounts) -> None:
    unlimit(accounts)
    for minute, run_id in enumerate(("r3", "r1", "r2")):
        reserve(accounts, run_id, NOON + minute * MINUTE)
    assert accounts.held("acme")[0] == Held("r3", NOON, NOON + HOUR)
    assert [held.run_id for held in accounts.held("acme", 2)] == ["r3", "r1"]
    settle(accounts, "r3")
    accounts.release("r1")
    assert [held.run_id for held in accounts.held("acme")] == ["r2"]
    accounts.sweep(NOON + 2 * HOUR)
    assert accounts.held("acme") == []
    assert accounts.held("nobody") == []


# --- refusals ---


def test_64_threads_at_a_limit_of_one_get_one_slot_and_63_reasons(accounts: Accounts) -> None:
    answers: list[object] = []
    start = threading.Barrier(64)

    def caller(number: int) -> None:
        start.wait()
        answers.append(reserve(accounts, f"r{number}"))

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [answer for answer in answers if isinstance(answer, Refused)]
    assert answers.count(Reserved(NOON + HOUR)) == 1
    assert len(refused) == 63
    for answer in refused:
        assert (answer.limit_type, answer.limit, answer.used) == ("concurrent", 1, 1)
        assert answer.reset_at is None
        assert timedelta(0) < answer.retry_after <= timedelta(minutes=5)
    assert counters(accounts) == (1, 1, 1, 0, 0)


def test_64_threads_with_one_run_id_share_one_slot(accounts: Accounts) -> None:
    answers: list[object] = []
    start = threading.Barrier(64)

    def caller() -> None:
        start.wait()
        answers.append(reserve(accounts, "r1"))

    threads = [threading.Thread(target=caller) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [Reserved(NOON + HOUR)] * 64
    assert counters(accounts) == (1, 1, 1, 0, 0)


def test_threads_that_come_and_go_never_hold_more_than_the_limit(accounts: Accounts) -> None:
    accounts.set_plan("acme", "starter", Limits(daily=None, monthly=None, concurrent=3))
    most = []
    admitted = []

    def caller(name: int) -> None:
        for number in range(15):
            run_id = f"r{name}.{number}"
            if isinstance(reserve(accounts, run_id), Reserved):
                admitted.append(run_id)
                most.append(counters(accounts)[0])
                settle(accounts, run_id)
                settle(accounts, run_id)

    threads = [threading.Thread(target=caller, args=(name,)) for name in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) <= 3
    assert counters(accounts) == (0, len(admitted), len(admitted), len(admitted), 0)


def test_a_refusal_changes_nothing_and_its_run_id_stays_free(accounts: Accounts) -> None:
    reserve(accounts, "r1")
    assert isinstance(reserve(accounts, "r2"), Refused)
    assert counters(accounts) == (1, 1, 1, 0, 0)
    settle(accounts, "r1")
    assert reserve(accounts, "r2") == Reserved(NOON + HOUR)


def test_the_daily_limit_says_its_value_its_use_and_midnight(accounts: Accounts) -> None:
    for number in range(6):
        reserve(accounts, f"r{number}")
        settle(accounts, f"r{number}")
    assert reserve(accounts, "r6") == Refused(
        "daily", 6, 6, datetime(2026, 3, 11, tzinfo=UTC), timedelta(hours=12)
    )


def test_the_monthly_limit_says_the_first_of_the_next_month(accounts: Accounts) -> None:
    unlimit(accounts, daily=3, monthly=3)
    for number in range(3):
        reserve(accounts, f"r{number}")
    # the daily limit is reached too, but waiting for midnight would be in vain
    assert reserve(accounts, "r3") == Refused(
        "monthly", 3, 3, datetime(2026, 4, 1, tzinfo=UTC), timedelta(days=21, hours=12)
    )


def test_no_limit_never_refuses(accounts: Accounts) -> None:
    unlimit(accounts)
    for number in range(50):
        assert isinstance(reserve(accounts, f"r{number}"), Reserved)
    refused = reserve(accounts, "r50")
    assert isinstance(refused, Refused)
    assert (refused.limit_type, refused.limit, refused.used) == ("concurrent", 50, 50)


def test_a_limit_lowered_below_its_use_refuses_and_says_both(accounts: Accounts) -> None:
    unlimit(accounts)
    for number in range(5):
        reserve(accounts, f"r{number}")
    accounts.set_plan("acme", "starter")
    refused = reserve(accounts, "r5")
    assert isinstance(refused, Refused)
    assert (refused.limit_type, refused.limit, refused.used) == ("concurrent", 1, 5)


def test_one_organization_at_its_limit_does_not_touch_another(accounts: Accounts) -> None:
    accounts.create_organization("beta", "Beta", "starter", NOON)
    reserve(accounts, "r1")
    assert reserve(accounts, "r2", org="beta") == Reserved(NOON + HOUR)


def test_an_unknown_organization_is_not_allowed(accounts: Accounts) -> None:
    assert reserve(accounts, "r1", org="nobody") == NotAllowed(None)
    assert accounts.usage("nobody", NOON) is None


@pytest.mark.parametrize("status", [OrgStatus.SUSPENDED, OrgStatus.CANCELLED])
def test_a_suspended_organization_is_not_allowed(accounts: Accounts, status: OrgStatus) -> None:
    accounts.set_status("acme", status)
    assert reserve(accounts, "r1") == NotAllowed(status)
    assert counters(accounts) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("status", ["FROZEN", "active", "", "TRIAL "])
def test_a_status_nobody_knows_is_not_allowed(
    backend: Backend, accounts: Accounts, status: str
) -> None:
    backend.write_status("acme", status)
    assert reserve(accounts, "r1") == NotAllowed(status)
    organization = accounts.organization("acme")
    assert organization is not None
    assert not organization.may_run


def test_a_trial_may_run(accounts: Accounts) -> None:
    assert accounts.set_status("acme", OrgStatus.TRIAL).may_run
    assert isinstance(reserve(accounts, "r1"), Reserved)


def test_a_run_admitted_before_the_suspension_keeps_its_slot_and_settles(
    accounts: Accounts,
) -> None:
    reserve(accounts, "r1")
    accounts.set_status("acme", OrgStatus.SUSPENDED)
    assert reserve(accounts, "r1") == Reserved(NOON + HOUR)
    settle(accounts, "r1")
    assert counters(accounts) == (0, 1, 1, 1, 0)


def test_a_fault_of_the_database_is_never_a_refusal(backend: Backend, accounts: Accounts) -> None:
    backend.disconnect()
    calls: list[Callable[[], object]] = [
        lambda: reserve(accounts, "r1"),
        lambda: settle(accounts, "r1"),
        lambda: accounts.release("r1"),
        lambda: accounts.confirm("r1"),
        lambda: accounts.sweep(NOON),
        lambda: accounts.purge(NOON),
        lambda: accounts.orphans(NOON),
        lambda: accounts.usage("acme", NOON),
        lambda: accounts.organization("acme"),
        lambda: accounts.authenticate(f"cpk_{'0' * 12}_{'a' * 43}", NOON),
    ]
    for call in calls:
        with pytest.raises(Unavailable):
            call()


# --- midnight and the month's end ---

TURNS = [
    pytest.param(datetime(2026, 3, 11, tzinfo=UTC), False, id="a day"),
    pytest.param(datetime(2026, 4, 1, tzinfo=UTC), True, id="a month"),
    pytest.param(datetime(2027, 1, 1, tzinfo=UTC), True, id="a year"),
    pytest.param(datetime(2028, 2, 29, tzinfo=UTC), False, id="into a leap day"),
    pytest.param(datetime(2028, 3, 1, tzinfo=UTC), True, id="out of a leap day"),
]


@pytest.mark.parametrize(("midnight", "month_turns"), TURNS)
def test_the_day_and_the_month_turn_at_utc_midnight_and_not_before(
    accounts: Accounts, midnight: datetime, month_turns: bool
) -> None:
    unlimit(accounts, daily=1, monthly=2)
    last = midnight - TICK
    reserve(accounts, "r1", last)
    assert reserve(accounts, "r2", last) == Refused("daily", 1, 1, midnight, TICK)
    assert isinstance(reserve(accounts, "r3", midnight), Reserved)
    assert counters(accounts, midnight)[1:3] == (1, 1 if month_turns else 2)


@pytest.mark.parametrize(("midnight", "month_turns"), TURNS)
def test_usage_shows_the_new_day_before_anything_runs_in_it(
    accounts: Accounts, midnight: datetime, month_turns: bool
) -> None:
    unlimit(accounts)
    reserve(accounts, "r1", midnight - TICK)
    assert counters(accounts, midnight - TICK)[1:3] == (1, 1)
    assert counters(accounts, midnight)[1:3] == (0, 0 if month_turns else 1)
    usage = accounts.usage("acme", midnight - TICK)
    assert usage is not None
    assert usage.daily_resets_at == midnight
    assert (usage.monthly_resets_at == midnight) is month_turns


@pytest.mark.parametrize(("midnight", "month_turns"), TURNS)
@pytest.mark.parametrize("end", ["settle", "release"])
@pytest.mark.parametrize("rolled", [True, False])
def test_a_run_of_yesterday_gives_nothing_back_to_today(
    accounts: Accounts, midnight: datetime, month_turns: bool, end: str, rolled: bool
) -> None:
    unlimit(accounts)
    reserve(accounts, "r1", midnight - TICK)
    if rolled:
        reserve(accounts, "r2", midnight)
    if end == "settle":
        settle(accounts, "r1", midnight, succeeded=False, our_fault=True)
    else:
        accounts.release("r1")
    today = 1 if rolled else 0
    assert counters(accounts, midnight)[:3] == (today, today, today)
    reserve(accounts, "r3", midnight)
    assert counters(accounts, midnight)[:3] == (today + 1, today + 1, today + 1)


def test_a_clock_behind_midnight_does_not_wipe_the_new_day(accounts: Accounts) -> None:
    unlimit(accounts, daily=3)
    midnight = datetime(2026, 4, 1, tzinfo=UTC)
    reserve(accounts, "r1", midnight)
    reserve(accounts, "r2", midnight - TICK)
    reserve(accounts, "r3", midnight)
    assert counters(accounts, midnight)[:3] == (3, 3, 3)
    assert isinstance(reserve(accounts, "r4", midnight - TICK), Refused)
    settle(accounts, "r2", midnight, succeeded=False, our_fault=True)
    assert counters(accounts, midnight)[:3] == (2, 2, 2)


def test_the_day_is_utc_wherever_the_clock_of_the_caller_stands(accounts: Accounts) -> None:
    unlimit(accounts)
    east = datetime(2026, 4, 1, 1, tzinfo=timezone(timedelta(hours=2)))  # 2026-03-31 23:00 UTC
    reserve(accounts, "r1", east)
    assert counters(accounts, datetime(2026, 3, 31, 12, tzinfo=UTC))[1:3] == (1, 1)
    assert counters(accounts, datetime(2026, 4, 1, tzinfo=UTC))[1:3] == (0, 0)


# --- organizations ---


def test_an_organization_follows_its_plan(accounts: Accounts) -> None:
    made = accounts.organization("acme")
    assert made is not None
    assert (made.slug, made.name, made.status) == ("acme", "Acme Ltd", "ACTIVE")
    assert (made.plan, made.limits, made.created_at) == ("starter", PLANS["starter"], NOON)
    moved = accounts.set_plan("acme", "enterprise")
    assert (moved.plan, moved.limits) == ("enterprise", PLANS["enterprise"])
    assert accounts.organizations() == [moved]
    assert accounts.organization("nobody") is None


def test_a_changed_plan_reaches_its_organizations_but_not_limits_of_their_own(
    backend: Backend, accounts: Accounts
) -> None:
    accounts.create_organization("beta", "Beta", "starter", NOON)
    own = Limits(daily=1, monthly=None, concurrent=9)
    accounts.set_plan("beta", "starter", own)
    changed = Limits(daily=None, monthly=9, concurrent=3)
    backend.restart({"starter": changed})
    assert [org.limits for org in backend.accounts.organizations()] == [changed, own]


def test_a_plan_that_is_retired_leaves_its_organizations_their_limits(
    backend: Backend, accounts: Accounts
) -> None:
    backend.restart({"other": Limits(daily=1, monthly=1, concurrent=1)})
    organization = backend.accounts.organization("acme")
    assert organization is not None
    assert organization.limits == PLANS["starter"]


def test_a_taken_slug_is_a_conflict_and_changes_nothing(accounts: Accounts) -> None:
    with pytest.raises(Conflict, match="acme"):
        accounts.create_organization("acme", "Another", "enterprise", NOON)
    organization = accounts.organization("acme")
    assert organization is not None
    assert organization.name == "Acme Ltd"


@pytest.mark.parametrize("slug", ["ab", "Acme", "1acme", "acme-ltd", "a" * 51, "acme\n", ""])
def test_a_bad_slug_is_invalid(accounts: Accounts, slug: str) -> None:
    with pytest.raises(Invalid) as caught:
        accounts.create_organization(slug, "Acme", "starter", NOON)
    assert [fault.where for fault in caught.value.faults] == ["slug"]


def test_all_faults_of_an_organization_are_told_at_once_with_the_near_miss(
    accounts: Accounts,
) -> None:
    with pytest.raises(Invalid) as caught:
        accounts.create_organization("A", " ", "startr", NOON)
    assert [fault.where for fault in caught.value.faults] == ["slug", "name", "plan"]
    assert "did you mean 'starter'?" in str(caught.value.faults[2])


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_name_that_no_database_keeps_is_invalid(accounts: Accounts, name: str) -> None:
    with pytest.raises(Invalid):
        accounts.create_organization("beta", name, "starter", NOON)
    with pytest.raises(Invalid):
        accounts.create_key("acme", name, [Scope.READ], NOON)


@pytest.mark.parametrize("slug", ["", "a\0b", "a" * 10_000, "' or true --"])
def test_what_is_no_slug_is_nobody(accounts: Accounts, slug: str) -> None:
    assert accounts.organization(slug) is None
    assert accounts.usage(slug, NOON) is None
    assert reserve(accounts, "r1", org=slug) == NotAllowed(None)
    assert accounts.keys(slug) == []
    assert not accounts.revoke_key(slug, "0" * 12, NOON)
    assert not accounts.revoke_key("acme", slug, NOON)


def test_changing_an_unknown_organization_is_not_found(accounts: Accounts) -> None:
    with pytest.raises(NotFound):
        accounts.set_status("nobody", OrgStatus.ACTIVE)
    with pytest.raises(NotFound):
        accounts.set_plan("nobody", "starter")
    with pytest.raises(NotFound):
        accounts.create_key("nobody", "key", [Scope.READ], NOON)


def test_an_unknown_plan_or_a_negative_limit_is_invalid(accounts: Accounts) -> None:
    with pytest.raises(Invalid) as caught:
        accounts.set_plan("acme", "gold", Limits(daily=-1, monthly=10**20, concurrent=1))
    places = [fault.where for fault in caught.value.faults]
    assert places == ["plan", "limits.daily", "limits.monthly"]


# --- keys ---


def test_a_key_opens_what_it_was_made_for(accounts: Accounts) -> None:
    key, text = accounts.create_key("acme", "ci", [Scope.EXECUTE, Scope.READ, Scope.READ], NOON)
    assert (key.org, key.name, key.scopes) == ("acme", "ci", (Scope.READ, Scope.EXECUTE))
    assert accounts.authenticate(text, NOON) == key
    assert text.startswith(f"cpk_{key.key_id}_")


def test_the_platforms_own_key_has_no_organization(accounts: Accounts) -> None:
    key, text = accounts.create_key(None, "platform", [Scope.ADMIN], NOON)
    assert key.org is None
    assert accounts.authenticate(text, NOON) == key
    assert [found.key_id for found in accounts.keys(None)] == [key.key_id]
    assert accounts.keys("acme") == []


def test_a_text_that_is_no_key_of_ours_opens_nothing(accounts: Accounts) -> None:
    _, text = accounts.create_key("acme", "ci", [Scope.READ], NOON)
    _, other = accounts.create_key("acme", "ci", [Scope.READ], NOON)
    wrong_end = "a" if text[-1] != "a" else "b"
    for bad in (
        "",
        "cpk_",
        text[:-1],
        text[:-1] + wrong_end,
        text + "a",
        text + "\n",
        " " + text,
        text.upper(),
        text[:17] + other[17:],
        "é" * 60,
        text * 10_000,
    ):
        assert accounts.authenticate(bad, NOON) is None, bad[:80]
    assert accounts.authenticate(text, NOON) is not None


def test_a_key_ends_at_its_expiry(accounts: Accounts) -> None:
    _, text = accounts.create_key("acme", "ci", [Scope.READ], NOON, NOON + HOUR)
    assert accounts.authenticate(text, NOON + HOUR - TICK) is not None
    assert accounts.authenticate(text, NOON + HOUR) is None


def test_a_revoked_key_opens_nothing_from_then_on(accounts: Accounts) -> None:
    key, text = accounts.create_key("acme", "ci", [Scope.READ], NOON)
    assert accounts.revoke_key("acme", key.key_id, NOON + MINUTE)
    assert accounts.revoke_key("acme", key.key_id, NOON + HOUR)
    assert accounts.authenticate(text, NOON + MINUTE) is None
    assert [found.revoked_at for found in accounts.keys("acme")] == [NOON + MINUTE]


def test_only_its_own_organization_revokes_a_key(accounts: Accounts) -> None:
    accounts.create_organization("beta", "Beta", "starter", NOON)
    key, text = accounts.create_key("acme", "ci", [Scope.READ], NOON)
    for stranger in ("beta", None, "nobody"):
        assert not accounts.revoke_key(stranger, key.key_id, NOON)
    assert not accounts.revoke_key("acme", "0" * 12, NOON)
    assert accounts.authenticate(text, NOON) is not None


def test_the_use_of_a_key_is_noted_once_an_hour(accounts: Accounts) -> None:
    _, text = accounts.create_key("acme", "ci", [Scope.READ], NOON)

    def noted(now: datetime) -> datetime | None:
        accounts.authenticate(text, now)
        return accounts.keys("acme")[0].last_used_at

    assert noted(NOON) == NOON
    assert noted(NOON + HOUR - TICK) == NOON
    assert noted(NOON + HOUR) == NOON + HOUR


def test_a_refused_key_is_not_noted_as_used(accounts: Accounts) -> None:
    _, text = accounts.create_key("acme", "ci", [Scope.READ], NOON)
    accounts.authenticate(text[:-1] + ("a" if text[-1] != "a" else "b"), NOON)
    assert accounts.keys("acme")[0].last_used_at is None


def test_the_text_of_a_key_is_shown_once_and_stored_nowhere(
    backend: Backend, accounts: Accounts
) -> None:
    key, text = accounts.create_key("acme", "ci", [Scope.READ], NOON)
    accounts.authenticate(text, NOON)
    secret = text.rsplit("_", 1)[1]
    shown = f"{key} {accounts.keys('acme')} {accounts!r}"
    assert secret not in shown
    assert secret.encode() not in backend.stored()


def test_no_two_keys_are_alike(accounts: Accounts) -> None:
    texts = {accounts.create_key(None, "k", [Scope.READ], NOON)[1] for _ in range(50)}
    assert len(texts) == 50


def test_a_key_that_could_do_nothing_is_invalid(accounts: Accounts) -> None:
    with pytest.raises(Invalid) as caught:
        accounts.create_key("acme", "", [], NOON, NOON)
    assert [fault.where for fault in caught.value.faults] == ["name", "scopes", "expires_at"]


def test_a_rotated_key_and_the_one_that_follows_open_side_by_side_for_the_overlap(
    accounts: Accounts,
) -> None:
    key, text = accounts.create_key("acme", "ci", [Scope.READ, Scope.EXECUTE], NOON)
    rotated = accounts.rotate_key("acme", key.key_id, NOON + MINUTE, HOUR)
    assert rotated is not None
    made, new_text = rotated
    assert (made.name, made.scopes, made.expires_at) == (key.name, key.scopes, None)
    assert new_text != text
    for at in (NOON + MINUTE, NOON + MINUTE + HOUR - TICK):
        assert accounts.authenticate(text, at)
        assert accounts.authenticate(new_text, at)
    assert accounts.authenticate(text, NOON + MINUTE + HOUR) is None
    assert accounts.authenticate(new_text, NOON + MINUTE + HOUR)


def test_a_key_that_ends_is_followed_by_one_that_lives_as_long(accounts: Accounts) -> None:
    key, text = accounts.create_key("acme", "ci", [Scope.READ], NOON, NOON + 3 * HOUR)
    rotated = accounts.rotate_key("acme", key.key_id, NOON + 2 * HOUR, 5 * HOUR)
    assert rotated is not None
    assert rotated[0].expires_at == NOON + 5 * HOUR
    assert accounts.authenticate(text, NOON + 3 * HOUR) is None  # it never lives longer by it


def test_only_a_good_key_of_the_organization_is_rotated(accounts: Accounts) -> None:
    key, _ = accounts.create_key("acme", "ci", [Scope.READ], NOON, NOON + HOUR)
    accounts.create_organization("globex", "Globex", "starter", NOON)
    assert accounts.rotate_key("globex", key.key_id, NOON, HOUR) is None
    assert accounts.rotate_key(None, key.key_id, NOON, HOUR) is None
    assert accounts.rotate_key("acme", "0" * 12, NOON, HOUR) is None
    assert accounts.rotate_key("acme", key.key_id, NOON + HOUR, HOUR) is None
    accounts.revoke_key("acme", key.key_id, NOON)
    assert accounts.rotate_key("acme", key.key_id, NOON, HOUR) is None
    assert len(accounts.keys("acme")) == 1


# --- audit ---


def author(number: int = 1, at: datetime = NOON) -> Author:
    return Author("0123456789ab", "operator", "request-1", at, f"entry-{number}")


def test_a_change_leaves_an_entry_that_says_who_what_and_when(accounts: Accounts) -> None:
    accounts.set_status("acme", OrgStatus.SUSPENDED, author=author())
    (entry,) = accounts.audit("acme").entries
    assert entry == AuditEntry(
        entry="entry-1",
        at=NOON,
        org="acme",
        key_id="0123456789ab",
        key_name="operator",
        request_id="request-1",
        verb="organization.status_set",
        target="acme",
        before={"status": "ACTIVE"},
        after={"status": "SUSPENDED"},
    )


def test_every_change_has_its_entry_and_none_has_a_secret(accounts: Accounts) -> None:
    accounts.create_organization("globex", "Globex", "starter", NOON, author=author(1))
    own = Limits(daily=1, monthly=None, concurrent=1)
    accounts.set_plan("globex", "enterprise", own, author=author(2))
    key, text = accounts.create_key("globex", "ci", [Scope.READ], NOON, author=author(3))
    rotated = accounts.rotate_key("globex", key.key_id, NOON, HOUR, author=author(4))
    assert rotated is not None
    accounts.revoke_key("globex", rotated[0].key_id, NOON, author=author(5))
    found = accounts.audit("globex").entries[::-1]
    assert [entry.verb for entry in found] == [
        "organization.created",
        "organization.plan_set",
        "key.created",
        "key.rotated",
        "key.revoked",
    ]
    assert found[0].before is None
    assert found[1].before is not None
    assert found[1].after is not None
    assert found[1].before["limits"]["daily"] == 6
    assert found[1].after["limits"]["daily"] == 1
    assert found[3].after is not None
    assert found[3].after["followed_by"] == rotated[0].key_id
    for secret in (text, rotated[1]):
        assert secret.rpartition("_")[2] not in str(found)


def test_what_is_refused_or_changes_nothing_leaves_no_entry(accounts: Accounts) -> None:
    with pytest.raises(Conflict):
        accounts.create_organization("acme", "Acme", "starter", NOON, author=author(1))
    with pytest.raises(NotFound):
        accounts.set_status("nobody", OrgStatus.TRIAL, author=author(2))
    with pytest.raises(NotFound):
        accounts.create_key("nobody", "ci", [Scope.READ], NOON, author=author(3))
    assert not accounts.revoke_key("acme", "0" * 12, NOON, author=author(4))
    accounts.set_status("acme", OrgStatus.ACTIVE, author=author(5))
    key, _ = accounts.create_key("acme", "ci", [Scope.READ], NOON)
    assert accounts.revoke_key("acme", key.key_id, NOON)
    assert accounts.revoke_key("acme", key.key_id, NOON, author=author(6))
    assert accounts.audit(None).entries == []


def test_a_change_made_elsewhere_is_noted_once(accounts: Accounts) -> None:
    change = Change("acme", "credential.stored", "aws/main", None, {"version": 1})
    accounts.note(author(), change)
    accounts.note(author(), change)
    (entry,) = accounts.audit("acme").entries
    assert (entry.target, entry.before, entry.after) == ("aws/main", None, {"version": 1})


def test_entries_are_paged_from_the_newest_to_the_oldest(accounts: Accounts) -> None:
    for number in range(20):
        org = "acme" if number % 2 else None
        at = NOON + (number // 4) * HOUR  # four of one moment
        accounts.note(author(number, at), Change(org, "noted", str(number), None, {}))
    expected = sorted(range(20), key=lambda number: (number // 4, f"entry-{number}"), reverse=True)
    for org, numbers in (
        (None, expected),
        ("acme", [number for number in expected if number % 2]),
    ):
        for limit in (1, 3, 100):
            seen: list[str] = []
            cursor = None
            while True:
                page = accounts.audit(org, limit, cursor)
                seen += [entry.target for entry in page.entries]
                cursor = page.cursor
                if cursor is None:
                    break
            assert seen == [str(number) for number in numbers]
    assert accounts.audit("globex").entries == []


@pytest.mark.parametrize("cursor", ["", "x", "1.", ".e", "-1.e", "1" * 19 + ".e", "1.a b"])
def test_a_cursor_of_no_page_is_invalid(accounts: Accounts, cursor: str) -> None:
    with pytest.raises(Invalid):
        accounts.audit("acme", cursor=cursor)


# --- what survives ---


def test_a_reservation_that_was_answered_survives_a_crash(
    backend: Backend, accounts: Accounts
) -> None:
    reserve(accounts, "r1")
    backend.crash()
    assert counters(backend.accounts) == (1, 1, 1, 0, 0)
    assert reserve(backend.accounts, "r1") == Reserved(NOON + HOUR)


def test_keys_and_their_revocation_survive_a_crash(backend: Backend, accounts: Accounts) -> None:
    key, text = accounts.create_key("acme", "ci", [Scope.READ], NOON)
    gone, gone_text = accounts.create_key("acme", "old", [Scope.READ], NOON)
    accounts.revoke_key("acme", gone.key_id, NOON)
    backend.crash()
    assert backend.accounts.authenticate(text, NOON) == key
    assert backend.accounts.authenticate(gone_text, NOON) is None


def test_closing_twice_is_once(accounts: Accounts) -> None:
    accounts.close()
    accounts.close()


# --- any order of anything, against a model that recounts from the rows ---


@dataclasses.dataclass
class Row:
    org: str
    status: ReservationStatus
    day: str = ""
    expires_at: datetime = NOON
    outcome: str | None = None
    back: bool = False


RUNS = st.integers(0, 9)
ORGS = ("acme", "beta")
SMALL = Limits(daily=4, monthly=6, concurrent=2)


class AnyOrder(RuleBasedStateMachine):
    """The counters equal a recount of every reservation there ever was."""

    make: Callable[[Path], Backend]
    limits = SMALL

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="accounts-"))
        self.backend = type(self).make(self.folder)
        self.now = datetime(2026, 1, 30, 22, tzinfo=UTC)
        self.rows: dict[str, Row] = {}
        self.unanswered: list[Callable[[], object]] = []  # may be lost by a crash

    @property
    def accounts(self) -> Accounts:
        return self.backend.accounts

    @initialize()
    def organizations(self) -> None:
        for org in ORGS:
            self.accounts.create_organization(org, org, "starter", self.now)
            self.accounts.set_plan(org, "starter", self.limits)

    @rule(minutes=st.sampled_from([1, 30, 59, 120, 60 * 24, 60 * 24 * 31]))
    def time_passes(self, minutes: int) -> None:
        self.now += minutes * MINUTE

    @rule(run=RUNS, life=st.sampled_from([5, 90, 60 * 30]))
    def reserve(self, run: int, life: int) -> None:
        run_id, org = self.name(run)
        expires_at = self.now + life * MINUTE
        answer = self.accounts.reserve(run_id, org, self.now, expires_at)
        self.unanswered.clear()
        self.expire(org)
        row = self.rows.get(run_id)
        if row is not None:
            held = row.status is ReservationStatus.HELD
            assert answer == (Reserved(row.expires_at) if held else Spent(row.status))
            return
        concurrent, today, month, _, _ = self.truth(org)
        reached = [
            name
            for name, used, limit in (
                ("monthly", month, self.limits.monthly),
                ("daily", today, self.limits.daily),
                ("concurrent", concurrent, self.limits.concurrent),
            )
            if limit is not None and used >= limit
        ]
        if reached:
            assert isinstance(answer, Refused)
            assert answer.limit_type == reached[0]
            assert answer.used >= answer.limit
            return
        assert answer == Reserved(expires_at)
        self.rows[run_id] = Row(org, ReservationStatus.HELD, f"{self.now:%Y-%m-%d}", expires_at)

    @rule(run=RUNS, succeeded=st.booleans(), our_fault=st.booleans())
    def settle(self, run: int, succeeded: bool, our_fault: bool) -> None:
        run_id, org = self.name(run)
        now = self.now
        self.loosely(
            lambda: self.accounts.settle(run_id, org, now, succeeded=succeeded, our_fault=our_fault)
        )
        row = self.rows.setdefault(run_id, Row(org, ReservationStatus.VOID))
        self.end(row, ReservationStatus.SETTLED, "succeeded" if succeeded else "failed")
        row.back |= row.outcome == "failed" and our_fault and self.just_ended

    @rule(run=RUNS)
    def release(self, run: int) -> None:
        run_id, _ = self.name(run)
        self.loosely(lambda: self.accounts.release(run_id))
        row = self.rows.get(run_id)
        if row is not None:
            self.end(row, ReservationStatus.RELEASED, "never")
            row.back |= self.just_ended

    @rule(run=RUNS)
    def confirm(self, run: int) -> None:
        self.loosely(lambda: self.accounts.confirm(self.name(run)[0]))

    @rule()
    def sweep(self) -> None:
        now = self.now
        self.loosely(lambda: self.accounts.sweep(now))
        for org in ORGS:
            self.expire(org)

    @rule()
    def crash(self) -> None:
        # Actors repeat what may be lost, in its order: their flags are set after the effects.
        self.backend.crash()
        for again in self.unanswered:
            again()

    @invariant()
    def counters_equal_the_truth(self) -> None:
        for org in ORGS:
            if self.accounts.organization(org) is not None:
                assert counters(self.accounts, self.now, org) == self.truth(org)

    just_ended = False

    def end(self, row: Row, status: ReservationStatus, outcome: str) -> None:
        open_ = (ReservationStatus.HELD, ReservationStatus.EXPIRED)
        self.just_ended = row.status in open_ and row.outcome is None
        if self.just_ended:
            row.outcome = outcome
            if row.status is ReservationStatus.HELD:
                row.status = status

    def expire(self, org: str) -> None:
        for row in self.rows.values():
            if row.org == org and row.status is ReservationStatus.HELD:
                late = row.expires_at < self.now
                row.status = ReservationStatus.EXPIRED if late else row.status

    def truth(self, org: str) -> tuple[int, ...]:
        rows = [row for row in self.rows.values() if row.org == org]
        counted = [row.day for row in rows if row.day and not row.back]
        return (
            sum(row.status is ReservationStatus.HELD for row in rows),
            counted.count(f"{self.now:%Y-%m-%d}"),
            sum(day.startswith(f"{self.now:%Y-%m}") for day in counted),
            sum(row.outcome == "succeeded" for row in rows),
            sum(row.outcome == "failed" for row in rows),
        )

    def name(self, run: int) -> tuple[str, str]:
        return f"r{run}", ORGS[run % 2]

    def loosely(self, call: Callable[[], object]) -> None:
        call()
        self.unanswered.append(call)

    def teardown(self) -> None:
        self.backend.close()
        shutil.rmtree(self.folder)


@pytest.mark.parametrize("name", NAMES)
def test_in_any_order_with_crashes_the_counters_equal_a_recount(name: str) -> None:
    machine = type("AnyOrder", (AnyOrder,), {"make": staticmethod(BACKENDS[name])})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples(
                60 if name == "sqlite" else 20
            ),  # a round trip is no function call
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
            print_blob=True,
        ),
    )


class LongHistory(AnyOrder):
    """Runs come and go: an operation is of one of the ten newest."""

    limits = Limits(daily=None, monthly=None, concurrent=3)
    newest = 9

    def name(self, run: int) -> tuple[str, str]:
        return super().name(self.newest - run)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_10_000_random_reservations_settlements_and_crashes_count_what_happened(name: str) -> None:
    seed = random.randrange(1 << 32)
    chance = random.Random(seed)
    machine = type("LongHistory", (LongHistory,), {"make": staticmethod(BACKENDS[name])})()
    operations: dict[Callable[[], None], int] = {
        lambda: machine.reserve(chance.randrange(10), chance.choice([5, 90, 60 * 30])): 40,
        lambda: machine.settle(
            chance.randrange(10), chance.random() < 0.5, chance.random() < 0.3
        ): 40,
        lambda: machine.release(chance.randrange(10)): 8,
        lambda: machine.time_passes(chance.choice([1, 30, 120])): 8,
        machine.sweep: 3,
        machine.crash: 1,
    }
    try:
        machine.organizations()
        for number in range(10_000):
            chance.choices([*operations], [*operations.values()])[0]()
            if number % 4 == 0:
                machine.newest += 1
            if number % 100 == 0:
                machine.counters_equal_the_truth()
        machine.counters_equal_the_truth()
    except AssertionError:
        print(f"seed {seed}")
        raise
    finally:
        machine.teardown()
