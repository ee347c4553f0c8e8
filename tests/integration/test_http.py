"""What a step asks of its provider's API, against real servers on this machine and their faults."""

from __future__ import annotations

import gzip
import ipaddress
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from shared.core.providers import Category, Provider, Rate
from shared.errors import StepError, Stopped, Terminal, Transient
from shared.http import Answer, Http
from shared.http.client import Urllib3Client
from tests.support.api import Api, Said, Write, cut, hang_up
from tests.support.step import Lines, caller_of

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
MEBIBYTE = 1024 * 1024
KEY = "sk-admin-0123456789"


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as made:
        yield made


@pytest.fixture
def client() -> Iterator[Urllib3Client]:
    made = Urllib3Client(now=lambda: NOON, monotonic=time.monotonic)
    yield made
    made.close()


class Step:
    """A step whose time and right to go on a test decides."""

    def __init__(self, client: Urllib3Client, api: Api, rate: Rate | None = None) -> None:
        provider = Provider(
            name="example",
            title="Example",
            category=Category.SAAS,
            base_urls={"api": api.url},
            limits=rate or Rate(requests_per_minute=6000, concurrent=16),
        )
        self.log = Lines()
        self.seconds = 60.0
        self._began = time.monotonic()
        self._stopped = False
        self._actions: list[Callable[[], None]] = []
        self.http: Http = client.open(
            caller_of(
                provider,
                left=lambda: self.seconds - (time.monotonic() - self._began),
                check=self.check,
                on_stop=self._actions.append,
                secrets=lambda: (KEY,),
                log=self.log,
            )
        )

    def check(self) -> None:
        if self._stopped:
            raise Stopped("the run was cancelled")

    def stop(self) -> None:
        self._stopped = True
        for action in self._actions:
            action()


@pytest.fixture
def step(client: Urllib3Client, api: Api) -> Step:
    return Step(client, api)


def refused(call: Callable[[], Answer]) -> StepError:
    with pytest.raises(StepError) as caught:
        call()
    return caught.value


def stopper(step: Step, when: threading.Event) -> threading.Thread:
    def stop() -> None:
        when.wait()
        step.stop()

    made = threading.Thread(target=stop)
    made.start()
    return made


def slowly(*parts: bytes, pause: float) -> Write:
    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("content-length", str(sum(map(len, parts))))
        handler.end_headers()
        for part in parts:
            handler.wfile.write(part)
            handler.wfile.flush()
            time.sleep(pause)

    return write


# --- a yes ---


def test_an_answer_has_its_body_and_the_digits_of_its_numbers(api: Api, step: Step) -> None:
    api.answer = lambda _: Said(
        body=b'{"amount": 0.10, "small": 1e-9, "tokens": 12345678901234567890}'
    )
    answer = step.http.get(api.url + "/v1/costs")
    assert answer.status == 200
    found = answer.json()
    assert found == {
        "amount": Decimal("0.10"),
        "small": Decimal("1E-9"),
        "tokens": 12345678901234567890,
    }
    assert str(found["amount"]) == "0.10"


def test_parameters_and_headers_arrive_as_they_were_given(api: Api, step: Step) -> None:
    step.http.get(
        api.url + "/costs?version=1",
        params={"group_by": ["model", "api_key_id"], "group_by[]": ["x"], "page": "a+b/c="},
        headers={"x-api-key": KEY},
    )
    (asked,) = api.asked
    assert asked.path == "/costs"
    assert asked.query == {
        "version": ["1"],
        "group_by": ["model", "api_key_id"],
        "group_by[]": ["x"],
        "page": ["a+b/c="],
    }
    assert asked.headers["x-api-key"] == KEY


