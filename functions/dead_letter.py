"""Parks what a push subscription gave up, as a letter that people can read and send again."""

from __future__ import annotations

import functions_framework
from flask import Request, Response

from functions._push import park, receive
from shared.bus import Outgoing
from shared.core.message import PushMessage, Topic, given_up
from shared.engine import Engine


@functions_framework.http
def dead_letter(request: Request) -> Response:
    """Push endpoint of the topic `dead-letters`."""
    return receive(request, Topic.DEAD_LETTERS, _park)


def _park(engine: Engine, message: PushMessage) -> None:
    found = given_up(message)
    letter = Outgoing(found.topic, message.data, None, found.attributes)
    park(engine, letter, found.reason, found.deliveries, found.published_at)
