"""AWS Signature Version 4, for requests whose query is in order already.

botocore, which has it too, takes 0.3 s and 37 MiB to import with a client of S3, and looks for keys in
the environment and in files: a tenant's request could go out as the platform. The tests hold this one
against botocore's, which the S3 server of the tests verifies signatures with.
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hmac
from datetime import datetime
from functools import reduce
from hashlib import sha256
from typing import NamedTuple
from urllib.parse import urlsplit

_ALGORITHM = "AWS4-HMAC-SHA256"


class Keys(NamedTuple):
    """What signs: a user's keys, or those of a session with its token."""

    access_key_id: str
    secret_access_key: str
    session_token: str = ""


def signed_headers(
    method: str,
    url: str,
    keys: Keys,
    *,
    region: str,
    service: str,
    now: datetime,
    body: bytes = b"",
) -> dict[str, str]:
    """The headers to send. The path and the query of `url` are quoted, the query is sorted by name."""
    parts = urlsplit(url)
    time = f"{now:%Y%m%dT%H%M%SZ}"
    digest = sha256(body).hexdigest()
    headers = {"host": parts.netloc, "x-amz-content-sha256": digest, "x-amz-date": time}
    if keys.session_token:
        headers["x-amz-security-token"] = keys.session_token
    names = ";".join(headers)
    canonical = "\n".join(
        [
            method,
            parts.path or "/",
            parts.query,
            *(f"{name}:{value}" for name, value in headers.items()),
            "",
            names,
            digest,
        ]
    )
    scope = [time[:8], region, service, "aws4_request"]
    hashed = sha256(canonical.encode()).hexdigest()
    text = "\n".join([_ALGORITHM, time, "/".join(scope), hashed])
    key = reduce(_hmac, scope, f"AWS4{keys.secret_access_key}".encode())
    signature = _hmac(key, text).hex()
    headers["authorization"] = (
        f"{_ALGORITHM} Credential={keys.access_key_id}/{'/'.join(scope)}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    return headers


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), "sha256")
