"""Objects of an S3 bucket, read with the organization's own keys, or as a role that they may assume.

Never as the platform: nothing is looked for in the environment or in files. A version is the ETag, which
changes with the content. In the partition `aws`; China and GovCloud have other hosts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import unquote_plus
from xml.etree import ElementTree as ET

import msgspec
from urllib3 import BaseHTTPResponse

from shared.core.secret import Secret
from shared.errors import StepError, Terminal
from shared.objects import ObjectInfo
from shared.objects.rest import (
    Damaged,
    Page,
    Renewed,
    Request,
    RestStore,
    bad_credential,
    opened,
    query,
    text_of,
    unreachable,
    xml_reason,
)
from shared.objects.sigv4 import Keys, signed_headers

SESSION_SECONDS = 3600  # the longest that every role allows

_STS_REGION = (
    "us-east-1"  # where every account may ask, and whose sessions are good in every region
)
_SESSION_NAME = "cost-pipelines"
_URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?")
_FORM = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
_BAD_KEYS = frozenset(
    {
        "AuthFailure",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidToken",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)


class _Fields(msgspec.Struct):
    access_key_id: str
    secret_access_key: str
    session_token: str = ""
    role_arn: str = ""
    external_id: str = ""
    region: str = ""


class _Signer(NamedTuple):
    """Whose request it is, and what signs it."""

    who: str
    keys: Keys


class S3Store(RestStore):
    """The `ObjectStore` of a bucket, or of a folder in it: `s3://BUCKET[/FOLDER]`.

    `secret` is called when the first request is made, and for each session of a role. `endpoint` is
    the URL of a server in AWS' place, S3 and STS alike. Raises Terminal `bad_source`.
    """

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
            raise Terminal(f"source {url!r}: is no s3://BUCKET/FOLDER", code="bad_source")
        super().__init__(f"s3://{found[1]}", found[2], sleep=sleep, random=random)
        self._bucket = found[1]
        self._secret = secret
        self._now = now
        self._endpoint = endpoint
        self._region = Renewed(self._find_region, now)
        self._signer = Renewed(self._make_signer, now)

    def page_url(self, prefix: str, token: str, size: int) -> str:
        asked = {
            "list-type": "2",
            "encoding-type": "url",  # or a key that XML cannot say would spoil the page
            "prefix": prefix,
            "max-keys": str(size),
        }
        return f"{self._url()}?{query(asked | ({'continuation-token': token} if token else {}))}"

    def page(self, content: bytes) -> Page:
        page = ET.fromstring(content)  # noqa: S314 -- see the import
        quoted = page.findtext("{*}EncodingType") == "url"
        items = [
            ObjectInfo(
                key=unquote_plus(text_of(item, "Key")) if quoted else text_of(item, "Key"),
                size=int(text_of(item, "Size")),
                version=text_of(item, "ETag").strip('"'),
                modified_at=datetime.fromisoformat(text_of(item, "LastModified")),
            )
            for item in page.iterfind("{*}Contents")
        ]
        return Page(items, page.findtext("{*}NextContinuationToken") or "")

    def object_url(self, path: str) -> str:
        return f"{self._url()}/{path}"

    def signed(self, url: str) -> Request:
        keys = self._signer.get().keys
        region = self._region.get()
        return Request(
            url, signed_headers("GET", url, keys, region=region, service="s3", now=self._now())
        )

    def refusal(self, what: str, answer: BaseHTTPResponse, content: bytes) -> StepError:
        code, message = xml_reason(content)
        who = self._signer.get().who
        if code in _BAD_KEYS:
            return bad_credential(f"{what}: AWS does not accept {who} ({code}: {message})")
        there = answer.headers.get("x-amz-bucket-region")
        if there is not None and there != self._region.get():
            return Terminal(
                f"{what}: {self.name} is in {there}; correct the credential's region, or leave it out",
                code="refused",
            )
        if answer.status == HTTPStatus.FORBIDDEN:
            return Terminal(
                f"{what}: {who} may not read it; it needs s3:ListBucket on {self.name} and "
                f"s3:GetObject on its objects ({code}: {message})",
                code="forbidden",
            )
        return Terminal(f"{what}: S3 answered {answer.status} ({code}: {message})", code="refused")

    def _url(self) -> str:
        # Bucket and key in the path: a bucket with a dot in its name fits no certificate.
        return f"{self._host('s3', self._region.get())}/{self._bucket}"

    def _host(self, service: str, region: str) -> str:
        return self._endpoint or f"https://{service}.{region}.amazonaws.com"

    def _find_region(self) -> tuple[str, None]:
        given = self._fields().region
        if given:
            if not re.fullmatch(r"[a-z]{2}(-[a-z]+)+-[0-9]", given):
                raise bad_credential("the credential's region is none of AWS'")
            return given, None
        # S3 says it to everybody, whether or not they may read the bucket.
        url = f"{self._host('s3', _STS_REGION)}/{self._bucket}"
        answer = self.pool.request("HEAD", url)
        if answer.status == HTTPStatus.NOT_FOUND:
            raise Terminal(f"{self.name}: {self.missing}", code="source_missing")
        region = answer.headers.get("x-amz-bucket-region")
        if region is None:
            raise unreachable(f"{self.name}: S3 answered {answer.status}, and not with its region")
        return region, None

    def _fields(self) -> _Fields:
        return opened(self._secret(), _Fields, "AWS keys (access_key_id, secret_access_key)")

    def _make_signer(self) -> tuple[_Signer, datetime | None]:
        fields = self._fields()
        keys = Keys(fields.access_key_id, fields.secret_access_key, fields.session_token)
        if not fields.role_arn:
            return _Signer(f"the key {keys.access_key_id}", keys), None
        session, end = self._assume(fields, keys)
        return _Signer(f"the role {fields.role_arn}", session), end

    def _assume(self, fields: _Fields, keys: Keys) -> tuple[Keys, datetime]:
        """A session of the role. https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html"""
        asked = {
            "Action": "AssumeRole",
            "Version": "2011-06-15",
            "RoleArn": fields.role_arn,
            "RoleSessionName": _SESSION_NAME,
            "DurationSeconds": str(SESSION_SECONDS),
        }
        if fields.external_id:
            asked["ExternalId"] = fields.external_id
        body = query(asked).encode()
        url = f"{self._host('sts', _STS_REGION)}/"
        headers = signed_headers(
            "POST", url, keys, region=_STS_REGION, service="sts", now=self._now(), body=body
        )
        sent = self.pool.request(
            "POST", url, body=body, headers=headers | _FORM, preload_content=False
        )
        with closing(sent) as answer:
            content = answer.read()
            status = answer.status
        if status != HTTPStatus.OK:
            raise _not_assumed(fields, status, content)
        try:
            said = ET.fromstring(content).find(".//{*}Credentials")  # noqa: S314 -- see the import
            if said is None:
                raise Damaged
            names = ("AccessKeyId", "SecretAccessKey", "SessionToken")
            session = Keys(*(text_of(said, name) for name in names))
            return session, datetime.fromisoformat(text_of(said, "Expiration"))
        except (ET.ParseError, LookupError, ValueError):
            raise Damaged from None


def _not_assumed(fields: _Fields, status: int, content: bytes) -> StepError:
    code, message = xml_reason(content)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or code in {"Throttling", "ThrottlingException"}:
        return unreachable(f"AWS' token service answered {status}")
    if code in _BAD_KEYS:
        return bad_credential(
            f"AWS does not accept the key {fields.access_key_id} ({code}: {message})"
        )
    return Terminal(
        f"the key {fields.access_key_id} may not assume {fields.role_arn}; its trust policy has to "
        f"name the key's user, and the external id if it asks for one ({code}: {message})",
        code="forbidden",
    )
