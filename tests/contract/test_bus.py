"""The promises of every bus (`shared.bus.Bus`), with its deliveries in process and over HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from shared.bus import Outgoing
from shared.bus import local as local_bus
from shared.bus.local import LocalBus, Subscription
from shared.bus.push import Answer, Deliver, in_process, over_http
from shared.core.message import PushEnvelope, Topic, open_envelope
from shared.errors import Unavailable
from shared.journal import Journal

WAIT = 20.0


class Endpoint:
    """A push endpoint that remembers what came and answers what the test says."""

    def __init__(self) -> None:
        self.came: list[PushEnvelope] = []
        self.paths: list[str] = []
        self.changed = threading.Condition()
        self.answer: Callable[[PushEnvelope], int] = lambda _: 204
        self.at_once = 0
        self.most_at_once = 0

    def handle(self, path: str, body: bytes) -> int:
        envelope = open_envelope(body)
        with self.changed:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            self.came.append(envelope)
            self.paths.append(path)
            self.changed.notify_all()
        try:
            return self.answer(envelope)
        finally:
            with self.changed:
                self.at_once -= 1

    def wait_for(self, count: int) -> list[bytes]:
        """The bodies that came, once there are `count`."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.came) >= count, WAIT), self.bodies()
        return self.bodies()

    def bodies(self) -> list[bytes]:
        return [envelope.message.data for envelope in self.came]


def _wsgi(endpoint: Endpoint) -> Iterator[Deliver]:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        status = endpoint.handle(environ["PATH_INFO"], body)
        start_response(f"{status} x", [])
        return [b"said why"]

    yield in_process(application, {})


