"""How fast callers may be, and what they are told of it. Where the limits are low: embedded only."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.system import EmbeddedSystem, Reply

REQUESTS = 30  # a busy machine sends them in less than the minute that gives them back
FAILED = 30


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[EmbeddedSystem]:
    with EmbeddedSystem(
        tmp_path,
        wrap=lambda app: replace(app, requests_per_minute=REQUESTS, failed_keys_per_minute=FAILED),
    ) as system:
        yield system


def header(reply: Reply, name: str) -> str:
    """Whatever case the server writes it in."""
    return {found.lower(): value for found, value in reply.headers.items()}[name.lower()]


def test_who_is_too_fast_is_told_when_to_come_back(slow: EmbeddedSystem) -> None:
    key = slow.organization("acme")
    path = "/pipelines/quota/acme"
    first = slow.call("GET", path, key=key)
    assert header(first, "RateLimit-Policy") == f'"key";q={REQUESTS};w=60'
    assert header(first, "RateLimit") == f'"key";r={REQUESTS - 1};t=2'
    replies = [slow.call("GET", path, key=key) for _ in range(REQUESTS + 20)]
    refused = [reply for reply in replies if reply.status == 429]
    assert refused
    assert {reply.status for reply in replies} == {200, 429}
    assert {reply.json["error"] for reply in refused} == {"rate_limited"}
    assert {reply.headers["Retry-After"] for reply in refused} <= {"1", "2"}
    assert all(header(reply, "RateLimit").startswith('"key";r=0;t=') for reply in refused)
    assert slow.call("GET", path).status == 200, "another key is not held up"
    assert slow.call("GET", "/health", key="").status == 200
    time.sleep(2)
    assert slow.call("GET", path, key=key).status == 200


def test_who_guesses_keys_is_slowed_down(slow: EmbeddedSystem) -> None:
    key = slow.organization("acme")
    path = "/pipelines/quota/acme"
    replies = [slow.call("GET", path, key=f"cpk_guess_{number}") for number in range(FAILED + 10)]
    assert {reply.status for reply in replies[:FAILED]} == {401}
    assert replies[-1].status == 429
    assert replies[-1].json["error"] == "too_many_attempts"
    assert int(replies[-1].headers["Retry-After"]) >= 1
    elsewhere = {"X-Forwarded-For": "203.0.113.7"}
    assert slow.call("GET", path, key=key, headers=elsewhere).status == 429, (
        "its word does not count"
    )
    assert slow.call("GET", path, key="").status == 401, "nothing was guessed"
    time.sleep(3)
    assert slow.call("GET", path, key=key).status == 200
