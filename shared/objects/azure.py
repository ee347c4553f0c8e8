"""Blobs of an Azure container, read as an app registration or with a shared access signature.

A version is the ETag, which changes with every write. Directories of an account with a hierarchical
namespace are no objects here.
https://learn.microsoft.com/rest/api/storageservices/blob-service-rest-api
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import msgspec
from urllib3 import BaseHTTPResponse

from shared.core.secret import Secret
from shared.errors import StepError, Terminal
from shared.objects import ObjectInfo
from shared.objects.rest import (
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

LOGIN = "https://login.microsoftonline.com"
SCOPE = "https://storage.azure.com/.default"
VERSION = "2021-12-02"

_URL = re.compile(
    r"az://([a-z0-9]{3,24})(?:\.blob\.core\.windows\.net)?/([a-z0-9][a-z0-9-]{1,61}[a-z0-9])(?:/(.*))?"
)
_TENANT = re.compile(r"[0-9a-zA-Z][0-9a-zA-Z.-]{0,253}")
_FORM = {"content-type": "application/x-www-form-urlencoded"}
_BAD_CREDENTIAL = frozenset(
    {"AuthenticationFailed", "InvalidAuthenticationInfo", "NoAuthenticationInformation"}
)
_REFUSED_LOGINS = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


class _Fields(msgspec.Struct):
    """An app registration, or a signature."""

    tenant_id: str = ""
    client_id: str = ""
    client_secret: str = ""
    sas_token: str = ""


class _Token(msgspec.Struct):
    access_token: str
    expires_in: int


class _Refused(msgspec.Struct):
    error: str = "no reason"
    error_description: str = ""


class BlobStore(RestStore):
    """The `ObjectStore` of a container, or of a folder in it: `az://ACCOUNT/CONTAINER[/FOLDER]`.

    The account may be written with its host, `ACCOUNT.blob.core.windows.net`. `secret` is called when
    the first request is made, and for each token. `endpoint` is the URL of a server in Azure's place,
    which has accounts in its paths; `login` gives tokens. Raises Terminal `bad_source`.
    """

    missing = "there is no such container; check the source"

    def __init__(
        self,
        url: str,
        secret: Callable[[], Secret],
        *,
        now: Callable[[], datetime],
        sleep: Callable[[float], None],
        random: Callable[[], float],
        endpoint: str | None = None,
        login: str = LOGIN,
    ) -> None:
        found = _URL.fullmatch(url)
        if found is None:
            raise Terminal(
                f"source {url!r}: is no az://ACCOUNT/CONTAINER/FOLDER", code="bad_source"
            )
        account, container, folder = found.groups()
        super().__init__(f"az://{account}/{container}", folder, sleep=sleep, random=random)
        base = f"https://{account}.blob.core.windows.net"
        self._url = f"{base if endpoint is None else f'{endpoint}/{account}'}/{container}"
        self._secret = secret
        self._now = now
        self._login = login
        self._who = "the credential"  # until it has been read
        self._grant = Renewed(self._make_grant, now)

    def page_url(self, prefix: str, token: str, size: int) -> str:
        asked = {
            "restype": "container",
            "comp": "list",
            "prefix": prefix,
            "maxresults": str(size),
        }
        return f"{self._url}?{query(asked | ({'marker': token} if token else {}))}"

    def page(self, content: bytes) -> Page:
        page = ET.fromstring(content.removeprefix(b"\xef\xbb\xbf"))  # noqa: S314 -- see the import
        items = []
        for blob in page.iterfind("{*}Blobs/{*}Blob"):
            properties = blob.find("{*}Properties")
            if properties is None:
                raise LookupError("Properties")
            if properties.findtext("{*}ResourceType") == "directory":
                continue
            items.append(
                ObjectInfo(
                    key=_name(blob),
                    size=int(text_of(properties, "Content-Length")),
                    version=text_of(properties, "Etag").strip('"'),
                    modified_at=parsedate_to_datetime(text_of(properties, "Last-Modified")),
                )
            )
        return Page(items, page.findtext("{*}NextMarker") or "")

    def object_url(self, path: str) -> str:
        return f"{self._url}/{path}"

    def signed(self, url: str) -> Request:
        grant = self._grant.get()
        headers = {"x-ms-version": VERSION, **grant.headers}
        if not grant.url:
            return Request(url, headers)
        return Request(f"{url}{'&' if '?' in url else '?'}{grant.url}", headers)

    def refusal(self, what: str, answer: BaseHTTPResponse, content: bytes) -> StepError:
        code, message = xml_reason(content)
        code = code or answer.headers.get("x-ms-error-code", "")
        if code in _BAD_CREDENTIAL or answer.status == HTTPStatus.UNAUTHORIZED:
            return bad_credential(f"{what}: Azure does not accept {self._who} ({code}: {message})")
        if answer.status == HTTPStatus.FORBIDDEN:
            return Terminal(
                f"{what}: {self._who} may not read it; it needs the role Storage Blob Data Reader on "
                f"{self.name}, or a signature that may list and read ({code}: {message})",
                code="forbidden",
            )
        return Terminal(
            f"{what}: Azure answered {answer.status} ({code}: {message})", code="refused"
        )

    def _make_grant(self) -> tuple[Request, datetime | None]:
        """What each request carries, in its query or its headers."""
        fields = opened(self._secret(), _Fields, "an app registration or a signature of Azure")
        signature = fields.sas_token.lstrip("?")
        if signature:
            if not re.fullmatch(r"[!-~]+", signature) or "#" in signature:
                raise bad_credential("sas_token in the credential's secret is no signature")
            self._who = "the shared access signature"
            return Request(signature, {}), None
        if not (_TENANT.fullmatch(fields.tenant_id) and fields.client_id and fields.client_secret):
            raise bad_credential(
                "the credential's secret has neither tenant_id, client_id and client_secret, "
                "nor sas_token"
            )
        self._who = f"the app {fields.client_id}"
        asked_at = self._now()
        token = self._token(fields)
        headers = {"authorization": f"Bearer {token.access_token}"}
        return Request("", headers), asked_at + timedelta(seconds=token.expires_in)

    def _token(self, fields: _Fields) -> _Token:
        """https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow"""
        asked = {
            "grant_type": "client_credentials",
            "client_id": fields.client_id,
            "client_secret": fields.client_secret,
            "scope": SCOPE,
        }
        url = f"{self._login}/{fields.tenant_id}/oauth2/v2.0/token"
        sent = self.pool.request(
            "POST", url, body=query(asked), headers=_FORM, preload_content=False
        )
        with closing(sent) as answer:
            content = answer.read()
            status = answer.status
        if status == HTTPStatus.OK:
            return msgspec.json.decode(content, type=_Token)
        if status in _REFUSED_LOGINS:
            said = msgspec.json.decode(content, type=_Refused)
            reason = said.error_description.partition("\n")[0][:200]
            raise bad_credential(f"Azure gives {self._who} no token ({said.error}: {reason})")
        raise unreachable(f"Azure's token service answered {status}")


def _name(blob: ET.Element) -> str:
    element = blob.find("{*}Name")
    if element is None or element.text is None:
        raise LookupError("Name")
    return unquote(element.text) if element.get("Encoded") == "true" else element.text
