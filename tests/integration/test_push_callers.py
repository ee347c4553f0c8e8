"""Who may push and tick: only the account whose tokens Google signs, where there is such an account."""

from __future__ import annotations

import time
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from flask import Request
from werkzeug.test import EnvironBuilder

from shared.bootstrap import ENGINE_KEY, function
from shared.core.message import PushEnvelope, PushMessage, seal_envelope
from shared.errors import Forbidden, RequestError, Unauthenticated, Unavailable
from shared.oidc import Callers, GoogleKeys, Key
from tests.support.endpoint import served
from tests.support.relay import EMAIL, Signer
from tests.support.system import EmbeddedSystem

HERE = "https://coordinator.example"
PUSHED = ("step_worker", "coordinator", "dead_letter", "scheduler")


class Google:
    """Serves the public keys of its signers, as Google's address does."""

    def __init__(self) -> None:
        self.signer = Signer()
        self.served = {"test-key": self.signer}
        self.asked = 0
        self.status = "200 OK"
        self.nonsense: bytes | None = None

    def __call__(self, _environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.asked += 1
        keys = [jwk(kid, signer) for kid, signer in self.served.items()]
        start_response(self.status, [("Cache-Control", "public, max-age=3600")])
        return [self.nonsense or msgspec.json.encode({"keys": keys})]


def jwk(kid: str, signer: Signer) -> Key:
    public = load_pem_public_key(signer.public_key)
    assert isinstance(public, RSAPublicKey)
    numbers = public.public_numbers()
    n, e = (
        urlsafe_b64encode(number.to_bytes(length)).rstrip(b"=").decode()
        for number, length in ((numbers.n, 256), (numbers.e, 3))
    )
    return Key(kid=kid, n=n, e=e)


class Clock:
    def __init__(self) -> None:
        self.at = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.at


@pytest.fixture
def google() -> Google:
    return Google()


@pytest.fixture
def url(google: Google) -> Iterator[str]:
    with served(google) as found:
        yield found


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def callers(url: str, clock: Clock) -> Callers:
    return Callers(EMAIL, None, GoogleKeys(clock, url).find, clock)


def refusal(callers: Callers, authorization: str) -> type[Exception] | None:
    try:
        callers.check(authorization, HERE)
    except RequestError as error:
        return type(error)
    return None


def test_the_account_is_let_in_with_a_token_for_the_endpoint(
    callers: Callers, google: Google
) -> None:
    callers.check(f"Bearer {google.signer.token(HERE)}", HERE)
    callers.check(f"bearer {google.signer.token(HERE + '/')}", HERE)
    assert google.asked == 1, "keys are kept"


@pytest.mark.parametrize(
    ("claims", "refused"),
    [
        ({"aud": "https://other.example"}, Unauthenticated),
        ({"iss": "https://evil.example"}, Unauthenticated),
        ({"exp": timedelta(seconds=-120)}, Unauthenticated),
        ({"iat": timedelta(seconds=120)}, Unauthenticated),
        ({"exp": "soon"}, Unauthenticated),
        ({"exp": None}, Unauthenticated),
        ({"email": "somebody@example.com"}, Forbidden),
        ({"email": None}, Unauthenticated),
        ({"email_verified": False}, Forbidden),
        ({"exp": timedelta(seconds=-30)}, None),
        ({"iat": timedelta(seconds=30)}, None),
    ],
)
def test_a_token_of_another_meaning_is_refused(
    callers: Callers, google: Google, claims: dict[str, Any], refused: type[Exception] | None
) -> None:
    said = {  # a timedelta is a time from now on: the list above is older than the test
        name: value.total_seconds() + time.time() if isinstance(value, timedelta) else value
        for name, value in claims.items()
    }
    assert refusal(callers, f"Bearer {google.signer.token(HERE, **said)}") is refused


def test_a_token_that_google_did_not_sign_is_refused(callers: Callers, google: Google) -> None:
    good = google.signer.token(HERE)
    head, body, signature = good.split(".")
    unsigned = urlsafe_b64encode(b'{"alg":"none","kid":"test-key"}').rstrip(b"=").decode()
    symmetric = urlsafe_b64encode(b'{"alg":"HS256","kid":"test-key"}').rstrip(b"=").decode()
    for authorization in (
        "",
        "Bearer",
        "Bearer ",
        f"Basic {good}",
        good,
        f"Bearer {Signer().token(HERE)}",
        f"Bearer {head}.{body}.",
        f"Bearer {head}.{body}",
        f"Bearer {head}.{body}x.{signature}",
        f"Bearer {unsigned}.{body}.",
        f"Bearer {symmetric}.{body}.{signature}",
        "Bearer a.b.c",
        "Bearer ü.ü.ü",
        "Bearer " + "x" * 100_000,
    ):
        assert refusal(callers, authorization) is Unauthenticated, authorization[:60]


def test_an_audience_that_is_set_is_the_only_one(url: str, clock: Clock, google: Google) -> None:
    callers = Callers(EMAIL, "pipelines", GoogleKeys(clock, url).find, clock)
    callers.check(f"Bearer {google.signer.token('pipelines')}", HERE)
    assert refusal(callers, f"Bearer {google.signer.token(HERE)}") is Unauthenticated


def test_an_unknown_key_is_asked_for_once_a_minute(url: str, google: Google, clock: Clock) -> None:
    keys = GoogleKeys(clock, url)
    assert keys.find("test-key") is not None
    google.served["next"] = Signer()
    assert keys.find("next") is None
    clock.at += timedelta(minutes=1)
    assert keys.find("next") is not None
    assert [keys.find("nobody") for _ in range(5)] == [None] * 5
    assert google.asked == 2


def test_keys_are_fetched_anew_when_they_are_no_longer_fresh(
    callers: Callers, google: Google, clock: Clock
) -> None:
    callers.check(f"Bearer {google.signer.token(HERE)}", HERE)
    google.served["test-key"] = google.signer = Signer()
    google.served["other"] = Signer()
    for _ in range(5):
        assert refusal(callers, f"Bearer {google.signer.token(HERE)}") is Unauthenticated
    assert google.asked == 1
    clock.at += timedelta(hours=1)
    callers.check(f"Bearer {google.signer.token(HERE, exp=time.time() + 9000)}", HERE)
    assert google.asked == 2


def test_keys_that_are_there_outlast_an_outage_and_without_any_it_is_our_fault(
    callers: Callers, google: Google, clock: Clock
) -> None:
    token = f"Bearer {google.signer.token(HERE, exp=time.time() + 10**6)}"
    google.status = "500 No"
    with pytest.raises(Unavailable):
        callers.check(token, HERE)
    google.status = "200 OK"
    callers.check(token, HERE)
    google.status = "500 No"
    clock.at += timedelta(hours=20)
    callers.check(token, HERE)
    google.status = "200 OK"
    for google.nonsense in (b"<html>", b"{}", b'{"keys":[{"kid":"k","n":"?","e":"!"}]}'):
        clock.at += timedelta(minutes=2)
        callers.check(token, HERE)
    clock.at += timedelta(hours=20)
    with pytest.raises(Unavailable):
        callers.check(token, HERE)


@pytest.mark.parametrize("name", PUSHED)
def test_a_push_without_the_token_is_refused_before_it_is_read(
    name: str, callers: Callers, google: Google, tmp_path: Path
) -> None:
    with EmbeddedSystem(tmp_path) as system:
        engine = system.embedded.engine
        guarded = type(engine)(replace(engine.app, callers=callers.check))

        def push(authorization: str) -> int:
            body = seal_envelope(PushEnvelope(message=PushMessage(data=b"not ours")))
            headers = [("Authorization", authorization)]
            made = EnvironBuilder("/", HERE, method="POST", data=body, headers=headers)
            answer = function(name)(Request({**made.get_environ(), ENGINE_KEY: guarded}))
            status: int = answer.status_code
            return status

        assert push("") == 401
        assert push(f"Bearer {google.signer.token(HERE, email='x@example.com')}") == 403
        assert not system.app.bus.dead_letters()
        assert push(f"Bearer {google.signer.token(HERE)}") in (200, 204)
        assert len(system.app.bus.dead_letters()) == (name != "scheduler")
        guarded.close()
