"""Google for tests: the key of a service account, and what gives tokens for it."""

from __future__ import annotations

import json
from functools import cache
from typing import Any
from urllib.parse import parse_qs

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.api import Asked, Said

EMAIL = "reader@customer.iam.gserviceaccount.com"
TOKEN = "ya29.a-token-of-the-test"


@cache
def service_account() -> dict[str, Any]:
    """A key file as Google writes it."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return {
        "type": "service_account",
        "project_id": "customer",
        "private_key_id": "0123456789abcdef",
        "private_key": pem.decode(),
        "client_email": EMAIL,
        "client_id": "1234567890",
        "auth_uri": "https://accounts.google.com/o/oauth2/auth",
        "token_uri": "https://oauth2.googleapis.com/token",
        "auth_provider_x509_cert_url": "https://www.googleapis.com/oauth2/v1/certs",
        "client_x509_cert_url": "https://www.googleapis.com/robot/v1/metadata/x509/reader",
        "universe_domain": "googleapis.com",
    }


def key_file() -> str:
    return json.dumps(service_account())


def given_token(asked: Asked) -> Said | None:
    """The answer to a request for a token; None to any other request."""
    if not asked.path.endswith("/token"):
        return None
    form = parse_qs(asked.body.decode())
    assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
    assert len(form["assertion"][0].split(".")) == 3
    return Said(body={"access_token": TOKEN, "expires_in": 3600})


def carries_token(asked: Asked) -> bool:
    return asked.headers.get("authorization") == f"Bearer {TOKEN}"
