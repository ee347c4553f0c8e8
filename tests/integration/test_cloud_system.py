"""What only the whole system in the cloud mode does, beside the end-to-end tests it shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from tests.support.cloud import SUBSCRIBERS, Backends, CloudSystem
from tests.support.pubsub import unsubscribe

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
    assert [process.wait(60) for process in system.jobs.started] == [0]


def test_without_a_token_of_the_pusher_no_function_does_anything(
    cloud_backends: Backends, tmp_path: Path
) -> None:
    account = {"PIPELINES_PUSH_ACCOUNT": "pusher@acme-costs.iam.gserviceaccount.com"}
    system = CloudSystem(tmp_path, cloud_backends, account)
    for name in (*SUBSCRIBERS.values(), "scheduler"):
        system.functions[name].start()
    try:
        for name in (*SUBSCRIBERS.values(), "scheduler"):
            function = system.functions[name]
            function.wait_until_ready()
            for headers in ({}, {"Authorization": "Bearer none"}):
                answer = urllib3.request("POST", function.url, body=b"{}", headers=headers)
                assert answer.status in (401, 403), (name, answer.status, answer.data)
    finally:
        for function in system.functions.values():
            function.stop()
        unsubscribe(cloud_backends.pubsub, system.project)
        system.jobs.__exit__()
