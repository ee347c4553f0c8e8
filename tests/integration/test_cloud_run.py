"""What a run costs in the cloud mode, counted at the clients of one process that has every function.

Firestore, Pub/Sub with real pushes, Cloud Tasks and PostgreSQL behind a transaction pooler. Leases and
intervals are those of production, so that nothing is renewed and nothing is looked at twice.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from werkzeug.serving import make_server

from shared.bootstrap import ENGINE_KEY
from shared.bootstrap.cloud import Opened, open_cloud
from shared.bootstrap.embedded import push_application
from shared.core.lineage import Evidence
from shared.core.message import Topic
from shared.core.providers import FILE
from shared.core.record import Record
from shared.core.run import Run, RunStatus, Summary
from shared.core.secret import Secret
from shared.engine.submit import Submission, submit
from shared.log import Level
from shared.processors import PROCESSORS
from shared.settings import Settings, read_settings
from shared.step import StepContext, StepResult, processor
from tests.support.cloud import SUBSCRIBERS, Backends
from tests.support.firestore import Watch
from tests.support.postgres import Wire
from tests.support.pubsub import create_queue, provision, subscribe, unsubscribe
from tests.support.relay import Relay
from tests.support.stores import open_runs
from tests.support.system import ENGINE, configs_in
from tests.unit.test_settings import CLOUD

pytestmark = pytest.mark.cloud

FIVE, WIDE, SECRET = "engine/noop/five", "engine/noop/wide", "acme/test/secret"
WAIT_SECONDS = 90.0
RELAYED = 16  # requests at once
PIPELINE = """\
pipeline_id: secret
provider: acme
domain: test
steps:
  - {step_id: one, ps_type: test.secret}
  - {step_id: two, ps_type: test.secret}
