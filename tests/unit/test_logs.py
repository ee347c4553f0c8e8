"""Reading the lines of a run: every one once, a page at a time, however many there are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from shared.core.plan import Plan
from shared.core.run import Params, Run, RunStatus, Trigger
from shared.engine import logs
from shared.engine.logs import LineFilter
from shared.errors import Invalid, NotFound
from shared.journal import Journal
from shared.log import Level, line_of
from shared.state import LogChunk
from shared.state.sqlite import SqliteRunStore

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ALL = LineFilter()
PLAN = Plan(
    address="a/b/c",
    pipeline_id="p",
    provider="a",
    domain="b",
    version="1",
    config_hash="",
    steps=(),
)


class World:
    """A run of acme, whose log the test writes. Sleeping passes the time, and does what comes then."""

    def __init__(self, folder: Path) -> None:
        self.runs = SqliteRunStore(Journal(folder / "state.db"))
        self.at = 0.0
        self.then: dict[float, Any] = {}
        self.app: Any = SimpleNamespace(
            runs=self.runs, sleep=self._sleep, monotonic=lambda: self.at, now=lambda: NOW
        )
        for run_id in ("r1", "r2"):
            self.runs.create_run(run_of(run_id), PLAN, "w")

    def write(self, step_id: str, chunk: int, *messages: str, level: Level = Level.INFO) -> None:
        lines = [
            line_of(level, text, {"step": step_id, "attempt": 1, "n": 1}, NOW) for text in messages
        ]
        text = "".join(f"{line}\n" for line in lines).encode()
        self.runs.append_log("r1", LogChunk(step_id, 1, chunk, text), NOW)

    def end(self) -> None:
        stored = self.runs.run("r1")
        assert stored is not None
        self.runs.replace_run(stored, replace(stored.run, status=RunStatus.COMPLETED), "w")

    def _sleep(self, seconds: float) -> None:
        self.at += seconds
        for when in [when for when in self.then if when <= self.at]:
            self.then.pop(when)()


def run_of(run_id: str) -> Run:
    return Run(
        run_id=run_id,
        org="acme",
        dataset="acme_test",
        address="a/b/c",
        pipeline_id="p",
        trigger=Trigger.API,
        request_hash="h",
        created_at=NOW,
        status=RunStatus.RUNNING,
        params=Params(start_date=NOW.date(), end_date=NOW.date()),
    )


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.runs.close()


def read(world: World, limit: int, where: LineFilter = ALL) -> list[str]:
    """Every line up to the end of the run, a page at a time."""
    messages: list[str] = []
    cursor = None
    while True:
        found = logs.page(world.app, "acme", "r1", where, limit, cursor)
        assert len(found.lines) <= limit
        messages += [line.message for line in found.lines]
        if found.next is None:
            return messages
        cursor = found.next


def test_every_line_is_read_once_whatever_the_size_of_a_page(world: World) -> None:
    written = []
    for chunk in range(1, 8):
        messages = [f"{chunk}.{number}" for number in range(chunk)]
        world.write("one", chunk, *messages)
        written += messages
    world.end()
    for limit in (1, 2, 3, 5, 28, 200):
        assert read(world, limit) == written


def test_a_line_has_its_place_and_its_fields(world: World) -> None:
    world.write("one", 1, "here", level=Level.WARNING)
    (line,) = logs.page(world.app, "acme", "r1", LineFilter(), 10, None).lines
    assert (line.step_id, line.attempt, line.severity) == ("one", 1, "WARNING")
    assert (line.time, line.message, line.fields) == (NOW, "here", {"n": 1})


def test_a_filter_lets_through_a_level_and_above_and_one_step(world: World) -> None:
    world.write("one", 1, "info")
    world.write("two", 1, "warning", level=Level.WARNING)
    world.write("one", 2, "error", level=Level.ERROR)
    world.end()
    assert read(world, 1, LineFilter(Level.WARNING)) == ["warning", "error"]
    assert read(world, 1, LineFilter(step_id="one")) == ["info", "error"]
    assert read(world, 1, LineFilter(Level.WARNING, "one")) == ["error"]


def test_a_cursor_of_a_run_at_work_goes_on_with_what_is_written_later(world: World) -> None:
    world.write("one", 1, "a", "b")
    first = logs.page(world.app, "acme", "r1", LineFilter(), 10, None)
    again = logs.page(world.app, "acme", "r1", LineFilter(), 10, first.next)
    assert (again.lines, again.next) == ((), first.next)
    world.write("one", 2, "c")
    world.end()
    last = logs.page(world.app, "acme", "r1", LineFilter(), 10, first.next)
    assert ([line.message for line in last.lines], last.next) == (["c"], None)


def test_who_follows_waits_for_the_next_line_and_not_longer(world: World) -> None:
    world.then[7.0] = lambda: world.write("one", 1, "at last")
    found = logs.follow(world.app, "acme", "r1", LineFilter(), 10, None)
    assert [line.message for line in found.lines] == ["at last"]
    assert world.at == 7.0
    found = logs.follow(world.app, "acme", "r1", LineFilter(), 10, found.next)
    assert found.lines == ()
    assert found.next is not None
    assert world.at == pytest.approx(7.0 + logs.FOLLOW_SECONDS)
    world.then[30.0] = world.end
    found = logs.follow(world.app, "acme", "r1", LineFilter(), 10, found.next)
    assert (found.lines, found.next, world.at) == ((), None, 30.0)


def test_a_page_ends_before_it_is_too_large(world: World) -> None:
    for chunk in range(1, 301):
        world.write("one", chunk, *["x" * 10_000] * 5, level=Level.DEBUG)
    world.end()
    large = logs.page(world.app, "acme", "r1", LineFilter(), 1_000, None)
    assert 100 < len(large.lines) < 120
    none = logs.page(world.app, "acme", "r1", LineFilter(Level.ERROR), 1_000, None)
    assert none.lines == ()
    assert none.next is not None
    assert read(world, 1_000, LineFilter(Level.ERROR)) == []
    assert len(read(world, 1_000)) == 1_500


@pytest.mark.parametrize("cursor", ["", "x", "é", "a" * 5_000, "AAAA", "MS4yLjM"])
def test_a_cursor_that_is_not_ours_is_invalid(world: World, cursor: str) -> None:
    with pytest.raises(Invalid):
        logs.page(world.app, "acme", "r1", LineFilter(), 10, cursor)


def test_a_cursor_is_good_for_its_run_only(world: World) -> None:
    cursor = logs.page(world.app, "acme", "r2", LineFilter(), 10, None).next
    with pytest.raises(Invalid) as raised:
        logs.page(world.app, "acme", "r1", LineFilter(), 10, cursor)
    assert [fault.where for fault in raised.value.faults] == ["cursor"]


def test_the_lines_of_another_organizations_run_do_not_exist(world: World) -> None:
    with pytest.raises(NotFound):
        logs.page(world.app, "other", "r1", LineFilter(), 10, None)
    with pytest.raises(NotFound):
        next(logs.every_line(world.app, "other", "r1", LineFilter()))


def test_one_who_follows_while_others_write_sees_every_line_once(world: World) -> None:
    def write(step_id: str) -> None:
        for chunk in range(1, 51):
            world.write(step_id, chunk, f"{step_id} {chunk}a", f"{step_id} {chunk}b")

    writers = [threading.Thread(target=write, args=(name,)) for name in ("one", "two", "three")]
    for writer in writers:
        writer.start()
    seen: list[str] = []
    cursor: str | None = None
    while len(seen) < 300:
        found = logs.page(world.app, "acme", "r1", LineFilter(), 7, cursor)
        seen += [line.message for line in found.lines]
        cursor = found.next
    for writer in writers:
        writer.join()
    assert len(set(seen)) == 300
    for name in ("one", "two", "three"):
        of_one = [text for text in seen if text.startswith(name)]
        assert of_one == [f"{name} {chunk}{part}" for chunk in range(1, 51) for part in "ab"]
