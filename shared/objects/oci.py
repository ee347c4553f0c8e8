"""Objects of a bucket of Oracle Cloud, read by requests that the organization's API key signs.

A version is the ETag, which changes with the content. Oracle's SDK, 489 MB installed, signs the same
headers. https://docs.oracle.com/iaas/Content/API/Concepts/signingrequests.htm
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from datetime import datetime
from email.utils import format_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import msgspec
from urllib3 import BaseHTTPResponse

from shared.core.secret import Secret
from shared.errors import StepError, Terminal
from shared.objects import ObjectInfo
from shared.objects.rest import Page, Renewed, Request, RestStore, bad_credential, opened, query

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

_URL = re.compile(r"oci://([A-Za-z0-9._-]{1,256})@([A-Za-z0-9_-]{1,64})(?:/(.*))?")
_REGION = re.compile(r"[a-z]{2}-[a-z]+-[0-9]")
_SIGNED = "date (request-target) host"


class _Fields(msgspec.Struct):
    tenancy: str
    user: str
    fingerprint: str
    private_key: str
    region: str
    passphrase: str = ""


class _Item(msgspec.Struct, rename="camel"):
    name: str
    size: int
    etag: str
    time_modified: datetime


class _Page(msgspec.Struct, rename="camel"):
    objects: list[_Item]
    next_start_with: str | None = None


class _Refused(msgspec.Struct):
    code: str = ""
    message: str = "it gave no reason"


class _Signer(NamedTuple):
    """The key, by its full name, and the region of its tenancy."""

    key_id: str
    user: str
    key: RSAPrivateKey
    region: str


class OciStore(RestStore):
    """The `ObjectStore` of a bucket, or of a folder in it: `oci://BUCKET@NAMESPACE[/FOLDER]`.

    `secret` is called when the first request is made. `endpoint` is the URL of a server in Oracle's
    place. Raises Terminal `bad_source`.
    """

    missing = (
        "there is no such bucket, or the user may not see it; check source, region and policies"
    )

    def __init__(
        self,
        url: str,
        secret: Callable[[], Secret],
        *,
        now: Callable[[], datetime],
        sleep: Callable[[float], None],
        random: Callable[[], float],
        endpoint: str | None = None,
    ) -> None:
        found = _URL.fullmatch(url)
        if found is None:
            raise Terminal(
                f"source {url!r}: is no oci://BUCKET@NAMESPACE/FOLDER", code="bad_source"
            )
        bucket, namespace, folder = found.groups()
        super().__init__(f"oci://{bucket}@{namespace}", folder, sleep=sleep, random=random)
        self._objects = f"/n/{namespace}/b/{bucket}/o"
        self._secret = secret
        self._now = now
        self._endpoint = endpoint
        self._signer = Renewed(self._make_signer, now)

    def page_url(self, prefix: str, token: str, size: int) -> str:
        asked = {
            "prefix": prefix,
            "limit": str(size),
            "fields": "name,size,etag,timeModified",
        }
        return f"{self._url()}?{query(asked | ({'start': token} if token else {}))}"

    def page(self, content: bytes) -> Page:
        page = msgspec.json.decode(content, type=_Page)
        items = [
            ObjectInfo(item.name, item.size, item.etag, item.time_modified) for item in page.objects
        ]
        return Page(items, page.next_start_with or "")

    def object_url(self, path: str) -> str:
        return f"{self._url()}/{path}"

    def signed(self, url: str) -> Request:
        from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 -- import time
        from cryptography.hazmat.primitives.asymmetric import padding  # noqa: PLC0415

        signer = self._signer.get()
        parts = urlsplit(url)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        date = format_datetime(self._now(), usegmt=True)
        text = f"date: {date}\n(request-target): get {target}\nhost: {parts.netloc}"
        signature = signer.key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
        authorization = (
            f'Signature version="1",headers="{_SIGNED}",keyId="{signer.key_id}",'
            f'algorithm="rsa-sha256",signature="{b64encode(signature).decode()}"'
        )
        return Request(url, {"date": date, "host": parts.netloc, "authorization": authorization})

    def refusal(self, what: str, answer: BaseHTTPResponse, content: bytes) -> StepError:
        try:
            said = msgspec.json.decode(content, type=_Refused)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            said = _Refused()
        told = f"({said.code}: {said.message[:300]})"
        user = self._signer.get().user
        if answer.status == HTTPStatus.UNAUTHORIZED:
            return bad_credential(f"{what}: Oracle Cloud does not accept the key of {user} {told}")
        if answer.status == HTTPStatus.FORBIDDEN:
            return Terminal(
                f"{what}: {user} may not read it; a policy has to let its group read objects of "
                f"{self.name} {told}",
                code="forbidden",
            )
        return Terminal(f"{what}: Oracle Cloud answered {answer.status} {told}", code="refused")

    def _url(self) -> str:
        region = self._signer.get().region
        host = self._endpoint or f"https://objectstorage.{region}.oraclecloud.com"
        return f"{host}{self._objects}"

    def _make_signer(self) -> tuple[_Signer, None]:
        from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 -- import time
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey  # noqa: PLC0415
        from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
            load_pem_private_key,
        )

        fields = opened(self._secret(), _Fields, "an API signing key of Oracle Cloud")
        if not _REGION.fullmatch(fields.region):
            raise bad_credential("the credential's region is none of Oracle Cloud's")
        try:
            key = load_pem_private_key(
                fields.private_key.encode(), fields.passphrase.encode() or None
            )
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, RSAPrivateKey):
            raise bad_credential(
                "private_key in the credential's secret is no RSA key that opens with its passphrase"
            )
        key_id = f"{fields.tenancy}/{fields.user}/{fields.fingerprint}"
        if not re.fullmatch(r"[!-~]+", key_id) or '"' in key_id:
            raise bad_credential("tenancy, user or fingerprint in the credential is none")
        return _Signer(key_id, fields.user, key, fields.region), None