def test_a_mapping_is_posted_as_json_and_bytes_as_they_are(api: Api, step: Step) -> None:
    step.http.post(api.url + "/query", body={"limit": 5})
    step.http.post(
        api.url + "/token",
        body=b"grant=1",
        headers={"content-type": "application/x-www-form-urlencoded"},
    )
    asked, form = api.asked
    assert (asked.method, asked.json) == ("POST", {"limit": 5})
    assert asked.headers["content-type"] == "application/json"
    assert (form.body, form.headers["content-type"]) == (
        b"grant=1",
        "application/x-www-form-urlencoded",
    )


def test_a_compressed_answer_is_given_in_full(api: Api, step: Step) -> None:
    body = b'{"rows": [' + b"1," * 100_000 + b"1]}"
    api.answer = lambda _: Said(body=gzip.compress(body), headers={"content-encoding": "gzip"})
    assert step.http.get(api.url).body == body
    assert "gzip" in api.asked[0].headers["accept-encoding"]


def test_requests_share_a_connection(api: Api, step: Step) -> None:
    for _ in range(5):
        step.http.get(api.url)
    assert len({asked.port for asked in api.asked}) == 1


def test_what_is_no_json_is_transient_and_says_where(api: Api, step: Step) -> None:
    api.answer = lambda _: Said(body=b"<html>maintenance</html>")
    answer = step.http.get(api.url + "/costs")
    error = refused(answer.json)
    assert isinstance(error, Transient)
    assert f"GET 127.0.0.1:{api.port}/costs" in str(error)


# --- a no ---


@pytest.mark.parametrize("status", [408, 500, 502, 503, 529])
def test_what_waiting_may_mend_is_transient_and_asked_once(
    api: Api, step: Step, status: int
) -> None:
    api.answer = lambda _: Said(status, {"error": {"message": "overloaded"}})
    error = refused(lambda: step.http.get(api.url + "/costs", params={"page": "p2"}))
    assert isinstance(error, Transient)
    assert error.code == f"http_{status}"
    assert str(error) == f"GET 127.0.0.1:{api.port}/costs: answered {status}: overloaded"
    assert len(api.asked) == 1


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("7", 7),
        ("Tue, 10 Mar 2026 12:01:30 GMT", 90),
        ("Tue, 10 Mar 2026 11:00:00 GMT", 0),
        ("99999999", 86_400),
        ("soon", None),
        (None, None),
    ],
)
def test_who_is_too_fast_is_told_when_to_come_back(
    api: Api, step: Step, header: str | None, wait: int | None
) -> None:
    headers = {} if header is None else {"retry-after": header}
    api.answer = lambda _: Said(429, {"error": "slow down"}, headers)
    error = refused(lambda: step.http.get(api.url))
    assert isinstance(error, Transient)
    assert error.code == "rate_limited"
    assert error.retry_after == (None if wait is None else timedelta(seconds=wait))


def test_google_says_too_fast_with_403(api: Api, step: Step) -> None:
    api.answer = lambda _: Said(
        403, {"error": {"message": "quota", "errors": [{"reason": "rateLimitExceeded"}]}}
    )
    assert refused(lambda: step.http.get(api.url)).code == "rate_limited"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "http_400"),
        (401, "unauthorized"),
        (403, "forbidden"),
        (404, "http_404"),
        (499, "http_499"),
    ],
)
def test_what_waiting_does_not_mend_is_terminal(
    api: Api, step: Step, status: int, code: str
) -> None:
    api.answer = lambda _: Said(status, {"error": {"message": "Missing scopes: api.usage.read"}})
    error = refused(lambda: step.http.get(api.url))
    assert isinstance(error, Terminal)
    assert error.code == code
    assert "Missing scopes: api.usage.read" in str(error)