"""


class NoConfig(Record, frozen=True, kw_only=True):
    """Nothing to say."""


@processor("test.secret")
def secret(step: StepContext, config: NoConfig) -> StepResult:
    """Opens its credential, and logs a line."""
    assert step.credential().secret == Secret("sesame")
    step.log.info("opened")
    return StepResult(summary=Summary(), evidence=Evidence())


class Counts(NamedTuple):
    """What one run cost. Reads of the tick and of the test are not in it."""

    written: dict[str, int]
    read: dict[str, int]
    messages: dict[str, int]
    transactions: int


class Whole:
    """Every function in this process, behind the push subscriptions of a project of its own."""

    def __init__(self, folder: Path, backends: Backends, wire: Wire, *, relayed: bool) -> None:
        """`relayed`: deliveries of a relay, which does not stop at two requests at a time."""
        self.project = f"counted-{random.randrange(10**9)}"
        self._backends = backends
        self._wire = wire
        configs = configs_in(folder)
        (configs / "acme" / "test").mkdir(parents=True)
        (configs / "acme" / "test" / "secret.yml").write_text(PIPELINE)
        with (configs / FILE).open("a") as registry:
            registry.write(ENGINE.replace("engine:", "acme:"))
        place = f"projects/{self.project}/locations/europe-west1"
        database = backends.postgres.database()
        environ = {
            **CLOUD,
            "PIPELINES_PROJECT": self.project,
            "PIPELINES_ENVIRONMENT": "test",
            "PIPELINES_CONFIGS": str(configs),
            "PIPELINES_DATA": str(folder),
            "PIPELINES_ACCOUNTS": backends.postgres.dsn(database, host=wire.folder),
            "PIPELINES_KMS_KEY": f"{place}/keyRings/vault/cryptoKeys/data-keys",
            "PIPELINES_TASKS_QUEUE": f"{place}/queues/later",
            "PIPELINES_LOG": Level.ERROR.name.lower(),
            **backends.environ,
        }
        del environ["PIPELINES_PUSH_ACCOUNT"]  # the emulator's pushes carry no token
        settings: Settings = read_settings(environ)
        assert settings.cloud is not None
        backends.kms.rotate(environ["PIPELINES_KMS_KEY"])
        create_queue(backends.tasks, environ["PIPELINES_TASKS_QUEUE"])
        processors = {**PROCESSORS, "test.secret": secret}
        self._opened: Opened = open_cloud(settings, settings.cloud, processors=processors)
        self.app = self._opened.engine.app
        self.app.accounts.create_organization("acme", "Acme", "enterprise", self.app.now())
        self.app.accounts.organization("acme")
        self.messages: Counter[str] = Counter()
        self._count(self.app.bus)
        self.watch = Watch(self.app.runs._db)  # type: ignore[attr-defined]  # the one database
        self._server = make_server("127.0.0.1", 0, self._application, threaded=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{self._server.server_port}/push"
        endpoints = {topic: f"{url}/{name}" for topic, name in SUBSCRIBERS.items()}
        pushed = {} if relayed else endpoints
        provision(backends.pubsub, self.project, "pipelines-test-", pushed)
        self._relays = ExitStack()
        for topic in endpoints.keys() - pushed.keys():
            name = subscribe(backends.pubsub, self.project, of(topic), of(topic))
            relay = Relay(backends.pubsub, name, endpoints[topic], at_once=RELAYED)
            self._relays.enter_context(relay)

    def run(self, address: str) -> tuple[Run, Counts]:
        """A run, from the call to its last effect."""
        self.watch.written.clear()
        self.watch.read.clear()
        self.messages.clear()
        self._wire.transactions.clear()
        run_id = submit(self.app, Submission(org="acme", address=address, idempotency_key="k"))
        aside = open_runs(f"firestore {self._backends.firestore} {self.project}")
        deadline = time.monotonic() + WAIT_SECONDS
        try:
            while True:
                stored = aside.run(run_id.run.run_id)
                if stored is not None and stored.run.effects_done:
                    break
                assert time.monotonic() < deadline, stored
                time.sleep(0.05)
        finally:
            aside.close()
        time.sleep(0.5)  # the last acknowledgement may still be on its way
        counts = Counts(
            dict(self.watch.written),
            dict(self.watch.read),
            dict(self.messages),
            len(self._wire.transactions),
        )
        print(f"{address}: {counts}")
        return stored.run, counts

    def close(self) -> None:
        self._relays.close()
        unsubscribe(self._backends.pubsub, self.project)
        self._server.shutdown()
        self._server.server_close()
        self._opened.close()

    def _application(self, environ: dict[str, Any], start_response: Any) -> Any:
        environ[ENGINE_KEY] = self._opened.engine
        return push_application(environ, start_response)

    def _count(self, bus: Any) -> None:
        """Counts what the client of Pub/Sub is given."""
        publish = bus._rpc.publish

        def counted(request: Any, **options: Any) -> Any:
            self.messages[request.topic.rpartition("/")[2]] += len(request.messages)
            return publish(request, **options)

        bus._rpc.publish = counted


@pytest.fixture(params=["pushed"])
def whole(
    request: pytest.FixtureRequest, cloud_backends: Backends, tmp_path: Path
) -> Iterator[Whole]:
    wire = Wire(cloud_backends.postgres.sockets)
    made = Whole(tmp_path, cloud_backends, wire, relayed=request.param == "relayed")
    yield made
    made.close()
    wire.close()


def of(topic: Topic) -> str:
    return f"pipelines-test-{topic}"


def test_a_chain_of_five_costs_17_writes_11_reads_10_messages_and_2_transactions(
    whole: Whole,
) -> None:
    run, counts = whole.run(FIVE)
    assert run.status is RunStatus.COMPLETED
    assert counts.written == {"runs": 7, "attempts": 10}
    assert sum(counts.read.values()) <= 11
    assert counts.messages == {
        of(Topic.STEPS): 5,
        of(Topic.COMPLETIONS): 5,
        of(Topic.RUN_EVENTS): 1,
    }
    assert counts.transactions == 2


@pytest.mark.parametrize("whole", ["relayed"], indirect=True)
def test_two_hundred_steps_and_a_join_are_folded_together(whole: Whole) -> None:
    run, counts = whole.run(WIDE)
    assert run.status is RunStatus.COMPLETED
    assert counts.written["attempts"] == 400
    assert counts.written["runs"] <= 25
    assert counts.messages[of(Topic.STEPS)] == counts.messages[of(Topic.COMPLETIONS)] == 200
    assert counts.transactions == 2


def test_a_credential_costs_reads_and_with_a_warm_cache_no_key(
    whole: Whole, cloud_backends: Backends
) -> None:
    whole.app.vault.put("acme", "acme", "main", Secret("sesame"), {})
    cloud_backends.kms.calls.clear()
    run, counts = whole.run(SECRET)
    assert run.status is RunStatus.COMPLETED
    assert counts.written == {"runs": 4, "attempts": 4}  # the lines of the log are in the attempts
    assert not cloud_backends.kms.calls
    # The search for it, and for each step its document and that of its data key.
    vault = {
        name: count for name, count in counts.read.items() if "vault" in name or "cred" in name
    }
    assert sum(vault.values()) <= 1 + 2 * 2, counts.read
    assert sum(counts.read.values()) <= 2 * 2 + 1 + sum(vault.values())
