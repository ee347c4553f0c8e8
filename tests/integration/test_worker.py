"""What a worker does around its processor, with the whole system about it."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from msgspec.structs import replace

from shared.core.lineage import Evidence, Writer
from shared.core.record import Record
from shared.core.run import EMBEDDED_TIMING, Summary
from shared.errors import Stopped, Unavailable
from shared.processors import PROCESSORS
from shared.step import Processor, StepContext, StepResult, processor
from shared.warehouse import Column, Files, Reading, SourceFile, Table
from tests.support.system import EmbeddedSystem

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


def one_step(folder: Path, only: Processor) -> EmbeddedSystem:
    """A system with a pipeline of one step."""
    return EmbeddedSystem(
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


def test_a_fault_in_stopping_one_step_ends_no_other_lease(tmp_path: Path) -> None:
    class Breaking:
        """A warehouse whose connection was closed a moment before it was interrupted."""

        def interrupt(self, writer: Writer) -> None:
            raise RuntimeError("connection closed")

    @processor("tests.only", needs_credential=False)
    def only(step: StepContext, config: NoConfig) -> StepResult:
        if step.org == "acme":
            _ = step.warehouse
        for _ in range(60):
            time.sleep(0.05)
            step.check()
        return StepResult(summary=Summary(), evidence=Evidence())

    system = EmbeddedSystem(
        tmp_path,
        processors={**PROCESSORS, "tests.only": only},
        pipelines={"engine/tests/one.yml": PIPELINE},
        timing=replace(
            EMBEDDED_TIMING,
            lease=timedelta(seconds=1),
            heartbeat=timedelta(seconds=0.2),
            lease_grace=timedelta(seconds=0.2),
        ),
        wrap=lambda app: dataclasses.replace(app, warehouse=cast("Any", Breaking)),
    )
    with system:
        system.organization("acme")
        system.organization("globex")
        runs = {
            org: system.call("POST", f"/pipelines/run/{org}/engine/tests/one").json["run_id"]
            for org in ("acme", "globex")
        }
        time.sleep(0.5)
        system.call("POST", f"/pipelines/cancel/acme/{runs['acme']}")
        assert system.ended("acme", runs["acme"])["status"] == "cancelled"
        theirs = system.ended("globex", runs["globex"])
    assert (theirs["status"], theirs["steps"][0]["attempt"]) == ("completed", 1)


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
        assert started.wait(60)
        system.call("POST", f"/pipelines/cancel/acme/{run_id}")
        try:
            assert stopped.wait(60)
        finally:
            system.app.warehouse().close()
        assert system.ended("acme", run_id)["status"] == "cancelled"