def test_no_secret_that_an_answer_repeats_gets_into_the_message(api: Api, step: Step) -> None:
    token = "ya29.another-secret"
    api.answer = lambda _: Said(401, {"error": {"message": f"no such key {KEY}, token {token}"}})
    error = refused(
        lambda: step.http.get(
            api.url, params={"key": "in-the-query"}, headers={"Authorization": f"Bearer {token}"}
        )
    )
    assert "no such key …, token …" in str(error)
    for secret in (KEY, token, "in-the-query"):
        assert secret not in str(error)
        assert secret not in repr(step.log.lines)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": "invalid_grant", "error_description": "Bad JWT"}', "invalid_grant: Bad JWT"),
        (b'{"errors": [{"message": "first"}, {"message": "second"}]}', "first"),
        (b'{"detail": "not here"}', "not here"),
        (b"<html><head><title>Bad Gateway</title></head>", "Bad Gateway"),
        (b"<?xml version='1.0'?><Error><Message>No bucket</Message></Error>", "No bucket"),
        (b"plain\r\n\x1b[31m  words", "plain [31m words"),
        (b"w" * 100_000, "w" * 299 + "…"),
    ],
)
def test_the_providers_own_words_are_told_in_one_short_line(
    api: Api, step: Step, body: bytes, words: str
) -> None:
    api.answer = lambda _: Said(400, body)
    assert str(refused(lambda: step.http.get(api.url))).endswith(f"answered 400: {words}")


def test_a_redirect_is_not_followed(api: Api, step: Step) -> None:
    with Api() as other:
        api.answer = lambda _: Said(302, headers={"location": other.url})
        error = refused(lambda: step.http.get(api.url, headers={"x-api-key": KEY}))
        assert isinstance(error, Terminal)
        assert error.code == "http_302"
        assert other.asked == []


def test_nobody_but_the_provider_is_asked(api: Api, step: Step) -> None:
    with Api() as other:
        for url in (other.url, api.url.replace("127.0.0.1", "localhost"), "file:///etc/passwd"):
            error = refused(lambda url=url: step.http.get(url + "/costs?key=k"))  # type: ignore[misc]
            assert isinstance(error, Terminal)
            assert error.code == "foreign_address"
            assert "key=k" not in str(error)
        assert other.asked == []


@pytest.mark.parametrize("value", ["Bearer a-secret\nof two lines", "ключ-a-secret"])
def test_what_is_no_header_is_not_sent_and_not_told(api: Api, step: Step, value: str) -> None:
    error = refused(lambda: step.http.get(api.url, headers={"authorization": value}))
    assert isinstance(error, Terminal)
    assert error.code == "unsendable"
    assert "a-secret" not in str(error)
    assert error.__cause__ is None
    assert api.asked == []
    assert step.http.get(api.url).status == 200


# --- what happens on the way ---


@pytest.mark.parametrize("chunked", [False, True])
def test_an_answer_that_ends_early_is_transient(api: Api, step: Step, chunked: bool) -> None:
    api.answer = lambda _: cut(b'{"data": []}', chunked=chunked)
    error = refused(lambda: step.http.get(api.url))
    assert isinstance(error, Transient)
    assert error.code == "unreachable"
    assert len(api.asked) == 1


def test_a_get_is_sent_again_where_the_server_had_closed_the_connection(
    api: Api, step: Step
) -> None:
    said: Iterator[Said | Write] = iter([Said(body={}), hang_up, Said(body={"page": 2})])
    api.answer = lambda _: next(said)
    step.http.get(api.url)
    assert step.http.get(api.url).json() == {"page": 2}
    assert len(api.asked) == 3


def test_neither_a_post_nor_a_first_request_is_sent_again(api: Api, step: Step) -> None:
    api.answer = lambda _: hang_up
    assert isinstance(refused(lambda: step.http.get(api.url)), Transient)
    assert len(api.asked) == 1
    said: Iterator[Said | Write] = iter([Said(body={}), hang_up, Said(body={})])
    api.answer = lambda _: next(said)
    step.http.post(api.url, body={})
    assert isinstance(refused(lambda: step.http.post(api.url, body={})), Transient)
    assert len(api.asked) == 3


def test_nobody_there_is_transient(client: Urllib3Client, api: Api) -> None:
    with Api() as gone:
        step = Step(client, gone)
    error = refused(lambda: step.http.get(gone.url))
    assert isinstance(error, Transient)
    assert error.code == "unreachable"


