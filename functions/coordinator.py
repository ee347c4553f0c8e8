"""Brings a run on after an event, or because the tick says that it is due."""

from __future__ import annotations

import functions_framework
from flask import Request, Response

from functions._push import receive
from shared.core.message import CompletionMessage, Topic, decode


@functions_framework.http
def coordinator(request: Request) -> Response:
    """Push endpoint of the topic `completions`."""
    return receive(
        request,
        Topic.COMPLETIONS,
        lambda engine, message: engine.coordinator.handle(decode(message.data, CompletionMessage)),
    )
