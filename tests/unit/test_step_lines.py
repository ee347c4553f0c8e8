"""The log of one attempt: no line is lost, and none makes the others unreadable."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from shared.core.message import StepMessage
from shared.engine.work import MAX_LOG_BYTES, StepLines
from shared.errors import Unavailable
from shared.journal import Journal
from shared.log import Level, Log
from shared.state import LogChunk
from shared.state.sqlite import SqliteRunStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MESSAGE = StepMessage(
    run_id="r1",
    run_created_at=NOW,
    org="acme",
    dataset="acme_test",
    pipeline_id="p",
    address="a/b/c",
    provider="p",
    step_id="one",
    attempt=1,
    ps_type="generic.noop",
    config={},
    timeout_seconds=60,
    start_date=date(2026, 1, 1),
    end_date=date(2026, 1, 1),
    credential_id="none",
    not_after=NOW,
)


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[SqliteRunStore]:
    journal = Journal(tmp_path / "state.db")
    yield SqliteRunStore(journal)
    journal.close()


class Away(SqliteRunStore):
    """Refuses the first chunks; with `applied`, it is only the answer that gets lost."""

    def __init__(self, journal: Journal, refusals: int, *, applied: bool = False) -> None:
        super().__init__(journal)
        self.refusals = refusals
        self._applied = applied

    def append_log(self, run_id: str, chunk: LogChunk, at: datetime) -> None:
        if self.refusals and self._applied:
            super().append_log(run_id, chunk, at)
        if self.refusals:
            self.refusals -= 1
            raise Unavailable("away")
        super().append_log(run_id, chunk, at)


def lines_of(runs: SqliteRunStore, message: Any = MESSAGE) -> StepLines:
    app = SimpleNamespace(runs=runs, now=lambda: NOW, log=Log(Level.ERROR))
    return StepLines(cast("Any", app), message)


def kept(runs: SqliteRunStore, log: StepLines) -> list[dict[str, Any]]:
    log.flush()
    text = b"".join(chunk.lines for _, chunk in runs.read_log("r1", limit=1_000))
    return [msgspec.json.decode(line) for line in text.splitlines()]


def test_two_threads_that_flush_at_once_keep_the_lines_of_both(runs: SqliteRunStore) -> None:
    paused = threading.Event()
    armed = False

    class Slow:
        """The message, which lets the other thread go first when a flush looks at it."""

        def __getattr__(self, name: str) -> Any:
            nonlocal armed
            if armed and name == "run_id":
                armed = False
                paused.set()
                time.sleep(0.2)
            return getattr(MESSAGE, name)

    log = lines_of(runs, Slow())
    log.info("first")
    armed = True
    heartbeat = threading.Thread(target=log.flush)
    heartbeat.start()
    assert paused.wait(60)
    log.info("second")
    log.flush()
    heartbeat.join()
    assert [line["message"] for line in kept(runs, log)] == ["first", "second"]


@pytest.mark.parametrize(
    "value",
    ["x" * (2 * MAX_LOG_BYTES), "ü" * MAX_LOG_BYTES, float("nan"), {date(2026, 1, 1): 1}, "\udcff"],
    ids=["long", "long and wide", "no number", "a key that is no text", "no text"],
)
def test_every_line_can_be_read_again(runs: SqliteRunStore, value: object) -> None:
    log = lines_of(runs)
    log.info("odd", value=value)
    log.info("next")
    odd, after = kept(runs, log)
    assert (odd["message"], odd["step"], odd["attempt"]) == ("odd", "one", 1)
    assert after["message"] == "next"


@pytest.mark.parametrize("applied", [False, True], ids=["not stored", "stored, not answered"])
def test_what_could_not_be_stored_comes_with_the_next_flush_and_once(
    tmp_path: Path, applied: bool
) -> None:
    runs = Away(Journal(tmp_path / "state.db"), 1, applied=applied)
    log = lines_of(runs)
    log.info("first")
    with pytest.raises(Unavailable):
        log.flush()
    log.info("second")
    assert [line["message"] for line in kept(runs, log)] == ["first", "second"]
    runs.close()


def test_a_step_can_go_on_writing_while_the_store_is_away(tmp_path: Path) -> None:
    runs = Away(Journal(tmp_path / "state.db"), 1_000_000)
    log = lines_of(runs)
    for number in range(200):
        log.info("line", number=number, text="x" * 15_000)
    runs.refusals = 0
    found = kept(runs, log)
    numbers = [line["number"] for line in found if line["message"] == "line"]
    dropped = [line["lines"] for line in found if line["message"] == "log.lines_dropped"]
    assert numbers == list(range(len(numbers)))
    assert dropped == [200 - len(numbers)]
    assert len(b"x" * 15_000) * len(numbers) <= 2 * MAX_LOG_BYTES
    runs.close()


def test_a_chunk_is_never_larger_than_it_may_be(runs: SqliteRunStore) -> None:
    log = lines_of(runs)
    for _ in range(100):
        log.info("line", text="x" * 15_000)
    assert len(log.rest()) <= MAX_LOG_BYTES
    chunks = [chunk for _, chunk in runs.read_log("r1", limit=1_000)]
    assert [chunk.number for chunk in chunks] == list(range(1, len(chunks) + 1))
    assert all(len(chunk.lines) <= MAX_LOG_BYTES for chunk in chunks)


def test_a_field_cannot_take_the_name_of_one_of_ours(runs: SqliteRunStore) -> None:
    log = lines_of(runs)
    log.error("odd", time="noon", step="x", org="y", severity="z", run=1)
    (line,) = kept(runs, log)
    assert (line["time"], line["step"], line["severity"]) == (NOW.isoformat(), "one", "ERROR")
    assert (line["time_"], line["step_"], line["severity_"]) == ("noon", "x", "z")
