"""The real functions behind real push subscriptions: a run from end to end, and messages that are none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from shared.app import App
from shared.bootstrap import ENGINE_KEY
from shared.bootstrap.embedded import push_application
from shared.bus import Outgoing
from shared.core.message import Topic
from shared.oidc import Callers
from tests.support.buses import PREFIX, PubsubScene, pubsub_scene
from tests.support.endpoint import Endpoint, served, soon
from tests.support.pubsub import MAX_DELIVERIES, subscribe
from tests.support.relay import EMAIL, Relay, Signer
from tests.support.system import EmbeddedSystem

pytestmark = pytest.mark.cloud

FUNCTIONS = {"/push/steps": "/push/step_worker", "/push/completions": "/push/coordinator"}
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def scene(request: pytest.FixtureRequest) -> Iterator[PubsubScene]:
    with pubsub_scene(request) as made:
        yield made


@contextmanager
def system_over(scene: PubsubScene, folder: Path) -> Iterator[EmbeddedSystem]:
    """A whole system whose messages all go through Pub/Sub; its other stores are embedded."""
    with EmbeddedSystem(folder, wrap=lambda app: replace(app, bus=scene.bus)) as system:

        def functions(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            path = FUNCTIONS[environ["PATH_INFO"]]
            asked = {**environ, ENGINE_KEY: system.embedded.engine, "PATH_INFO": path}
            answer: Iterable[bytes] = push_application(asked, start_response)
            return answer

        scene.endpoint.behind = functions
        yield system


def test_every_message_of_a_run_says_which_run_and_trace_it_belongs_to(
    scene: PubsubScene, tmp_path: Path
) -> None:
    events = Endpoint()
    pulled = subscribe(scene.pubsub, scene.project, PREFIX + Topic.RUN_EVENTS, "observer")
    with (
        system_over(scene, tmp_path) as system,
        served(events) as url,
        Relay(scene.pubsub, pulled, url),
    ):
        key = system.organization("acme")
        ended = system.run("acme", "engine/noop/five", headers={"traceparent": TRACE}, key=key)
        events.wait_for(1)
    assert ended["status"] == "completed"
    said = {"run": ended["run_id"], "org": "acme", "traceparent": TRACE}
    assert events.came[0].message.attributes == said
    by_path = Counter(scene.endpoint.paths)
    assert by_path["/push/steps"] >= 5
    assert by_path["/push/completions"] >= 5
    # A hint of the tick knows the run only.
    hint = {"run": ended["run_id"]}
    assert all(each.message.attributes in (said, hint) for each in scene.endpoint.came)
    steps = [each for each in scene.endpoint.came if each.subscription.endswith("steps")]
    assert all(each.message.attributes == said for each in steps)


def test_a_message_that_is_none_is_parked_at_once_and_holds_up_nobody(
    scene: PubsubScene, tmp_path: Path
) -> None:
    faults = {
        b"not ours": "not a message of ours",
        b'{"v":1,"run_id":"r1","step_i': "not a message of ours",
        b'{"v":2,"run_id":"r1"}': "message version 2, this release reads 1",
        b'{"v":1}': "not a ",
        b"\xff" * 9_900_000: "not a message of ours",
    }
    with system_over(scene, tmp_path) as system:
        for topic in (Topic.STEPS, Topic.COMPLETIONS):
            scene.bus.publish([Outgoing(topic, body, None, {"a": "b"}) for body in faults])
        key = system.organization("acme")
        assert system.run("acme", "engine/noop/five", key=key)["status"] == "completed"
        assert soon(lambda: len(scene.bus.dead_letters()) == 2 * len(faults))
    letters = scene.bus.dead_letters()
    for letter in letters:
        (reason,) = (why for body, why in faults.items() if body.startswith(letter.body))
        assert reason in letter.reason
        assert letter.attributes == {"a": "b"}
        assert letter.published_at < letter.parked_at
    assert Counter(letter.topic for letter in letters) == {
        Topic.STEPS: len(faults),
        Topic.COMPLETIONS: len(faults),
    }
    came = Counter((path, body) for path, body in _came(scene) if body in faults)
    assert set(came.values()) == {1}, "acknowledged with its first delivery"


def test_a_message_is_refused_while_our_store_is_gone_and_parked_when_it_stays_gone(
    scene: PubsubScene, tmp_path: Path
) -> None:
    with system_over(scene, tmp_path) as system:
        answers: list[str] = []
        functions = scene.endpoint.behind
        assert functions is not None

        def recorded(environ: Any, start_response: Any) -> Iterable[bytes]:
            def start(status: str, *rest: Any) -> Any:
                answers.append(status)
                return start_response(status, *rest)

            return functions(environ, start)

        scene.endpoint.behind = recorded
        system.embedded.close()
        scene.bus.publish([Outgoing(Topic.COMPLETIONS, b'{"v":1,"run_id":"r1"}', None, {})])
        assert soon(lambda: bool(scene.bus.dead_letters()))
    (letter,) = scene.bus.dead_letters()
    assert (letter.topic, letter.deliveries) == (Topic.COMPLETIONS, MAX_DELIVERIES)
    assert [status[:3] for status in answers] == ["503"] * MAX_DELIVERIES


def test_only_pushes_that_are_signed_bring_a_run_on(scene: PubsubScene, tmp_path: Path) -> None:
    """The emulator's own pushes carry no token; a relay beside them signs, as Google's service does."""
    google = Signer()
    key = load_pem_public_key(google.public_key)
    assert isinstance(key, RSAPublicKey)
    callers = Callers(EMAIL, "pipelines", {"test-key": key}.get, lambda: datetime.now(UTC))
    statuses: Counter[tuple[bool, str]] = Counter()

    def guarded(app: App) -> App:
        return replace(app, bus=scene.bus, callers=callers.check)

    with EmbeddedSystem(tmp_path, wrap=guarded) as system, ExitStack() as relays:

        def functions(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            path = FUNCTIONS[environ["PATH_INFO"]]
            asked = {**environ, ENGINE_KEY: system.embedded.engine, "PATH_INFO": path}

            def start(status: str, *rest: Any) -> Any:
                statuses["HTTP_AUTHORIZATION" in environ, status[:3]] += 1
                return start_response(status, *rest)

            answer: Iterable[bytes] = push_application(asked, start)
            return answer

        scene.endpoint.behind = functions
        url = relays.enter_context(served(functions))
        for topic, path in ((Topic.STEPS, "/push/steps"), (Topic.COMPLETIONS, "/push/completions")):
            pulled = subscribe(scene.pubsub, scene.project, PREFIX + topic, f"signed-{topic}")
            relay = Relay(scene.pubsub, pulled, url + path, signer=google, audience="pipelines")
            relays.enter_context(relay)
        organization = system.organization("acme")
        assert system.run("acme", "engine/noop/five", key=organization)["status"] == "completed"
    assert {status for signed, status in statuses if signed} == {"204"}
    assert {status for signed, status in statuses if not signed} == {"401"}


def _came(scene: PubsubScene) -> list[tuple[str, bytes]]:
    return list(zip(scene.endpoint.paths, scene.endpoint.bodies(), strict=True))
