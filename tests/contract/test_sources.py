"""What only S3, Blob Storage and Oracle Cloud do: whose credential reads, and what a refusal says.

What every object store promises is in `test_objects.py`; faults of the way there are the same for all of
them, and `test_gcs.py` has them for Cloud Storage.
"""

from __future__ import annotations

import json
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from shared.core.secret import Secret
from shared.errors import StepError, Terminal, Transient
from shared.objects.azure import BlobStore
from shared.objects.oci import OciStore
from shared.objects.rest import TRIES, RestStore
from shared.objects.s3 import S3Store
from tests.support.azure import ACCOUNT, BlobStorage, signature
from tests.support.oci import Fault, OracleStorage
from tests.support.s3 import REGION, Aws

S = TypeVar("S", bound=RestStore)
CANARY = "canary7Qd0vXw3ZrB9mN5tLk2H"
CONTENT = bytes(range(256)) * 400


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)


def opened(
    kind: Callable[..., S],
    url: str,
    secret: Mapping[str, str] | bytes,
    host: str | None = None,
    clock: Clock | None = None,
    **more: Any,
) -> S:
    text = secret if isinstance(secret, bytes) else json.dumps(secret).encode()
    return kind(
        url,
        lambda: Secret(text),
        now=lambda: (clock or Clock()).now,
        sleep=lambda _: None,
        random=lambda: 0.5,
        **({} if host is None else {"endpoint": f"http://{host}"}),
        **more,
    )


def refused(call: Callable[[], object], code: str) -> str:
    """What the Terminal says, which repeats no secret."""
    with pytest.raises(StepError) as caught:
        call()
    assert isinstance(caught.value, Terminal), caught.value
    assert caught.value.code == code
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


