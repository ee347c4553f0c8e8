"""What the relay adds to the emulator of Pub/Sub, so that a test which needs it can rely on it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest
from google.auth import jwt

from shared.bus import Outgoing
from shared.core.message import PushEnvelope, Topic
from tests.support.buses import PREFIX, PubsubScene, pubsub_scene
from tests.support.endpoint import WAIT_SECONDS, served
from tests.support.pubsub import publish, subscribe
from tests.support.relay import EMAIL, ISSUER, Relay, Signer

pytestmark = pytest.mark.cloud
TOPIC = PREFIX + Topic.RUN_EVENTS


@pytest.fixture
def scene(request: pytest.FixtureRequest) -> Iterator[PubsubScene]:
    with pubsub_scene(request) as made:
        yield made


def pulled(scene: PubsubScene) -> str:
    policy = {
        "deadLetterTopic": f"projects/{scene.project}/topics/{PREFIX}{Topic.DEAD_LETTERS}",
        "maxDeliveryAttempts": 5,
    }
    return subscribe(
        scene.pubsub,
        scene.project,
        TOPIC,
        "relayed",
        deadLetterPolicy=policy,
        enableMessageOrdering=True,
    )


def test_as_many_are_at_the_endpoint_at_once_as_wanted(scene: PubsubScene) -> None:
    together = threading.Barrier(6)

    def meet(_: PushEnvelope) -> int:
        together.wait(WAIT_SECONDS)
        return 204

    scene.endpoint.answer = meet
    with served(scene.endpoint) as url, Relay(scene.pubsub, pulled(scene), url, at_once=6):
        scene.bus.publish([Outgoing(Topic.RUN_EVENTS, b"%d" % number) for number in range(6)])
        scene.endpoint.wait_for(6)
    assert not together.broken


def test_a_delivery_has_its_count_and_202_acknowledges(scene: PubsubScene) -> None:
    answers = iter([500, 302, 202])
    scene.endpoint.answer = lambda _: next(answers, 204)
    with served(scene.endpoint) as url, Relay(scene.pubsub, pulled(scene), url):
        scene.bus.publish([Outgoing(Topic.RUN_EVENTS, b"x", None, {"org": "acme"})])
        scene.endpoint.wait_for(3)
        scene.bus.publish([Outgoing(Topic.RUN_EVENTS, b"after")])
        scene.endpoint.wait_for(4)
    came = [(each.message.data, each.delivery_attempt) for each in scene.endpoint.came]
    assert came == [(b"x", 1), (b"x", 2), (b"x", 3), (b"after", 1)]
    assert scene.endpoint.came[0].message.attributes == {"org": "acme"}


def test_what_is_empty_is_left_out_and_an_ordering_key_is_told(scene: PubsubScene) -> None:
    ordered = {"attributes": {"a": "b"}, "orderingKey": "acme"}
    with served(scene.endpoint) as url, Relay(scene.pubsub, pulled(scene), url):
        publish(scene.pubsub, scene.project, TOPIC, ordered, {"data": "eA=="})
        scene.endpoint.wait_for(2)
    posted = [json.loads(raw) for raw in scene.endpoint.raw]
    first, second = sorted(posted, key=lambda each: "data" in each["message"])
    assert set(first) == {"message", "subscription", "deliveryAttempt"}
    ids = {"messageId", "message_id", "publishTime", "publish_time"}
    assert set(first["message"]) == {"attributes", "orderingKey", *ids}
    assert first["message"]["orderingKey"] == "acme"
    assert set(second["message"]) == {"data", *ids}
    assert scene.endpoint.came[0].message.published_at is not None


def test_a_request_bears_a_token_that_its_key_verifies(scene: PubsubScene) -> None:
    signer = Signer()
    with (
        served(scene.endpoint) as url,
        Relay(scene.pubsub, pulled(scene), url, signer=signer, audience="https://steps.example"),
    ):
        scene.bus.publish([Outgoing(Topic.RUN_EVENTS, b"x")])
        scene.endpoint.wait_for(1)
    kind, _, token = scene.endpoint.tokens[0].partition(" ")
    assert kind == "Bearer"
    claims = jwt.decode(token, certs=signer.public_key, audience="https://steps.example")  # type: ignore[no-untyped-call]  # the library has no types here
    assert (claims["iss"], claims["email"], claims["email_verified"]) == (ISSUER, EMAIL, True)
    assert claims["exp"] > claims["iat"]
    with pytest.raises(ValueError, match="signature"):
        jwt.decode(token, certs=Signer().public_key)  # type: ignore[no-untyped-call]  # see above
