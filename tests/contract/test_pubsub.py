"""What the bus on Google Cloud promises beside the port (`test_bus.py`): faults, letters, limits."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.api_core.exceptions import ServiceUnavailable

from shared.bus.letters import PART_BYTES, FirestoreLetters
from shared.core.message import Topic
from shared.errors import Conflict, Unavailable
from shared.firestore import Query, changed
from tests.support.buses import PREFIX, PubsubScene, open_pubsub, pubsub_scene, step
from tests.support.endpoint import soon
from tests.support.firestore import Watch, lost
from tests.support.pubsub import MAX_DELIVERIES, publish
from tests.support.stores import everything, new_id

pytestmark = pytest.mark.cloud

LARGE = os.urandom(3 * PART_BYTES + 5)


@pytest.fixture
def scene(request: pytest.FixtureRequest) -> Iterator[PubsubScene]:
    with pubsub_scene(request) as made:
        yield made


class Cable:
    """A way to a server that can be cut, and mended at the same address."""

    def __init__(self, upstream: str) -> None:
        name, _, port = upstream.partition(":")
        self._upstream = (name, int(port))
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._address = self._listener.getsockname()
        self.host = f"127.0.0.1:{self._address[1]}"
        self._listen()

    def cut(self) -> None:
        for one in (self._listener, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()

    def mend(self) -> None:
        self._listener = socket.create_server(self._address)
        self._listen()

    def _listen(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(self._upstream)
                self._open += [client, server]
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=_carry, args=ends, daemon=True).start()


def _carry(here: socket.socket, there: socket.socket) -> None:
    with suppress(OSError):
        while data := here.recv(65536):
            there.sendall(data)
        there.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("what", ["pubsub", "tasks"])
def test_without_its_server_it_is_unavailable_in_seconds_and_goes_on_when_it_is_back(
    scene: PubsubScene, what: str
) -> None:
    hosts = {"pubsub": scene.pubsub, "tasks": scene.tasks}
    cable = Cable(hosts[what])
    hosts[what] = cable.host
    bus = open_pubsub(scene.project, scene.letters, hosts["pubsub"], hosts["tasks"], scene.queue)

    def send(body: bytes) -> None:
        later = datetime.now(UTC) + timedelta(seconds=0.2) if what == "tasks" else None
        bus.publish([step(body, later)])

    send(b"before")
    scene.endpoint.wait_for(1)
    cable.cut()
    began = time.monotonic()
    with pytest.raises(Unavailable, match="waiting may help"):
        send(b"gone")
    assert time.monotonic() - began < 20
    cable.mend()
    assert soon(lambda: _done(lambda: send(b"back")))
    assert soon(lambda: scene.endpoint.bodies()[-1] == b"back")
    bus.close()
    cable.cut()


def _done(action: Callable[[], None]) -> bool:
    try:
        action()
    except Unavailable:
        return False
    return True


def test_a_server_that_does_not_answer_is_unavailable_when_the_time_is_up(
    scene: PubsubScene,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        host = f"127.0.0.1:{deaf.getsockname()[1]}"
        bus = open_pubsub(
            scene.project, scene.letters, host, scene.tasks, scene.queue, timeout_seconds=0.2
        )
        with pytest.raises(Unavailable, match="DeadlineExceeded"):
            bus.publish([step(b"x")])
        bus.close()


def test_a_publish_whose_answer_is_lost_may_double_and_loses_nothing(scene: PubsubScene) -> None:
    class Lossy:
        """Does what it is asked, and does not say so the first time."""

        def __init__(self, client: Any) -> None:
            self._client = client
            self.transport = client.transport
            self._asked = False

        def publish(self, request: Any, **options: Any) -> Any:
            answer = self._client.publish(request, **options)
            if not self._asked:
                self._asked = True
                raise ServiceUnavailable("no answer")  # type: ignore[no-untyped-call]  # the library has no types here
            return answer

    scene.bus._rpc = Lossy(scene.bus._rpc)
    scene.bus.publish([step(b"a"), step(b"b")])
    assert set(scene.endpoint.wait_for(4)) == {b"a", b"b"}


def test_a_topic_that_is_not_there_is_told(scene: PubsubScene) -> None:
    bus = open_pubsub("elsewhere", scene.letters, scene.pubsub, scene.tasks, scene.queue)
    with pytest.raises(Unavailable, match=r"elsewhere/topics/test-steps.*waiting does not help"):
        bus.publish([step(b"x")])
    bus.close()


def test_a_queue_that_is_not_there_is_told(scene: PubsubScene) -> None:
    bus = open_pubsub(
        scene.project, scene.letters, scene.pubsub, scene.tasks, scene.queue + "-other"
    )
    with pytest.raises(Unavailable, match=r"later-other.*waiting does not help"):
        bus.publish([step(b"x", datetime.now(UTC) + timedelta(seconds=5))])
    bus.close()


def test_after_it_was_closed_it_is_unavailable(scene: PubsubScene) -> None:
    scene.bus.close()
    for later in (None, datetime.now(UTC) + timedelta(minutes=1)):
        with pytest.raises(Unavailable, match="closed"):
            scene.bus.publish([step(b"x", later)])


def test_the_largest_message_arrives_and_is_parked_whole(scene: PubsubScene) -> None:
    body = os.urandom(9_900_000)
    scene.bus.publish([step(body)])
    assert scene.endpoint.wait_for(1) == [body]
    scene.bus.park(step(body), "too much for us", 1)
    (letter,) = scene.bus.dead_letters()
    assert letter.body == body[:PART_BYTES]
    assert "9900000 bytes" in letter.reason
    kept = scene.letters.get(letter.id)
    assert kept is not None
    assert kept.letter.body == body
    assert scene.bus.redrive(letter.id)
    assert scene.endpoint.wait_for(2)[1] == body


@pytest.mark.parametrize(
    ("body", "why"),
    [
        pytest.param(bytes(10_000_001), r"10000033 bytes.*Pub/Sub takes", id="too large"),
        pytest.param(b"", "neither a body nor attributes", id="empty"),
    ],
)
def test_a_letter_that_cannot_be_published_stays_and_says_why(
    scene: PubsubScene, body: bytes, why: str
) -> None:
    scene.bus.park(step(body), "not ours", 1)
    (letter,) = scene.bus.dead_letters()
    with pytest.raises(Conflict, match=f"{letter.id} cannot be published.*{why}"):
        scene.bus.redrive(letter.id)
    assert scene.bus.dead_letters() == [letter]
    with pytest.raises(ValueError, match=why):
        scene.bus.publish([step(b"before"), step(body)])
    assert scene.endpoint.came == [], "nothing is published of what cannot be published whole"


def test_a_message_that_its_subscription_gave_up_says_so(scene: PubsubScene) -> None:
    scene.endpoint.answer = lambda _: 503
    scene.bus.publish([step(LARGE, run="r1")])
    assert soon(lambda: bool(scene.bus.dead_letters()))
    (letter,) = scene.bus.dead_letters()
    assert f"{MAX_DELIVERIES} times to subscription {PREFIX}steps" in letter.reason
    assert letter.attributes == {"run": "r1"}
    scene.endpoint.answer = lambda _: 204
    assert scene.bus.redrive(letter.id)
    assert scene.endpoint.wait_for(MAX_DELIVERIES + 1)[-1] == LARGE


def test_what_somebody_publishes_as_a_dead_letter_is_kept_as_one(scene: PubsubScene) -> None:
    odd = {"data": "eA==", "attributes": {"a": "b"}}
    publish(scene.pubsub, scene.project, PREFIX + Topic.DEAD_LETTERS, odd)
    assert soon(lambda: bool(scene.bus.dead_letters()))
    (letter,) = scene.bus.dead_letters()
    assert (letter.topic, letter.body, letter.attributes) == (
        Topic.DEAD_LETTERS,
        b"x",
        {"a": "b"},
    )
    assert "not given up by any subscription" in letter.reason


def test_the_same_message_is_one_letter_and_another_is_another(scene: PubsubScene) -> None:
    sent = datetime(2026, 3, 1, tzinfo=UTC)
    scene.bus.park(step(b"x", org="acme"), "first", 7, sent)
    scene.bus.park(step(b"x", org="acme"), "second", 2)
    (letter,) = scene.bus.dead_letters()
    assert (letter.deliveries, letter.reason, letter.published_at) == (7, "second", sent)
    scene.bus.park(step(b"x"), "no organization", 1)
    scene.bus.park(step(b"x", org="other"), "another", 1)
    scene.bus.park(step(b"x", org="acme")._replace(topic=Topic.COMPLETIONS), "other topic", 1)
    assert len(scene.bus.dead_letters()) == 4


def test_a_message_parked_by_many_at_once_is_one_whole_letter(scene: PubsubScene) -> None:
    start = threading.Barrier(8)

    def park(number: int) -> None:
        start.wait()
        scene.bus.park(step(LARGE), "why", number)

    threads = [threading.Thread(target=park, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (letter,) = scene.bus.dead_letters()
    assert letter.deliveries == 8
    kept = scene.letters.get(letter.id)
    assert kept is not None
    assert kept.letter.body == LARGE


def test_a_message_parked_again_while_it_is_redriven_is_not_lost(scene: PubsubScene) -> None:
    scene.bus.park(step(LARGE), "first", 1)
    (letter,) = scene.bus.dead_letters()
    client = scene.bus._rpc

    class Quick:
        """Its messages come back as dead letters before it has answered."""

        transport = client.transport

        def publish(self, request: Any, **options: Any) -> Any:
            scene.bus.park(step(LARGE), "again", 2)
            return client.publish(request, **options)

    scene.bus._rpc = Quick()
    assert scene.bus.redrive(letter.id)
    (again,) = scene.bus.dead_letters()
    assert again.reason.startswith("again")
    kept = scene.letters.get(again.id)
    assert kept is not None
    assert kept.letter.body == LARGE


def test_a_letter_stays_until_its_message_is_published(scene: PubsubScene) -> None:
    scene.bus.park(step(b"x"), "why", 1)
    letters = scene.bus.dead_letters()
    bus = open_pubsub("elsewhere", scene.letters, scene.pubsub, scene.tasks, scene.queue)
    with pytest.raises(Unavailable):
        bus.redrive(letters[0].id)
    assert scene.bus.dead_letters() == letters
    bus.close()


@pytest.mark.parametrize("number", range(1, 5))
def test_killed_while_it_parks_the_message_is_parked_when_it_comes_again(
    scene: PubsubScene, number: int
) -> None:
    class Killed(Exception):
        pass

    def die(commit: int) -> None:
        if commit == number:
            raise Killed

    watch = Watch(scene.database)
    watch.before = die
    with pytest.raises(Killed):
        scene.bus.park(step(LARGE), "why", 1)
    assert scene.bus.dead_letters() == []
    scene.bus.park(step(LARGE), "why", 1)
    (letter,) = scene.bus.dead_letters()
    kept = scene.letters.get(letter.id)
    assert kept is not None
    assert kept.letter.body == LARGE


def test_parked_and_dropped_without_any_answer_it_is_there_and_gone(scene: PubsubScene) -> None:
    watch = Watch(scene.database)

    def every_second_time(commit: int) -> None:
        if commit % 2:
            lost(commit)

    watch.after = every_second_time
    scene.bus.park(step(LARGE), "why", 1)
    (letter,) = scene.bus.dead_letters()
    kept = scene.letters.get(letter.id)
    assert kept is not None
    assert kept.letter.body == LARGE
    assert scene.bus.drop(letter.id)
    assert scene.bus.dead_letters() == []


def test_a_letter_that_is_gone_leaves_nothing(scene: PubsubScene) -> None:
    for _ in range(2):
        scene.bus.park(step(LARGE, run="canary"), "why", 1)
    (letter,) = scene.bus.dead_letters()
    assert b"canary" in everything(scene.database)
    assert scene.bus.drop(letter.id)
    assert b"canary" not in everything(scene.database)
    assert scene.database.query(Query(("dead_letters", letter.id), "parts", ())) == []


def test_a_letter_that_cannot_be_read_is_unavailable_and_named(scene: PubsubScene) -> None:
    scene.bus.park(step(b"x"), "why", 1)
    (letter,) = scene.bus.dead_letters()
    scene.database.commit("spoil", changed(("dead_letters", letter.id), {("topic",): "unheard"}))
    with pytest.raises(Unavailable, match=f"dead_letters/{letter.id} cannot be read.*unheard"):
        scene.bus.dead_letters()


def test_a_letter_has_room_for_the_attributes_of_any_message(scene: PubsubScene) -> None:
    most = {f"{number:0256}": "\x01" * 1024 for number in range(100)}
    scene.bus.park(step(bytes(PART_BYTES))._replace(attributes=most), "not ours" * 1000, 1)
    (letter,) = scene.bus.dead_letters()
    assert letter.attributes == most


def test_a_letter_is_kept_for_more_than_a_year_and_goes_with_its_parts(scene: PubsubScene) -> None:
    clock = [datetime(2026, 3, 1, tzinfo=UTC)]
    letters = FirestoreLetters(scene.database, now=lambda: clock[-1], new_id=new_id)
    letters.park(step(LARGE), "why", 1, None)
    clock.append(datetime(2026, 9, 1, tzinfo=UTC))
    letters.park(step(LARGE), "why", 1, None)
    (letter,) = scene.database.query(Query((), "dead_letters", ("expire_at",)))
    parts = scene.database.query(Query(letter.path, "parts", ("expire_at",)))
    assert letter.fields["expire_at"] > datetime(2027, 3, 1, tzinfo=UTC)
    assert len(parts) == 3
    assert {part.fields["expire_at"] for part in parts} == {letter.fields["expire_at"]}