def test_an_answer_larger_than_its_limit_is_left(api: Api, step: Step) -> None:
    api.answer = lambda _: Said(body=b"x" * (40 * MEBIBYTE))
    error = refused(lambda: step.http.get(api.url))
    assert isinstance(error, Terminal)
    assert error.code == "answer_too_large"
    assert len(step.http.get(api.url, limit=40 * MEBIBYTE).body) == 40 * MEBIBYTE


def test_what_is_small_on_the_way_has_the_same_limit(api: Api, step: Step) -> None:
    body = gzip.compress(bytes(40 * MEBIBYTE))
    assert len(body) < MEBIBYTE
    api.answer = lambda _: Said(body=body, headers={"content-encoding": "gzip"})
    assert refused(lambda: step.http.get(api.url)).code == "answer_too_large"


@pytest.mark.parametrize("parts", [(), (b"x",) * 40])
def test_a_slow_answer_ends_with_the_steps_time(
    api: Api, step: Step, parts: tuple[bytes, ...]
) -> None:
    def later(handler: BaseHTTPRequestHandler) -> None:
        slowly(*parts, pause=0.1)(handler) if parts else time.sleep(4)

    api.answer = lambda _: later
    step.seconds, began = 0.5, time.monotonic()
    error = refused(lambda: step.http.get(api.url))
    assert isinstance(error, Transient)
    assert error.code == "timeout"
    assert time.monotonic() - began < 3.5


@pytest.mark.parametrize("parts", [(), (b"x",) * 40])
def test_a_cancelled_step_does_not_wait_for_its_answer(
    api: Api, step: Step, parts: tuple[bytes, ...]
) -> None:
    arrived = threading.Event()

    def later(handler: BaseHTTPRequestHandler) -> None:
        arrived.set()
        slowly(*parts, pause=0.1)(handler) if parts else time.sleep(4)

    api.answer = lambda _: later
    canceller = stopper(step, arrived)
    began = time.monotonic()
    assert isinstance(refused(lambda: step.http.get(api.url)), Stopped)
    assert time.monotonic() - began < 3.5
    canceller.join()


