"""The checks that find nothing in the API would find something: each fault planted in an answer is found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import pytest
import schemathesis
from flask import Request
from schemathesis.core.failures import FailureGroup
from werkzeug.wrappers import Response

from shared.bootstrap import ENGINE_KEY, function
from tests.support.system import EmbeddedSystem

FIVE = {"org": "acme", "provider": "engine", "domain": "noop", "pipeline": "five"}


class Told(NamedTuple):
    """An answer on its way to the caller."""

    status: int
    headers: dict[str, str]
    body: bytes


Plant = Callable[[Told], Told]


class Question(NamedTuple):
    """A request of which we know the right answer."""

    method: str
    path: str
    values: dict[str, str] = {}
    body: Any = None
    key: bool = True


HEALTH = Question("GET", "/health", key=False)
RUN = Question("POST", "/pipelines/run/{org}/{provider}/{domain}/{pipeline}", FIVE, {})
STATUS = Question("GET", "/pipelines/status/{org}/{run_id}", {"org": "acme"})
HISTORY = Question("GET", "/pipelines/history/{org}", {"org": "acme"})
QUOTA = Question("GET", "/pipelines/quota/{org}", {"org": "acme"})
NOBODY = Question("GET", "/pipelines/quota/{org}", {"org": "nobody"})
NO_KEY = Question("GET", "/pipelines/quota/{org}", {"org": "acme"}, key=False)
BAD_BODY = Question("POST", "/admin/orgs", {}, {"slug": 1})


def status(code: int) -> Plant:
    return lambda told: told._replace(status=code)


def without(name: str) -> Plant:
    return lambda told: told._replace(
        headers={found: value for found, value in told.headers.items() if found != name}
    )


def header(name: str, value: str) -> Plant:
    return lambda told: told._replace(headers={**told.headers, name: value})


def said(*path: str | int, value: Any = ...) -> Plant:
    """Another value at the path of the JSON body; none at all without a value."""

    def plant(told: Told) -> Told:
        body = json.loads(told.body)
        inner = body
        for part in path[:-1]:
            inner = inner[part]
        if value is ...:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value
        return told._replace(body=json.dumps(body).encode())

    return plant


PLANTED: dict[str, tuple[Question, Plant]] = {
    "a status that is not described": (HEALTH, status(201)),
    "the status of another answer": (RUN, status(200)),
    "a refusal with a status of its own": (NOBODY, status(410)),
    "a fault of the server": (STATUS, status(500)),
    "a redirection": (HISTORY, status(302)),
    "a missing field": (STATUS, said("run_id")),
    "a missing field of a step": (STATUS, said("steps", 0, "status")),
    "a field that is not described": (QUOTA, said("secret", value="x")),
    "such a field of a step": (STATUS, said("steps", 0, "owner", value="x")),
    "a text for a number": (QUOTA, said("today", value="0")),
    "a number for a text": (STATUS, said("run_id", value=7)),
    "null where something always is": (STATUS, said("created_at", value=None)),
    "a word that is none of those": (STATUS, said("status", value="done")),
    "a time that is none": (QUOTA, said("daily_resets_at", value="tomorrow")),
    "a day that is none": (STATUS, said("start_date", value="2026-02-30")),
    "an object for a list": (HISTORY, said("runs", value={})),
    "half of an answer": (STATUS, lambda told: told._replace(body=told.body[:-20])),
    "an answer that is not JSON": (HEALTH, header("Content-Type", "text/html")),
    "a code that is not in the list": (NOBODY, said("error", value="gone")),
    "a problem without its request": (NOBODY, said("request_id")),
    "a fault that does not say which field": (BAD_BODY, said("faults", 0, "field")),
    "a problem that is plain JSON": (NOBODY, header("Content-Type", "application/json")),
    "an accepted run without its place": (RUN, without("Location")),
    "an answer without its request id": (QUOTA, without("X-Request-Id")),
    "a refusal that does not say how to ask": (NO_KEY, without("WWW-Authenticate")),
    "a limit that is not told": (QUOTA, without("RateLimit")),
    "a limit that cannot be read": (QUOTA, header("RateLimit", "plenty")),
}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedSystem]:
    with EmbeddedSystem(tmp_path_factory.mktemp("system")) as made:
        made.organization("acme")
        yield made


@pytest.fixture(scope="module")
def run_id(system: EmbeddedSystem) -> str:
    found: str = system.run("acme", "engine/noop/five")["run_id"]
    return found


def ask(
    system: EmbeddedSystem,
    run_id: str,
    question: Question,
    plant: Plant = lambda told: told,
    asked: Mapping[str, str] = {},
) -> None:
    """Calls the real function and lets schemathesis judge the answer. Raises FailureGroup.

    `plant` changes the first answer, and `asked` is put into the environment of every request.
    """
    plants = [plant]

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        answer = function("api")(Request({**environ, **asked, ENGINE_KEY: system.embedded.engine}))
        told = Told(answer.status_code, dict(answer.headers), answer.get_data())
        if plants and not environ["PATH_INFO"].endswith("/openapi.json"):
            told = plants.pop()(told)
        headers = {**told.headers, "Content-Length": str(len(told.body))}
        return Response(told.body, told.status, headers)(environ, start_response)

    schema = schemathesis.openapi.from_wsgi("/api/v1/openapi.json", application)
    values = {**question.values, "run_id": run_id}
    wanted = {name: value for name, value in values.items() if f"{{{name}}}" in question.path}
    given: dict[str, Any] = {"path_parameters": wanted} if wanted else {}
    if question.body is not None:
        given |= {"body": question.body, "media_type": "application/json"}
    if question.key:
        given["headers"] = {"X-API-Key": system.platform_key}
    case = schema[question.path][question.method].Case(**given)
    case.validate_response(case.call())


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(system: EmbeddedSystem, run_id: str, name: str) -> None:
    question, plant = PLANTED[name]
    ask(system, run_id, question)
    with pytest.raises(FailureGroup):
        ask(system, run_id, question, plant)


def test_a_route_that_does_not_look_at_the_key_is_found(
    system: EmbeddedSystem, run_id: str
) -> None:
    ask(system, run_id, QUOTA)
    with pytest.raises(FailureGroup):
        ask(system, run_id, QUOTA, asked={"HTTP_X_API_KEY": system.platform_key})
