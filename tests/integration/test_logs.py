"""The lines of a step while it runs: stored with its lease, followed by those who wait for them."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import replace as replaced
from datetime import timedelta
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from shared.app import App
from shared.core.lineage import Evidence
from shared.core.run import EMBEDDED_TIMING, Summary
from shared.processors import PROCESSORS
from shared.step import Processor, StepContext, StepResult, processor
from tests.integration.test_worker import PIPELINE, NoConfig
from tests.support.system import EmbeddedSystem

ODD = ("=HYPERLINK(0)", "+1", "-1", "@SUM(A1)", "\tx", 'a "quoted", text', "two\nlines", "ключ")


def quick(
    folder: Path, only: Processor, wrap: Callable[[App], App] = lambda app: app
) -> EmbeddedSystem:
    """A system that renews leases five times a second."""
    return EmbeddedSystem(
        folder,
        processors={**PROCESSORS, "tests.only": only},
        pipelines={"engine/tests/one.yml": PIPELINE},
        timing=replace(EMBEDDED_TIMING, heartbeat=timedelta(seconds=0.2)),
        wrap=wrap,
    )


def test_who_follows_a_run_sees_every_line_once_and_while_it_runs(tmp_path: Path) -> None:
    go_on = threading.Event()

    @processor("tests.only", needs_credential=False)
    def only(step: StepContext, config: NoConfig) -> StepResult:
        for number in range(10):
            step.log.info("early", number=number)
        assert go_on.wait(60)
        for number in range(10, 20):
            step.log.info("late", number=number)
        return StepResult(summary=Summary(), evidence=Evidence())

    with quick(tmp_path, only) as system:
        system.organization("acme")
        run_id = system.call("POST", "/pipelines/run/acme/engine/tests/one").json["run_id"]
        seen: list[int] = []
        cursor: str | None = ""
        while cursor is not None:
            more = f"&cursor={cursor}" if cursor else ""
            path = f"/pipelines/logs/acme/{run_id}?follow=true&limit=3{more}"
            page: Any = system.call("GET", path).json
            seen += [line["fields"]["number"] for line in page["lines"]]
            if len(seen) == 10:
                go_on.set()
            cursor = page["next"]
        assert system.ended("acme", run_id)["status"] == "completed"
    assert seen == list(range(20))


def test_who_follows_where_too_many_do_is_told_and_holds_nobody_up(tmp_path: Path) -> None:
    go_on = threading.Event()

    @processor("tests.only", needs_credential=False)
    def only(step: StepContext, config: NoConfig) -> StepResult:
        assert go_on.wait(60)
        step.log.info("at last")
        return StepResult(summary=Summary(), evidence=Evidence())

    with (
        quick(tmp_path, only, wrap=lambda app: replaced(app, followers=2)) as system,
        ThreadPoolExecutor(3) as threads,
    ):
        system.organization("acme")
        run_id = system.call("POST", "/pipelines/run/acme/engine/tests/one").json["run_id"]
        path = f"/pipelines/logs/acme/{run_id}?follow=true"
        asked = [threads.submit(system.call, "GET", path) for _ in range(3)]
        (first,), waiting = wait(asked, return_when=FIRST_COMPLETED)
        refused = first.result()
        assert (refused.status, refused.json["error"]) == (429, "too_many_followers")
        assert refused.headers["Retry-After"] == "20"
        assert system.call("GET", f"/pipelines/logs/acme/{run_id}").status == 200
        go_on.set()
        assert [one.result().json["lines"][0]["message"] for one in waiting] == ["at last"] * 2
        assert system.ended("acme", run_id)["status"] == "completed"
        assert system.call("GET", path).status == 200


def test_no_cell_of_a_csv_is_a_formula(tmp_path: Path) -> None:
    @processor("tests.only", needs_credential=False)
    def only(step: StepContext, config: NoConfig) -> StepResult:
        for text in ODD:
            step.log.info(text, value=text)
        return StepResult(summary=Summary(), evidence=Evidence())

    with quick(tmp_path, only) as system:
        system.organization("acme")
        run_id = system.run("acme", "engine/tests/one")["run_id"]
        answer = system._http.request(
            "GET",
            f"{system.url}/pipelines/logs/acme/{run_id}/download?format=csv",
            headers={"X-API-Key": system.platform_key},
        )
    rows = list(csv.reader(io.StringIO(answer.data.decode())))[1:]
    assert [row[4].removeprefix("'") for row in rows] == list(ODD)
    assert not [cell for row in rows for cell in row if cell[:1] in tuple("=+-@\t\r\n")]
