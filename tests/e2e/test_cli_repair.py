"""The commands that mend: a run again, and messages that nobody could handle."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.bus import Outgoing
from shared.core.message import Topic
from tests.e2e.test_cli import Dev, Shell, start, stop
from tests.support.system import EmbeddedSystem

PIPELINE = """\
pipeline_id: gated
provider: acme
domain: test
steps:
  - {step_id: first, ps_type: generic.noop, config: {rows: 7}}
  - step_id: second
    ps_type: generic.noop
    config: {sleep_seconds: 60}
    timeout_seconds: 1
    retry: {max_attempts: 1}
"""


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    configs = tmp_path_factory.mktemp("configs")
    plans = Path(__file__).parents[2] / "configs" / "system" / "plans.yml"
    for name, text in {
        "acme/test/gated.yml": PIPELINE,
        "system/plans.yml": plans.read_text(),
    }.items():
        path = configs / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    folder = tmp_path_factory.mktemp("data")
    with EmbeddedSystem(folder) as system:
        for number in range(5):
            body = b'{"v": 99, "number": %d}' % number
            letter = Outgoing(Topic.STEPS, body, None, {"run": f"run-{number}", "org": "acme"})
            system.app.bus.park(letter, "message version 99", 3)
    made = start(folder / "data", configs)
    yield made
    stop(made)


@pytest.fixture
def pipelines(dev: Dev) -> Shell:
    return Shell(dev)


@pytest.fixture(scope="module")
def failed(dev: Dev) -> str:
    """A run whose second step failed."""
    shell = Shell(dev)
    shell("orgs", "create", "acme", "--plan", "scale")
    shell("run", "acme/test/gated", "--org", "acme", code=1)
    (run,) = shell.json("history", "--org", "acme")["runs"]
    return str(run["run_id"])


def test_a_retry_is_followed_to_its_end(pipelines: Shell, failed: str) -> None:
    done = pipelines("retry", failed, "--org", "acme", code=1)
    assert f" retries {failed} for acme" in done.stderr
    assert re.search(rf"retry of +{failed}", done.stdout)
    (first,) = [line for line in done.stdout.splitlines() if line.startswith("first ")]
    assert f"from {failed}" in first
    shown = pipelines("status", failed, "--org", "acme").stdout
    assert re.search(r"retried by +r\w+", shown)


def test_a_retry_need_not_be_waited_for_and_a_key_makes_one(pipelines: Shell, failed: str) -> None:
    again = ("retry", failed, "--org", "acme", "--mode", "rerun", "--no-wait")
    one, other = (pipelines(*again, "--idempotency-key", "k").stdout for _ in range(2))
    assert one == other
    answer = json.loads(pipelines(*again, "--idempotency-key", "k", "--json").stdout)
    assert answer["run_id"] == one.strip()
    pipelines("cancel", one.strip(), "--org", "acme")


def test_what_cannot_be_retried_is_told_in_words(pipelines: Shell, failed: str) -> None:
    done = pipelines("retry", failed, "--org", "acme", "--mode", "again", code=2)
    assert "mode" in done.stderr
    done = pipelines("retry", "nothing", "--org", "acme", code=2)
    assert "there is no run 'nothing'" in done.stderr


def listed(pipelines: Shell) -> dict[str, str]:
    """The ids of the dead letters by the run that they are of."""
    rows = pipelines.json("dead-letters", "list")["dead_letters"]
    return {row["run_id"]: row["id"] for row in rows}


def test_dead_letters_are_listed_and_shown_whole(pipelines: Shell) -> None:
    table = pipelines("dead-letters", "list").stdout
    assert re.search(r"steps +acme +run-0 +3 +\S+ \S+ +message version 99", table)
    assert '"v"' not in table
    one = listed(pipelines)["run-0"]
    shown = pipelines("dead-letters", "show", one).stdout
    assert '"number": 0' in shown
    assert re.search(r"attributes +run=run-0 org=acme", shown)
    done = pipelines("dead-letters", "show", "99999", code=2)
    assert "there is no dead letter '99999'" in done.stderr


def test_dead_letters_are_redriven_and_dropped_by_their_ids(pipelines: Shell) -> None:
    before = listed(pipelines)
    done = pipelines("dead-letters", "redrive", before["run-0"], before["run-1"])
    assert done.stdout == "redriven 2 dead letters\n"
    while (now := listed(pipelines)).keys() != before.keys():
        pass  # nobody can read them yet: they are parked again
    assert {now["run-0"], now["run-1"]}.isdisjoint(before.values())
    done = pipelines("dead-letters", "drop", now["run-0"])
    assert done.stdout == "dropped 1 dead letter\n"
    assert listed(pipelines).keys() == before.keys() - {"run-0"}


def test_all_dead_letters_go_only_when_somebody_says_yes(pipelines: Shell) -> None:
    there = listed(pipelines)
    pipelines("dead-letters", "drop", code=2)
    pipelines("dead-letters", "drop", there["run-2"], "--all", "--yes", code=2)
    asked = pipelines("dead-letters", "drop", "--all", stdin="n\n", code=1)
    assert f"drop {len(there)} dead letters?" in asked.stderr
    assert listed(pipelines) == there
    assert pipelines.json("dead-letters", "drop", "--all", "--yes") == {
        "dropped": list(there.values())
    }
    assert pipelines("dead-letters", "list").stdout == "There is no dead letter.\n"
    assert pipelines("dead-letters", "redrive", "--all").stdout == "redriven 0 dead letters\n"
