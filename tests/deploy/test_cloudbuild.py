"""`cloudbuild.yaml` is what Cloud Build takes, and in the order that it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from shared.settings import ROOT
from tests.support.terraform import OFFLINE, needed

BUILD = ROOT / "cloudbuild.yaml"


def test_the_schema_of_cloud_build_takes_it() -> None:
    tool = Path(sys.executable).with_name("check-jsonschema")
    done = subprocess.run(
        [tool, "--builtin-schema", "vendor.cloudbuild", BUILD],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_its_substitutions_secrets_and_order_are_sound() -> None:
    needed()
    done = subprocess.run(
        [sys.executable, OFFLINE / "cbcheck.py", BUILD],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert not done.stdout.strip()


def test_nothing_is_deployed_before_everything_was_tested() -> None:
    before = _before("apply")

    assert {"check", "test", "push", "plan", "migrate"} <= before
    assert "apply" in _before("smoke")


def test_the_image_is_built_beside_the_tests() -> None:
    assert not _before("image")
    assert "image" not in _before("test")


def test_the_plan_that_is_applied_is_the_one_that_was_made() -> None:
    steps = {step["id"]: str(step["args"]) for step in _steps()}

    assert "-out=/workspace/plan" in steps["plan"]
    assert "apply -input=false -lock-timeout=300s /workspace/plan" in steps["apply"]


def test_no_secret_stands_in_an_argument() -> None:
    # A secret in the command of a process is in its list of processes, and maybe in a log.
    for step in _steps():
        for name in step.get("secretEnv", []):
            assert "echo" not in str(step["args"])
            assert f"H 'X-API-Key: $${name}" not in str(step["args"])


def _steps() -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = yaml.safe_load(BUILD.read_text())["steps"]
    return steps


def _before(name: str) -> set[str]:
    waits = {step["id"]: set(step["waitFor"]) - {"-"} for step in _steps()}
    found: set[str] = set()
    left = set(waits[name])
    while left:
        one = left.pop()
        found.add(one)
        left |= waits[one] - found
    return found
