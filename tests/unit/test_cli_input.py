from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from shared.cli.runs import address_of, parameters
from shared.cli.stop import Code, Stop

ROOT = Path(__file__).parents[2]


def test_a_parameter_is_json_where_it_can_be_and_text_where_not() -> None:
    given = ["a=true", "b=5", "c=0.1", "d=main", 'e="5"', "f=x=y", "g=", "h=[1]", "i=NaN", "j=007"]
    assert parameters(given) == {
        "a": True,
        "b": 5,
        "c": 0.1,
        "d": "main",
        "e": "5",
        "f": "x=y",
        "g": "",
        "h": [1],
        "i": "NaN",
        "j": "007",
    }


@pytest.mark.parametrize("given", [["a"], ["=1"], ["a=1", "a=2"]])
def test_a_parameter_without_a_name_or_given_twice_is_refused(given: list[str]) -> None:
    with pytest.raises(Stop, match="--param") as caught:
        parameters(given)
    assert caught.value.code is Code.BAD_INPUT


def test_an_address_has_three_parts() -> None:
    assert address_of("/aws/cost/billing/") == ("aws", "cost", "billing")
    for text in ("billing", "aws/billing", "a/b/c/d", "a//c", ""):
        with pytest.raises(Stop, match="is no address"):
            address_of(text)


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_is_there_at_once_and_tells_the_exit_codes() -> None:
    command = [sys.executable, "-m", "shared.cli"]
    took, said = [], ""
    for _ in range(4):
        began = _cpu_of_children()
        said = subprocess.run(
            [*command, "--help"], cwd=ROOT, capture_output=True, check=True, text=True
        ).stdout
        took.append(_cpu_of_children() - began)
    print(f"pipelines --help: {min(took):.2f} s of CPU")
    assert (
        min(took) < 0.6
    )  # 0.2 s alone; CPU, not the clock, for a busy machine is no fault of ours
    for name in ("demo", "dev", "run", "status", "history", "evidence", "validate", "credentials"):
        assert f" {name} " in said
    told = subprocess.run(
        [*command, "run", "--help"], cwd=ROOT, capture_output=True, check=True, text=True
    )
    codes = " ".join(told.stdout.split())
    assert "0 completed; 1 failed or cancelled; 2 bad input" in codes
    assert "130 interrupted" in codes


def test_the_command_line_imports_no_engine_before_it_needs_one() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import shared.cli.main, sys; print(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout.split()
    unwanted = {"urllib3", "flask", "duckdb", "waitress", "shared.bootstrap", "shared.engine"}
    assert sorted(unwanted & set(loaded)) == []
