"""Midnight and the end of a month, UTC, come while runs are at work: each is counted on its own side."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from shared.bootstrap import Clock, utc_now
from shared.core.lineage import Evidence
from shared.core.record import Record
from shared.core.run import EMBEDDED_TIMING, Summary
from shared.errors import Terminal
from shared.processors import PROCESSORS
from shared.step import StepContext, StepResult, processor
from tests.support.system import EmbeddedSystem

MIDNIGHT = datetime(2026, 2, 1, tzinfo=UTC)
PIPELINE = """
pipeline_id: one
name: A step that waits until it is told to go on
provider: engine
domain: tests
steps:
  - {step_id: only, ps_type: tests.only}
"""
RUN = "/pipelines/run/acme/engine/tests/one"


class NoConfig(Record, frozen=True, kw_only=True):
    """Nothing to say."""


class Night:
    """A system whose clock stands a minute before the month's end, and jumps behind it."""

    def __init__(self, folder: Path) -> None:
        self.go_on = threading.Event()
        self.broken = False
        self._ahead = MIDNIGHT - timedelta(minutes=1) - utc_now()

        @processor("tests.only", needs_credential=False)
        def only(step: StepContext, config: NoConfig) -> StepResult:
            while not self.go_on.wait(0.05):
                step.check()
            if self.broken:
                raise Terminal("told so")
            return StepResult(summary=Summary(), evidence=Evidence())

        self.system = EmbeddedSystem(
            folder,
            clock=Clock(now=lambda: utc_now() + self._ahead),
            processors={**PROCESSORS, "tests.only": only},
            timing=replace(EMBEDDED_TIMING, lease=timedelta(minutes=10)),  # outlasts the jump
            pipelines={"engine/tests/one.yml": PIPELINE},
        )

    def midnight(self) -> None:
        """It is past midnight now."""
        self._ahead += timedelta(minutes=1)

    def used(self) -> dict[str, int]:
        quota = self.system.call("GET", "/pipelines/quota/acme").json
        names = ("concurrent", "today", "month", "succeeded", "failed")
        return {name: quota[name] for name in names}


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Night]:
    made = Night(tmp_path)
    with made.system as system:
        system.organization("acme", "starter")
        yield made


@pytest.mark.parametrize("broken", [False, True])
def test_a_run_over_the_months_end_counts_where_it_began_and_holds_its_slot(
    night: Night, *, broken: bool
) -> None:
    system, night.broken = night.system, broken
    january = system.call("POST", RUN, {}).json["run_id"]
    assert night.used() == used(concurrent=1, today=1, month=1)
    night.midnight()
    assert night.used() == used(concurrent=1), "its slot is still held, the counters began anew"
    refused = system.call("POST", RUN, {})
    assert (refused.status, refused.json["limit_type"]) == (429, "concurrent")
    night.go_on.set()
    ended = system.ended("acme", january)
    assert ended["steps"][0]["attempt"] == 1
    result = {"failed": 1} if broken else {"succeeded": 1}
    assert ended["status"] == ("failed" if broken else "completed")
    assert night.used() == used(**result), "it is none of the new month"
    night.broken = False
    february = system.run("acme", "engine/tests/one")
    result["succeeded"] = result.get("succeeded", 0) + 1
    assert night.used() == used(today=1, month=1, **result)
    days = {run["created_at"][:10] for run in (ended, february)}
    assert days == {"2026-01-31", "2026-02-01"}


def test_a_full_day_is_refused_until_midnight_and_not_after(night: Night) -> None:
    system = night.system
    night.go_on.set()
    for _ in range(6):
        system.run("acme", "engine/tests/one")
    refused = system.call("POST", RUN, {}, headers={"Idempotency-Key": "again"})
    assert (refused.status, refused.json["limit_type"]) == (429, "daily")
    assert refused.json["reset_at"] == "2026-02-01T00:00:00Z"
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    night.midnight()
    again = system.call("POST", RUN, {}, headers={"Idempotency-Key": "again"})
    assert again.status == 202
    system.ended("acme", again.json["run_id"])
    assert night.used() == used(today=1, month=1, succeeded=7)


def used(**counts: int) -> dict[str, int]:
    """What an organization has used; what is not named is nothing."""
    names = ("concurrent", "today", "month", "succeeded", "failed")
    return {name: counts.get(name, 0) for name in names}
