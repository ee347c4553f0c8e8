"""What only the whole system in the cloud mode does, beside the end-to-end tests it shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cloud import Backends, CloudSystem

pytestmark = pytest.mark.cloud


@pytest.fixture
def system(cloud_backends: Backends, tmp_path: Path) -> Iterator[CloudSystem]:
    with CloudSystem(tmp_path, cloud_backends) as made:
        made.organization("acme")
        yield made


def test_a_step_that_may_take_long_runs_in_a_job_of_its_own(system: CloudSystem) -> None:
    run = system.run("acme", "engine/noop/long")
    assert run["status"] == "completed", run
    long, short = run["steps"]
    assert (long["attempt"], short["attempt"]) == (1, 1)
    (asked,) = system.jobs.asked
    (container,) = asked["overrides"]["containerOverrides"]
    assert container["args"] == [run["run_id"], "long", "1"]
    assert [process.wait(30) for process in system.jobs.started] == [0]
