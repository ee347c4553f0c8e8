"""What the embedded bus promises beside the port (`test_bus.py`): its file, its threads, its counts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from shared.bus import local as local_bus
from shared.bus.local import LocalBus, Subscription
from shared.bus.push import Answer, over_http
from shared.core.message import PushEnvelope, Topic
from shared.errors import Unavailable
from shared.journal import Journal
from tests.support.buses import TRANSPORTS, LocalScene, local_scene, step
from tests.support.endpoint import WAIT_SECONDS, soon
from tests.support.pubsub import MAX_DELIVERIES


@pytest.fixture(params=TRANSPORTS)
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalScene]:
    with local_scene(request.param, tmp_path) as made:
        yield made


def test_a_message_comes_with_the_count_of_its_deliveries(scene: LocalScene) -> None:
    scene.endpoint.answer = lambda envelope: 503 if envelope.delivery_attempt != 3 else 204
    scene.bus.publish([step(b"x")])
    scene.endpoint.wait_for(3)
    assert [envelope.delivery_attempt for envelope in scene.endpoint.came] == [1, 2, 3]


def test_a_message_that_is_always_refused_is_parked_with_the_last_answer(
    scene: LocalScene,
) -> None:
    scene.endpoint.answer = lambda _: 500
    scene.bus.publish([step(b"poison")])
    scene.endpoint.wait_for(MAX_DELIVERIES)
    assert soon(lambda: bool(scene.bus.dead_letters()))
    (letter,) = scene.bus.dead_letters()
    assert "500" in letter.reason
    assert "said why" in letter.reason


def test_what_was_not_acknowledged_comes_again_after_a_restart(scene: LocalScene) -> None:
    release = threading.Event()

    def hold(_: PushEnvelope) -> int:
        release.wait(WAIT_SECONDS)
        return 503

    scene.endpoint.answer = hold
    later = datetime.now(UTC) + timedelta(seconds=0.5)
    scene.bus.publish([step(b"held"), step(b"later", later)])
    scene.endpoint.wait_for(1)
    scene.endpoint.answer = lambda _: 204
    release.set()
    scene.reopen().start()
    assert soon(lambda: set(scene.endpoint.bodies()[1:]) >= {b"held", b"later"})


def test_a_message_killed_while_it_is_redriven_is_parked_or_published(tmp_path: Path) -> None:
    class Mortal(Journal):
        """Dies at the write after the next."""

        left: int | None = None

        def _apply(self, operation: Callable[[Any], Any], wait: bool) -> Any:
            if self.left == 0:
                raise Unavailable("killed")
            self.left = None if self.left is None else self.left - 1
            return super()._apply(operation, wait)

    def opened(journal: Journal) -> LocalBus:
        subscriptions = {Topic.STEPS: Subscription("/push/steps", 1)}
        return LocalBus(
            journal, subscriptions, lambda *_: Answer(204, ""), lambda: datetime.now(UTC)
        )

    journal = Mortal(tmp_path / "bus.db")
    bus = opened(journal)
    bus.park(step(b"x"), "not ours", 1)
    (letter,) = bus.dead_letters()
    journal.left = 1
    with suppress(Unavailable):
        bus.redrive(letter.id)
    journal.left = None
    journal.close()
    left = Journal(tmp_path / "bus.db")
    kept = left.read(
        lambda db: db.execute(
            "SELECT (SELECT count(*) FROM messages) + (SELECT count(*) FROM dead_letters)"
        ).fetchone()
    )
    left.close()
    assert kept == (1,)


def test_no_more_are_handled_at_once_than_the_subscription_says(scene: LocalScene) -> None:

    def slow(_: PushEnvelope) -> int:
        time.sleep(0.01)
        return 204

    scene.endpoint.answer = slow
    scene.bus.publish([step(b"%d" % number) for number in range(60)])
    assert soon(lambda: len(scene.endpoint.came) == 60)
    assert 2 <= scene.endpoint.most_at_once <= 4


def test_messages_published_together_are_handled_beside_each_other(scene: LocalScene) -> None:
    scene.bus.publish([step(b"first")])
    assert scene.bus.idle(WAIT_SECONDS)
    together = threading.Barrier(3)

    def meet(_: PushEnvelope) -> int:
        together.wait(WAIT_SECONDS)
        return 204

    scene.endpoint.answer = meet
    scene.bus.publish([step(b"%d" % number) for number in range(3)])
    assert scene.bus.idle(WAIT_SECONDS)
    assert not together.broken


def test_bodies_that_were_not_kept_in_memory_are_read_again(
    scene: LocalScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_bus, "BODIES_IN_MEMORY", 2)
    release = threading.Event()
    scene.endpoint.answer = lambda _: (release.wait(WAIT_SECONDS) and 204) or 204
    scene.bus.publish([step(b"%d" % number) for number in range(30)])
    release.set()
    assert soon(lambda: set(scene.endpoint.bodies()) == {b"%d" % n for n in range(30)})


def test_a_message_whose_file_was_locked_for_a_while_gets_its_turn_again(
    scene: LocalScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_bus, "LAST_RETRY", timedelta(milliseconds=20))
    journal = scene.bus._journal
    execute, locked = journal.execute, threading.Event()

    def busy(sql: str, values: Any, *, wait: bool = True) -> Any:
        if sql.startswith("DELETE") and not locked.is_set():
            locked.set()
            raise Unavailable("database is locked")
        return execute(sql, values, wait=wait)

    monkeypatch.setattr(journal, "execute", busy)
    scene.bus.publish([step(b"x")])
    assert scene.endpoint.wait_for(2) == [b"x", b"x"]


def test_an_endpoint_that_is_gone_is_a_refusal() -> None:
    answer = over_http("http://127.0.0.1:9", timeout_seconds=1)("/push/steps", b"{}")
    assert isinstance(answer, Answer)
    assert answer.status == 503
