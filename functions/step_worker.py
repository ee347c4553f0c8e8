"""Runs one attempt of one step."""

from __future__ import annotations

import functions_framework
from flask import Request, Response

from functions._push import receive
from shared.core.message import StepMessage, Topic, decode


@functions_framework.http
def step_worker(request: Request) -> Response:
    """Push endpoint of the topic `steps`."""
    return receive(
        request,
        Topic.STEPS,
        lambda engine, message: engine.worker.take(decode(message.data, StepMessage)),
    )