def test_a_step_that_is_cancelled_during_a_refusal_is_cancelled_and_not_refused(
    api: Api, step: Step
) -> None:
    arrived = threading.Event()

    def later(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(403)
        handler.send_header("content-length", "10")
        handler.end_headers()
        arrived.set()
        time.sleep(2)

    api.answer = lambda _: later
    canceller = stopper(step, arrived)
    began = time.monotonic()
    assert isinstance(refused(lambda: step.http.get(api.url)), Stopped)
    assert time.monotonic() - began < 1.8
    canceller.join()


def test_a_step_that_is_cancelled_ends_nothing_of_another_one(
    client: Urllib3Client, api: Api
) -> None:
    cancelled, other = Step(client, api), Step(client, api)
    arrived = threading.Event()

    def later(handler: BaseHTTPRequestHandler) -> None:
        arrived.set()
        slowly(*[b"x"] * 5, pause=0.1)(handler)

    cancelled.http.get(api.url)  # leaves its connection to the other one
    api.answer = lambda _: later
    canceller = stopper(cancelled, arrived)
    assert other.http.get(api.url).body == b"xxxxx"
    assert len({asked.port for asked in api.asked}) == 1
    canceller.join()


def test_a_cancelled_step_does_not_wait_for_its_turn(client: Urllib3Client, api: Api) -> None:
    step = Step(client, api, Rate(requests_per_minute=2))
    step.http.get(api.url)
    canceller = threading.Timer(0.2, step.stop)
    canceller.start()
    began = time.monotonic()
    assert isinstance(refused(lambda: step.http.get(api.url)), Stopped)
    assert time.monotonic() - began < 15
    assert len(api.asked) == 1
    canceller.join()


def test_a_turn_after_the_deadline_is_not_waited_for(client: Urllib3Client, api: Api) -> None:
    step = Step(client, api, Rate(requests_per_minute=1))
    step.http.get(api.url)
    step.seconds, began = 30, time.monotonic()
    error = refused(lambda: step.http.get(api.url))
    assert isinstance(error, Transient)
    assert error.code == "rate_limited"
    assert error.retry_after is not None
    assert 30 < error.retry_after.total_seconds() <= 60
    assert time.monotonic() - began < 15


def test_who_was_told_to_wait_keeps_the_account_waiting(client: Urllib3Client, api: Api) -> None:
    first, second = Step(client, api), Step(client, api)
    said = iter([Said(429, {}, {"retry-after": "1"}), Said(body={})])
    api.answer = lambda _: next(said)
    refused(lambda: first.http.get(api.url))
    began = time.monotonic()
    second.http.get(api.url)
    assert time.monotonic() - began > 0.9


def test_no_more_requests_run_at_a_time_than_may(client: Urllib3Client, api: Api) -> None:
    running: list[int] = []
    most = 0
    guard = threading.Lock()

    def answer(_: Any) -> Said:
        nonlocal most
        with guard:
            running.append(1)
            most = max(most, len(running))
        time.sleep(0.05)
        with guard:
            running.pop()
        return Said(body={})

    api.answer = answer
    step = Step(client, api, Rate(requests_per_minute=6000, concurrent=2))
    threads = [threading.Thread(target=step.http.get, args=(api.url,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(api.asked), most) == (8, 2)


def test_each_call_leaves_a_line_without_its_query(api: Api, step: Step) -> None:
    api.answer = lambda _: Said(503, b"busy")
    refused(lambda: step.http.get(api.url + "/costs", params={"page": "secret"}))
    ((event, fields),) = step.log.lines
    assert event == "http.answered"
    assert isinstance(fields.pop("milliseconds"), int)
    assert fields == {
        "method": "GET",
        "host": f"127.0.0.1:{api.port}",
        "path": "/costs",
        "status": 503,
        "bytes": 4,
    }


# --- certificates ---


def certificate(folder: Path, address: str) -> ssl.SSLContext:
    """A server's side of TLS, with a certificate of its own for `address`, which is in `folder`/cert."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert").write_bytes(made.public_bytes(pem))
    (folder / "key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert", folder / "key")
    return context


@pytest.mark.parametrize(
    ("address", "trusted", "code"),
    [
        ("127.0.0.1", True, None),
        ("127.0.0.1", False, "untrusted"),
        ("127.0.0.2", True, "untrusted"),
    ],
)
def test_only_a_certificate_of_the_host_that_is_trusted_is_taken(
    tmp_path: Path, address: str, trusted: bool, code: str | None
) -> None:
    server = certificate(tmp_path, address)
    tls = ssl.create_default_context()
    if trusted:
        tls.load_verify_locations(tmp_path / "cert")
    client = Urllib3Client(now=lambda: NOON, monotonic=time.monotonic, tls=tls)
    with Api(server) as api:
        step = Step(client, api)
        if code is None:
            assert step.http.get(api.url).status == 200
        else:
            error = refused(lambda: step.http.get(api.url))
            assert isinstance(error, Terminal)
            assert error.code == code
            assert api.asked == []
        client.close()


def test_a_cancelled_step_does_not_wait_for_an_answer_over_tls(tmp_path: Path) -> None:
    server = certificate(tmp_path, "127.0.0.1")
    tls = ssl.create_default_context(cafile=tmp_path / "cert")
    client = Urllib3Client(now=lambda: NOON, monotonic=time.monotonic, tls=tls)
    with Api(server) as api:
        step, arrived = Step(client, api), threading.Event()

        def later(_: BaseHTTPRequestHandler) -> None:
            arrived.set()
            time.sleep(2)

        api.answer = lambda _: later
        canceller = stopper(step, arrived)
        began = time.monotonic()
        assert isinstance(refused(lambda: step.http.get(api.url)), Stopped)
        assert time.monotonic() - began < 1.8
        canceller.join()
    client.close()
