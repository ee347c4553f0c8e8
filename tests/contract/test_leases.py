"""What leases of tables promise: one holder at a time, in a process and among processes, and no end of it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from shared.errors import Stopped, Transient
from shared.firestore import Database, Path, Stored, Write
from shared.warehouse.firestore_leases import FirestoreLeases
from shared.warehouse.leases import TableLeases, ThreadLeases
from tests.support.stores import firestore_database, new_id

KEY = "test.acme_prod"


def never() -> None:
    pass


def firestore_leases(database: Database, hold: timedelta = timedelta(minutes=1)) -> FirestoreLeases:
    return FirestoreLeases(
        database,
        now=lambda: datetime.now(UTC),
        sleep=lambda seconds: time.sleep(seconds / 50),
        random=random.random,
        new_id=new_id,
        hold=hold,
    )


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    emulator, project = map(request.getfixturevalue, ("firestore_emulator", "firestore_project"))
    opened = firestore_database(emulator.host, project)
    yield opened
    opened.close()


@pytest.fixture(params=["threads", pytest.param("firestore", marks=pytest.mark.cloud)])
def processes(request: pytest.FixtureRequest) -> Callable[[], TableLeases]:
    """The leases as a further process has them; those of threads are one process's."""
    if request.param == "firestore":
        database = request.getfixturevalue("database")
        return lambda: firestore_leases(database)
    leases = ThreadLeases()
    return lambda: leases


def test_one_holds_it_at_a_time(processes: Callable[[], TableLeases]) -> None:
    holders = most = turns = 0

    def commit(leases: TableLeases) -> None:
        nonlocal holders, most, turns
        for _ in range(4):
            with leases.hold(KEY, never):
                holders += 1
                most = max(most, holders)
                time.sleep(0.005)
                turns += 1
                holders -= 1

    threads = [threading.Thread(target=commit, args=(processes(),)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, turns) == (1, 20)


def test_another_key_is_another_lease(processes: Callable[[], TableLeases]) -> None:
    with processes().hold(KEY, never), processes().hold(f"{KEY}_2", never):
        pass


def test_who_waits_may_be_stopped(processes: Callable[[], TableLeases]) -> None:
    looks = 0

    def check() -> None:
        nonlocal looks
        looks += 1
        if looks > 2:
            raise Stopped("taken away")

    with processes().hold(KEY, never), pytest.raises(Stopped), processes().hold(KEY, check):
        pytest.fail("two hold it")
    with processes().hold(KEY, never):  # and it is given back
        pass


def test_a_failure_gives_it_back(processes: Callable[[], TableLeases]) -> None:
    with pytest.raises(ValueError, match="lost"), processes().hold(KEY, never):
        raise ValueError("lost")
    with processes().hold(KEY, never):
        pass


@pytest.mark.cloud
def test_the_lease_of_a_dead_process_ends_by_itself(database: Database) -> None:
    dead = firestore_leases(database, hold=timedelta(seconds=0.5)).hold(KEY, never)
    dead.__enter__()
    with firestore_leases(database).hold(KEY, never):
        # The dead one wakes up and gives back what is not its own any more.
        dead.__exit__(None, None, None)
        stored = database.get([("leases", KEY)])["leases", KEY]
        assert stored.fields["until"] > datetime.now(UTC) + timedelta(seconds=30)


@pytest.mark.cloud
def test_a_lost_answer_is_no_other_holder(database: Database) -> None:
    class Forgetful:
        """Loses the answer to the first write, after it was made, as a repeated try would see it."""

        def __init__(self) -> None:
            self.lost = False

        def get(self, paths: list[Path]) -> dict[Path, Stored]:
            return database.get(paths)

        def commit(self, what: str, *writes: Write) -> object:
            done = database.commit(what, *writes)
            if not self.lost:
                self.lost = True
                return done._replace(versions=None, in_doubt=True)
            return done

    forgetful = Forgetful()
    with firestore_leases(forgetful).hold(KEY, never):  # type: ignore[arg-type]  # what it uses of it
        assert forgetful.lost


@pytest.mark.cloud
def test_without_firestore_waiting_helps() -> None:
    gone = Database("gone", sleep=lambda _: None, random=random.random, emulator="127.0.0.1:9")
    with pytest.raises(Transient, match=KEY), firestore_leases(gone).hold(KEY, never):
        pytest.fail("held without a store")
    gone.close()
