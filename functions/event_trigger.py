"""Starts what a message asks for: a schedule that is due."""

from __future__ import annotations

import functions_framework
from flask import Request, Response

from functions._push import receive
from shared.core.message import PushMessage, StartMessage, Topic, decode
from shared.engine import Engine
from shared.engine.schedules import start


@functions_framework.http
def event_trigger(request: Request) -> Response:
    """Push endpoint of the topic `starts`."""
    return receive(request, Topic.STARTS, _start)


def _start(engine: Engine, message: PushMessage) -> None:
    start(engine.app, engine.coordinator, decode(message.data, StartMessage))
