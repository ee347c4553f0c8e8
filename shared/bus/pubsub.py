"""The bus on Google Cloud: Pub/Sub delivers, Cloud Tasks holds what is for later, Firestore the letters.

What is pushed where, how often it is tried and when a subscription gives it up is said by the
subscriptions (`shared.core.message.Topic` has their names), not here. A message for later is a task that
publishes it at its time; no process of ours has to be awake for it.
"""

from __future__ import annotations

import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, NoReturn

import msgspec

from shared.bus import DeadLetter, Outgoing
from shared.bus.letters import FirestoreLetters
from shared.channel import CHANNEL_OPTIONS
from shared.core.message import Topic
from shared.errors import Conflict, Unavailable

# cloud.google.com/pubsub/quotas
MAX_MESSAGE_BYTES = 10_000_000
REQUEST_BYTES = 9_000_000  # of several messages, with what protobuf adds to them
REQUEST_MESSAGES = 1_000
# cloud.google.com/tasks/docs/quotas: of a whole task, so that a body of 740 kB fits. The reference of
# the API still names the 100 kB of App Engine's tasks.
MAX_TASK_BYTES = 1_000_000
MAX_DELAY = timedelta(days=30) - timedelta(minutes=1)  # our clock is not theirs

TIMEOUT_SECONDS = 4.0
TRIES = 3
_FIRST_PAUSE = 0.05
_DISPATCH = timedelta(seconds=30)  # for a publish that hangs; then the queue tries again
_TASK_FRAME_BYTES = 2_000  # of a task, around its body
_MESSAGE_FRAME_BYTES = 32  # of a message or an attribute, in protobuf
_SCOPE = "https://www.googleapis.com/auth/pubsub"
_PUBSUB, _TASKS = "pubsub.googleapis.com", "cloudtasks.googleapis.com"


