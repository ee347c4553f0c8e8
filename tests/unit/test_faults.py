"""A fault that nobody foresaw: said in the log, with its place and without the values in its text."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace
from typing import Any

from flask import Request
from werkzeug.test import EnvironBuilder

from functions._push import receive
from functions.api import api
from shared.bootstrap import ENGINE_KEY
from shared.core.message import PushEnvelope, PushMessage, Topic, seal_envelope
from shared.engine.limit import Limit
from shared.log import Log

CANARY = "sk-canary-0123456789"


class Scene:
    """A request to an engine whose every use fails."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        app = SimpleNamespace(
            log=Log(stream=self.stream),
            accounts=SimpleNamespace(authenticate=self.fail),
            now=lambda: None,
            callers=None,
        )
        self.engine = SimpleNamespace(app=app, failed_keys=Limit(60, lambda: 0.0))

    def fail(self, *_: object) -> Any:
        raise ValueError(CANARY)

    def request(self, path: str, body: bytes = b"") -> Request:
        built = EnvironBuilder(path=path, method="POST", data=body, headers=[("X-API-Key", "x")])
        environ: dict[str, Any] = {**built.get_environ(), ENGINE_KEY: self.engine}
        return Request(environ)

    def logged(self) -> dict[str, Any]:
        (line,) = self.stream.getvalue().splitlines()
        said: dict[str, Any] = json.loads(line)
        return said


def test_a_fault_behind_the_api_is_told_by_its_place() -> None:
    scene = Scene()
    answer: Any = api(scene.request("/admin/orgs"))
    assert answer.status_code == 500
    said = scene.logged()
    assert (said["message"], said["error"]) == ("api.fault", "ValueError")
    assert "unit/test_faults.py:" in said["where"]
    assert "(fail)" in said["where"]
    assert CANARY not in str(said) + answer.get_data(as_text=True)


def test_a_fault_behind_a_push_is_told_and_comes_again() -> None:
    scene = Scene()
    body = seal_envelope(PushEnvelope(message=PushMessage(data=b"{}", attributes={"run": "r1"})))
    answer = receive(scene.request("/", body), Topic.STEPS, scene.fail)
    assert answer.status_code == 500
    said = scene.logged()
    assert (said["message"], said["topic"], said["run"]) == ("message.fault", "steps", "r1")
    assert "(fail)" in said["where"]
    assert CANARY not in str(said) + answer.get_data(as_text=True)
