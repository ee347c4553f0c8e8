"""Dead letters: messages that nobody could handle. For operators, whatever organization they are of."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

from flask import Response

from functions.api.http import Call, PageSize, answer
from shared.accounts import Change
from shared.bus import DeadLetter
from shared.core.record import Record
from shared.engine.query import View
from shared.errors import NotFound


class LetterRow(View, frozen=True, kw_only=True):
    """A dead letter in a list. `run_id` and `org` are as the message says, null where it does not."""

    id: str
    topic: str
    reason: str
    deliveries: int
    run_id: str | None
    org: str | None
    published_at: datetime
    parked_at: datetime


class LetterView(LetterRow, frozen=True, kw_only=True):
    """A whole dead letter. A body that is no text is in `body_base64` instead."""

    attributes: dict[str, str]
    body: str | None
    body_base64: bytes | None


class LettersView(View, frozen=True, kw_only=True):
    """Dead letters, those that were parked first at the front."""

    dead_letters: tuple[LetterRow, ...]


class LettersQuery(Record, frozen=True, kw_only=True):
    """How many letters."""

    limit: PageSize = 50


def list_letters(call: Call, query: LettersQuery) -> Response:
    """Those that were parked first, without their bodies."""
    letters = call.engine.app.bus.dead_letters(query.limit)
    return answer(LettersView(dead_letters=tuple(LetterRow(**_row(one)) for one in letters)))


def show_letter(call: Call, letter_id: str) -> Response:
    """The whole letter, with what the message says."""
    letter = call.engine.app.bus.dead_letter(letter_id)
    if letter is None:
        raise _unknown(letter_id)
    try:
        text, other = letter.body.decode(), None
    except UnicodeDecodeError:
        text, other = None, letter.body
    view = LetterView(
        **_row(letter), attributes=dict(letter.attributes), body=text, body_base64=other
    )
    return answer(view)


def redrive_letter(call: Call, letter_id: str) -> Response:
    """Publishes the message again. It is parked again if still nobody can handle it."""
    with _changing(call, "dead_letter.redrive", letter_id):
        if not call.engine.app.bus.redrive(letter_id):
            raise _unknown(letter_id)
    call.engine.app.log.info("dead_letter.redriven", letter=letter_id)
    call.note(Change(None, "dead_letter.redriven", letter_id, {"parked": True}, {"parked": False}))
    return Response(status=204)


def drop_letter(call: Call, letter_id: str) -> Response:
    """Deletes the message for good. What it was for, the tick sees to."""
    with _changing(call, "dead_letter.drop", letter_id):
        if not call.engine.app.bus.drop(letter_id):
            raise _unknown(letter_id)
    call.engine.app.log.info("dead_letter.dropped", letter=letter_id)
    call.note(Change(None, "dead_letter.dropped", letter_id, {"parked": True}, None))
    return Response(status=204)


def _changing(call: Call, asked: str, letter_id: str) -> AbstractContextManager[None]:
    if call.engine.app.bus.dead_letter(letter_id) is None:
        raise _unknown(letter_id)  # nothing is changed, so nothing is noted
    return call.elsewhere(asked, None, letter_id)


def _row(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "topic": letter.topic,
        "reason": letter.reason,
        "deliveries": letter.deliveries,
        "run_id": letter.attributes.get("run"),
        "org": letter.attributes.get("org"),
        "published_at": letter.published_at,
        "parked_at": letter.parked_at,
    }


def _unknown(letter_id: str) -> NotFound:
    return NotFound(f"there is no dead letter {letter_id!r}", code="dead_letter_not_found")
