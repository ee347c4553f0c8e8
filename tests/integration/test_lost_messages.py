"""A run ends also when the messages about it are parked: nothing rests on a message alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from msgspec.structs import replace

from shared.bus import Bus, Outgoing
from shared.core.message import CompletionMessage, Topic, decode
from shared.core.run import EMBEDDED_TIMING
from tests.support.system import EmbeddedSystem

FROM_THE_FUTURE = b'{"v":99}'


class Spoiling:
    """A bus that nobody understands when it tells of the end of a step."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    def __getattr__(self, verb: str) -> Any:
        return getattr(self._bus, verb)

    def publish(self, messages: Sequence[Outgoing]) -> None:
        self._bus.publish([self._spoilt(message) for message in messages])

    def _spoilt(self, message: Outgoing) -> Outgoing:
        if message.topic is not Topic.COMPLETIONS:
            return message
        of_step = decode(message.body, CompletionMessage).step_id
        return message._replace(body=FROM_THE_FUTURE) if of_step else message


def test_a_run_whose_completion_messages_are_parked_ends_by_the_tick(tmp_path: Path) -> None:
    system = EmbeddedSystem(
        tmp_path,
        timing=replace(EMBEDDED_TIMING, requeue=timedelta(seconds=0.5)),
        wrap=lambda app: dataclasses.replace(app, bus=cast("Bus", Spoiling(app.bus))),
    )
    with system:
        system.organization("acme")
        run = system.run("acme", "engine/noop/diamond")
        assert run["status"] == "completed"
        assert [step["attempt"] for step in run["steps"]] == [1] * 4
        letters = system.call("GET", "/admin/dead-letters").json["dead_letters"]
        told = [letter for letter in letters if letter["run_id"] == run["run_id"]]
        assert len(told) >= 4
        assert {letter["reason"] for letter in told} == {"message version 99, this release reads 1"}
        assert {letter["org"] for letter in told} == {"acme"}
