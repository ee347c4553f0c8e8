"""The embedded bus: a queue in the process, kept in its SQLite file until it is acknowledged.

Nothing polls: a published message goes straight to a waiting thread, the table only remembers it. What
was not acknowledged when the process ended is delivered again by the next one.
"""

from __future__ import annotations

import heapq
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from shared.bus import DeadLetter, Outgoing
from shared.bus.push import Deliver
from shared.core.message import PushEnvelope, PushMessage, Topic, seal_envelope
from shared.errors import Unavailable
from shared.journal import Journal

SCHEMA = """
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL,
    body BLOB NOT NULL,
    attributes BLOB NOT NULL,
    published_at INTEGER NOT NULL,
    available_at INTEGER NOT NULL,
    deliveries INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL,
    body BLOB NOT NULL,
    attributes BLOB NOT NULL,
    reason TEXT NOT NULL,
    deliveries INTEGER NOT NULL,
    published_at INTEGER NOT NULL,
    parked_at INTEGER NOT NULL
);
"""

_PUBLISH = (
    "INSERT INTO messages (topic, body, attributes, published_at, available_at)"
    " VALUES (?, ?, ?, ?, ?)"
)
_PARK = (
    "INSERT INTO dead_letters"
    " (topic, body, attributes, reason, deliveries, published_at, parked_at)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)

_LETTERS = (
    "SELECT id, topic, body, attributes, reason, deliveries, published_at, parked_at"
    " FROM dead_letters"
)

MAX_DELIVERIES = 20
FIRST_RETRY = timedelta(seconds=1)
LAST_RETRY = timedelta(seconds=60)
# Bodies beyond these are read again from the table when their turn comes.
BODIES_IN_MEMORY = 5_000
_CLOSE_SECONDS = 10

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Subscription(NamedTuple):
    """Who gets a topic's messages: the path of a push endpoint, and how many at a time."""

    path: str
    threads: int


class _Message(NamedTuple):
    id: int
    topic: Topic
    body: bytes | None
    attributes: dict[str, str]
    published_at: int
    deliveries: int


class LocalBus:
    """Bus over a Journal. A topic without a subscription drops what is published to it."""

    def __init__(
        self,
        journal: Journal,
        subscriptions: Mapping[Topic, Subscription],
        deliver: Deliver,
        now: Callable[[], datetime],
    ) -> None:
        self._journal = journal
        self._subscriptions = subscriptions
        self._deliver = deliver
        self._now = now
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)  # for the timer and for `idle`
        self._wakers = {topic: threading.Condition(self._lock) for topic in subscriptions}
        self._ready: dict[Topic, deque[_Message]] = {topic: deque() for topic in subscriptions}
        self._idle = dict.fromkeys(subscriptions, 0)
        self._started = dict.fromkeys(subscriptions, 0)
        self._later: list[tuple[int, int, _Message]] = []
        self._busy = 0
        self._running = False
        self._threads: list[threading.Thread] = []
        journal.extend(SCHEMA)

    def start(self) -> None:
        """Begins to deliver, first what an earlier process left."""
        rows = self._journal.read(
            lambda db: db.execute(
                "SELECT id, topic, body, attributes, published_at, deliveries, available_at"
                " FROM messages ORDER BY id"
            ).fetchall()
        )
        with self._changed:
            self._running = True
            for queue in self._ready.values():
                queue.clear()
            self._later.clear()
            for row in rows:
                message = _Message(
                    row[0], Topic(row[1]), row[2], msgspec.json.decode(row[3]), row[4], row[5]
                )
                if message.topic in self._ready:
                    self._put(message, row[6])
        timer = threading.Thread(target=self._timer, name="bus-timer", daemon=True)
        self._threads.append(timer)
        timer.start()

    def publish(self, messages: Sequence[Outgoing]) -> None:
        wanted = [message for message in messages if message.topic in self._ready]
        if not wanted:
            return
        published_at = _micros(self._now())
        rows = [
            (
                message.topic,
                message.body,
                msgspec.json.encode(message.attributes),
                published_at,
                published_at if message.not_before is None else _micros(message.not_before),
            )
            for message in wanted
        ]

        if len(rows) == 1:
            ids = [self._journal.execute(_PUBLISH, rows[0], wait=False).lastrowid or 0]
        else:
            ids = self._journal.write(
                lambda db: [db.execute(_PUBLISH, row).lastrowid or 0 for row in rows], wait=False
            )
        with self._changed:
            for message_id, message, row in zip(ids, wanted, rows, strict=True):
                queued = _Message(
                    message_id, message.topic, message.body, dict(message.attributes), row[3], 0
                )
                self._put(queued, row[4])

    def park(
        self,
        message: Outgoing,
        reason: str,
        deliveries: int,
        published_at: datetime | None = None,
    ) -> None:
        now = _micros(self._now())
        row = (
            message.topic,
            message.body,
            msgspec.json.encode(message.attributes),
            reason,
            deliveries,
            now if published_at is None else _micros(published_at),
            now,
        )
        self._journal.execute(_PARK, row, wait=False)

    def dead_letters(self, limit: int = 100) -> list[DeadLetter]:
        rows = self._journal.read(
            lambda db: db.execute(f"{_LETTERS} ORDER BY id LIMIT ?", (limit,)).fetchall()
        )
        return [_letter(row) for row in rows]

    def dead_letter(self, letter_id: str) -> DeadLetter | None:
        number = _number(letter_id)
        row = self._journal.read(
            lambda db: db.execute(f"{_LETTERS} WHERE id = ?", (number,)).fetchone()
        )
        return None if row is None else _letter(row)

    def redrive(self, letter_id: str) -> bool:
        at = _micros(self._now())

        def move(db: sqlite3.Connection) -> _Message | None:
            # One write: whenever the process dies, the message is parked or published.
            letter = _unpark(db, letter_id)
            if letter is None:
                return None
            topic, body, attributes = letter
            number = db.execute(_PUBLISH, (topic, body, attributes, at, at)).lastrowid or 0
            return _Message(number, Topic(topic), body, msgspec.json.decode(attributes), at, 0)

        message = self._journal.write(move)
        if message is not None and message.topic in self._ready:
            with self._changed:
                self._put(message, at)
        return message is not None

    def drop(self, letter_id: str) -> bool:
        return self._journal.write(lambda db: _unpark(db, letter_id)) is not None

    def idle(self, timeout_seconds: float) -> bool:
        """Waits until nothing is ready or being handled (delayed messages apart); False at the timeout."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._busy and not any(self._ready.values()), timeout_seconds
            )

    def close(self) -> None:
        with self._changed:
            self._running = False
            for waker in self._wakers.values():
                waker.notify_all()
            self._changed.notify_all()
            threads, self._threads = self._threads, []
        until = time.monotonic() + _CLOSE_SECONDS  # for all of them together
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))

    # Everything below runs with `self._changed` held, or in a thread of the bus.

    def _put(self, message: _Message, available_at: int) -> None:
        if available_at > _micros(self._now()):
            heapq.heappush(self._later, (available_at, message.id, message))
            self._changed.notify_all()
            return
        queue = self._ready[message.topic]
        if len(queue) > BODIES_IN_MEMORY:
            message = message._replace(body=None)
        queue.append(message)
        # A thread that was notified counts as idle until it has taken its message from the queue.
        idle, most = self._idle[message.topic], self._subscriptions[message.topic].threads
        if idle >= len(queue) or self._started[message.topic] == most:
            self._wakers[message.topic].notify()
        elif self._running:
            self._started[message.topic] += 1
            thread = threading.Thread(
                target=self._work,
                args=(message.topic,),
                name=f"bus-{message.topic}-{self._started[message.topic]}",
                daemon=True,
            )
            self._threads.append(thread)
            thread.start()

    def _work(self, topic: Topic) -> None:
        queue = self._ready[topic]
        path = self._subscriptions[topic].path
        while True:
            with self._changed:
                while self._running and not queue:
                    self._idle[topic] += 1
                    self._wakers[topic].wait()
                    self._idle[topic] -= 1
                if not self._running:
                    return
                message = queue.popleft()
                self._busy += 1
            try:
                self._handle(path, message)
            except Unavailable:
                self._again(message)  # it stays in the file; what is lost is only its turn
            finally:
                with self._changed:
                    self._busy -= 1
                    if not self._busy:
                        self._changed.notify_all()

    def _again(self, message: _Message) -> None:
        with self._changed:
            if self._running:
                self._put(message, _micros(self._now() + LAST_RETRY))

    def _handle(self, path: str, message: _Message) -> None:
        body = message.body
        if body is None:
            row = self._journal.read(
                lambda db: db.execute(
                    "SELECT body FROM messages WHERE id = ?", (message.id,)
                ).fetchone()
            )
            if row is None:
                return  # acknowledged meanwhile
            body = row[0]
        envelope = PushEnvelope(
            message=PushMessage(
                message_id=str(message.id), data=body, attributes=message.attributes
            ),
            subscription=message.topic,
            delivery_attempt=message.deliveries + 1,
        )
        try:
            answer = self._deliver(path, seal_envelope(envelope))
            status, text = answer
        except Exception as error:  # noqa: BLE001  # a fault of the endpoint must not end the bus
            status, text = 500, f"{type(error).__name__}: {error}"
        if 200 <= status < 300:
            self._journal.execute("DELETE FROM messages WHERE id = ?", (message.id,), wait=False)
        else:
            self._refused(message, body, f"http {status}: {text}")

    def _refused(self, message: _Message, body: bytes, reason: str) -> None:
        deliveries = message.deliveries + 1
        now = self._now()
        if deliveries >= MAX_DELIVERIES:
            row = (
                message.topic,
                body,
                msgspec.json.encode(message.attributes),
                reason,
                deliveries,
                message.published_at,
                _micros(now),
            )

            def park(db: sqlite3.Connection) -> None:
                db.execute(_PARK, row)
                db.execute("DELETE FROM messages WHERE id = ?", (message.id,))

            self._journal.write(park, wait=False)
            return
        again = _micros(now + min(FIRST_RETRY * 2 ** (deliveries - 1), LAST_RETRY))
        self._journal.execute(
            "UPDATE messages SET deliveries = ?, available_at = ? WHERE id = ?",
            (deliveries, again, message.id),
            wait=False,
        )
        with self._changed:
            self._put(message._replace(deliveries=deliveries), again)

    def _timer(self) -> None:
        with self._changed:
            while self._running:
                now = _micros(self._now())
                while self._later and self._later[0][0] <= now:
                    available_at, _, message = heapq.heappop(self._later)
                    self._put(message, available_at)
                wait = (self._later[0][0] - now) / 1e6 if self._later else None
                self._changed.wait(wait)


def _unpark(db: sqlite3.Connection, letter_id: str) -> tuple[str, bytes, bytes] | None:
    """Deletes a dead letter, and gives its topic, body and attributes."""
    found: tuple[str, bytes, bytes] | None = db.execute(
        "DELETE FROM dead_letters WHERE id = ? RETURNING topic, body, attributes",
        (_number(letter_id),),
    ).fetchone()
    return found


def _number(letter_id: str) -> int | None:
    """The id of a row; None for what is none."""
    usable = letter_id.isascii() and letter_id.isdigit() and len(letter_id) <= 18
    return int(letter_id) if usable else None


def _letter(row: tuple[Any, ...]) -> DeadLetter:
    return DeadLetter(
        str(row[0]),
        Topic(row[1]),
        row[2],
        msgspec.json.decode(row[3]),
        row[4],
        row[5],
        _time(row[6]),
        _time(row[7]),
    )


def _micros(at: datetime) -> int:
    return (at - _EPOCH) // timedelta(microseconds=1)


def _time(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)