class PubsubBus:
    """Bus over the topics `{prefix}{topic}` of a project. Shared by all threads; closed by its owner.

    Messages go out in requests of one topic each, of at most 1,000 messages and 9 MB: a request is
    taken as a whole or not at all, several are not. Whoever hears Unavailable publishes all of them
    again. A request whose answer was lost is sent again, so its messages may come twice.
    """

    def __init__(
        self,
        project: str,
        *,
        prefix: str,
        letters: FirestoreLetters,
        queue: str,
        account: str,
        now: Callable[[], datetime],
        sleep: Callable[[float], None],
        random: Callable[[], float],
        emulator: str | None = None,
        tasks_emulator: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        """`queue` (projects/P/locations/L/queues/Q) holds the messages for later, and publishes them
        as the service account with the email `account`. The emulators are HOST:PORT.

        Raises Unavailable when this process has no credentials.
        """
        # A third of a second of imports, most of it shared with Firestore: only who uses it pays.
        from google.api_core import exceptions as api  # noqa: PLC0415
        from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415
        from google.pubsub_v1.services.publisher import PublisherClient  # noqa: PLC0415
        from google.pubsub_v1.services.publisher.transports import (  # noqa: PLC0415
            PublisherGrpcTransport,
        )
        from google.pubsub_v1.types import PublishRequest  # noqa: PLC0415

        self._prefix = f"projects/{project}/topics/{prefix}"
        self._letters = letters
        self._queue = queue
        self._account = account
        self._now = now
        self._sleep = sleep
        self._random = random
        self._emulator = emulator
        self._tasks_emulator = tasks_emulator
        self._timeout = timeout_seconds
        self._lock = threading.Lock()
        self._closed = False
        self._passing = (
            api.ServerError,
            api.Cancelled,
            api.RetryError,
            api.Aborted,
            api.ResourceExhausted,
        )
        self._any = (api.GoogleAPIError, GoogleAuthError)
        self._publish_request = PublishRequest
        self._rpc: Any = self._open(PublisherClient, PublisherGrpcTransport, _PUBSUB, emulator)
        self._tasks: Any = None

    def publish(self, messages: Sequence[Outgoing]) -> None:
        """As the port says. Raises ValueError for a message that Pub/Sub or Cloud Tasks never takes.

        One for a time beyond the 30 days of Cloud Tasks comes after 30 days.
        """
        now = self._now()
        at_once: dict[Topic, list[Outgoing]] = {}
        tasks: list[tuple[Outgoing, bytes, datetime]] = []
        for message in messages:
            if unfit := _unfit(message):
                raise ValueError(unfit)
            if message.not_before is None or message.not_before <= now:
                at_once.setdefault(message.topic, []).append(message)
            else:
                tasks.append(
                    (message, _task_body(message), min(message.not_before, now + MAX_DELAY))
                )
        for topic, ready in at_once.items():
            for some in _requests(ready):
                self._publish(topic, some)
        for message, body, at in tasks:
            self._publish_later(message.topic, body, at)

    def park(
        self,
        message: Outgoing,
        reason: str,
        deliveries: int,
        published_at: datetime | None = None,
    ) -> None:
        """As the port says. The same message parked again is the same letter."""
        self._letters.park(message, reason, deliveries, published_at)

    def dead_letters(self, limit: int = 100) -> list[DeadLetter]:
        return self._letters.oldest(limit)

    def dead_letter(self, letter_id: str) -> DeadLetter | None:
        kept = self._letters.get(letter_id)
        return None if kept is None else kept.letter

    def redrive(self, letter_id: str) -> bool:
        """As the port says. Published first, deleted then: it may be published twice."""
        kept = self._letters.get(letter_id)
        if kept is None:
            return False
        letter = kept.letter
        message = Outgoing(letter.topic, letter.body, None, letter.attributes)
        if unfit := _unfit(message):
            raise Conflict(f"dead letter {letter_id} cannot be published: {unfit}")
        self.publish([message])
        self._letters.drop(letter_id, kept.version)
        return True

    def drop(self, letter_id: str) -> bool:
        return self._letters.drop(letter_id)

    def close(self) -> None:
        """Ends the connections; twice is once. The subscriptions deliver on."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for client in (self._rpc, self._tasks):
                if client is not None:
                    client.transport.close()

    # --- calls ---

    def _publish(self, topic: Topic, messages: Sequence[Outgoing]) -> None:
        name = self._prefix + topic
        request = self._publish_request.pb()(topic=name)
        for message in messages:
            request.messages.add(data=message.body, attributes=dict(message.attributes))
        self._ask(
            f"publish {len(messages)} messages to {name}",
            lambda **options: self._rpc.publish(self._publish_request.wrap(request), **options),
        )

    def _publish_later(self, topic: Topic, body: bytes, at: datetime) -> None:
        from google.cloud.tasks_v2.types import HttpMethod, HttpRequest, OAuthToken, Task  # noqa: PLC0415

        base = f"https://{_PUBSUB}" if self._emulator is None else f"http://{self._emulator}"
        name = self._prefix + topic
        call = HttpRequest(
            url=f"{base}/v1/{name}:publish",
            http_method=HttpMethod.POST,
            headers={"Content-Type": "application/json"},
            body=body,
        )
        if self._emulator is None:
            call.oauth_token = OAuthToken(service_account_email=self._account, scope=_SCOPE)
        task = Task(http_request=call, schedule_time=at, dispatch_deadline=_DISPATCH)
        self._ask(
            f"keep a message to {name} in {self._queue} until {at:%Y-%m-%dT%H:%M:%SZ}",
            lambda **options: self._tasks_client().create_task(
                parent=self._queue, task=task, **options
            ),
        )

    def _tasks_client(self) -> Any:
        with self._lock:
            if self._closed:
                raise Unavailable("the bus is closed: it keeps no message for later")
            if self._tasks is None:
                # Imported with the first message for later: most processes never have one.
                from google.cloud.tasks_v2.services.cloud_tasks import CloudTasksClient  # noqa: PLC0415
                from google.cloud.tasks_v2.services.cloud_tasks.transports import (  # noqa: PLC0415
                    CloudTasksGrpcTransport,
                )

                self._tasks = self._open(
                    CloudTasksClient, CloudTasksGrpcTransport, _TASKS, self._tasks_emulator
                )
            return self._tasks

    def _open(self, client: Any, transport: Any, host: str, emulator: str | None) -> Any:
        try:
            if emulator is None:
                channel = transport.create_channel(host, options=CHANNEL_OPTIONS)
            else:
                import grpc  # type: ignore[import-untyped]  # noqa: PLC0415  # has no stubs

                channel = grpc.insecure_channel(emulator, options=CHANNEL_OPTIONS)
            return client(transport=transport(channel=channel))
        except self._any as error:
            raise Unavailable(f"{host}: cannot be opened: {error}") from error

    def _ask(self, what: str, call: Callable[..., Any]) -> None:
        """Makes the call. None of its tries is the library's, which would go on for a minute."""
        for tried in range(1, TRIES + 1):
            try:
                call(retry=None, timeout=self._timeout)
            except self._passing as error:
                if tried == TRIES:
                    _fail(what, error, "waiting may help")
                self._sleep(_FIRST_PAUSE * 2 ** (tried - 1) * (0.5 + self._random()))
            except self._any as error:
                _fail(what, error, "waiting does not help")
            except ValueError as error:  # gRPC's word for a channel that is closed
                if not self._closed:
                    raise
                raise Unavailable(f"the bus is closed: could not {what}") from error
            else:
                return


def _fail(what: str, error: Exception, hope: str) -> NoReturn:
    raise Unavailable(f"could not {what} ({hope}): {type(error).__name__}: {error}") from error


def _unfit(message: Outgoing) -> str:
    """Why Pub/Sub never takes the message; nothing when it does."""
    if not message.body and not message.attributes:
        return f"a message to {message.topic} has neither a body nor attributes"
    size = _size(message)
    if size > MAX_MESSAGE_BYTES:
        return (
            f"a message to {message.topic} has {size} bytes, and Pub/Sub takes {MAX_MESSAGE_BYTES};"
            " put the content into a store and publish where it is"
        )
    return ""


def _size(message: Outgoing) -> int:
    attributes = sum(
        len(name.encode()) + len(value.encode()) + _MESSAGE_FRAME_BYTES
        for name, value in message.attributes.items()
    )
    return len(message.body) + attributes + _MESSAGE_FRAME_BYTES


def _requests(messages: Sequence[Outgoing]) -> Iterator[list[Outgoing]]:
    """The messages in groups that fit into a request, in their order."""
    some: list[Outgoing] = []
    total = 0
    for message in messages:
        size = _size(message)
        if some and (len(some) == REQUEST_MESSAGES or total + size > REQUEST_BYTES):
            yield some
            some, total = [], 0
        some.append(message)
        total += size
    yield some


def _task_body(message: Outgoing) -> bytes:
    """The publish request that a task makes. Raises ValueError when it is too large for a task."""
    content = {"data": b64encode(message.body).decode(), "attributes": dict(message.attributes)}
    body = msgspec.json.encode({"messages": [content]})
    if len(body) > MAX_TASK_BYTES - _TASK_FRAME_BYTES:
        raise ValueError(
            f"a message to {message.topic} for later has {len(message.body)} bytes, {len(body)} as a"
            f" request in JSON, and Cloud Tasks takes {MAX_TASK_BYTES} with all around it; put the"
            " content into a store and publish where it is"
        )
    return body
