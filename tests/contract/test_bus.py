"""The promises of every bus (`shared.bus.Bus`)."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from shared.bus import Outgoing
from shared.core.message import PushEnvelope, Topic
from tests.support.buses import Scene, local_scene, pubsub_scene, step
from tests.support.endpoint import WAIT_SECONDS, soon
from tests.support.pubsub import MAX_DELIVERIES


@contextmanager
def _local(request: pytest.FixtureRequest, transport: str) -> Iterator[Scene]:
    with local_scene(transport, request.getfixturevalue("tmp_path")) as made:

        def settle() -> None:
            assert made.bus.idle(WAIT_SECONDS)
            again = made.reopen()
            again.start()
            assert again.idle(WAIT_SECONDS)

        yield Scene(made.bus, made.endpoint, settle)


@contextmanager
def _pubsub(request: pytest.FixtureRequest) -> Iterator[Scene]:
    with pubsub_scene(request) as made:
        # The emulator tries again each second.
        yield Scene(made.bus, made.endpoint, lambda: time.sleep(1.5))


BACKENDS: dict[str, Callable[[pytest.FixtureRequest], AbstractContextManager[Scene]]] = {
    "in-process": lambda request: _local(request, "in-process"),
    "http": lambda request: _local(request, "http"),
    "pubsub": _pubsub,
}


@pytest.fixture(params=["in-process", "http", pytest.param("pubsub", marks=pytest.mark.cloud)])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    with BACKENDS[request.param](request) as made:
        yield made


def test_a_message_reaches_the_endpoint_of_its_topic(scene: Scene) -> None:
    scene.bus.publish([step(b"\x00\xff", org="acme", name="Zoë €")])
    scene.endpoint.wait_for(1)
    envelope = scene.endpoint.came[0]
    assert scene.endpoint.paths == ["/push/steps"]
    assert envelope.message.data == b"\x00\xff"
    assert envelope.message.attributes == {"org": "acme", "name": "Zoë €"}
    assert envelope.message.message_id
    assert envelope.subscription.endswith("steps")


def test_messages_of_several_topics_each_reach_their_own(scene: Scene) -> None:
    scene.bus.publish([step(b"s"), Outgoing(Topic.COMPLETIONS, b"c"), step(b"s")])
    scene.endpoint.wait_for(3)
    came = zip(scene.endpoint.paths, scene.endpoint.bodies(), strict=True)
    assert sorted(came) == [
        ("/push/completions", b"c"),
        ("/push/steps", b"s"),
        ("/push/steps", b"s"),
    ]


def test_a_message_may_have_attributes_only(scene: Scene) -> None:
    scene.bus.publish([step(b"", org="acme")])
    assert scene.endpoint.wait_for(1) == [b""]
    assert scene.endpoint.came[0].message.attributes == {"org": "acme"}


def test_an_acknowledged_message_does_not_come_again(scene: Scene) -> None:
    scene.endpoint.answer = lambda envelope: int(envelope.message.data)
    scene.bus.publish([step(b"200"), step(b"204")])
    scene.endpoint.wait_for(2)
    scene.settle()
    assert sorted(scene.endpoint.bodies()) == [b"200", b"204"]


def test_a_refused_message_comes_again_until_it_is_acknowledged(scene: Scene) -> None:
    answers = iter([503, 404, 204])
    scene.endpoint.answer = lambda _: next(answers, 500)
    scene.bus.publish([step(b"x", org="acme")])
    scene.endpoint.wait_for(3)
    scene.settle()
    came = [(each.message.data, each.message.attributes) for each in scene.endpoint.came]
    assert came == [(b"x", {"org": "acme"})] * 3


def test_a_message_that_is_always_refused_is_parked_and_can_be_redriven(scene: Scene) -> None:
    scene.endpoint.answer = lambda _: 500
    before = datetime.now(UTC)
    scene.bus.publish([step(b"poison", org="acme")])
    scene.endpoint.wait_for(MAX_DELIVERIES)
    assert soon(lambda: bool(scene.bus.dead_letters()))
    (letter,) = scene.bus.dead_letters()
    assert (letter.topic, letter.body, letter.deliveries) == (
        Topic.STEPS,
        b"poison",
        MAX_DELIVERIES,
    )
    assert letter.attributes == {"org": "acme"}
    assert letter.reason
    about_a_second = timedelta(seconds=1)  # an emulator has a clock of its own
    assert before - about_a_second <= letter.published_at < letter.parked_at
    scene.endpoint.answer = lambda _: 204
    assert scene.bus.redrive(letter.id)
    assert scene.endpoint.wait_for(MAX_DELIVERIES + 1)[-1] == b"poison"
    assert scene.endpoint.came[-1].message.attributes == {"org": "acme"}
    assert scene.bus.dead_letters() == []


def test_a_poison_message_does_not_hold_up_the_others(scene: Scene) -> None:
    scene.endpoint.answer = lambda envelope: 500 if envelope.message.data == b"poison" else 204
    scene.bus.publish([step(b"poison")] * 3 + [step(b"%d" % number) for number in range(20)])
    assert soon(lambda: {b"%d" % n for n in range(20)} <= set(scene.endpoint.bodies()))


def test_a_delayed_message_comes_at_its_time_not_earlier(scene: Scene) -> None:
    due = datetime.now(UTC) + timedelta(seconds=0.7)
    past = datetime.now(UTC) - timedelta(days=40)
    later = step(b"\xfflater", due, name="Zoë €")
    scene.bus.publish([later, step(b"now"), step(b"late already", past)])
    assert set(scene.endpoint.wait_for(2)) == {b"now", b"late already"}
    assert datetime.now(UTC) < due
    assert scene.endpoint.wait_for(3)[2] == b"\xfflater"
    assert datetime.now(UTC) >= due
    assert scene.endpoint.came[2].message.attributes == {"name": "Zoë €"}


def test_a_topic_without_a_subscription_drops_its_messages(scene: Scene) -> None:
    scene.bus.publish([Outgoing(Topic.RUN_EVENTS, b"nobody listens")])
    assert scene.bus.dead_letters() == []
    scene.settle()
    assert scene.endpoint.came == []


def test_nothing_to_publish_is_nothing(scene: Scene) -> None:
    scene.bus.publish([])
    scene.settle()
    assert scene.endpoint.came == []


def test_a_parked_message_can_be_redriven_once(scene: Scene) -> None:
    sent = datetime(2026, 3, 1, 12, tzinfo=UTC)
    scene.bus.park(step(b"\xffx", org="acme", name="Zoë €"), "not ours", 3, sent)
    (letter,) = scene.bus.dead_letters()
    assert (letter.topic, letter.body, letter.reason, letter.deliveries, letter.published_at) == (
        Topic.STEPS,
        b"\xffx",
        "not ours",
        3,
        sent,
    )
    assert letter.attributes == {"org": "acme", "name": "Zoë €"}
    assert scene.bus.dead_letter(letter.id) == letter
    assert scene.bus.redrive(letter.id)
    assert not scene.bus.redrive(letter.id)
    assert scene.endpoint.wait_for(1) == [b"\xffx"]
    assert scene.endpoint.came[0].message.attributes == {"org": "acme", "name": "Zoë €"}
    assert scene.bus.dead_letters() == []


def test_dead_letters_are_listed_oldest_first_and_no_more_than_asked_for(scene: Scene) -> None:
    for number in range(4):
        scene.bus.park(step(b"%d" % number), "r", 1)
    assert [letter.body for letter in scene.bus.dead_letters()] == [b"0", b"1", b"2", b"3"]
    assert [letter.body for letter in scene.bus.dead_letters(2)] == [b"0", b"1"]


@pytest.mark.parametrize("letter_id", ["", "x", "-1", "9" * 40, "١", "a/b", ".."])
def test_a_dead_letter_that_is_not_there_is_false(scene: Scene, letter_id: str) -> None:
    assert scene.bus.dead_letter(letter_id) is None
    assert not scene.bus.redrive(letter_id)
    assert not scene.bus.drop(letter_id)


def test_a_dropped_dead_letter_is_gone(scene: Scene) -> None:
    scene.bus.park(step(b"x"), "r", 1)
    (letter,) = scene.bus.dead_letters()
    assert scene.bus.drop(letter.id)
    assert not scene.bus.drop(letter.id)
    assert scene.bus.dead_letters() == []


def test_a_big_message_arrives_and_is_parked_and_redriven_whole(scene: Scene) -> None:
    body = os.urandom(2_000_003)
    scene.bus.publish([step(body, org="acme")])
    assert scene.endpoint.wait_for(1) == [body]
    scene.bus.park(step(body, org="acme"), "not ours", 1)
    (letter,) = scene.bus.dead_letters()
    assert letter.reason.startswith("not ours")
    assert body.startswith(letter.body)
    assert len(letter.body) >= 1000
    assert scene.bus.dead_letter(letter.id) == letter._replace(body=body)
    assert scene.bus.redrive(letter.id)
    assert scene.endpoint.wait_for(2) == [body, body]


def test_messages_published_together_are_handled_beside_each_other(scene: Scene) -> None:
    together = threading.Barrier(2)

    def meet(_: PushEnvelope) -> int:
        together.wait(WAIT_SECONDS)
        return 204

    scene.endpoint.answer = meet
    scene.bus.publish([step(b"%d" % number) for number in range(2)])
    scene.endpoint.wait_for(2)
    scene.settle()
    assert not together.broken


def test_a_thousand_messages_from_eight_threads_all_come(scene: Scene) -> None:
    def publish(thread: int) -> None:
        for number in range(125):
            scene.bus.publish([step(b"%d.%d" % (thread, number))])

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sent = {b"%d.%d" % (thread, number) for thread in range(8) for number in range(125)}
    assert soon(lambda: len(scene.endpoint.came) >= 1000 and set(scene.endpoint.bodies()) == sent)
    scene.settle()
    assert max(Counter(scene.endpoint.bodies()).values()) == 1, "all were acknowledged at once"
