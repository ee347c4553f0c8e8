"""A fault that nobody foresaw, in one run or in one tick, is that one's alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shared.app import App
from shared.bootstrap import embedded as embedding
from shared.bootstrap.embedded import open_embedded
from shared.core.plan import Plan
from shared.engine.submit import tombstone
from shared.log import Level
from shared.settings import ROOT, Settings

WAIT_SECONDS = 60.0
PLAN = Plan(
    address="", pipeline_id="", provider="", domain="", version="", config_hash="", steps=()
)


class Faulty:
    """A run store that does not survive one of its runs, nor the first tick."""

    def __init__(self, runs: Any) -> None:
        self._runs = runs
        self.asked: set[str] = set()
        self.ticks = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runs, name)

    def run(self, run_id: str) -> Any:
        self.asked.add(run_id)
        if run_id == "broken":
            raise ValueError("cannot be decoded")
        return self._runs.run(run_id)

    def due(self, now: datetime, limit: int = 500) -> list[str]:
        self.ticks += 1
        if self.ticks == 1:
            raise ValueError("the first tick")
        return []


def test_a_fault_ends_neither_the_recovery_of_other_runs_nor_the_ticks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(embedding, "TICK_SECONDS", 0.02)
    made: list[Faulty] = []

    def wrap(app: App) -> App:
        now = datetime(2025, 3, 1, tzinfo=UTC)
        for place, run_id in enumerate(("broken", "whole")):
            run = tombstone(run_id, "acme", "test", now)
            wake_at = now + timedelta(seconds=place)
            assert app.runs.create_run(msgspec.structs.replace(run, wake_at=wake_at), PLAN, "w")
        made.append(Faulty(app.runs))
        return replace(app, runs=made[0])

    settings = Settings(
        data=tmp_path / "data",
        configs=ROOT / "configs",
        objects=tmp_path / "objects",
        log_level=Level.ERROR,
    )
    embedded = open_embedded(settings, wrap=wrap)
    try:
        _until(lambda: made[0].ticks >= 3)
    finally:
        embedded.close()
    assert made[0].asked == {"broken", "whole"}
    said = capsys.readouterr()
    assert "recovery.failed" in said.out + said.err
    assert "tick.failed" in said.out + said.err


def _until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.005)
