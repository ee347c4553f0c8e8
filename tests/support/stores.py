"""Run stores by name, so that a test's own process and one that it starts open the same one.

As a script it is another process at a store: `stores.py SPEC OWNER COUNT [--die]` waits for a line,
claims the attempts 1 to COUNT of step `extract` of run `r1`, prints the numbers it got, and dies at
once where told to.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from shared.core.run import Attempt, AttemptStatus
from shared.firestore import Database
from shared.journal import Journal
from shared.state import RunStore
from shared.state.firestore import FirestoreRunStore
from shared.state.sqlite import SqliteRunStore


def new_id() -> str:
    return os.urandom(8).hex()


def firestore_database(host: str, project: str) -> Database:
    return Database(project, sleep=time.sleep, random=random.random, emulator=host)


def everything(database: Database) -> bytes:
    """Every document of the database, in the bytes that protobuf has for it."""
    request = {
        "parent": f"{database.name}/documents",
        "structured_query": {"from_": [{"all_descendants": True}]},
    }
    answers = database._rpc.run_query(request=request, metadata=database._metadata)
    return b"".join(type(answer).pb(answer).SerializeToString() for answer in answers)


def open_runs(spec: str) -> RunStore:
    """The store at `sqlite PATH` or `firestore HOST PROJECT`."""
    kind, *place = spec.split(" ")
    if kind == "sqlite":
        return SqliteRunStore(Journal(Path(place[0])))
    database = firestore_database(*place)
    return FirestoreRunStore(database, now=lambda: datetime.now(UTC), new_id=new_id)


def claim_all(spec: str, owner: str, count: int) -> list[int]:
    """The numbers of the attempts that this owner got."""
    store = open_runs(spec)
    print("ready", flush=True)
    sys.stdin.readline()
    got = []
    for number in range(1, count + 1):
        now = datetime.now(UTC)
        claim = Attempt(
            run_id="r1",
            step_id="extract",
            number=number,
            owner=owner,
            status=AttemptStatus.OPEN,
            started_at=now,
            lease_until=now + timedelta(minutes=3),
        )
        if store.claim(claim) is not None:
            got.append(number)
    return got


if __name__ == "__main__":
    print(json.dumps(claim_all(sys.argv[1], sys.argv[2], int(sys.argv[3]))), flush=True)
    if "--die" in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)
