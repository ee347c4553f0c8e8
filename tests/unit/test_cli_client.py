"""The client against a server that says what a test wants it to say."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from shared.cli.client import Client, Refused, Unreachable, connect
from shared.cli.follow import follow
from shared.cli.options import Session
from shared.cli.runs import _page
from shared.cli.stop import Code, Stop
from shared.errors import ConfigError
from shared.settings import ClientSettings, read_client_settings


class Script:
    """Answers in order, the last one for ever; None breaks the connection."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any, dict[str, str]] | None] = []
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.url = ""

    def says(self, status: int, body: Any, **headers: str) -> None:
        self.answers.append((status, body, headers))


@pytest.fixture
def script() -> Iterator[Script]:
    said = Script()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            said.asked.append(
                (self.command, self.path, dict(self.headers), self.rfile.read(length))
            )
            answer = said.answers.pop(0) if len(said.answers) > 1 else said.answers[0]
            if answer is None:
                self.close_connection = True
                return
            status, body, headers = answer
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815  # http.server's names

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    said.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield said
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_call_carries_the_key_and_quotes_what_a_person_typed(script: Script) -> None:
    script.says(200, {"ok": True})
    Client(script.url, "cpk_1").get(
        "pipelines", "status", "a/b", "r 1", query={"x": "ü", "y": None}
    )
    method, path, headers, _ = script.asked[0]
    assert (method, path) == ("GET", "/api/v1/pipelines/status/a%2Fb/r%201?x=%C3%BC")
    assert headers["X-API-Key"] == "cpk_1"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, Code.BAD_INPUT),
        (401, Code.BAD_INPUT),
        (404, Code.BAD_INPUT),
        (422, Code.BAD_INPUT),
        (429, Code.QUOTA),
        (500, Code.UNREACHABLE),
        (503, Code.UNREACHABLE),
    ],
)
def test_the_status_decides_the_exit_code(script: Script, status: int, code: Code) -> None:
    script.says(status, {"detail": "so it is", "error": "some_code", "request_id": "r1"})
    with pytest.raises(Refused) as caught:
        Client(script.url, None).get("x")
    assert caught.value.code is code
    assert caught.value.message == "so it is"
    assert caught.value.note == f"some_code · {status} · request r1"


def test_every_fault_of_a_problem_is_told(script: Script) -> None:
    faults = [{"field": "start_date", "message": "is no day"}, {"field": "", "message": "is odd"}]
    script.says(400, {"detail": "not valid", "faults": faults})
    with pytest.raises(Refused) as caught:
        Client(script.url, None).get("x")
    assert [str(fault) for fault in caught.value.faults] == ["start_date is no day", "is odd"]


def test_a_full_quota_says_when_it_is_worth_trying_again(script: Script) -> None:
    script.says(429, {"detail": "reached"}, Retry_After="5401")
    with pytest.raises(Refused) as caught:
        Client(script.url, None).get("x")
    assert caught.value.hint == "worth trying again in 91 min"


def test_what_is_not_our_api_is_named_as_such(script: Script) -> None:
    script.says(502, b"<html>Bad Gateway</html>", Content_Type="text/html")
    with pytest.raises(Stop, match=r"is not this API \(HTTP 502, text/html\)") as caught:
        Client(script.url, None).get("x")
    assert caught.value.code is Code.UNREACHABLE


def test_a_broken_connection_is_tried_again_only_where_twice_is_once(script: Script) -> None:
    script.answers = [None, (200, {"ok": True}, {})]
    assert Client(script.url, None).get("x").body == {"ok": True}
    script.asked.clear()
    script.answers = [None, (200, {"ok": True}, {})]
    with pytest.raises(Unreachable, match="the connection broke"):
        Client(script.url, None).post("x", body={})
    assert len(script.asked) == 1
    script.answers = [None, (200, {"ok": True}, {})]
    again = Client(script.url, None).post("x", body={}, headers={"Idempotency-Key": "k"})
    assert again.status == 200


