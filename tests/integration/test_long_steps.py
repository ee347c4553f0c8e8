"""A step that no push request lives long enough for: real executions, over a real API on this machine."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from shared.core.decide import Publish
from shared.core.run import Attempt, Result, StepStatus
from shared.engine.advance import step_messages
from shared.jobs.cloudrun import CloudRunJobs
from shared.settings import ROOT
from tests.support.jobs import JOB, LEASE, Fault, JobsServer, store_in, timing
from tests.support.stores import open_runs
from tests.support.system import EmbeddedSystem

ADDRESS = "engine/tests/long"
PIPELINE = """
pipeline_id: long
provider: engine
domain: tests
variables: {seconds: 0}
steps:
  - {step_id: before, ps_type: generic.noop}
  - step_id: long
    ps_type: generic.noop
    config: {sleep_seconds: "{seconds}", rows: 5}
    timeout_seconds: 541
  - {step_id: after, ps_type: generic.noop}
"""
HOUR = timedelta(hours=1)
SOON = timedelta(seconds=2)  # after which a job that has not started is started again


class Scene:
    """A system whose long steps are executions of `jobs`."""

    def __init__(self, system: EmbeddedSystem, jobs: JobsServer) -> None:
        self.system = system
        self.jobs = jobs

    def run(self, seconds: float = 0.0) -> str:
        body = {"parameters": {"seconds": seconds}}
        reply = self.system.call("POST", f"/pipelines/run/acme/{ADDRESS}", body)
        assert reply.status == 202
        return str(reply.json["run_id"])

    def ended(self, run_id: str) -> dict[str, Any]:
        return self.system.ended("acme", run_id)

    def attempts(self, run_id: str) -> list[Attempt]:
        made = self.system.app.runs.attempts_of(run_id)
        return [attempt for attempt in made if attempt.step_id == "long"]

    def claimed(self, run_id: str) -> Attempt:
        """The attempt of the long step that runs now."""
        found: list[Attempt] = []

        def there() -> bool:
            found[:] = [one for one in self.attempts(run_id) if not one.closed]
            return bool(found)

        soon(there)
        return found[0]


def soon(done: Callable[[], bool], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until
        time.sleep(0.02)


@contextmanager
def scene(
    folder: Path, store: str, lease: timedelta = LEASE, job_start: timedelta = timedelta(seconds=60)
) -> Iterator[Scene]:
    with JobsServer(store, lease=lease) as server:
        jobs = CloudRunJobs(
            JOB, sleep=time.sleep, random=random.random, emulator=server.host, timeout_seconds=2
        )
        system = EmbeddedSystem(
            folder,
            timing=timing(lease, job_start),
            pipelines={f"{ADDRESS}.yml": PIPELINE},
            wrap=lambda app: dataclasses.replace(app, runs=open_runs(store), jobs=jobs),
        )
        with system:
            server.publish = system.app.bus.publish
            system.organization("acme")
            yield Scene(system, server)
        system.app.runs.close()
        jobs.close()


@pytest.fixture(params=["sqlite", pytest.param("firestore", marks=pytest.mark.cloud)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return store_in(tmp_path)
    host = request.getfixturevalue("firestore_emulator").host
    return f"firestore {host} {request.getfixturevalue('firestore_project')}"


def test_only_the_long_step_of_a_run_is_a_job(tmp_path: Path, store: str) -> None:
    with scene(tmp_path, store) as stage:
        run = stage.ended(stage.run())
        assert run["status"] == "completed"
        assert [step["attempt"] for step in run["steps"]] == [1, 1, 1]
        assert run["steps"][1]["summary"]["loaded"] == 5
        (asked,) = stage.jobs.asked
        assert asked == {
            "overrides": {
                "containerOverrides": [{"args": [run["run_id"], "long", "1"]}],
                "taskCount": 1,
                "timeout": "841s",
            }
        }
        assert stage.jobs.started[0].wait(60) == 0


def test_a_start_whose_answer_is_lost_is_two_executions_and_one_attempt(
    tmp_path: Path, store: str
) -> None:
    with scene(tmp_path, store) as stage:
        stage.jobs.faults.append(Fault.LOST)
        run = stage.ended(stage.run(1.0))
        assert run["status"] == "completed"
        soon(lambda: len(stage.jobs.started) == 2)
        assert [process.wait(60) for process in stage.jobs.started] == [0, 0]
        assert [attempt.result for attempt in stage.attempts(run["run_id"])] == [Result.OK]


def test_a_message_that_comes_again_starts_no_second_execution(tmp_path: Path, store: str) -> None:
    with scene(tmp_path, store) as stage:
        run_id = stage.run(1.5)
        stage.claimed(run_id)
        stage.system.embedded.engine.coordinator.recover(run_id)
        stored = stage.system.app.runs.run(run_id)
        assert stored is not None
        assert stored.run.steps["long"].status is StepStatus.RUNNING
        again = step_messages(stored.run, stored.plan, [Publish("long", 1, None)])
        stage.system.app.bus.publish(again * 3)
        assert stage.ended(run_id)["status"] == "completed"
        stage.system.app.bus.publish(again)  # and its completion is told once more
        time.sleep(0.3)
        assert len(stage.jobs.asked) == 1


def test_a_job_that_is_slow_to_start_is_not_started_again(tmp_path: Path, store: str) -> None:
    with scene(tmp_path, store) as stage:
        stage.jobs.start_after = 2.0  # the message of another step would have come again by now
        assert stage.ended(stage.run())["status"] == "completed"
        assert len(stage.jobs.asked) == 1


def test_a_job_that_never_starts_is_started_again(tmp_path: Path, store: str) -> None:
    with scene(tmp_path, store, job_start=SOON) as stage:
        stage.jobs.faults.append(Fault.DROPPED)
        run = stage.ended(stage.run())
        assert (run["status"], run["steps"][1]["attempt"]) == ("completed", 1)
        assert len(stage.jobs.asked) >= 2  # on a busy machine the second is slow to start, too


def test_while_no_job_can_be_started_the_step_waits_and_others_run(
    tmp_path: Path, store: str
) -> None:
    with scene(tmp_path, store, job_start=SOON) as stage:
        stage.jobs.faults += [Fault.REFUSED] * 3
        run_id = stage.run()
        soon(lambda: len(stage.jobs.asked) == 3)
        other = stage.system.run("acme", "engine/noop/five")
        assert other["status"] == "completed"
        run = stage.ended(run_id)
        assert (run["status"], run["steps"][1]["attempt"]) == ("completed", 1)
        assert stage.system.app.bus.dead_letters() == []


def test_a_job_that_dies_is_lost_with_its_lease_and_the_next_attempt_runs(
    tmp_path: Path, store: str
) -> None:
    with scene(tmp_path, store, job_start=SOON) as stage:
        run_id = stage.run(1.5)
        stage.claimed(run_id)
        stage.jobs.started[0].kill()
        run = stage.ended(run_id)
        assert run["status"] == "completed"
        results = [attempt.result for attempt in stage.attempts(run_id)]
        assert results == [Result.LOST, Result.OK]


def test_a_job_that_is_told_to_go_gives_its_attempt_back_at_once(
    tmp_path: Path, store: str
) -> None:
    with scene(tmp_path, store, lease=HOUR) as stage:
        run_id = stage.run(3.0)
        stage.claimed(run_id)
        stage.jobs.started[0].send_signal(signal.SIGTERM)
        assert stage.jobs.started[0].wait(60) == 0
        run = stage.ended(run_id)
        assert run["status"] == "completed"
        first, second = stage.attempts(run_id)
        assert (first.result, second.result) == (Result.LOST, Result.OK)
        assert first.error is not None
        assert "taken away" in first.error.message


def test_a_cancel_reaches_the_job(tmp_path: Path, store: str) -> None:
    with scene(tmp_path, store) as stage:
        run_id = stage.run(60)
        stage.claimed(run_id)
        stage.system.call("POST", f"/pipelines/cancel/acme/{run_id}")
        run = stage.ended(run_id)
        assert run["status"] == "cancelled"
        (attempt,) = stage.attempts(run_id)
        assert attempt.error is not None  # closed by its worker, not from outside
        assert stage.jobs.started[0].wait(60) == 0


def test_a_job_that_comes_when_nobody_waits_for_it_does_nothing(
    tmp_path: Path, store: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with scene(tmp_path, store) as stage:
        stage.jobs.start_after = 1.5
        run_id = stage.run()
        soon(lambda: len(stage.jobs.asked) == 1)
        stage.system.call("POST", f"/pipelines/cancel/acme/{run_id}")
        assert stage.ended(run_id)["status"] == "cancelled"
        soon(lambda: len(stage.jobs.started) == 1)
        others = [(run_id, "long", "2"), (run_id, "nothing", "1"), ("nobody", "long", "1")]
        processes = [stage.jobs.started[0], *(stage.jobs.start(*one) for one in others)]
        assert [process.wait(60) for process in processes] == [0] * 4
        assert [attempt.result for attempt in stage.attempts(run_id)] == [Result.CANCELLED]
    assert capfd.readouterr().err.count("step.not_wanted") == 4


@pytest.mark.parametrize(
    ("setting", "code", "said"),
    [
        ({}, 0, ""),  # there is no such run
        ({"PIPELINES_MODE": "nowhere"}, 1, "PIPELINES_MODE 'nowhere' is not a mode"),
    ],
    ids=["a run that is not there", "settings that are wrong"],
)
def test_the_command_of_the_job_goes_by_the_settings_of_its_process(
    tmp_path: Path, setting: dict[str, str], code: int, said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "functions.step_job", "nobody", "long", "1"],
        cwd=ROOT,
        env={**os.environ, "PIPELINES_DATA": str(tmp_path / "data"), **setting},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert said in done.stderr


@pytest.mark.parametrize(
    "arguments", [(), ("r1", "long"), ("r1", "long", "x"), ("r1", "long", "٣")]
)
def test_arguments_that_name_no_attempt_are_told(
    tmp_path: Path, arguments: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    with JobsServer(store_in(tmp_path)) as server:
        assert server.start(*arguments).wait(60) == 2
    assert "functions.step_job RUN STEP ATTEMPT" in capfd.readouterr().err
