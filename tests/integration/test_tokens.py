"""Tokens of Google's for a step, at the address of the registry."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, cast

import pytest

from shared.core.secret import Secret
from shared.errors import Terminal, Transient
from tests.support.api import Api, Said
from tests.support.google import EMAIL, TOKEN, given_token, key_file, service_account
from tests.support.step import BareStep

SCOPE = "https://www.googleapis.com/auth/cloud-billing.readonly"


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as made:
        made.answer = lambda asked: given_token(asked) or Said(404)
        yield made


def step_with(api: Api, secret: str) -> BareStep:
    return BareStep(
        Path(),
        cast("Any", None),
        date(2026, 3, 1),
        date(2026, 3, 1),
        provider="gcp",
        secret=Secret(secret),
        base_urls={"token": api.url},
    )


def test_a_step_has_the_token_of_its_service_account(api: Api) -> None:
    assert step_with(api, key_file()).token(SCOPE) == TOKEN


def test_an_account_without_tokens_is_a_bad_credential_that_is_named(api: Api) -> None:
    api.answer = lambda _: Said(
        400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
    )
    with pytest.raises(Terminal) as caught:
        step_with(api, key_file()).token(SCOPE)
    assert caught.value.code == "bad_credential"
    assert EMAIL in str(caught.value)
    assert "invalid_grant: Invalid JWT Signature." in str(caught.value)
    assert service_account()["private_key"][60:90] not in str(caught.value)


def test_a_token_service_that_is_busy_is_transient(api: Api) -> None:
    api.answer = lambda _: Said(503)
    with pytest.raises(Transient):
        step_with(api, key_file()).token(SCOPE)


def test_a_credential_that_is_no_service_account_asks_nobody(api: Api) -> None:
    with pytest.raises(Terminal) as caught:
        step_with(api, '{"api_key": "sk-admin-12345678"}').token(SCOPE)
    assert caught.value.code == "bad_credential"
    assert api.asked == []
