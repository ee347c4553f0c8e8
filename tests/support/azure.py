"""Blob Storage for tests: Azurite, which checks every signature."""

from __future__ import annotations

import base64
import hmac
import itertools
import os
import urllib.request
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlencode

ACCOUNT = "devstoreaccount1"
# Azurite's own, which everybody knows.
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
_VERSION = "2021-12-02"


def signature(permissions: str, *, days: int = 1) -> str:
    """A shared access signature of the account. `rl` may read and list.

    https://learn.microsoft.com/rest/api/storageservices/create-account-sas
    """
    end = f"{datetime.now(UTC) + timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}"
    signed = [ACCOUNT, permissions, "b", "sco", "", end, "", "https,http", _VERSION, "", ""]
    text = "\n".join(signed)
    made = base64.b64encode(hmac.digest(base64.b64decode(_KEY), text.encode(), "sha256")).decode()
    asked = {"sv": _VERSION, "ss": "b", "srt": "sco", "sp": permissions, "se": end}
    return "?" + urlencode(asked | {"spr": "https,http", "sig": made})


class BlobStorage:
    """A running Azurite at `host`."""

    def __init__(self, host: str) -> None:
        self.host = host
        self._numbers = itertools.count(1)

    def make(self) -> str:
        """The name of a new container."""
        name = f"container-{os.getpid()}-{next(self._numbers)}"
        self._send("PUT", name, "restype=container")
        return name

    def write(self, container: str, key: str, content: bytes) -> None:
        self._send("PUT", f"{container}/{quote(key)}", "", content)

    def delete(self, container: str, key: str) -> None:
        self._send("DELETE", f"{container}/{quote(key)}", "")

    def _send(self, method: str, path: str, asked: str, content: bytes = b"") -> None:
        signed = signature("rwdlac").lstrip("?")
        url = f"http://{self.host}/{ACCOUNT}/{path}?{asked}&{signed}"
        request = urllib.request.Request(url, content, method=method)
        request.add_header("x-ms-blob-type", "BlockBlob")
        request.add_header("x-ms-version", _VERSION)
        request.add_header("Content-Type", "application/octet-stream")
        urllib.request.urlopen(request, timeout=30).close()
