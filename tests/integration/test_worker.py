"""What a worker does around its processor, with the whole system about it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.core.lineage import Evidence
from shared.core.record import Record
from shared.core.run import Summary
from shared.errors import Stopped, Unavailable
from shared.processors import PROCESSORS
from shared.step import Processor, StepContext, StepResult, processor
from shared.warehouse import Column, Files, Reading, SourceFile, Table
from tests.support.system import System

ENDLESS = (
    "SELECT CAST(a.i * b.i AS VARCHAR) AS Id FROM range(1000000) a(i), range(1000000) b(i) "
    "WHERE $path <> ''"
)
PIPELINE = """
pipeline_id: one
name: One step
provider: engine
domain: tests
steps:
  - step_id: only
    ps_type: tests.only
    retry: {max_attempts: 1}
"""


class NoConfig(Record, frozen=True, kw_only=True):
    """Nothing to say."""


def one_step(folder: Path, only: Processor) -> System:
    """A system with a pipeline of one step."""
    return System(
        folder,
        processors={**PROCESSORS, "tests.only": only},
        pipelines={"engine/tests/one.yml": PIPELINE},
    )


def test_an_error_of_our_store_says_nothing_of_where_it_is(tmp_path: Path) -> None:
    @processor("tests.only", needs_credential=False)
    def only(step: StepContext, config: NoConfig) -> StepResult:
        raise Unavailable(f"{tmp_path}/state.db: database or disk is full")

    with one_step(tmp_path, only) as system:
        system.organization("acme")
        run = system.run("acme", "engine/tests/one")
        logs = system.call("GET", f"/pipelines/logs/acme/{run['run_id']}").json
    assert run["error"]["code"] == "unavailable"
    assert str(tmp_path) not in str(run) + str(logs)


def test_a_cancel_stops_the_statement_of_a_running_load(tmp_path: Path) -> None:
    started, stopped = threading.Event(), threading.Event()

    file = tmp_path / "file"
    file.write_text("Id")

    @contextmanager
    def fetched() -> Iterator[Path]:
        yield file

    def read(_: SourceFile, __: Path) -> Reading:
        started.set()
        return Reading(ENDLESS, {})

    @processor("tests.only", needs_credential=False)
    def only(step: StepContext, config: NoConfig) -> StepResult:
        try:
            step.load(
                Table("things", (Column("Id"),)),
                Files(files=[SourceFile("endless", fetched)], read=read),
                covers=frozenset({step.slice(step.start_date)}),
                source_version="1",
                source_at=step.now().replace(year=2020),  # the age of what a provider delivered
            )
        except Stopped:
            stopped.set()
            raise
        return StepResult(summary=Summary(), evidence=Evidence())

    with one_step(tmp_path, only) as system:
        system.organization("acme")
        run_id = system.call("POST", "/pipelines/run/acme/engine/tests/one").json["run_id"]
        assert started.wait(20)
        system.call("POST", f"/pipelines/cancel/acme/{run_id}")
        try:
            assert stopped.wait(15)
        finally:
            system.app.warehouse().close()
        assert system.ended("acme", run_id)["status"] == "cancelled"
