"""Dead letters in Firestore: `dead_letters/{id}`, and `dead_letters/{id}/parts/{n}` for a large body.

A letter is whole, however large its message was: the first PART_BYTES of the body are in its document,
the rest in parts. The parts are there before the letter and go after it; what a process that died in
between has left of them, `expire_at` takes away. A list shows the first part only.

The id follows from the message. Parked twice, it is one letter, with the larger count of deliveries and
the latest reason. It is kept for KEEP from when it was parked first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from hashlib import sha256
from typing import NamedTuple

import msgspec

from shared.bus import DeadLetter, Outgoing
from shared.core.message import Topic
from shared.core.run import clip
from shared.errors import Unavailable
from shared.firestore import (
    Database,
    Path,
    Query,
    Stored,
    Value,
    Write,
    changed,
    created,
    deleted,
)

LETTERS, PARTS = "dead_letters", "parts"
KEEP = timedelta(days=400)  # as long as the runs they belong to
# Leaves room in a document of 1 MiB for the attributes of any message (100 of 1.25 KiB, escaped), and
# lets the memory of a small function hold a list of a hundred.
PART_BYTES = 256 * 1024
MAX_REASON_BYTES = 2048
_TRIES = 20

_LISTED = (
    "topic",
    "body",
    "attributes",
    "reason",
    "deliveries",
    "published_at",
    "parked_at",
    "parts",
)
_attributes = msgspec.json.Decoder(dict[str, str]).decode


class Kept(NamedTuple):
    """A letter with its whole body, and the version that it was read at."""

    letter: DeadLetter
    version: int


class FirestoreLetters:
    """The dead letters of a Database, which its owner closes."""

    def __init__(
        self,
        database: Database,
        *,
        now: Callable[[], datetime],
        new_id: Callable[[], str],
        keep: timedelta = KEEP,
    ) -> None:
        self._db = database
        self._now = now
        self._new_id = new_id
        self._keep = keep

    def park(
        self, message: Outgoing, reason: str, deliveries: int, published_at: datetime | None
    ) -> None:
        """Keeps the message. Raises Unavailable."""
        path = (LETTERS, _id_of(message))
        # Makes every write change something, so that a redrive which has read the letter before cannot
        # take away what was parked since; and says whose write stands when an answer was lost.
        nonce = self._new_id()
        for _ in range(_TRIES):
            there = self._db.get([path], ("deliveries", "nonce")).get(path)
            if there is not None and there.fields.get("nonce") == nonce:
                return
            now = self._now()
            fields: dict[str, Value] = {
                "reason": _said(reason, len(message.body)),
                "deliveries": deliveries,
                "parked_at": now,
                "nonce": nonce,
            }
            if there is None:
                fields |= {
                    "topic": message.topic,
                    "body": message.body[:PART_BYTES],
                    "attributes": msgspec.json.encode(message.attributes),
                    "published_at": now if published_at is None else published_at,
                    "parts": self._write_parts(path, message.body),
                    # Parked again, a letter still goes with its parts.
                    "expire_at": now + self._keep,
                }
                write = created(path, fields)
            else:
                with _reading(there):
                    fields["deliveries"] = max(deliveries, there.fields["deliveries"])
                write = changed(path, {(name,): v for name, v in fields.items()}, there.version)
            if self._db.commit(f"park {'/'.join(path)}", write).versions is not None:
                return
        raise Unavailable(f"{'/'.join(path)}: {_TRIES} conditional writes in a row were lost")

    def oldest(self, limit: int) -> list[DeadLetter]:
        """The letters that were parked first, each with the first part of its body."""
        query = Query((), LETTERS, _LISTED, order=(("parked_at", False),), limit=limit)
        return [_letter(found, b"") for found in self._db.query(query)]

    def get(self, letter_id: str) -> Kept | None:
        """The letter with its whole body."""
        path = (LETTERS, letter_id)
        found = self._db.get([path]).get(path)
        if found is None:
            return None
        places = _parts(found)
        parts = self._db.get(places, ("body",))
        with _reading(found):
            rest = b"".join(parts[place].fields["body"] for place in places)
        return Kept(_letter(found, rest), found.version)

    def drop(self, letter_id: str, version: int | None = None) -> bool:
        """Deletes the letter; with a version, only as it was read. False: it was not there."""
        path = (LETTERS, letter_id)
        for _ in range(_TRIES):
            found = self._db.get([path], ("parts",)).get(path)
            if found is None or version not in (None, found.version):
                return False
            what = f"drop {'/'.join(path)}"
            done = self._db.commit(what, deleted(path, found.version))
            if done.versions is not None or (
                done.in_doubt and not self._db.get([path], ("nonce",))
            ):
                if places := _parts(found):
                    self._db.commit(what, *map(deleted, places))
                return True
        raise Unavailable(f"{'/'.join(path)}: {_TRIES} conditional writes in a row were lost")

    def _write_parts(self, path: Path, body: bytes) -> str:
        """The ids of the parts behind the first, which are new whoever else parks this message."""
        key = self._new_id()
        names = []
        for start in range(PART_BYTES, len(body), PART_BYTES):
            name = f"{key}.{start // PART_BYTES}"
            part = (*path, PARTS, name)
            expire_at = self._now() + self._keep
            fields = {"body": body[start : start + PART_BYTES], "expire_at": expire_at}
            self._db.commit(f"park {'/'.join(part)}", Write(part, fields))
            names.append(name)
        return " ".join(names)


def _id_of(message: Outgoing) -> str:
    head = msgspec.json.encode((message.topic, sorted(message.attributes.items())))
    return sha256(head + message.body).hexdigest()


def _said(reason: str, size: int) -> str:
    if size > PART_BYTES:
        reason = (
            f"{reason} (a message of {size} bytes, of which a list shows the first {PART_BYTES})"
        )
    return clip(reason, MAX_REASON_BYTES)


@contextmanager
def _reading(stored: Stored) -> Iterator[None]:
    try:
        yield
    except (msgspec.MsgspecError, KeyError, AttributeError, TypeError, ValueError) as error:
        place = "/".join(stored.path)
        raise Unavailable(f"{place} cannot be read: {type(error).__name__}: {error}") from error


def _parts(found: Stored) -> list[Path]:
    with _reading(found):
        return [(*found.path, PARTS, name) for name in found.fields["parts"].split()]


def _letter(found: Stored, rest: bytes) -> DeadLetter:
    with _reading(found):
        fields: Mapping[str, Value] = found.fields
        return DeadLetter(
            id=found.path[-1],
            topic=Topic(fields["topic"]),
            body=fields["body"] + rest,
            attributes=_attributes(fields["attributes"]),
            reason=fields["reason"],
            deliveries=fields["deliveries"],
            published_at=fields["published_at"],
            parked_at=fields["parked_at"],
        )
