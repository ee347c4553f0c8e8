"""The messages between the functions: versioned JSON, self-contained, without any secret.

A message of an unknown version or shape is Unreadable: the bus parks it with that reason.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from enum import StrEnum
from typing import NamedTuple, TypeVar

import msgspec

from shared.core.record import Document, Json
from shared.errors import Unreadable

VERSION = 1

# Of a version to come the same part is known; what follows it is not. "ff" is no version.
_TRACEPARENT = re.compile(
    "(?P<version>(?!ff)[0-9a-f]{2})"
    "(?P<known>-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(?P<more>-.*)?"
)


class Topic(StrEnum):
    """Where a message goes. One subscription each, but `run-events`, which is for everybody.

    On Google Cloud the id of a topic is a prefix and one of these names, and its subscription has the
    id of the topic. No name is the end of another. What a subscription gives up goes to `dead-letters`.
    """

    STARTS = "starts"
    STEPS = "steps"
    COMPLETIONS = "completions"
    RUN_EVENTS = "run-events"
    DEAD_LETTERS = "dead-letters"


class StepMessage(Document, frozen=True, kw_only=True):
    """Run this attempt. Carries the whole step, so that the worker needs no read of the run."""

    v: int = VERSION
    run_id: str
    run_created_at: datetime
    org: str
    dataset: str
    pipeline_id: str
    address: str
    provider: str
    step_id: str
    attempt: int
    ps_type: str
    config: dict[str, Json]
    timeout_seconds: float
    start_date: date
    end_date: date
    credential_id: str
    not_after: datetime
    trace: str = ""


class StartMessage(Document, frozen=True, kw_only=True):
    """Start what this schedule of the organization is due for at that time."""

    v: int = VERSION
    org: str
    schedule_id: str
    due_at: datetime


class CompletionMessage(Document, frozen=True, kw_only=True):
    """Look at this run: because of an attempt that ended, or (without one) because it is due."""

    v: int = VERSION
    run_id: str
    step_id: str = ""
    attempt: int = 0


class RunEvent(Document, frozen=True, kw_only=True):
    """The end of a run, for other systems: the data of a CloudEvent `run.{status}`."""

    v: int = VERSION
    id: str
    run_id: str
    org: str
    address: str
    pipeline_id: str
    status: str
    outcome: str | None
    finished_at: datetime
    error: str | None = None


M = TypeVar("M", StartMessage, StepMessage, CompletionMessage, RunEvent)

_encoder = msgspec.json.Encoder()
_decoders: dict[type, msgspec.json.Decoder[object]] = {
    kind: msgspec.json.Decoder(kind)
    for kind in (StartMessage, StepMessage, CompletionMessage, RunEvent)
}


class _Versioned(msgspec.Struct):
    v: int


_version = msgspec.json.Decoder(_Versioned)


def encode(message: StartMessage | StepMessage | CompletionMessage | RunEvent) -> bytes:
    """The message as JSON. The version is always written out, also when it is the default."""
    body = _encoder.encode(message)
    return b'{"v":%d,' % message.v + body[1:] if not body.startswith(b'{"v":') else body


def decode(body: bytes, kind: type[M]) -> M:
    """The message in `body`. Raises Unreadable, with the reason, for anything else."""
    try:
        version = _version.decode(body).v
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise Unreadable(f"not a message of ours: {error}") from error
    if version != VERSION:
        raise Unreadable(f"message version {version}, this release reads {VERSION}")
    try:
        return _decoders[kind].decode(body)  # type: ignore[return-value]  # the table maps kind to its decoder
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise Unreadable(f"not a {kind.__name__}: {error}") from error


def traced(header: str) -> str:
    """The header `traceparent` as it is passed on, or "" where it is none (www.w3.org/TR/trace-context).

    Of a version to come that is what this one knows of it.
    """
    found = _TRACEPARENT.fullmatch(header)
    if found is None or (found["version"] == "00" and found["more"]):
        return ""
    return f"00{found['known']}"


def attributes_of(run_id: str, org: str = "", trace: str = "") -> dict[str, str]:
    """What is said of a message outside its body: its run, the organization, and the run's trace.

    `traceparent` is the header of that name (www.w3.org/TR/trace-context), as the run was asked for.
    """
    said = {"run": run_id, "org": org, "traceparent": trace}
    return {name: value for name, value in said.items() if value}


class PushMessage(msgspec.Struct, rename="camel"):
    """The message inside the envelope; `data` may be missing when a message has attributes only."""

    message_id: str = ""
    data: bytes = b""  # base64 in JSON
    attributes: dict[str, str] = {}
    publish_time: str = ""

    @property
    def published_at(self) -> datetime | None:
        """When the bus took the message; None where the envelope does not say it."""
        return _time(self.publish_time)


class PushEnvelope(msgspec.Struct, rename="camel"):
    """What Pub/Sub posts to a push endpoint (cloud.google.com/pubsub/docs/push)."""

    message: PushMessage
    subscription: str = ""
    delivery_attempt: int | None = None


_envelope = msgspec.json.Decoder(PushEnvelope)


def open_envelope(body: bytes) -> PushEnvelope:
    """The envelope in `body`. Raises Unreadable when it is none."""
    try:
        return _envelope.decode(body)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise Unreadable(f"not a push envelope: {error}") from error


def seal_envelope(envelope: PushEnvelope) -> bytes:
    """The JSON that `open_envelope` reads."""
    return _encoder.encode(envelope)


class GivenUp(NamedTuple):
    """Whence a message came to the dead letters, and why. `attributes` are those it was sent with."""

    topic: Topic
    attributes: dict[str, str]
    reason: str
    deliveries: int
    published_at: datetime | None


_GIVEN_UP = "CloudPubSub"
_SOURCE = _GIVEN_UP + "DeadLetterSource"


def given_up(message: PushMessage) -> GivenUp:
    """What the attributes say that Pub/Sub adds to a message which a subscription gave up.

    A message that does not come from a subscription of ours stays one of the topic `dead-letters`.
    """
    found = message.attributes
    subscription = found.get(_SOURCE + "Subscription", "")
    count = found.get(_SOURCE + "DeliveryCount", "")
    deliveries = int(count) if count.isascii() and count.isdigit() and len(count) < 10 else 1
    topic = next((topic for topic in Topic if subscription.endswith(topic)), Topic.DEAD_LETTERS)
    if subscription:
        reason = (
            f"delivered {deliveries} times to subscription {subscription} and never acknowledged;"
            " the log of its function says why"
        )
    else:
        reason = f"published to {Topic.DEAD_LETTERS} and not given up by any subscription"
    return GivenUp(
        topic,
        {name: value for name, value in found.items() if not name.startswith(_GIVEN_UP)},
        reason,
        deliveries,
        _time(found.get(_SOURCE + "TopicPublishTime", "")),
    )


def _time(text: str) -> datetime | None:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if at.tzinfo is None else at
