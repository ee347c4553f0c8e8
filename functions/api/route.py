"""What a route of the API says of itself: enough to read what is sent to it, and to describe it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from flask import Response

from functions.api.http import Call, NoQuery
from shared.accounts import Scope
from shared.core.record import Record


class Route(NamedTuple):
    """One method at one path. `run` takes the call, the path's values, `query` and `body` by name.

    `answers` has what it answers when all is well, by its status; None is an answer without a body.
    Without `body` it takes none. `scope` None: open to everybody. `platform`: no key of an organization
    may. `keyed`: it starts a run, once for an Idempotency-Key. `conflicts`: what else may be refused.
    `files`: it answers a file, as a JSON array of what `answers` has, or as one of these media types.
    """

    method: str
    path: str
    scope: Scope | None
    run: Callable[..., Response]
    answers: Mapping[int, type | None]
    query: type[Record] = NoQuery
    body: type[Record] | None = None
    platform: bool = False
    keyed: bool = False
    conflicts: tuple[int, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    def call(self, call: Call, values: Mapping[str, str]) -> Response:
        """Reads what was sent, and answers it. Raises RequestError."""
        given: dict[str, object] = {}
        query = call.query(self.query)
        if self.query is not NoQuery:
            given["query"] = query
        if self.body is not None:
            given["body"] = call.body(self.body)
        return self.run(call, **values, **given)
