"""What the bus on Google Cloud asks for, and what it comes to when that is refused or unanswered."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.api_core import exceptions as api
from google.auth.exceptions import RefreshError

from shared.bus import Outgoing
from shared.bus.letters import FirestoreLetters
from shared.bus.pubsub import MAX_DELAY, REQUEST_BYTES, REQUEST_MESSAGES, TRIES, PubsubBus
from shared.core.message import Topic
from shared.errors import Unavailable
from shared.firestore import Database
from shared.settings import ROOT

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SOON = NOW + timedelta(seconds=30)
NOWHERE = "127.0.0.1:1"  # nothing listens there, and no test here gets that far
QUEUE = "projects/p/locations/l/queues/later"
ACCOUNT = "tasks@p.iam.gserviceaccount.com"


class Scripted:
    """A client that keeps what it is asked, and answers with the next of its errors, if any is left."""

    def __init__(self, errors: list[Exception] | None = None) -> None:
        self.errors = errors or []
        self.asked: list[Any] = []
        self.transport = self

    def _next(self, asked: Any, **options: Any) -> None:
        assert options["timeout"] > 0
        assert options["retry"] is None, "the library's own tries go on for a minute"
        self.asked.append(asked)
        if self.errors:
            raise self.errors.pop(0)

    def publish(self, request: Any, **options: Any) -> None:
        self._next(request, **options)

    def create_task(self, parent: str, task: Any, **options: Any) -> None:
        assert parent == QUEUE
        self._next(task, **options)

    def close(self) -> None: ...


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def letters() -> Iterator[FirestoreLetters]:
    database = Database("p", sleep=time.sleep, random=lambda: 0.5, emulator=NOWHERE)
    yield FirestoreLetters(database, now=lambda: NOW, new_id=lambda: "n")
    database.close()


def opened(letters: FirestoreLetters, slept: list[float], emulator: str | None) -> PubsubBus:
    return PubsubBus(
        "p",
        prefix="pipelines-prod-",
        letters=letters,
        queue=QUEUE,
        account=ACCOUNT,
        now=lambda: NOW,
        sleep=slept.append,
        random=lambda: 0.5,
        emulator=emulator,
        tasks_emulator=NOWHERE,
    )


@pytest.fixture
def bus(letters: FirestoreLetters, slept: list[float]) -> Iterator[PubsubBus]:
    made = opened(letters, slept, NOWHERE)
    yield made
    made.close()


def step(body: bytes, at: datetime | None = None, **attributes: str) -> Outgoing:
    return Outgoing(Topic.STEPS, body, at, attributes)


def error(kind: type[Exception]) -> Exception:
    return kind("said")


PASSING = (
    api.ServiceUnavailable,
    api.DeadlineExceeded,
    api.InternalServerError,
    api.Unknown,
    api.Aborted,
    api.ResourceExhausted,
)
FINAL = (api.PermissionDenied, api.InvalidArgument, api.NotFound, RefreshError)


@pytest.mark.parametrize("kind", PASSING)
@pytest.mark.parametrize("at", [None, SOON])
def test_without_an_answer_it_is_tried_a_few_times_and_then_unavailable(
    bus: PubsubBus, kind: type[Exception], at: datetime | None, slept: list[float]
) -> None:
    bus._rpc = bus._tasks = client = Scripted([error(kind) for _ in range(TRIES)])
    with pytest.raises(Unavailable, match=r"pipelines-prod-steps.*\(waiting may help\).*said"):
        bus.publish([step(b"x", at)])
    assert len(client.asked) == TRIES
    assert sum(slept) < 1


@pytest.mark.parametrize("kind", PASSING)
def test_an_answer_to_a_later_try_is_enough(bus: PubsubBus, kind: type[Exception]) -> None:
    bus._rpc = client = Scripted([error(kind) for _ in range(TRIES - 1)])
    bus.publish([step(b"x")])
    assert len(client.asked) == TRIES


@pytest.mark.parametrize("kind", FINAL)
@pytest.mark.parametrize("at", [None, SOON])
def test_what_waiting_does_not_help_is_said_at_once(
    bus: PubsubBus, kind: type[Exception], at: datetime | None
) -> None:
    bus._rpc = bus._tasks = client = Scripted([error(kind)])
    with pytest.raises(Unavailable, match=r"waiting does not help.*said"):
        bus.publish([step(b"x", at)])
    assert len(client.asked) == 1


def test_messages_go_out_by_topic_in_their_order_and_in_requests_that_pubsub_takes(
    bus: PubsubBus,
) -> None:
    bus._rpc = client = Scripted()
    many = [step(b"%d" % number) for number in range(2 * REQUEST_MESSAGES + 1)]
    bus.publish([*many[:1500], Outgoing(Topic.COMPLETIONS, b"c"), *many[1500:]])
    sent = [(asked.topic.rpartition("/")[2], len(asked.messages)) for asked in client.asked]
    assert sent == [
        ("pipelines-prod-steps", 1000),
        ("pipelines-prod-steps", 1000),
        ("pipelines-prod-steps", 1),
        ("pipelines-prod-completions", 1),
    ]
    bodies = [message.data for asked in client.asked[:3] for message in asked.messages]
    assert bodies == [message.body for message in many]


def test_large_messages_go_out_in_requests_below_the_limit(bus: PubsubBus) -> None:
    bus._rpc = client = Scripted()
    sizes = [4_000_000, 4_000_000, 999_000, 2_000, 9_900_000, 5, 9_000_000]
    bus.publish([step(bytes(size), a="b" * 1000) for size in sizes])
    sent = [[len(message.data) for message in asked.messages] for asked in client.asked]
    assert sent == [[4_000_000, 4_000_000], [999_000, 2_000], [9_900_000], [5], [9_000_000]]
    for asked in client.asked:
        size = type(asked).pb(asked).ByteSize()
        assert size <= REQUEST_BYTES or len(asked.messages) == 1


def test_a_message_for_later_is_a_task_that_publishes_it(
    letters: FirestoreLetters,
    slept: list[float],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    account = {
        "type": "service_account",
        "client_email": "us@p.iam.gserviceaccount.com",
        "token_uri": "https://127.0.0.1:1/token",
        "private_key": key.decode(),
    }
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    bus = opened(letters, slept, None)
    bus._tasks = client = Scripted()
    bus.publish([step(b"\x00\xff", SOON, run="r1", name="Zoë")])
    bus.close()
    (task,) = client.asked
    assert task.schedule_time == SOON
    call = task.http_request
    assert call.url == (
        "https://pubsub.googleapis.com/v1/projects/p/topics/pipelines-prod-steps:publish"
    )
    assert (call.http_method.name, dict(call.headers)) == (
        "POST",
        {"Content-Type": "application/json"},
    )
    assert call.oauth_token.service_account_email == ACCOUNT
    assert call.oauth_token.scope == "https://www.googleapis.com/auth/pubsub"
    (message,) = json.loads(call.body)["messages"]
    assert b64decode(message["data"]) == b"\x00\xff"
    assert message["attributes"] == {"run": "r1", "name": "Zoë"}


def test_a_message_for_much_later_comes_after_what_cloud_tasks_allows(bus: PubsubBus) -> None:
    bus._tasks = client = Scripted()
    bus.publish([step(b"x", NOW + timedelta(days=400)), step(b"x", NOW + timedelta(days=29))])
    assert [task.schedule_time for task in client.asked] == [
        NOW + MAX_DELAY,
        NOW + timedelta(days=29),
    ]


def test_a_message_for_now_is_no_task(bus: PubsubBus) -> None:
    bus._rpc, bus._tasks = now, later = Scripted(), Scripted()
    bus.publish([step(b"x", NOW), step(b"x", NOW - timedelta(days=1))])
    assert (len(now.asked), len(later.asked)) == (1, 0)


def test_a_message_for_later_that_no_task_holds_is_refused_before_anything_is_sent(
    bus: PubsubBus,
) -> None:
    bus._rpc, bus._tasks = now, later = Scripted(), Scripted()
    with pytest.raises(ValueError, match=r"for later has 800000 bytes.*Cloud Tasks takes 1000000"):
        bus.publish([step(b"x"), step(b"y", SOON), step(bytes(800_000), SOON)])
    assert now.asked == later.asked == []
    bus.publish([step(bytes(740_000), SOON)])
    assert len(later.asked[0].http_request.body) < 1_000_000


def test_without_credentials_the_bus_is_unavailable(
    letters: FirestoreLetters, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/at/all.json")
    with pytest.raises(Unavailable, match=r"cannot be opened.*/nowhere/at/all"):
        opened(letters, slept, None)


IMPORTS = """
import sys
from shared.bus.letters import FirestoreLetters
from shared.bus.pubsub import PubsubBus
first = "google.api_core" in sys.modules
bus = PubsubBus(
    "p", prefix="", letters=None, queue="", account="", now=None, sleep=None, random=None,
    emulator="127.0.0.1:1",
)
print(first, "google.pubsub_v1" in sys.modules, "google.cloud.tasks_v2" in sys.modules)
"""


def test_an_sdk_is_imported_when_it_is_used() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "False True False\n"
