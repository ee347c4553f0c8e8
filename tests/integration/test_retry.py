"""A resumed run beside what may have changed since: its pipeline, its credential, the clock, the tables."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from shared.bootstrap import Clock, utc_now
from shared.core.lineage import Evidence
from shared.core.record import Record
from shared.core.resume import MAX_RETRIES, retry_id
from shared.core.run import Summary
from shared.engine.submit import tombstone
from shared.errors import Terminal, Transient
from shared.processors import PROCESSORS
from shared.step import StepContext, StepResult, processor
from shared.warehouse import Batches, Column, LoadsOf, Table
from tests.support.system import EmbeddedSystem, Reply

ADDRESS = "engine/tests/two"
PIPELINE = """
pipeline_id: two
name: A step that loads, and one that fails until it is mended
provider: engine
domain: tests
variables: {label: x}
steps:
  - step_id: load
    ps_type: tests.load
    config: {label: "{label} of {run_id}"}
    retry: {max_attempts: 2, backoff_seconds: 0}
  - {step_id: check, ps_type: tests.check}
"""
DELIVERED = datetime.fromisoformat("2026-01-01T00:00:00Z")


class LoadConfig(Record, frozen=True, kw_only=True):
    label: str


class NoConfig(Record, frozen=True, kw_only=True):
    """Nothing to say."""


class Two:
    """A system with that pipeline. `broken`: the step that fails, or None; `labels` are those loaded.

    `behind` is how much its clock is behind.
    """

    def __init__(self, folder: Path) -> None:
        self.broken: str | None = "check"
        self.labels: list[str] = []
        self.behind = timedelta(0)

        @processor("tests.load")
        def load(step: StepContext, config: LoadConfig) -> StepResult:
            self.labels.append(config.label)
            receipt = step.load(
                Table("things", (Column("Id"),)),
                Batches(batches=[[{"Id": config.label}]]),
                covers=frozenset({step.slice(step.start_date)}),
                source_version="1",
                source_at=DELIVERED,  # the same delivery, whichever run reads it
            )
            if self.broken == "load":
                raise (
                    Transient("not yet") if step.attempt == 1 else Terminal("loaded, but not told")
                )
            return StepResult(summary=Summary(loaded=1), evidence=Evidence(loads=(receipt,)))

        @processor("tests.check", needs_credential=False)
        def check(step: StepContext, config: NoConfig) -> StepResult:
            if self.broken == "check":
                raise Terminal("not mended yet")
            return StepResult(summary=Summary(), evidence=Evidence())

        self.system = EmbeddedSystem(
            folder,
            clock=Clock(now=lambda: utc_now() - self.behind),
            processors={**PROCESSORS, "tests.load": load, "tests.check": check},
            pipelines={f"{ADDRESS}.yml": PIPELINE},
        )

    def failed(self) -> dict[str, Any]:
        """A run that fails where it is broken."""
        self.system.organization("acme")
        stored = self.system.call("PUT", "/admin/orgs/acme/credentials/engine/main", {})
        assert stored.status == 201
        run = self.system.run("acme", ADDRESS, {"start_date": "2026-01-01"})
        assert (run["status"], run["error"]["code"]) == ("failed", "terminal")
        return run

    def retry(self, run: dict[str, Any], mode: str = "resume") -> Reply:
        path = f"/pipelines/retry/acme/{run['run_id']}"
        return self.system.call("POST", path, {"mode": mode})

    def ended(self, reply: Reply) -> dict[str, Any]:
        assert reply.status == 202, reply
        return self.system.ended("acme", reply.json["run_id"])

    def edit(self, old: str, new: str) -> None:
        """Another release."""
        path = self.system.settings.configs / f"{ADDRESS}.yml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        self.system.restart()


@pytest.fixture
def two(tmp_path: Path) -> Two:
    return Two(tmp_path)


def test_a_mended_run_goes_on_where_it_failed(two: Two) -> None:
    with two.system:
        old = two.failed()
        two.broken = None
        run = two.ended(two.retry(old))
        assert (run["status"], [step["attempt"] for step in run["steps"]]) == ("completed", [0, 1])
        assert two.labels == [f"x of {old['run_id']}"]


def test_a_resumed_run_keeps_the_plan_of_then_and_a_rerun_makes_its_own(two: Two) -> None:
    two.broken = "load"
    with two.system:
        old = two.failed()
        two.broken = None
        resumed = two.ended(two.retry(old))
        rerun = two.ended(two.retry(old, "rerun"))
        assert two.labels[2:] == [f"x of {old['run_id']}", f"x of {rerun['run_id']}"]
        assert resumed["status"] == rerun["status"] == "completed"


@pytest.mark.parametrize("mode", ["resume", "rerun"])
def test_a_retry_replaces_what_the_old_run_loaded_whatever_the_clocks_say(
    two: Two, mode: str
) -> None:
    """The old run loaded in its second attempt; the retry is made on a machine whose clock is behind."""
    two.broken = "load"
    with two.system:
        old = two.failed()
        two.broken = None
        two.behind = timedelta(seconds=30)
        run = two.ended(two.retry(old, mode))
        assert run["status"] == "completed", run["error"]
        assert run["created_at"] > old["created_at"]
        (slice_,) = two.system.app.warehouse().loads("acme_test", LoadsOf(tables=("things",)))
        assert (slice_.run_id, slice_.attempt) == (run["run_id"], 1)


@pytest.mark.parametrize(
    ("old", "new", "fields"),
    [
        ("max_attempts: 2", "max_attempts: 3", ["steps.load.retry"]),
        ('"{label} of', '"{label} by', ["steps.load.config.label"]),
        ("label: x", "label: y", ["steps.load.config.label"]),
        ("domain: tests", "domain: tests\ntimeout_minutes: 5", ["timeout_minutes"]),
        ("step_id: check", "step_id: verify", ["steps.check", "steps.verify"]),
        ("name: A step", "name: The step", []),
    ],
)
def test_a_pipeline_that_changed_cannot_be_resumed(
    two: Two, old: str, new: str, fields: list[str]
) -> None:
    with two.system:
        run = two.failed()
        two.broken = None
        two.edit(old, new)
        refused = two.retry(run)
        assert (refused.status, refused.json["error"]) == (409, "pipeline_changed")
        assert [fault["field"] for fault in refused.json.get("faults", [])] == fields
        assert "'rerun'" in refused.json["detail"]
        assert two.system.call("GET", "/pipelines/quota/acme").json["today"] == 1
        assert two.ended(two.retry(run, "rerun"))["status"] == "completed"


def test_a_pipeline_that_cannot_run_with_the_old_values_says_why(two: Two) -> None:
    with two.system:
        two.system.organization("acme")
        two.system.call("PUT", "/admin/orgs/acme/credentials/engine/main", {})
        run = two.system.run("acme", ADDRESS, {"parameters": {"label": "mine"}})
        two.edit("{label: x}", "{title: x}")
        two.edit("{label} of", "{title} of")
        refused = two.retry(run)
        assert refused.json["error"] == "pipeline_changed"
        assert "parameters.label" in [fault["field"] for fault in refused.json["faults"]]


def test_a_pipeline_that_is_gone_cannot_be_retried(two: Two) -> None:
    with two.system:
        run = two.failed()
        (two.system.settings.configs / f"{ADDRESS}.yml").unlink()
        two.system.restart()
        refused = two.retry(run)
        assert (refused.status, refused.json["error"]) == (409, "pipeline_changed")
        refused = two.retry(run, "rerun")
        assert (refused.status, refused.json["error"]) == (404, "pipeline_not_found")


def test_a_retry_goes_past_graves_and_a_run_is_not_retried_for_ever(two: Two) -> None:
    with two.system:
        run = two.failed()
        two.broken = None
        runs, now = two.system.app.runs, utc_now()
        stored = runs.run(run["run_id"])
        assert stored is not None
        for number in range(MAX_RETRIES - 1):
            grave = tombstone(retry_id(run["run_id"], number), "acme", "test", now)
            assert runs.create_run(grave, stored.plan, "w")
        last = two.ended(two.retry(run))
        assert last["status"] == "completed"
        there = two.system.call("GET", f"/pipelines/status/acme/{run['run_id']}").json
        assert there["retried_by"] == last["run_id"] == retry_id(run["run_id"], MAX_RETRIES - 1)
        refused = two.retry(run)
        assert (refused.status, refused.json["error"]) == (409, "too_many_retries")


def test_a_run_whose_credential_is_gone_cannot_go_on(two: Two) -> None:
    with two.system:
        run = two.failed()
        two.system.call("DELETE", "/admin/orgs/acme/credentials/engine/main")
        refused = two.retry(run)
        assert (refused.status, refused.json["error"]) == (409, "credential_gone")
        assert re.search("engine credential 'main'", refused.json["detail"])
        refused = two.retry(run, "rerun")
        assert (refused.status, refused.json["error"]) == (409, "credential_gone"), "in either mode"
        two.system.call("PUT", "/admin/orgs/acme/credentials/engine/main", {})
        two.broken = None
        assert two.ended(two.retry(run))["status"] == "completed"