def _http(endpoint: Endpoint) -> Iterator[Deliver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = endpoint.handle(self.path, body)
            self.send_response(status)
            self.send_header("Content-Length", "0" if status == 204 else "8")
            self.end_headers()
            if status != 204:
                self.wfile.write(b"said why")

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield over_http(f"http://127.0.0.1:{server.server_address[1]}")
    server.shutdown()
    server.server_close()
    thread.join()


TRANSPORTS = {"in-process": _wsgi, "http": _http}


class Setup(NamedTuple):
    """A bus; `reopen` ends it and opens it again, as the next process would."""

    bus: LocalBus
    endpoint: Endpoint
    reopen: Callable[[], LocalBus]


@pytest.fixture(params=TRANSPORTS)
def setup(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Setup]:
    monkeypatch.setattr(local_bus, "FIRST_RETRY", timedelta(milliseconds=20))
    endpoint = Endpoint()
    opened: list[tuple[LocalBus, Journal]] = []
    transport = TRANSPORTS[request.param](endpoint)
    deliver = next(transport)

    def close() -> None:
        for bus, journal in opened:
            bus.close()
            journal.close()

    def reopen() -> LocalBus:
        close()
        journal = Journal(tmp_path / "bus.db")
        bus = LocalBus(
            journal,
            {
                Topic.STEPS: Subscription("/push/steps", 4),
                Topic.COMPLETIONS: Subscription("/push/completions", 2),
            },
            deliver,
            lambda: datetime.now(UTC),
        )
        opened.append((bus, journal))
        return bus

    bus = reopen()
    bus.start()
    yield Setup(bus, endpoint, reopen)
    close()
    next(transport, None)


def step(body: bytes, not_before: datetime | None = None, **attributes: str) -> Outgoing:
    return Outgoing(Topic.STEPS, body, not_before, attributes)


def test_a_message_reaches_the_endpoint_of_its_topic(setup: Setup) -> None:
    setup.bus.publish([step(b"\x00\xff", org="acme")])
    setup.endpoint.wait_for(1)
    envelope = setup.endpoint.came[0]
    assert setup.endpoint.paths == ["/push/steps"]
    assert envelope.message.data == b"\x00\xff"
    assert envelope.message.attributes == {"org": "acme"}
    assert envelope.message.message_id
    assert envelope.delivery_attempt == 1


def test_an_acknowledged_message_does_not_come_again(setup: Setup) -> None:
    setup.bus.publish([step(b"once")])
    setup.endpoint.wait_for(1)
    assert setup.bus.idle(WAIT)
    again = setup.reopen()
    again.start()
    assert again.idle(WAIT)
    assert setup.endpoint.bodies() == [b"once"]


def test_a_refused_message_comes_again_with_its_count(setup: Setup) -> None:
    setup.endpoint.answer = lambda envelope: 503 if envelope.delivery_attempt != 3 else 204
    setup.bus.publish([step(b"x")])
    setup.endpoint.wait_for(3)
    assert [envelope.delivery_attempt for envelope in setup.endpoint.came] == [1, 2, 3]


def test_a_message_that_is_always_refused_is_parked_with_the_reason(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_bus, "MAX_DELIVERIES", 3)
    setup.endpoint.answer = lambda _: 500
    setup.bus.publish([step(b"poison", org="acme")])
    setup.endpoint.wait_for(3)
    assert _soon(lambda: bool(setup.bus.dead_letters()))
    (letter,) = setup.bus.dead_letters()
    assert (letter.topic, letter.body, letter.deliveries) == (Topic.STEPS, b"poison", 3)
    assert letter.attributes == {"org": "acme"}
    assert "500" in letter.reason
    assert "said why" in letter.reason


def test_a_poison_message_does_not_hold_up_the_others(setup: Setup) -> None:
    setup.endpoint.answer = lambda envelope: 500 if envelope.message.data == b"poison" else 204
    setup.bus.publish([step(b"poison")] * 3 + [step(b"%d" % number) for number in range(20)])
    assert _soon(lambda: {b"%d" % n for n in range(20)} <= set(setup.endpoint.bodies()))


def test_a_delayed_message_comes_at_its_time_not_earlier(setup: Setup) -> None:
    due = datetime.now(UTC) + timedelta(seconds=0.3)
    setup.bus.publish([step(b"later", due), step(b"now")])
    assert setup.endpoint.wait_for(1) == [b"now"]
    assert setup.endpoint.wait_for(2) == [b"now", b"later"]
    assert datetime.now(UTC) >= due


def test_what_was_not_acknowledged_comes_again_after_a_restart(setup: Setup) -> None:
    release = threading.Event()

    def hold(_: PushEnvelope) -> int:
        release.wait(WAIT)
        return 503

    setup.endpoint.answer = hold
    later = datetime.now(UTC) + timedelta(seconds=0.5)
    setup.bus.publish([step(b"held"), step(b"later", later)])
    setup.endpoint.wait_for(1)
    setup.endpoint.answer = lambda _: 204
    release.set()
    setup.reopen().start()
    assert _soon(lambda: set(setup.endpoint.bodies()[1:]) >= {b"held", b"later"})


def test_a_topic_without_a_subscription_drops_its_messages(setup: Setup) -> None:
    setup.bus.publish([Outgoing(Topic.RUN_EVENTS, b"nobody listens")])
    assert setup.bus.idle(WAIT)
    assert setup.endpoint.came == []


def test_a_parked_message_can_be_redriven_once(setup: Setup) -> None:
    setup.bus.park(step(b"x", org="acme"), "not ours", 1)
    (letter,) = setup.bus.dead_letters()
    assert (letter.reason, letter.deliveries) == ("not ours", 1)
    assert setup.bus.redrive(letter.id)
    assert not setup.bus.redrive(letter.id)
    assert setup.endpoint.wait_for(1) == [b"x"]
    assert setup.endpoint.came[0].message.attributes == {"org": "acme"}
    assert setup.bus.dead_letters() == []


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


@pytest.mark.parametrize("letter_id", ["", "x", "-1", "9" * 40, "١"])
def test_a_dead_letter_that_is_not_there_is_false(setup: Setup, letter_id: str) -> None:
    assert not setup.bus.redrive(letter_id)
    assert not setup.bus.drop(letter_id)


def test_a_dropped_dead_letter_is_gone(setup: Setup) -> None:
    setup.bus.park(step(b"x"), "r", 1)
    assert setup.bus.drop(setup.bus.dead_letters()[0].id)
    assert setup.bus.dead_letters() == []


def test_no_more_are_handled_at_once_than_the_subscription_says(setup: Setup) -> None:

    def slow(_: PushEnvelope) -> int:
        time.sleep(0.01)
        return 204

    setup.endpoint.answer = slow
    setup.bus.publish([step(b"%d" % number) for number in range(60)])
    assert _soon(lambda: len(setup.endpoint.came) == 60)
    assert 2 <= setup.endpoint.most_at_once <= 4


def test_messages_published_together_are_handled_beside_each_other(setup: Setup) -> None:
    setup.bus.publish([step(b"first")])
    assert setup.bus.idle(WAIT)
    together = threading.Barrier(3)

    def meet(_: PushEnvelope) -> int:
        together.wait(WAIT)
        return 204

    setup.endpoint.answer = meet
    setup.bus.publish([step(b"%d" % number) for number in range(3)])
    assert setup.bus.idle(WAIT)
    assert not together.broken


def test_a_thousand_messages_from_eight_threads_each_come_once(setup: Setup) -> None:
    def publish(thread: int) -> None:
        for number in range(125):
            setup.bus.publish([step(b"%d.%d" % (thread, number))])

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert setup.bus.idle(WAIT)
    bodies = setup.endpoint.bodies()
    assert len(bodies) == len(set(bodies)) == 1000


def test_bodies_that_were_not_kept_in_memory_are_read_again(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_bus, "BODIES_IN_MEMORY", 2)
    release = threading.Event()
    setup.endpoint.answer = lambda _: (release.wait(WAIT) and 204) or 204
    setup.bus.publish([step(b"%d" % number) for number in range(30)])
    release.set()
    assert _soon(lambda: set(setup.endpoint.bodies()) == {b"%d" % n for n in range(30)})


def test_a_message_whose_file_was_locked_for_a_while_gets_its_turn_again(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_bus, "LAST_RETRY", timedelta(milliseconds=20))
    journal = setup.bus._journal
    execute, locked = journal.execute, threading.Event()

    def busy(sql: str, values: Any, *, wait: bool = True) -> Any:
        if sql.startswith("DELETE") and not locked.is_set():
            locked.set()
            raise Unavailable("database is locked")
        return execute(sql, values, wait=wait)

    monkeypatch.setattr(journal, "execute", busy)
    setup.bus.publish([step(b"x")])
    assert setup.endpoint.wait_for(2) == [b"x", b"x"]


def test_an_endpoint_that_is_gone_is_a_refusal() -> None:
    answer = over_http("http://127.0.0.1:9", timeout_seconds=1)("/push/steps", b"{}")
    assert isinstance(answer, Answer)
    assert answer.status == 503


def _soon(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + WAIT
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
