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
from shared.journal import Journal
from shared.log import Level, Log
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


def lines_of(runs: SqliteRunStore, message: Any = MESSAGE) -> StepLines:
    app = SimpleNamespace(runs=runs, now=lambda: NOW, log=Log(Level.ERROR))
    return StepLines(cast("Any", app), message)


def kept(runs: SqliteRunStore, log: StepLines) -> list[dict[str, Any]]:
    log.flush()
    text = b"".join(chunk.lines for chunk in runs.logs("r1"))
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
    assert paused.wait(10)
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
