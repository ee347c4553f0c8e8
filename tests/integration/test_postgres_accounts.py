"""Accounts on a real PostgreSQL with Supabase's roles: who may what, races, kills, and lost answers.

What every backend promises is in `tests/contract/test_accounts.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import errors, sql

from shared.accounts import (
    Author,
    Limits,
    NotAllowed,
    OrgStatus,
    Refused,
    ReservationStatus,
    Reserved,
    Scope,
    Spent,
)
from shared.accounts.postgres import PostgresAccounts
from shared.errors import ConfigError, Conflict, Unavailable
from tests.support.postgres import ENGINE, Fault, Postgres, Wire, server

pytestmark = pytest.mark.cloud

PLANS = {
    "starter": Limits(daily=6, monthly=180, concurrent=1),
    "enterprise": Limits(daily=None, monthly=None, concurrent=50),
}
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


@pytest.fixture
def postgres() -> Postgres:
    return server()


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    name = postgres.database()
    yield name
    postgres.drop(name)


@pytest.fixture
def accounts(postgres: Postgres, database: str) -> Iterator[PostgresAccounts]:
    made = PostgresAccounts(postgres.dsn(database), PLANS)
    made.create_organization("acme", "Acme Ltd", "starter", NOON)
    yield made
    made.close()


@pytest.fixture
def wire(postgres: Postgres) -> Iterator[Wire]:
    made = Wire(postgres.sockets)
    yield made
    made.close()


@pytest.fixture
def pooled(
    postgres: Postgres, database: str, wire: Wire, accounts: PostgresAccounts
) -> Iterator[PostgresAccounts]:
    """The same database through a transaction pooler; it has asked for something already."""
    dsn = postgres.dsn(database, host=wire.folder)
    made = PostgresAccounts(dsn, PLANS, patience=60 * SECOND)
    made.organizations()
    wire.transactions.clear()
    yield made
    made.close()


@pytest.fixture
def impatient(
    postgres: Postgres, database: str, wire: Wire, accounts: PostgresAccounts
) -> Iterator[PostgresAccounts]:
    """As `pooled`, but it waits two seconds at most."""
    dsn = postgres.dsn(database, host=wire.folder)
    made = PostgresAccounts(dsn, PLANS, patience=2 * SECOND)
    made.organizations()
    yield made
    made.close()


def counters(accounts: PostgresAccounts, org: str = "acme") -> tuple[int, ...]:
    """Concurrent, today, this month, succeeded, failed."""
    usage = accounts.usage(org, NOON)
    assert usage is not None
    return usage.concurrent, usage.today, usage.month, usage.succeeded, usage.failed


def together(calls: list[Callable[[], object]]) -> list[object]:
    answers: list[object] = []
    start = threading.Barrier(len(calls))

    def caller(call: Callable[[], object]) -> None:
        start.wait()
        answers.append(call())

    threads = [threading.Thread(target=caller, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


# --- who may what ---

WEB = ["anon", "authenticated"]
RELATIONS = """
select relname, relkind::text from pg_class
where relnamespace = 'accounts'::regnamespace and relkind in ('r', 'v')
"""
FUNCTIONS = """
select oid::regprocedure::text, pronargs, prosecdef from pg_proc
where pronamespace = 'accounts'::regnamespace
"""


def web(postgres: Postgres, database: str, role: str) -> psycopg.Connection:
    """As PostgREST does it for a call with the key of that role."""
    db = psycopg.connect(postgres.dsn(database, "authenticator"), autocommit=True)
    db.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
    return db


@pytest.mark.parametrize("role", WEB)
@pytest.mark.parametrize("schema_open", [False, True], ids=["as it is", "the schema opened"])
def test_a_web_role_can_read_write_and_call_nothing(
    postgres: Postgres,
    database: str,
    accounts: PostgresAccounts,
    role: str,
    schema_open: bool,
) -> None:
    with postgres.admin(database) as admin:
        if schema_open:  # by somebody's mistake: it is one of three locks
            admin.execute("grant usage on schema accounts to public")
        relations = dict(admin.execute(RELATIONS).fetchall())
        functions = admin.execute(FUNCTIONS).fetchall()
    assert len(relations) == 10
    assert len(functions) == 4
    with contextlib.closing(web(postgres, database, role)) as db:
        for name, kind in relations.items():
            relation = sql.Identifier("accounts", name)
            write = ["delete from {}", "insert into {} default values"] if kind == "r" else []
            for statement in ["select from {}", *write]:
                with pytest.raises(errors.InsufficientPrivilege):
                    db.execute(sql.SQL(statement).format(relation))
        for signature, arguments, _ in functions:
            nothing = ", ".join(["null"] * arguments)
            call = f"select {signature.partition('(')[0]}({nothing})"
            with pytest.raises(errors.InsufficientPrivilege):
                db.execute(call.encode())
    assert counters(accounts) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("role", WEB)
def test_a_web_role_that_was_granted_everything_sees_no_row(
    postgres: Postgres, database: str, accounts: PostgresAccounts, role: str
) -> None:
    accounts.create_key("acme", "ci", [Scope.READ], NOON)
    accounts.reserve("r1", "acme", NOON, NOON + HOUR)
    with postgres.admin(database) as admin:
        admin.execute("grant usage on schema accounts to public")
        admin.execute("grant all on all tables in schema accounts to public")
        relations = [name for name, _ in admin.execute(RELATIONS)]
    with contextlib.closing(web(postgres, database, role)) as db:
        for name in relations:
            query = sql.SQL("select * from {}").format(sql.Identifier("accounts", name))
            assert db.execute(query).fetchall() == [], name


@pytest.mark.parametrize("role", [*WEB, "service_role", ENGINE])
def test_what_a_later_migration_makes_is_closed_until_it_says_otherwise(
    postgres: Postgres, database: str, role: str
) -> None:
    with psycopg.connect(postgres.dsn(database, "postgres")) as db:
        db.execute("create table accounts.later ()")
        db.execute("create function accounts.later() returns int language sql return 1")
        asked = db.execute(
            "select has_table_privilege(%(role)s, 'accounts.later', 'select'), "
            "has_function_privilege(%(role)s, 'accounts.later()', 'execute')",
            {"role": role},
        )
        assert asked.fetchone() == (False, False)


def test_every_table_has_row_level_security_and_no_function_its_owners_rights(
    postgres: Postgres, database: str
) -> None:
    with postgres.admin(database) as db:
        tables = db.execute(
            "select relname, relrowsecurity from pg_class "
            "where relnamespace = 'accounts'::regnamespace and relkind = 'r'"
        ).fetchall()
        assert [name for name, secured in tables if not secured] == []
        assert [name for name, _, definer in db.execute(FUNCTIONS) if definer] == []


def test_the_engine_deletes_only_reservations_that_are_over(
    postgres: Postgres, database: str, accounts: PostgresAccounts
) -> None:
    accounts.set_plan("acme", "enterprise")
    for run_id in ("over", "held"):
        accounts.reserve(run_id, "acme", NOON, NOON + HOUR)
    accounts.settle("over", "acme", NOON, succeeded=True, our_fault=False)
    with contextlib.closing(psycopg.connect(postgres.dsn(database), autocommit=True)) as db:
        assert db.execute("delete from accounts.reservations").rowcount == 1
        assert db.execute("select run_id from accounts.reservations").fetchall() == [("held",)]


def test_a_purge_waits_for_nobody(
    postgres: Postgres, database: str, accounts: PostgresAccounts
) -> None:
    accounts.set_plan("acme", "enterprise")
    for run_id in ("r1", "r2"):
        accounts.reserve(run_id, "acme", NOON, NOON + HOUR)
        accounts.settle(run_id, "acme", NOON, succeeded=True, our_fault=False)
    with psycopg.connect(postgres.dsn(database, "postgres")) as db:
        db.execute("select from accounts.reservations where run_id = 'r1' for update")
        assert accounts.purge(NOON + HOUR) == 1
    assert accounts.purge(NOON + HOUR) == 1


def test_the_engine_deletes_nothing_else_and_changes_no_table(
    postgres: Postgres, database: str
) -> None:
    with contextlib.closing(psycopg.connect(postgres.dsn(database), autocommit=True)) as db:
        for statement in (
            "delete from accounts.usage",
            "delete from accounts.organizations",
            "delete from accounts.audit",
            "update accounts.audit set verb = 'nothing'",
            "delete from accounts.subscriptions",
            "update accounts.subscriptions set revision = '{}'",
            "truncate accounts.reservations",
            "alter table accounts.usage disable row level security",
            "create table accounts.mine ()",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                db.execute(statement.encode())


# --- wrong states cannot be written ---

WRONG = [
    "update accounts.usage set concurrent = -1",
    "update accounts.usage set today = this_month + 1",
    "update accounts.usage set today = -1, this_month = -1",
    "update accounts.plans set daily = -1",
    "update accounts.plans set concurrent = null",
    "update accounts.organizations set slug = 'Acme'",
    "update accounts.organizations set plan = 'gold'",
    "update accounts.organizations set own_daily = 1",
    "update accounts.api_keys set scopes = '{}'",
    "update accounts.api_keys set secret_hash = 'secret'",
    "update accounts.api_keys set expires_at = created_at",
    "update accounts.reservations set status = 'running'",
    "update accounts.reservations set status = 'settled'",
    "update accounts.reservations set outcome = 'succeeded'",
    "update accounts.reservations set status = 'released', outcome = 'failed'",
    "update accounts.reservations set status = 'void'",
    "update accounts.reservations set day = null",
    "update accounts.reservations set org = 'nobody'",
    "insert into accounts.reservations select * from accounts.reservations",
    "delete from accounts.organizations",
]


@pytest.mark.parametrize("statement", WRONG)
def test_a_wrong_state_cannot_be_written_by_anybody(
    postgres: Postgres, database: str, accounts: PostgresAccounts, statement: str
) -> None:
    accounts.create_key("acme", "ci", [Scope.READ], NOON)
    accounts.reserve("r1", "acme", NOON, NOON + HOUR)
    with postgres.admin(database) as db, pytest.raises(errors.IntegrityError):
        db.execute(statement.encode())


# --- races ---


def test_64_clients_at_a_limit_of_one_get_one_slot_and_63_reasons(
    postgres: Postgres, database: str, accounts: PostgresAccounts
) -> None:
    postgres.configure(database, lock_timeout="60s", statement_timeout="60s")
    clients = [
        PostgresAccounts(postgres.dsn(database), PLANS, connections=1, patience=60 * SECOND)
        for _ in range(64)
    ]

    def call(number: int) -> Callable[[], object]:
        return lambda: clients[number].reserve(f"r{number}", "acme", NOON, NOON + HOUR)

    answers = together([call(number) for number in range(64)])
    for client in clients:
        client.close()
    assert answers.count(Reserved(NOON + HOUR)) == 1
    why = Refused("concurrent", 1, 1, None, timedelta(seconds=30))
    assert answers.count(why) == 63
    assert counters(accounts) == (1, 1, 1, 0, 0)


def test_clients_of_two_organizations_with_one_run_id_get_it_once(
    postgres: Postgres, database: str, accounts: PostgresAccounts
) -> None:
    accounts.create_organization("beta", "Beta", "starter", NOON)

    def call(org: str) -> Callable[[], object]:
        def reserve() -> object:
            try:
                return accounts.reserve("r1", org, NOON, NOON + HOUR)
            except Conflict:
                return Conflict

        return reserve

    answers = together([call(org) for org in ("acme", "beta") * 8])
    assert answers.count(Reserved(NOON + HOUR)) == answers.count(Conflict) == 8
    assert sorted(counters(accounts, org)[0] for org in ("acme", "beta")) == [0, 1]


def test_a_reserve_and_the_end_of_its_run_in_any_order_leave_no_slot(
    accounts: PostgresAccounts,
) -> None:
    accounts.set_plan("acme", "enterprise")
    for number in range(40):
        run_id = f"r{number}"
        reserve = functools.partial(accounts.reserve, run_id, "acme", NOON, NOON + HOUR)
        settle = functools.partial(
            accounts.settle, run_id, "acme", NOON, succeeded=False, our_fault=True
        )
        first, last = together([reserve, settle])
        assert {first, last} <= {None, Reserved(NOON + HOUR), Spent(ReservationStatus.VOID)}
    assert counters(accounts)[:3] == (0, 0, 0)


def test_sweeps_beside_reserves_and_settles_block_nobody(accounts: PostgresAccounts) -> None:
    orgs = ["acme", "beta", "gamma", "delta"]
    for org in orgs[1:]:
        accounts.create_organization(org, org, "enterprise", NOON)
    accounts.set_plan("acme", "enterprise")

    def work(org: str, worker: int) -> Callable[[], None]:
        def lapse_and_settle() -> None:
            for number in range(10):
                now = NOON + number * SECOND
                run_id = f"{org}.{worker}.{number}"
                accounts.reserve(run_id, org, now, now)
                accounts.sweep(now + SECOND)
                accounts.settle(run_id, org, now, succeeded=True, our_fault=False)

        return lapse_and_settle

    together([work(org, worker) for org in orgs for worker in range(3)])
    accounts.sweep(NOON + HOUR)
    for org in orgs:
        assert counters(accounts, org) == (0, 30, 30, 30, 0)


# --- anything at any time, with connections killed at random ---


@dataclasses.dataclass
class Truth:
    """What the callers of one organization know to have happened."""

    counted: int = 0
    ends: Counter[str] = dataclasses.field(default_factory=Counter)


class Client:
    """Makes runs of random fates; asks until it is answered, as every actor of the protocol does."""

    def __init__(self, accounts: PostgresAccounts, name: int, seed: int) -> None:
        self.accounts = accounts
        self.name = name
        self.random = random.Random(f"{seed}.{name}")
        self.truth = {org: Truth() for org in ORGS}
        self.unknown: list[str] = []  # asked once and never again: its client died
        self.calls = 0
        self.faults = 0

    def run(self, number: int) -> None:
        org = self.random.choice(ORGS)
        run_id = f"{self.name}.{number}"
        truth = self.truth[org]
        now = NOON + self.random.randrange(3_600) * SECOND
        until = now + self.random.choice([SECOND, HOUR, 9 * HOUR])
        if self.random.random() < 0.03:
            self.unknown.append(run_id)
            with contextlib.suppress(Unavailable):
                self.accounts.reserve(run_id, org, now, until)
            return
        answer = self.insist(lambda: self.accounts.reserve(run_id, org, now, until))
        if isinstance(answer, Refused):
            assert answer.used >= answer.limit == LIMIT
            if self.random.random() < 0.5:
                return
            self.settle(run_id, org, succeeded=True)  # it ends without ever having had a slot
            again = self.insist(lambda: self.accounts.reserve(run_id, org, now, until))
            assert again == Spent(ReservationStatus.VOID)
            return
        # another client may have swept it by now, when the answer had to be asked for again
        assert answer in {Reserved(until), Spent(ReservationStatus.EXPIRED)}, answer
        truth.counted += 1
        self.end(run_id, org, truth)

    def end(self, run_id: str, org: str, truth: Truth) -> None:
        match self.random.randrange(5):
            case 0:
                self.insist(lambda: self.accounts.release(run_id))
                truth.counted -= 1
            case 1:
                self.insist(lambda: self.accounts.confirm(run_id))
                return  # still at work
            case 2:
                self.settle(run_id, org, succeeded=False, our_fault=True)
                truth.counted -= 1
                truth.ends["failed"] += 1
            case 3:
                self.settle(run_id, org, succeeded=False)
                truth.ends["failed"] += 1
            case _:
                self.settle(run_id, org, succeeded=True)
                truth.ends["succeeded"] += 1
        if self.random.random() < 0.3:  # a second end, of another kind
            self.settle(run_id, org, succeeded=self.random.random() < 0.5, our_fault=True)
            self.insist(lambda: self.accounts.release(run_id))

    def settle(self, run_id: str, org: str, *, succeeded: bool, our_fault: bool = False) -> None:
        self.insist(
            lambda: self.accounts.settle(
                run_id, org, NOON, succeeded=succeeded, our_fault=our_fault
            )
        )

    def insist(self, call: Callable[[], object]) -> object:
        for _ in range(50):
            self.calls += 1
            try:
                return call()
            except Unavailable:
                self.faults += 1
        return call()


ORGS = ("acme", "beta", "gamma")
LIMIT = 4
WANTED = 10_000
MOST_SECONDS = 40.0


def test_random_runs_with_killed_connections_count_what_was_answered(
    postgres: Postgres, database: str
) -> None:
    seed = random.randrange(1 << 32)
    clients = []
    for name in range(8):
        accounts = PostgresAccounts(postgres.dsn(database), PLANS, connections=1)
        clients.append(Client(accounts, name, seed))
    first = clients[0].accounts
    for org in ORGS:
        first.create_organization(org, org, "starter", NOON)
        first.set_plan(org, "starter", Limits(daily=None, monthly=None, concurrent=LIMIT))
    until = time.monotonic() + MOST_SECONDS
    kills = 0
    most = 0

    def live(client: Client) -> None:
        number = 0
        while time.monotonic() < until and sum(other.calls for other in clients) < WANTED:
            client.run(number)
            number += 1

    threads = [threading.Thread(target=live, args=(client,)) for client in clients]
    chance = random.Random(seed)
    with postgres.admin(database) as killer:
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            for held, killed in killer.execute(KILL_ONE, {"org": chance.choice(ORGS)}):
                most = max(most, held)
                kills += killed
            time.sleep(chance.random() * 0.05)
        for thread in threads:
            thread.join()
        killer.execute("select pg_sleep(0.2)")  # what was sent by who died may still be at work
        rows = dict(
            killer.execute(
                "select run_id, org from accounts.reservations where day is not null"
            ).fetchall()
        )
        held_now = dict(
            killer.execute(
                "select org, count(*) from accounts.reservations where status = 'held' group by org"
            ).fetchall()
        )
    calls = sum(client.calls for client in clients)
    faults = sum(client.faults for client in clients)
    print(f"seed {seed}: {calls} calls, {kills} connections killed, {faults} answered Unavailable")
    assert kills > 0
    assert most <= LIMIT, seed
    for org in ORGS:
        truths = [client.truth[org] for client in clients]
        born = sum(rows.get(run_id) == org for client in clients for run_id in client.unknown)
        counted = sum(truth.counted for truth in truths) + born
        ends = sum((truth.ends for truth in truths), Counter[str]())
        expected = (held_now.get(org, 0), counted, counted, ends["succeeded"], ends["failed"])
        assert counters(first, org) == expected, f"{org}, seed {seed}"
    first.sweep(NOON + 99 * HOUR)
    assert [counters(first, org)[0] for org in ORGS] == [0, 0, 0], seed
    for client in clients:
        client.accounts.close()


KILL_ONE = f"""
select (
    select concurrent from accounts.usage where org = %(org)s
), (
    select count(pg_terminate_backend(pid)) from (
        select pid from pg_stat_activity
        where usename = '{ENGINE}' and datname = current_database() order by random() limit 1
    ) as one
)
""".encode()


# --- lost answers ---


@pytest.mark.parametrize("fault", [Fault.DROP_BEFORE, Fault.DROP_AFTER])
def test_a_connection_lost_with_the_answer_is_found_out_and_counts_once(
    pooled: PostgresAccounts, wire: Wire, fault: Fault
) -> None:
    wire.faults.append(fault)
    assert pooled.reserve("r1", "acme", NOON, NOON + HOUR) == Reserved(NOON + HOUR)
    assert counters(pooled) == (1, 1, 1, 0, 0)
    wire.faults.append(fault)
    pooled.settle("r1", "acme", NOON, succeeded=True, our_fault=False)
    assert counters(pooled) == (0, 1, 1, 1, 0)
    pooled.reserve("r2", "acme", NOON, NOON + HOUR)
    wire.faults.append(fault)
    pooled.release("r2")
    assert counters(pooled) == (0, 1, 1, 1, 0)


@pytest.mark.parametrize("fault", [Fault.DROP_BEFORE, Fault.DROP_AFTER])
def test_what_was_made_before_its_answer_was_lost_is_not_a_conflict(
    pooled: PostgresAccounts, wire: Wire, fault: Fault
) -> None:
    wire.faults.append(fault)
    made = pooled.create_organization("beta", "Beta", "starter", NOON)
    assert pooled.organization("beta") == made
    assert counters(pooled, "beta") == (0, 0, 0, 0, 0)
    wire.faults.append(fault)
    key, text = pooled.create_key("beta", "ci", [Scope.READ], NOON)
    assert pooled.authenticate(text, NOON) == key
    assert len(pooled.keys("beta")) == 1
    wire.faults.append(fault)
    with pytest.raises(Conflict):
        pooled.create_organization("beta", "Another", "starter", NOON)


@pytest.mark.parametrize("fault", [Fault.DROP_BEFORE, Fault.DROP_AFTER])
def test_a_change_whose_answer_was_lost_is_made_once_and_noted_once(
    pooled: PostgresAccounts, wire: Wire, fault: Fault
) -> None:
    def author(number: int) -> Author:
        return Author("0123456789ab", "operator", "request", NOON, f"entry-{number}")

    wire.faults.append(fault)
    pooled.set_status("acme", OrgStatus.TRIAL, author=author(1))
    wire.faults.append(fault)
    key, _ = pooled.create_key("acme", "ci", [Scope.READ], NOON, author=author(2))
    pooled.keys("acme")
    wire.faults.append(fault)  # meets the read before the rotation, or the rotation
    rotated = pooled.rotate_key("acme", key.key_id, NOON, HOUR, author=author(3))
    assert rotated is not None
    assert pooled.authenticate(rotated[1], NOON)
    wire.faults.append(fault)
    assert pooled.revoke_key("acme", key.key_id, NOON, author=author(4))
    found = pooled.audit("acme").entries
    assert sorted(entry.entry for entry in found) == [f"entry-{number}" for number in (1, 2, 3, 4)]
    assert len(pooled.keys("acme")) == 2


def test_an_answer_lost_twice_is_unavailable_and_asking_again_is_once(
    pooled: PostgresAccounts, wire: Wire
) -> None:
    wire.faults.extend([Fault.DROP_AFTER, Fault.DROP_AFTER])
    with pytest.raises(Unavailable):
        pooled.reserve("r1", "acme", NOON, NOON + HOUR)
    assert pooled.reserve("r1", "acme", NOON, NOON + HOUR) == Reserved(NOON + HOUR)
    assert counters(pooled) == (1, 1, 1, 0, 0)


def test_a_server_that_does_not_answer_is_unavailable_within_the_patience(
    impatient: PostgresAccounts, wire: Wire
) -> None:
    wire.faults.append(Fault.STALL)
    began = time.monotonic()
    with pytest.raises(Unavailable, match="no answer in 2 s"):
        impatient.reserve("r1", "acme", NOON, NOON + HOUR)
    assert time.monotonic() - began < 20
    assert impatient.reserve("r1", "acme", NOON, NOON + HOUR) == Reserved(NOON + HOUR)


def test_no_free_connection_is_unavailable_within_the_patience(
    impatient: PostgresAccounts, wire: Wire
) -> None:
    wire.faults.extend([Fault.STALL, Fault.STALL])

    def reserve() -> str:
        try:
            return str(impatient.reserve("r1", "acme", NOON, NOON + HOUR))
        except Unavailable as error:
            return str(error)

    answers = together([reserve] * 3)
    assert answers.count("accounts: no answer in 2 s") == 2
    # the third one gave up first, or just got the connection that one of them gave up
    assert {"accounts: every connection is busy", str(Reserved(NOON + HOUR))} & set(answers)


def test_while_the_server_is_down_everything_is_unavailable_and_after_it_as_before(
    postgres: Postgres, accounts: PostgresAccounts
) -> None:
    accounts.reserve("r1", "acme", NOON, NOON + HOUR)
    together([lambda: accounts.usage("acme", NOON)] * 4)  # every connection of the pool is open
    postgres.stop()
    try:
        for _ in range(2):
            with pytest.raises(Unavailable):
                accounts.reserve("r2", "acme", NOON, NOON + HOUR)
            with pytest.raises(Unavailable):
                accounts.settle("r1", "acme", NOON, succeeded=True, our_fault=False)
    finally:
        postgres.start()
    # no call pays for the connections that were lost
    assert isinstance(accounts.reserve("r2", "acme", NOON, NOON + HOUR), Refused)
    accounts.settle("r1", "acme", NOON, succeeded=True, our_fault=False)
    assert counters(accounts) == (0, 1, 1, 1, 0)


def test_every_connection_cut_between_two_calls_is_noticed_by_no_caller(
    postgres: Postgres, database: str, accounts: PostgresAccounts
) -> None:
    for number in range(5):
        together([lambda: accounts.usage("acme", NOON)] * 4)
        assert postgres.cut(database) > 0
        accounts.settle(f"r{number}", "acme", NOON, succeeded=True, our_fault=False)
        assert isinstance(accounts.reserve(f"r{number}", "acme", NOON, NOON + HOUR), Spent)


def test_a_connection_that_was_silent_for_long_is_not_trusted(
    pooled: PostgresAccounts, wire: Wire
) -> None:
    (idle,) = pooled._database._idle
    idle.used_at -= 301
    wire.faults.append(Fault.DROP_BEFORE)  # meets the new one, which is asked again
    pooled.reserve("r1", "acme", NOON, NOON + HOUR)
    assert idle.closed
    assert counters(pooled) == (1, 1, 1, 0, 0)


def test_a_lock_that_somebody_keeps_is_unavailable_not_a_refusal(
    postgres: Postgres, database: str, accounts: PostgresAccounts
) -> None:
    with postgres.admin(database) as db:
        assert db.execute(ROLE_SETTINGS).fetchall() == [
            ("idle_in_transaction_session_timeout=10s",),
            ("lock_timeout=4s",),
            ("statement_timeout=5s",),
        ]
    postgres.configure(database, lock_timeout="100ms")
    impatient = PostgresAccounts(postgres.dsn(database), PLANS)
    with psycopg.connect(postgres.dsn(database, "postgres")) as db:
        db.execute("select from accounts.usage for update")
        with pytest.raises(Unavailable, match="LockNotAvailable"):
            impatient.reserve("r1", "acme", NOON, NOON + HOUR)
        assert impatient.sweep(NOON) == 0
    assert impatient.reserve("r1", "acme", NOON, NOON + HOUR) == Reserved(NOON + HOUR)
    impatient.close()


ROLE_SETTINGS = f"""
select unnest(rolconfig) from pg_roles where rolname = '{ENGINE}' order by 1
""".encode()


def test_who_loses_to_another_transaction_is_asked_again(
    postgres: Postgres, database: str, accounts: PostgresAccounts
) -> None:
    postgres.configure(database, default_transaction_isolation="serializable")
    serial = PostgresAccounts(postgres.dsn(database), PLANS)
    serial.usage("acme", NOON)
    answers: list[object] = []
    reserve = threading.Thread(
        target=lambda: answers.append(serial.reserve("r1", "acme", NOON, NOON + HOUR))
    )
    with psycopg.connect(postgres.dsn(database, "postgres")) as db:
        db.execute("update accounts.usage set failed = failed + 1")
        reserve.start()
        with postgres.admin() as admin:
            while not admin.execute(WAITING).fetchall():
                time.sleep(0.01)
    reserve.join()
    assert answers == [Reserved(NOON + HOUR)]
    assert counters(serial) == (1, 1, 1, 0, 1)
    serial.close()


WAITING = (
    f"select from pg_stat_activity where usename = '{ENGINE}' and wait_event_type = 'Lock'".encode()
)


# --- the pooler, and what a run costs ---


def test_nothing_depends_on_the_session_of_a_connection(
    pooled: PostgresAccounts, wire: Wire
) -> None:
    pooled.set_plan("acme", "enterprise")
    for number in range(12):
        pooled.reserve(f"r{number}", "acme", NOON, NOON + HOUR)
        pooled.confirm(f"r{number}")
        pooled.settle(f"r{number}", "acme", NOON, succeeded=True, our_fault=False)
        pooled.sweep(NOON)
        pooled.orphans(NOON)
    assert counters(pooled) == (0, 12, 12, 12, 0)
    assert set(wire.transactions) == {0, 1, 2}


def test_a_run_costs_two_transactions(pooled: PostgresAccounts, wire: Wire) -> None:
    pooled.set_plan("acme", "enterprise")
    _, text = pooled.create_key("acme", "ci", [Scope.EXECUTE], NOON)

    def run(run_id: str) -> int:
        wire.transactions.clear()
        assert pooled.authenticate(text, NOON) is not None
        organization = pooled.organization("acme")
        assert organization is not None
        assert organization.may_run
        pooled.reserve(run_id, "acme", NOON, NOON + HOUR)
        pooled.settle(run_id, "acme", NOON, succeeded=True, our_fault=False)
        return len(wire.transactions)

    run("the first one also reads the key and notes its use")
    assert [run("r1"), run("r2")] == [2, 2]


# --- what another process changed ---


def test_a_key_revoked_elsewhere_opens_until_it_is_read_again(
    postgres: Postgres, database: str, accounts: PostgresAccounts
) -> None:
    key, text = accounts.create_key("acme", "ci", [Scope.READ], NOON)
    elsewhere = PostgresAccounts(postgres.dsn(database), PLANS)
    at_once = PostgresAccounts(postgres.dsn(database), PLANS, cached=timedelta(0))
    for process in (elsewhere, at_once):
        assert process.authenticate(text, NOON) is not None
    assert accounts.revoke_key("acme", key.key_id, NOON)
    assert accounts.authenticate(text, NOON) is None
    assert at_once.authenticate(text, NOON) is None
    # the price of two transactions a run: for up to a minute
    assert elsewhere.authenticate(text, NOON) is not None
    elsewhere.close()
    at_once.close()


def test_an_organization_suspended_elsewhere_starts_no_run_from_that_moment(
    postgres: Postgres, database: str, accounts: PostgresAccounts
) -> None:
    elsewhere = PostgresAccounts(postgres.dsn(database), PLANS)
    cached = elsewhere.organization("acme")
    accounts.set_status("acme", OrgStatus.SUSPENDED)
    assert elsewhere.organization("acme") == cached
    assert elsewhere.reserve("r1", "acme", NOON, NOON + HOUR) == NotAllowed("SUSPENDED")
    corrected = elsewhere.organization("acme")
    assert corrected is not None
    assert not corrected.may_run
    elsewhere.close()


def test_a_note_of_use_that_fails_refuses_nobody_and_is_not_tried_at_every_call(
    impatient: PostgresAccounts, wire: Wire
) -> None:
    _, text = impatient.create_key("acme", "ci", [Scope.READ], NOON)
    assert impatient.authenticate(text, NOON) is not None
    wire.faults.append(Fault.STALL)
    assert impatient.authenticate(text, NOON + HOUR) is not None
    wire.transactions.clear()
    assert impatient.authenticate(text, NOON + HOUR) is not None
    assert wire.transactions == []


def test_noting_the_use_of_a_key_does_not_make_it_open_longer_after_its_revocation(
    postgres: Postgres, database: str, accounts: PostgresAccounts
) -> None:
    key, text = accounts.create_key("acme", "ci", [Scope.READ], NOON)
    elsewhere = PostgresAccounts(postgres.dsn(database), PLANS, cached=0.5 * SECOND)
    assert elsewhere.authenticate(text, NOON) is not None
    accounts.revoke_key("acme", key.key_id, NOON)
    until = time.monotonic() + 0.6
    number = 1
    while time.monotonic() < until:  # at every use it is time for a note
        number += 1
        elsewhere.authenticate(text, NOON + number * HOUR)
    assert elsewhere.authenticate(text, NOON) is None
    elsewhere.close()


# --- configuration ---


def test_no_message_repeats_the_password(postgres: Postgres) -> None:
    with pytest.raises(ConfigError) as unreadable:
        PostgresAccounts("postgresql://engine:sesame@[host/db", PLANS)
    gone = PostgresAccounts(f"host={postgres.folder}/none password=sesame", PLANS)
    with pytest.raises(Unavailable) as unreachable:
        gone.organizations()
    for error in (unreadable, unreachable):
        assert "sesame" not in str(error.value) + repr(error.value.__cause__)
    assert "sesame" not in repr(vars(gone))


def test_a_database_without_the_migrations_is_unavailable_and_says_so(postgres: Postgres) -> None:
    accounts = PostgresAccounts(postgres.dsn("postgres"), PLANS)
    with pytest.raises(Unavailable, match=r"accounts\.plans"):
        accounts.organization("acme")
    accounts.close()


def test_plans_that_are_the_same_are_written_by_nobody(
    postgres: Postgres, database: str, accounts: PostgresAccounts
) -> None:
    def versions() -> list[tuple[object, ...]]:
        with postgres.admin(database) as db:
            return db.execute(
                "select name, xmin::text from accounts.plans order by name"
            ).fetchall()

    before = versions()
    fewer = {"starter": PLANS["starter"]}
    for plans in (PLANS, fewer):
        again = PostgresAccounts(postgres.dsn(database), plans)
        again.organizations()
        again.close()
    assert versions() == before


def test_the_driver_is_imported_by_who_connects_only() -> None:
    script = "import sys, shared.accounts.postgres; sys.exit('psycopg' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