class Recorder:
    """A server that gives prepared answers, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: deque[tuple[int, bytes]] = deque()
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = self.rfile.read(int(headers.get("content-length", 0)))
                recorder.asked.append((f"{self.command} {self.path}", headers, body))
                status, content = recorder.answers.popleft()
                self.send_response_only(status)
                self.send_header("x-amz-bucket-region", REGION)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        for method in ("GET", "POST", "HEAD"):
            setattr(Handler, f"do_{method}", Handler.answer)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = "{}:{}".format(*self._server.server_address[:2])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def recording() -> Iterator[Recorder]:
    made = Recorder()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with recording() as made:
        yield made


# --- S3 ---


def keys(**changes: str) -> dict[str, str]:
    return {"access_key_id": "AKIA0000000000000000", "secret_access_key": CANARY, **changes}


def session(number: int, end: datetime) -> bytes:
    return (
        '<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>'
        f"<Credentials><AccessKeyId>ASIA{number}</AccessKeyId><SecretAccessKey>{CANARY}"
        f"</SecretAccessKey><SessionToken>token-{number}</SessionToken>"
        f"<Expiration>{end:%Y-%m-%dT%H:%M:%SZ}</Expiration></Credentials>"
        "</AssumeRoleResult></AssumeRoleResponse>"
    ).encode()


EMPTY = b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"/>'
ROLE = {"role_arn": "arn:aws:iam::123456789012:role/billing", "external_id": "ours-7"}


def test_a_role_is_assumed_with_its_external_id_and_again_before_its_session_ends(
    recorder: Recorder,
) -> None:
    clock = Clock()
    store = opened(S3Store, "s3://bucket", keys(**ROLE, region=REGION), recorder.host, clock)
    recorder.answers.extend([(200, session(1, clock.now + timedelta(hours=1))), (200, EMPTY)])
    assert list(store.list("")) == []
    clock.now += timedelta(minutes=54)
    recorder.answers.append((200, EMPTY))
    assert list(store.list("")) == []
    clock.now += timedelta(minutes=2)
    recorder.answers.extend([(200, session(2, clock.now + timedelta(hours=1))), (200, EMPTY)])
    assert list(store.list("")) == []
    assumed = [parse_qs(body.decode()) for what, _, body in recorder.asked if what == "POST /"]
    assert len(assumed) == 2
    for asked in assumed:
        assert (asked["Action"], asked["RoleArn"]) == (["AssumeRole"], [ROLE["role_arn"]])
        assert asked["ExternalId"] == ["ours-7"]
    read = [headers for what, headers, _ in recorder.asked if what.startswith("GET")]
    tokens = [headers["x-amz-security-token"] for headers in read]
    assert tokens == ["token-1", "token-1", "token-2"]
    assert all("ASIA" in headers["authorization"] for headers in read)


def test_a_role_that_may_not_be_assumed_says_what_its_trust_policy_lacks(
    recorder: Recorder,
) -> None:
    store = opened(S3Store, "s3://bucket", keys(**ROLE, region=REGION), recorder.host)
    said = "<ErrorResponse><Error><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>"
    recorder.answers.append((403, said.encode()))
    told = refused(lambda: store.info("file"), "forbidden")
    assert "arn:aws:iam::123456789012:role/billing" in told
    assert "external id" in told


def test_the_region_is_asked_of_s3_when_the_credential_does_not_say_it(recorder: Recorder) -> None:
    store = opened(S3Store, "s3://bucket", keys(), recorder.host)
    recorder.answers.extend([(403, b""), (200, EMPTY)])
    assert list(store.list("")) == []
    (asked, headers, _), (_, signed, _) = recorder.asked
    assert asked == "HEAD /bucket"
    assert "authorization" not in headers
    assert f"/{REGION}/s3/aws4_request" in signed["authorization"]


def test_a_region_that_cannot_be_asked_for_is_transient(recorder: Recorder) -> None:
    host = recorder.host
    recorder.stop()
    store = opened(S3Store, "s3://bucket", keys(), host)
    with pytest.raises(Transient, match="no answer"):
        store.info("file")
    with recording() as again:  # for the fixture to stop
        recorder.__dict__.update(again.__dict__)


@pytest.mark.cloud
def test_s3_reads_with_keys_and_as_a_role(s3_emulator: Aws) -> None:
    bucket = s3_emulator.make()
    s3_emulator.write(bucket, "a b/ü+%2F?#&=.csv.gz", CONTENT)
    own = s3_emulator.reader._asdict()
    role = s3_emulator.nobody._asdict() | {"role_arn": s3_emulator.role}
    for secret in (own, role):
        store = opened(S3Store, f"s3://{bucket}", {**secret, "region": REGION}, s3_emulator.host)
        (found,) = store.list("a b/")
        assert found == store.info("a b/ü+%2F?#&=.csv.gz")
        assert store.read(found.key, found.size) == CONTENT


@pytest.mark.cloud
def test_s3_is_listed_page_by_page(s3_emulator: Aws) -> None:
    bucket = s3_emulator.make()
    for number in range(5):
        s3_emulator.write(bucket, f"many/{number}", b"")
    secret = {**s3_emulator.reader._asdict(), "region": REGION}
    store = opened(S3Store, f"s3://{bucket}", secret, s3_emulator.host)
    assert [item.key for item in store._items("many/", 2)] == [f"many/{n}" for n in range(5)]


@pytest.mark.cloud
def test_what_s3_refuses_says_whose_fault_it_is(s3_emulator: Aws) -> None:
    bucket = s3_emulator.make()
    reader = {**s3_emulator.reader._asdict(), "region": REGION}
    host = s3_emulator.host
    wrong = opened(S3Store, f"s3://{bucket}", reader | {"secret_access_key": CANARY}, host)
    assert s3_emulator.reader.access_key_id in refused(lambda: wrong.info("x"), "bad_credential")
    unknown = opened(S3Store, f"s3://{bucket}", keys(region=REGION), host)
    refused(lambda: unknown.info("x"), "bad_credential")
    nobody = opened(
        S3Store, f"s3://{bucket}", {**s3_emulator.nobody._asdict(), "region": REGION}, host
    )
    assert "s3:ListBucket" in refused(lambda: nobody.info("x"), "forbidden")
    nowhere = opened(S3Store, "s3://no-such-bucket-here", reader, host)
    refused(lambda: nowhere.info("x"), "source_missing")


# --- Azure ---

APP = {
    "tenant_id": "00000000-0000-0000-0000-000000000001",
    "client_id": "00000000-0000-0000-0000-000000000002",
    "client_secret": CANARY,
}
NO_BLOBS = b'\xef\xbb\xbf<?xml version="1.0"?><EnumerationResults><Blobs/></EnumerationResults>'


def token(number: int) -> bytes:
    return json.dumps({"access_token": f"token-{number}", "expires_in": 3599}).encode()


def app(recorder: Recorder, clock: Clock | None = None) -> BlobStore:
    login = f"http://{recorder.host}"
    return opened(BlobStore, "az://billing/exports", APP, recorder.host, clock, login=login)


def test_an_app_reads_with_tokens_of_its_own_tenant(recorder: Recorder) -> None:
    clock = Clock()
    store = app(recorder, clock)
    recorder.answers.extend([(200, token(1)), (200, NO_BLOBS), (200, NO_BLOBS)])
    assert list(store.list("")) == list(store.list("")) == []
    clock.now += timedelta(minutes=55)
    recorder.answers.extend([(200, token(2)), (200, NO_BLOBS)])
    assert list(store.list("")) == []
    logins = [(what, parse_qs(body.decode())) for what, _, body in recorder.asked if body]
    assert len(logins) == 2
    for what, form in logins:
        assert what == f"POST /{APP['tenant_id']}/oauth2/v2.0/token"
        assert form["scope"] == ["https://storage.azure.com/.default"]
        assert form["client_id"] == [APP["client_id"]]
    used = [headers["authorization"] for what, headers, _ in recorder.asked if "GET" in what]
    assert used == ["Bearer token-1", "Bearer token-1", "Bearer token-2"]


def test_an_app_without_a_token_is_told_why(recorder: Recorder) -> None:
    said = {"error": "invalid_client", "error_description": "AADSTS7000215: wrong\r\nTrace ID: 1"}
    recorder.answers.append((401, json.dumps(said).encode()))
    told = refused(lambda: app(recorder).info("x"), "bad_credential")
    assert "AADSTS7000215: wrong" in told
    assert "Trace" not in told


def test_a_signature_that_azure_does_not_accept_is_a_bad_credential(recorder: Recorder) -> None:
    said = (
        "<?xml version='1.0'?><Error><Code>AuthenticationFailed</Code><Message>Server failed to "
        "authenticate the request.\nRequestId:1</Message></Error>"
    )
    recorder.answers.append((403, said.encode()))
    secret = {"sas_token": f"?sv=1&sig={CANARY}"}
    store = opened(BlobStore, "az://billing/exports", secret, recorder.host)
    told = refused(lambda: store.info("x"), "bad_credential")
    assert "AuthenticationFailed" in told
    assert "RequestId" not in told
    assert f"&sv=1&sig={CANARY}" in recorder.asked[0][0]


def test_directories_of_a_hierarchical_account_are_no_objects(recorder: Recorder) -> None:
    blobs = "".join(
        f"<Blob><Name>{name}</Name><Properties><Last-Modified>Tue, 24 Nov 2026 04:00:00 GMT"
        f"</Last-Modified><Etag>0x1</Etag><Content-Length>0</Content-Length>"
        f"<ResourceType>{kind}</ResourceType></Properties></Blob>"
        for name, kind in (("a", "directory"), ("a/b", "file"))
    )
    page = f"<EnumerationResults><Blobs>{blobs}</Blobs></EnumerationResults>"
    recorder.answers.extend([(200, token(1)), (200, page.encode())])
    assert [found.key for found in app(recorder).list("")] == ["a/b"]


@pytest.mark.cloud
def test_blobs_have_names_that_are_texts_and_pages(blob_emulator: BlobStorage) -> None:
    container = blob_emulator.make()
    names = ["a b/ü+%2F&=.csv.gz", *(f"many/{n}" for n in range(5))]
    for name in names:
        blob_emulator.write(container, name, CONTENT)
    secret = {"sas_token": signature("rl")}
    store = opened(BlobStore, f"az://{ACCOUNT}/{container}", secret, blob_emulator.host)
    assert [found.key for found in store._items("", 2)] == names
    assert store.read(names[0], len(CONTENT)) == CONTENT


@pytest.mark.cloud
def test_what_azure_refuses_says_whose_fault_it_is(blob_emulator: BlobStorage) -> None:
    container = blob_emulator.make()
    blob_emulator.write(container, "file", CONTENT)
    url = f"az://{ACCOUNT}/{container}"

    def signed(sas: str, source: str = url) -> BlobStore:
        return opened(BlobStore, source, {"sas_token": sas}, blob_emulator.host)

    forged = signature("rl").rpartition("sig=")[0] + f"sig={CANARY}"
    # for all of these Azurite has one code
    for sas in (forged, signature("rl", days=-1), signature("r")):
        assert "signature" in refused(lambda: signed(sas).info("file"), "forbidden")  # noqa: B023
    nowhere = signed(signature("rl"), f"az://{ACCOUNT}/no-such-container")
    refused(lambda: nowhere.info("file"), "source_missing")


# --- Oracle Cloud ---


@pytest.fixture
def oracle(oci_storage: OracleStorage) -> OracleStorage:
    oci_storage.faults.clear()
    oci_storage.requests.clear()
    return oci_storage


def reports(oracle: OracleStorage, **changes: str) -> OciStore:
    bucket = oracle.make()
    oracle.write(bucket, "FOCUS Reports/2025/02/01/a b+ü.csv.gz", CONTENT)
    url = f"oci://{bucket}/FOCUS Reports"
    return opened(OciStore, url, {**oracle.secret, **changes}, oracle.host)


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.HUNG_UP, Fault.CUT])
def test_what_waiting_mends_is_asked_again(oracle: OracleStorage, fault: Fault) -> None:
    store = reports(oracle)
    oracle.faults.extend([fault] * (TRIES - 1))
    (found,) = store.list("2025/")
    oracle.faults.extend([fault] * (TRIES - 1))
    with store.fetch(found.key) as path:
        assert path.read_bytes() == CONTENT
    oracle.faults.extend([fault] * TRIES)
    with pytest.raises(Transient) as caught:
        store.read(found.key, len(CONTENT))
    assert caught.value.code == "unreachable"


def test_who_says_when_to_come_back_is_not_asked_before(oracle: OracleStorage) -> None:
    store = reports(oracle)
    oracle.faults.append(Fault.BUSY)
    with pytest.raises(Transient) as caught:
        store.info("x")
    assert caught.value.retry_after == timedelta(seconds=7)
    assert len(oracle.requests) == 1


def test_oracle_is_listed_page_by_page(oracle: OracleStorage) -> None:
    bucket = oracle.make()
    for number in range(5):
        oracle.write(bucket, f"many/{number}", b"")
    store = opened(OciStore, f"oci://{bucket}", oracle.secret, oracle.host)
    assert [found.key for found in store._items("many/", 2)] == [f"many/{n}" for n in range(5)]
    assert len([asked for asked in oracle.requests if "start=" in asked]) == 2


def test_what_oracle_refuses_says_whose_fault_it_is(oracle: OracleStorage) -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"word"),
    )
    forged = reports(oracle, private_key=other.decode(), passphrase="word")
    told = refused(lambda: forged.info("x"), "bad_credential")
    assert oracle.secret["user"] in told
    locked = reports(oracle, private_key=other.decode())
    refused(lambda: locked.info("x"), "bad_credential")
    nowhere = opened(OciStore, "oci://none@bling", oracle.secret, oracle.host)
    assert "the user may not see it" in refused(lambda: nowhere.info("x"), "source_missing")
    oracle.faults.append(Fault.FORBIDDEN)
    assert "policy" in refused(lambda: reports(oracle).info("x"), "forbidden")


# --- all of them ---

BAD_SECRETS: dict[str, Mapping[str, str] | bytes] = {
    "no JSON": CANARY.encode(),
    "no text": b"\xff" + CANARY.encode(),
    "nothing of theirs": {"password": CANARY},
    "a region that is a host": {
        **keys(),
        **APP,
        "region": "x.example/",
        "tenancy": "t",
        "user": "u",
        "fingerprint": "f",
        "private_key": CANARY,
        "tenant_id": "../x",
    },
}


@pytest.mark.parametrize("secret", BAD_SECRETS.values(), ids=BAD_SECRETS)
@pytest.mark.parametrize(
    ("kind", "url"),
    [(S3Store, "s3://bucket"), (BlobStore, "az://account/exports"), (OciStore, "oci://b@ns")],
)
def test_what_is_no_credential_is_refused_and_not_repeated(
    kind: Callable[..., RestStore], url: str, secret: Mapping[str, str] | bytes
) -> None:
    store = opened(kind, url, secret)
    refused(lambda: store.info("file"), "bad_credential")


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        (S3Store, "s3://B"),
        (S3Store, "s3://bucket@evil.example/x"),
        (S3Store, "s3a://bucket"),
        (BlobStore, "az://account"),
        (BlobStore, "az://evil.example/container"),
        (BlobStore, "az://account/CONTAINER"),
        (OciStore, "oci://bucket"),
        (OciStore, "oci://bucket@evil.example/x"),
    ],
)
def test_what_is_no_address_is_refused(kind: Callable[..., RestStore], url: str) -> None:
    with pytest.raises(Terminal) as caught:
        opened(kind, url, b"{}")
    assert caught.value.code == "bad_source"


def test_an_account_may_be_written_with_its_host() -> None:
    store = opened(BlobStore, "az://billing.blob.core.windows.net/exports/daily", b"{}")
    assert urlsplit(store._url).netloc == "billing.blob.core.windows.net"
    assert (store.name, store.root) == ("az://billing/exports", "daily/")


@pytest.mark.parametrize("key", ["", "..", "a/../b", "./a", "a\nb", "x" * 1_025, "\ud800", "f/"])
def test_a_key_that_no_object_can_have_is_asked_of_nobody(key: str) -> None:
    store = opened(S3Store, "s3://bucket", keys())
    assert store.info(key) is None
    refused(lambda: store.read(key, 10), "object_missing")
