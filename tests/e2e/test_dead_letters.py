"""Dead letters through the HTTP API: parked with their reason, looked at, redriven, dropped."""

from __future__ import annotations

import time
from base64 import b64decode
from typing import Any

import pytest

from shared.bus import Outgoing
from shared.core.message import CompletionMessage, Topic, encode
from tests.e2e.conftest import Tenant
from tests.support.system import System

LETTERS = "/admin/dead-letters"
WAIT_SECONDS = 60.0


def parked(system: System, about: str, but: str = "") -> dict[str, Any]:
    """The letter whose message says that it is about that run, as the list shows it."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        rows = system.call("GET", f"{LETTERS}?limit=200").json["dead_letters"]
        found = [row for row in rows if row["run_id"] == about and row["parked_at"] > but]
        if found:
            (letter,) = found
            return dict(letter)
        assert time.monotonic() < deadline, rows
        time.sleep(0.02)


def poison(system: System, run_id: str, body: bytes, topic: Topic = Topic.COMPLETIONS) -> None:
    system.app.bus.publish([Outgoing(topic, body, None, {"run": run_id, "org": "acme"})])


@pytest.mark.parametrize("topic", [Topic.STEPS, Topic.COMPLETIONS])
def test_a_message_of_a_version_to_come_is_parked_redriven_and_dropped(
    system: System, topic: Topic
) -> None:
    run_id, body = f"future-{topic}", '{"v":99,"run_id":"r","Ω":[1]}'
    poison(system, run_id, body.encode(), topic)
    row = parked(system, run_id)
    assert (row["topic"], row["org"], row["deliveries"]) == (topic, "acme", 1)
    assert "version 99" in row["reason"]
    assert row["published_at"] <= row["parked_at"]
    whole = system.call("GET", f"{LETTERS}/{row['id']}").json
    assert {name: whole[name] for name in row} == row
    assert (whole["body"], whole["body_base64"]) == (body, None)
    assert (whole["attributes"]["run"], whole["attributes"]["org"]) == (run_id, "acme")

    assert system.call("POST", f"{LETTERS}/{row['id']}/redrive").status == 204
    again = parked(system, run_id, but=row["parked_at"])  # it is still of a version to come
    assert system.call("DELETE", f"{LETTERS}/{again['id']}").status == 204
    for method, path in (("GET", ""), ("POST", "/redrive"), ("DELETE", "")):
        reply = system.call(method, f"{LETTERS}/{again['id']}{path}")
        assert (reply.status, reply.json["error"]) == (404, "dead_letter_not_found")


def test_a_redriven_message_that_can_be_handled_by_now_is_handled(system: System) -> None:
    message = encode(CompletionMessage(run_id="never-was"))
    system.app.bus.park(Outgoing(Topic.COMPLETIONS, message, None, {"run": "mended"}), "why", 7)
    row = parked(system, "mended")
    assert (row["org"], row["deliveries"], row["reason"]) == (None, 7, "why")
    assert system.call("POST", f"{LETTERS}/{row['id']}/redrive").status == 204
    time.sleep(0.5)
    rows = system.call("GET", LETTERS).json["dead_letters"]
    assert "mended" not in [row["run_id"] for row in rows]


def test_a_message_that_is_no_text_is_shown_as_it_is(system: System) -> None:
    poison(system, "binary", b"\xff\x00")
    row = parked(system, "binary")
    whole = system.call("GET", f"{LETTERS}/{row['id']}").json
    assert whole["body"] is None
    assert b64decode(whole["body_base64"]) == b"\xff\x00"
    system.call("DELETE", f"{LETTERS}/{row['id']}")


def test_a_list_has_no_body_and_no_more_than_asked_for(system: System) -> None:
    for number in range(3):
        poison(system, f"large-{number}", b"x" * 100_000)
        parked(system, f"large-{number}")
    reply = system.call("GET", f"{LETTERS}?limit=2")
    assert len(reply.json["dead_letters"]) == 2
    assert "xxx" not in str(reply.json)
    for number in range(3):
        system.call("DELETE", f"{LETTERS}/{parked(system, f'large-{number}')['id']}")


@pytest.mark.parametrize("limit", ["0", "201", "x", "-1", ""])
def test_a_limit_that_is_none_is_named(system: System, limit: str) -> None:
    reply = system.call("GET", f"{LETTERS}?limit={limit}")
    assert (reply.status, [fault["field"] for fault in reply.json["faults"]]) == (400, ["limit"])


def test_dead_letters_are_for_operators_only(system: System, tenant: Tenant) -> None:
    reply = system.call(
        "POST", f"/admin/orgs/{tenant.slug}/keys", {"name": "a", "scopes": ["admin"]}
    )
    for key, status in ((reply.json["api_key"], 403), ("", 401)):
        for method, path in (("GET", ""), ("GET", "/1"), ("POST", "/1/redrive"), ("DELETE", "/1")):
            assert system.call(method, LETTERS + path, key=key).status == status