def test_nobody_listening_says_how_to_start_one() -> None:
    with pytest.raises(Unreachable) as caught:
        Client("http://127.0.0.1:9", None).get("x")
    assert caught.value.message == "no API at http://127.0.0.1:9"
    assert "pipelines dev" in caught.value.hint


def test_a_run_is_followed_through_a_restart_of_the_api(script: Script) -> None:
    script.says(200, {"status": "running", "steps": []})
    script.says(503, {"detail": "unavailable"})
    script.says(200, {"status": "completed", "steps": []})
    slept: list[float] = []
    ended = follow(
        Client(script.url, None), "acme", "r1", sleep=slept.append, monotonic=lambda: 0.0
    )
    assert ended.body["status"] == "completed"
    assert len(slept) == 2


def test_an_api_that_stays_away_ends_the_following_but_not_the_run(script: Script) -> None:
    script.says(503, {"detail": "unavailable"})
    clock = iter(range(0, 1000, 20))
    with pytest.raises(Refused) as caught:
        follow(
            Client(script.url, None),
            "acme",
            "r1",
            sleep=lambda _: None,
            monotonic=lambda: float(next(clock)),
        )
    assert caught.value.code is Code.UNREACHABLE
    assert "the run may go on" in caught.value.hint


def test_whoever_cannot_follow_for_others_waits_for_a_place(script: Script) -> None:
    script.says(429, {"error": "too_many_followers", "detail": "x"}, Retry_After="20")
    script.says(200, {"lines": [], "next": None})
    slept: list[float] = []
    talk = Session(Client(script.url, None), "acme")
    answer = _page(talk, "r1", {"follow": "true"}, sleep=slept.append)
    assert (answer.body["next"], slept) == (None, [20.0])
    script.answers.clear()
    script.says(429, {"error": "rate_limited", "detail": "x"}, Retry_After="1")
    with pytest.raises(Refused):
        _page(talk, "r1", {"follow": "true"}, sleep=slept.append)


def test_the_platform_key_is_only_for_an_api_on_this_machine(tmp_path: Path) -> None:
    environ = {"PIPELINES_DATA": str(tmp_path), "PIPELINES_URL": "https://api.example.com/"}
    settings = read_client_settings(environ)
    assert settings.url == "https://api.example.com"
    assert settings.key_file is None
    local = read_client_settings({"PIPELINES_DATA": str(tmp_path)})
    assert local.key_file == tmp_path / "platform.key"
    given = read_client_settings({"PIPELINES_API_KEY": "k", "NO_COLOR": "1", "PIPELINES_ORG": "o"})
    assert (given.api_key, given.plain, given.org) == ("k", True, "o")


@pytest.mark.parametrize("url", ["8001", "ftp://host", "http://", "http://h:99999", "http://[::1"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="PIPELINES_URL"):
        read_client_settings({"PIPELINES_URL": url})


def test_a_setting_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match="PIPELINES_APIKEY is not a setting"):
        read_client_settings({"PIPELINES_APIKEY": "k"})


def test_without_a_key_the_hint_says_where_one_was_looked_for(
    script: Script, tmp_path: Path
) -> None:
    script.says(401, {"detail": "send an API key"})
    settings = ClientSettings(
        url=script.url, api_key=None, key_file=tmp_path / "platform.key", org=None, plain=True
    )
    with pytest.raises(Refused) as caught:
        connect(settings).get("x")
    assert str(tmp_path / "platform.key") in caught.value.hint
    (tmp_path / "platform.key").write_text("cpk_file\n")
    script.says(200, {})
    script.answers.pop(0)
    connect(settings).get("x")
    assert script.asked[-1][2]["X-API-Key"] == "cpk_file"


def test_a_key_that_would_break_the_header_is_refused() -> None:
    settings = ClientSettings(
        url="http://127.0.0.1:9", api_key="a\nb", key_file=None, org=None, plain=True
    )
    with pytest.raises(Stop, match="PIPELINES_API_KEY is no API key"):
        connect(settings)
