"""What a function costs before its first request: the design's figures, held against a baseline.

The baseline is the import of functions_framework (with Flask), which every function needs. Both
sides are measured in turn, in fresh interpreters, as CPU seconds, and the least of each counts: what
else runs on the machine can only add to it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.unit.test_settings import CLOUD

ROOT = Path(__file__).parents[2]
BASELINE = "import functions_framework"
RUNS = 5
HEADROOM = 2.0  # a slower machine than the one the figures were taken on

FUNCTIONS = ("api", "step_worker", "coordinator", "dead_letter", "scheduler")
SDKS = ("cryptography", "duckdb", "google.api_core", "grpc", "psycopg", "sqlglot", "sqlite3")
CLI = ("rich", "shared.cli", "typer", "waitress")

MEASURE = """
import time
wall, cpu = time.perf_counter(), time.process_time()
{statement}
print(time.perf_counter() - wall, time.process_time() - cpu)
"""


class Cost(NamedTuple):
    wall: float
    cpu: float


def run(code: str, settings: Mapping[str, str] | None = None) -> str:
    """What a fresh interpreter prints, with no other setting of ours or of Python's around it."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIPELINES_"))}
    environ |= settings or {}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def cost(statement: str) -> Cost:
    return Cost(*map(float, run(MEASURE.format(statement=statement)).split()))


def least(costs: list[Cost]) -> Cost:
    return Cost(*(min(column) for column in zip(*costs, strict=True)))


@pytest.mark.parametrize(
    ("function", "seconds", "ratio"),
    [
        ("api", 0.35, 1.7),
        ("step_worker", 0.50, 2.0),
        ("coordinator", 0.35, 1.5),
        ("dead_letter", 0.35, 1.5),
        ("scheduler", 0.35, 1.5),
    ],
)
def test_a_function_imports_little_more_than_its_framework(
    function: str, seconds: float, ratio: float
) -> None:
    statement = f"import main; main.{function}"
    cost(statement), cost(BASELINE)  # compiles the bytecode, fills the page cache
    pairs = [(cost(BASELINE), cost(statement)) for _ in range(RUNS)]
    baseline, ours = (least(list(side)) for side in zip(*pairs, strict=True))

    figures = (
        f"{function}: {ours.wall:.3f} s, {ours.cpu:.3f} s CPU; functions_framework alone: "
        f"{baseline.wall:.3f} s, {baseline.cpu:.3f} s CPU; ratio {ours.cpu / baseline.cpu:.2f}"
    )
    print(figures)
    assert ours.cpu <= ratio * baseline.cpu, figures
    assert ours.cpu <= seconds * HEADROOM, figures


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_imports_no_other_function_and_no_sdk(function: str) -> None:
    others = [f"functions.{other}" for other in FUNCTIONS if other != function]
    loaded = run(f"import main, sys; main.{function}; print(*sys.modules)").split()
    assert sorted({*others, *SDKS, *CLI} & set(loaded)) == []


# Beside Firestore and Pub/Sub, which every function uses at once.
LATER = (
    "duckdb",
    "google.cloud.bigquery",
    "google.cloud.kms_v1",
    "google.cloud.storage",
    "google.cloud.tasks_v2",
    "psycopg",
    "pyarrow",
    "sqlglot",
    "yaml",
)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_in_the_cloud_opens_its_engine_without_what_it_may_never_use(
    function: str,
) -> None:
    nowhere = dict.fromkeys(("FIRESTORE_EMULATOR_HOST", "PUBSUB_EMULATOR_HOST"), "127.0.0.1:1")
    loaded = run(
        f"import main, sys; main.{function}\n"
        "from shared.bootstrap import engine; engine({}); print(*sys.modules)",
        {**CLOUD, **nowhere},
    ).split()
    assert {"google.pubsub_v1", "google.cloud.firestore_v1"} <= set(loaded)
    assert sorted({*LATER, *CLI} & set(loaded)) == []
