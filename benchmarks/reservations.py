"""What a reservation costs Postgres, beside the least it could cost: an UPDATE of one row.

    python benchmarks/reservations.py [--seconds 0.4] [--rounds 15]

All on one server with fsync, over a unix socket. `bare` is `UPDATE … SET n = n + 1 … RETURNING n`;
`reserve` is what the port does, one call of one function; `statements` is the same decision as a
transaction of the client's: what it would cost without the function, where a round trip costs least.
A round measures each in turn, so that all have the same second; the ratio is the median of the rounds'.
"""

from __future__ import annotations

import argparse
import itertools
import operator
import statistics
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psycopg

from shared.accounts import Limits, Reserved
from shared.accounts.postgres import PostgresAccounts
from tests.support.postgres import ENGINE, Postgres

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)
PLANS = {"bench": Limits(daily=None, monthly=None, concurrent=1_000_000_000)}
ORGS = [f"bench_{number}" for number in range(8)]
SCENES = [
    ("1 client", ORGS[:1]),
    ("8 clients, 8 organizations", ORGS),
    ("8 clients, 1 organization", ORGS[:1] * 8),
]
TARGET = 0.6

LAPSED = """
SELECT FROM accounts.reservations
WHERE org = %(org)s AND status = 'held' AND expires_at < %(now)s LIMIT 1
"""
TAKE = """
UPDATE accounts.usage AS u SET
    concurrent = u.concurrent + 1,
    today = CASE WHEN u.day >= %(day)s THEN u.today ELSE 0 END + 1,
    this_month = CASE WHEN u.day >= %(month)s THEN u.this_month ELSE 0 END + 1,
    day = greatest(u.day, %(day)s)
FROM accounts.standings AS s
WHERE u.org = %(org)s AND s.slug = u.org
    AND s.status IN ('ACTIVE', 'TRIAL')
    AND u.concurrent < s.concurrent
    AND (s.daily IS NULL OR CASE WHEN u.day >= %(day)s THEN u.today ELSE 0 END < s.daily)
    AND (
        s.monthly IS NULL
        OR CASE WHEN u.day >= %(month)s THEN u.this_month ELSE 0 END < s.monthly
    )
    AND NOT EXISTS (SELECT FROM accounts.reservations AS r WHERE r.run_id = %(run_id)s)
RETURNING u.day
"""
HOLD = """
INSERT INTO accounts.reservations (run_id, org, status, day, created_at, expires_at)
VALUES (%(run_id)s, %(org)s, 'held', %(day)s, %(now)s, %(later)s) ON CONFLICT DO NOTHING
"""

Call = Callable[[str], None]  # once, for an organization
run_ids = (f"r{number}" for number in itertools.count())


def main() -> None:
    """Measures and prints one line a scene and way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.4)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    server = Postgres(durable=True)
    try:
        dsn = prepare(server)
        print(f"{'':28}{'way':12}{'per second':>10}{'of bare':>10}")
        for scene, orgs in SCENES:
            rates: dict[str, list[float]] = {"bare": [], "reserve": [], "statements": []}
            for _ in range(options.rounds):
                for way, measured in rates.items():
                    measured.append(rate(way, dsn, orgs, options.seconds))
            for way, measured in rates.items():
                of_bare = statistics.median(map(operator.truediv, measured, rates["bare"]))
                target = f"  (target {TARGET})" if way == "reserve" else ""
                print(
                    f"{scene:28}{way:12}{statistics.median(measured):10.0f}{of_bare:10.2f}{target}"
                )
    finally:
        server.close()


def prepare(server: Postgres) -> str:
    database = server.database()
    dsn = server.dsn(database)
    accounts = PostgresAccounts(dsn, PLANS)
    for org in ORGS:
        accounts.create_organization(org, org, "bench", NOON)
    accounts.close()
    with server.admin(database) as db:
        # as half-empty as the table it is compared with
        db.execute("CREATE TABLE public.bare (org text PRIMARY KEY, n int) WITH (fillfactor = 50)")
        db.execute("INSERT INTO public.bare SELECT org, 0 FROM accounts.usage")
        db.execute(f"GRANT SELECT, UPDATE ON public.bare TO {ENGINE}")
    return dsn


def rate(way: str, dsn: str, orgs: list[str], seconds: float) -> float:
    """Calls a second of as many clients as there are organizations named."""
    start = threading.Barrier(len(orgs) + 1)
    counts: list[int] = []

    def client(org: str) -> None:
        call, close = WAYS[way](dsn)
        call(org)  # connects
        start.wait()
        until = time.perf_counter() + seconds
        count = 0
        while time.perf_counter() < until:
            call(org)
            count += 1
        counts.append(count)
        close()

    threads = [threading.Thread(target=client, args=(org,)) for org in orgs]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


def bare(dsn: str) -> tuple[Call, Callable[[], None]]:
    db = connect(dsn)

    def update(org: str) -> None:
        db.execute("UPDATE public.bare SET n = n + 1 WHERE org = %s RETURNING n", (org,)).fetchone()

    return update, db.close


def reserve(dsn: str) -> tuple[Call, Callable[[], None]]:
    accounts = PostgresAccounts(dsn, PLANS, connections=1)

    def call(org: str) -> None:
        answer = accounts.reserve(next(run_ids), org, NOON, LATER)
        assert isinstance(answer, Reserved), answer

    return call, accounts.close


def statements(dsn: str) -> tuple[Call, Callable[[], None]]:
    db = connect(dsn)

    def transaction(org: str) -> None:
        values: dict[str, Any] = {
            "run_id": next(run_ids),
            "org": org,
            "now": NOON,
            "later": LATER,
            "day": NOON.date(),
            "month": NOON.date().replace(day=1),
        }
        with db.transaction():
            db.execute(LAPSED, values)
            db.execute(TAKE, values)
            db.execute(HOLD, values)

    return transaction, db.close


def connect(dsn: str) -> psycopg.Connection[Any]:
    return psycopg.connect(dsn, autocommit=True, prepare_threshold=None)


WAYS = {"bare": bare, "reserve": reserve, "statements": statements}

if __name__ == "__main__":
    main()
