"""Group commit: what was waited for is on the disk, in order, and one failed write undoes itself alone."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.errors import Unavailable
from shared.journal import Journal

SCHEMA = "CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, who TEXT UNIQUE)"


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "j.db", SCHEMA)
    yield made
    made.close()


def on_disk(path: str) -> list[str]:
    """What another process sees."""
    with sqlite3.connect(path) as db:
        return [row[0] for row in db.execute("SELECT who FROM t ORDER BY id")]


def insert(journal: Journal, who: str, *, wait: bool = True) -> None:
    journal.execute("INSERT INTO t (who) VALUES (?)", (who,), wait=wait)


def test_a_write_that_was_waited_for_is_on_the_disk(journal: Journal) -> None:
    insert(journal, "a")
    assert on_disk(journal.path) == ["a"]


def test_a_waited_write_carries_every_write_before_it(journal: Journal) -> None:
    for who in "abc":
        insert(journal, who, wait=False)
    insert(journal, "d")
    assert on_disk(journal.path) == ["a", "b", "c", "d"]


def test_a_write_nobody_waits_for_reaches_the_disk_by_itself(journal: Journal) -> None:
    insert(journal, "a", wait=False)
    deadline = time.monotonic() + 10
    while on_disk(journal.path) != ["a"]:
        assert time.monotonic() < deadline


def test_sync_waits_for_everything_written_so_far(journal: Journal) -> None:
    insert(journal, "a", wait=False)
    journal.sync()
    assert on_disk(journal.path) == ["a"]


def test_a_read_sees_what_is_not_yet_on_the_disk(journal: Journal) -> None:
    insert(journal, "a", wait=False)
    assert journal.read(lambda db: db.execute("SELECT count(*) FROM t").fetchone()) == (1,)


def test_a_failed_write_undoes_itself_alone(journal: Journal) -> None:
    insert(journal, "a", wait=False)

    def half(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO t (who) VALUES ('b')")
        db.execute("INSERT INTO t (who) VALUES ('a')")

    with pytest.raises(sqlite3.IntegrityError):
        journal.write(half)
    with pytest.raises(sqlite3.IntegrityError):
        insert(journal, "a")
    insert(journal, "c")
    assert on_disk(journal.path) == ["a", "c"]


def test_many_threads_share_commits(tmp_path: Path) -> None:
    commits = 0

    class Counting(Journal):
        def _end(self) -> None:
            nonlocal commits
            commits += self._open
            super()._end()

    journal = Counting(tmp_path / "j.db", SCHEMA)

    def fifty(thread: int) -> None:
        for number in range(50):
            insert(journal, f"{thread}.{number}")

    threads = [threading.Thread(target=fifty, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    assert len(on_disk(journal.path)) == 800
    assert commits < 800


def test_a_lost_transaction_ends_the_journal(journal: Journal) -> None:
    """A full disk takes the whole transaction with it: no later write may build on what is gone."""
    insert(journal, "a", wait=False)

    def full(db: sqlite3.Connection) -> None:
        db.execute("ROLLBACK")
        raise sqlite3.OperationalError("database or disk is full")

    with pytest.raises(Unavailable, match="restart"):
        journal.write(full)
    with pytest.raises(Unavailable, match="restart"):
        insert(journal, "b")
    with pytest.raises(Unavailable, match="restart"):
        journal.read(lambda db: db.execute("SELECT 1").fetchone())


def test_a_closed_journal_says_so_and_closes_twice(journal: Journal) -> None:
    insert(journal, "a", wait=False)
    journal.close()
    journal.close()
    assert on_disk(journal.path) == ["a"]
    with pytest.raises(Unavailable, match="closed"):
        insert(journal, "b")


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="nowhere"):
        Journal(tmp_path / "nowhere" / "j.db")


def test_sigkill_loses_a_tail_of_the_order_never_a_middle(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        text=True,
    ) as child:
        assert child.stdout is not None
        told = [child.stdout.readline() for _ in range(20)]
        os.kill(child.pid, signal.SIGKILL)
        told += child.stdout.readlines()
    promised = max(int(line) for line in told if line.endswith("\n"))
    kept = [int(who) for who in on_disk(str(path))]
    assert kept == list(range(len(kept)))
    assert len(kept) > promised


_CHILD = f"""
import sys
from shared.journal import Journal
journal = Journal(sys.argv[1], {SCHEMA!r})
for i in range(10**6):
    wait = i % 10 == 9
    journal.execute("INSERT INTO t (who) VALUES (?)", (str(i),), wait=wait)
    if wait:
        print(i, flush=True)
"""
