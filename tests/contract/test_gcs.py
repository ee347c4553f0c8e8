"""What only Cloud Storage does: faults of the way there, and whose key reads a bucket.

What every object store promises is in `test_objects.py`.
"""

from __future__ import annotations

import base64
import json
import random
import resource
import threading
import traceback
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from shared.core.secret import Secret
from shared.errors import Terminal, Transient
from shared.objects.gcs import SCOPE, GcsStore
from shared.objects.rest import TRIES
from shared.service_account import TOKEN_URI
from tests.support.gcs import KEY, CloudStorage, Fault, open_bucket

pytestmark = pytest.mark.cloud

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)
ACCOUNT = KEY["client_email"]
MEBIBYTE = 1024 * 1024
CONTENT = bytes(range(256)) * 400


@pytest.fixture
def storage(gcs_emulator: CloudStorage) -> CloudStorage:
    gcs_emulator.faults.clear()
    gcs_emulator.requests.clear()
    return gcs_emulator


@pytest.fixture
def bucket(storage: CloudStorage) -> str:
    made = storage.make()
    storage.write(made, "file", CONTENT)
    return made


@pytest.fixture
def store(storage: CloudStorage, bucket: str) -> GcsStore:
    return open_bucket(storage.host, f"gs://{bucket}")


def fetched(store: GcsStore, key: str = "file") -> bytes:
    with store.fetch(key) as path:
        return path.read_bytes()


CALLS: dict[str, Callable[[GcsStore], object]] = {
    "list": lambda store: [info.key for info in store.list("")],
    "info": lambda store: store.info("file"),
    "read": lambda store: store.read("file", 1_000_000),
    "fetch": fetched,
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
content_call = pytest.mark.parametrize(
    "call", [CALLS["read"], CALLS["fetch"]], ids=["read", "fetch"]
)


# --- faults ---


@every_call
@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.RATE, Fault.HUNG_UP, Fault.CUT])
def test_what_waiting_mends_is_asked_again_and_noticed_by_nobody(
    storage: CloudStorage, store: GcsStore, fault: Fault, call: Callable[[GcsStore], object]
) -> None:
    whole = call(store)
    storage.requests.clear()
    storage.faults.extend([fault] * (TRIES - 1))
    assert call(store) == whole
    assert len(storage.requests) == TRIES


@every_call
@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.RATE, Fault.HUNG_UP, Fault.CUT])
def test_what_does_not_mend_is_transient_after_few_tries(
    storage: CloudStorage, store: GcsStore, fault: Fault, call: Callable[[GcsStore], object]
) -> None:
    storage.faults.extend([fault] * TRIES)
    with pytest.raises(Transient) as caught:
        call(store)
    assert caught.value.code == "unreachable"
    assert not storage.faults


@content_call
@pytest.mark.parametrize("fault", [Fault.ALTERED, Fault.UNSUMMED])
def test_content_without_its_right_checksum_is_never_given_out(
    storage: CloudStorage, store: GcsStore, fault: Fault, call: Callable[[GcsStore], object]
) -> None:
    storage.faults.append(fault)
    assert call(store) == CONTENT
    storage.faults.extend([fault] * TRIES)
    with pytest.raises(Transient, match="file: arrived damaged"):
        call(store)


@every_call
def test_who_says_when_to_come_back_is_not_asked_before(
    storage: CloudStorage, store: GcsStore, call: Callable[[GcsStore], object]
) -> None:
    storage.faults.append(Fault.BUSY)
    with pytest.raises(Transient) as caught:
        call(store)
    assert caught.value.retry_after == timedelta(seconds=7)
    assert len(storage.requests) == 1


@every_call
def test_a_refusal_says_which_account_lacks_what(
    storage: CloudStorage, store: GcsStore, bucket: str, call: Callable[[GcsStore], object]
) -> None:
    storage.faults.append(Fault.FORBIDDEN)
    with pytest.raises(Terminal) as caught:
        call(store)
    assert caught.value.code == "forbidden"
    for part in (ACCOUNT, "roles/storage.objectViewer", f"gs://{bucket}", "said the server"):
        assert part in str(caught.value)
    assert len(storage.requests) == 1


@every_call
def test_a_credential_that_is_not_accepted_is_terminal(
    storage: CloudStorage, store: GcsStore, call: Callable[[GcsStore], object]
) -> None:
    storage.faults.append(Fault.UNAUTHORIZED)
    with pytest.raises(Terminal, match=ACCOUNT) as caught:
        call(store)
    assert caught.value.code == "bad_credential"


@every_call
def test_a_token_is_carried_to_no_other_address(
    storage: CloudStorage, store: GcsStore, call: Callable[[GcsStore], object]
) -> None:
    storage.faults.append(Fault.REDIRECT)
    with pytest.raises(Terminal, match="answered 302"):
        call(store)
    assert len(storage.requests) == 1


def test_a_bucket_that_is_not_there_is_said_and_not_taken_for_an_empty_one(
    storage: CloudStorage,
) -> None:
    store = open_bucket(storage.host, "gs://no-such-bucket/exports")
    for call in (CALLS["list"], CALLS["info"]):
        with pytest.raises(
            Terminal, match="gs://no-such-bucket: there is no such bucket"
        ) as caught:
            call(store)
        assert caught.value.code == "source_missing"


def test_no_server_at_all_is_transient(storage: CloudStorage) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as closed:
        port = closed.server_address[1]
    store = GcsStore(
        "gs://bucket",
        lambda: Secret(json.dumps(KEY)),
        now=lambda: NOON,
        sleep=lambda _: None,
        random=random.random,
        api=f"http://127.0.0.1:{port}",
        token_uri=None,
    )
    with pytest.raises(Transient, match="no answer"):
        store.info("file")


# --- objects that change, are large, or have odd names ---


def test_an_object_replaced_after_the_listing_is_fetched_whole_and_has_another_version(
    storage: CloudStorage, store: GcsStore, bucket: str
) -> None:
    (listed,) = store.list("")
    storage.write(bucket, "file", b"another content")
    assert fetched(store) == b"another content"
    now = store.info("file")
    assert now is not None
    assert now.version != listed.version
    assert now.size == 15


def test_an_object_replaced_between_two_tries_is_not_mixed_with_the_new_one(
    storage: CloudStorage, bucket: str
) -> None:
    store = GcsStore(
        f"gs://{bucket}",
        lambda: Secret(json.dumps(KEY)),
        now=lambda: NOON,
        sleep=lambda _: storage.write(bucket, "file", b"short"),
        random=random.random,
        api=f"http://{storage.host}",
        token_uri=None,
    )
    storage.faults.append(Fault.CUT)
    assert fetched(store) == b"short"


def test_a_large_object_is_fetched_in_little_memory(storage: CloudStorage, bucket: str) -> None:
    size = 64 * MEBIBYTE
    with (storage.folder / bucket / "large").open("wb") as file:
        file.write(b"x" * size)
    storage.adopt()
    store = open_bucket(storage.server, f"gs://{bucket}")  # the door is in this process
    fetched(store)
    tracemalloc.start()
    try:
        with store.fetch("large") as path:
            assert path.stat().st_size == size
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MEBIBYTE


def test_the_local_file_is_gone_after_its_use(storage: CloudStorage, store: GcsStore) -> None:
    with store.fetch("file") as path:
        assert path.exists()
    assert not path.exists()
    with pytest.raises(ValueError, match="of the user"), store.fetch("file") as path:
        raise ValueError("a fault of the user")
    assert not path.exists()


def test_a_full_disk_is_transient_and_not_the_objects_fault(store: GcsStore) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        with pytest.raises(Transient, match="file: this machine cannot keep it") as caught:
            fetched(store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.code == "no_space"


def test_a_listing_goes_from_page_to_page(storage: CloudStorage, bucket: str) -> None:
    for number in range(1_200):
        (storage.folder / bucket / f"{number:04}").write_bytes(b"")
    listed = list(open_bucket(storage.host, f"gs://{bucket}").list(""))
    assert len(listed) == 1_201
    asked = [request.path for request in storage.requests]
    assert len(asked) == 2
    assert "pageToken=" in asked[1]


@pytest.mark.parametrize("key", ["a b/ü+%2F?#&=.csv.gz", "...", "a/../b", "'\"\\", "日付=2026-03"])
def test_a_key_is_a_text_and_no_path(storage: CloudStorage, store: GcsStore, key: str) -> None:
    with pytest.raises(Terminal):
        store.read(key, 10)
    path = storage.requests[0].path.partition("?")[0]
    assert path.count("/") == 6  # …/storage/v1/b/BUCKET/o/NAME


@pytest.mark.parametrize("key", ["", "..", ".", "a\nb", "a\0b", "x" * 1_025, "\ud800", "folder/"])
def test_a_key_that_no_object_can_have_is_asked_of_nobody(
    storage: CloudStorage, store: GcsStore, key: str
) -> None:
    assert store.info(key) is None
    with pytest.raises(Terminal) as caught:
        store.read(key, 10)
    assert caught.value.code == "object_missing"
    assert storage.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "gs:/bucket",
        "gs://",
        "gs://b",
        "gs://Bucket",
        "s3://bucket",
        "gs://a b/c",
        "gs://bucket\n/x",
    ],
)
def test_what_is_no_address_of_a_bucket_is_refused(storage: CloudStorage, url: str) -> None:
    with pytest.raises(Terminal, match="is no gs://BUCKET/FOLDER") as caught:
        open_bucket(storage.host, url)
    assert caught.value.code == "bad_source"


# --- whose key reads ---


def pem(key: Any, encryption: Any = None) -> str:
    made: bytes = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        encryption or serialization.NoEncryption(),
    )
    return made.decode()


class Google:
    """The address that gives tokens, to who signs with the private key."""

    def __init__(self) -> None:
        self._private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.asked: list[dict[str, Any]] = []  # the claims of each request
        self.answers: deque[tuple[int, bytes]] = deque()  # instead of the next tokens
        google = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
                status, answer = google.answer(form)
                self.send_response_only(status)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}/token"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def key(self, **changes: object) -> dict[str, object]:
        return {**KEY, "private_key": pem(self._private), "private_key_id": "k1", **changes}

    def answer(self, form: dict[str, list[str]]) -> tuple[int, bytes]:
        assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
        signed, _, signature = form["assertion"][0].rpartition(".")
        header, claims = (json.loads(decoded(part)) for part in signed.split("."))
        assert (header["alg"], header["kid"]) == ("RS256", "k1")
        self._private.public_key().verify(
            decoded(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256()
        )
        self.asked.append(claims)
        if self.answers:
            return self.answers.popleft()
        return 200, b'{"access_token": "token-%d", "expires_in": 3600}' % len(self.asked)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


@pytest.fixture
def google() -> Iterator[Google]:
    made = Google()
    yield made
    made.stop()


class Opened:
    """A store that needs tokens, and how often its key was opened."""

    def __init__(self, storage: CloudStorage, google: Google, bucket: str, secret: object) -> None:
        self.now = NOON
        self.opened = 0
        self._secret = secret
        self.store = GcsStore(
            f"gs://{bucket}",
            self._open,
            now=lambda: self.now,
            sleep=lambda _: None,
            random=random.random,
            api=f"http://{storage.host}",
            token_uri=google.uri,
        )

    def _open(self) -> Secret:
        self.opened += 1
        return Secret(self._secret if isinstance(self._secret, bytes) else json.dumps(self._secret))


def test_the_organizations_account_reads_with_tokens_of_its_own(
    storage: CloudStorage, google: Google, bucket: str
) -> None:
    opened = Opened(storage, google, bucket, google.key())
    assert opened.opened == 0
    for _ in range(3):
        assert opened.store.read("file", 1_000_000) == CONTENT
    assert opened.opened == 1
    assert google.asked == [
        {
            "iss": ACCOUNT,
            "scope": SCOPE,
            "aud": TOKEN_URI,
            "iat": int(NOON.timestamp()),
            "exp": int(NOON.timestamp()) + 3600,
        }
    ]
    assert SCOPE.endswith("read_only")
    used = [request.headers["authorization"] for request in storage.requests]
    assert used == ["Bearer token-1"] * 3


def test_a_token_is_replaced_before_it_ends(
    storage: CloudStorage, google: Google, bucket: str
) -> None:
    opened = Opened(storage, google, bucket, google.key())
    for minutes in (0, 54, 2, 1):
        opened.now += timedelta(minutes=minutes)
        opened.store.info("file")
    used = [request.headers["authorization"] for request in storage.requests]
    assert used == ["Bearer token-1", "Bearer token-1", "Bearer token-2", "Bearer token-2"]


def test_threads_that_are_all_first_ask_for_one_token(
    storage: CloudStorage, google: Google, bucket: str
) -> None:
    opened = Opened(storage, google, bucket, google.key())
    threads = [threading.Thread(target=opened.store.info, args=("file",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(google.asked) == 1


def test_a_busy_token_service_is_asked_again(
    storage: CloudStorage, google: Google, bucket: str
) -> None:
    opened = Opened(storage, google, bucket, google.key())
    google.answers.extend([(503, b""), (200, b"<html>")])
    assert opened.store.info("file") is not None
    opened = Opened(storage, google, bucket, google.key())
    google.answers.extend([(503, b"")] * TRIES)
    with pytest.raises(Transient, match="token service answered 503"):
        opened.store.info("file")


def test_a_key_that_was_deleted_is_terminal_with_googles_reason(
    storage: CloudStorage, google: Google, bucket: str
) -> None:
    opened = Opened(storage, google, bucket, google.key())
    google.answers.append(
        (400, b'{"error": "invalid_grant", "error_description": "Invalid JWT Signature."}')
    )
    with pytest.raises(Terminal, match=r"invalid_grant: Invalid JWT Signature\.") as caught:
        opened.store.info("file")
    assert caught.value.code == "bad_credential"
    assert ACCOUNT in str(caught.value)
    assert "gcloud iam service-accounts keys create" in str(caught.value)


CANARY = "canary7Qd0vXw3ZrB9mN5tLk2H"
EC = pem(ec.generate_private_key(ec.SECP256R1()))
LOCKED = pem(
    ec.generate_private_key(ec.SECP256R1()), serialization.BestAvailableEncryption(b"password")
)
BAD_KEYS: dict[str, object] = {
    "no JSON": CANARY.encode(),
    "no text": b"\xff" + CANARY.encode(),
    "too deep": b"[" * 100_000,
    "a list": [CANARY],
    "an access key": {"access_key_id": CANARY, "secret_access_key": CANARY},
    "a user": {"type": "authorized_user", "client_id": "x", "refresh_token": CANARY},
    "a user in the form of an account": {**KEY, "type": "authorized_user", "private_key": CANARY},
    "federation": {**KEY, "type": "external_account", "private_key": CANARY},
    "no account": {**KEY, "client_email": CANARY, "private_key": CANARY},
    "another universe": {**KEY, "universe_domain": f"{CANARY}.example"},
    "no private key": {**KEY, "private_key": CANARY},
    "a cut private key": {**KEY, "private_key": EC[:90] + CANARY},
    "a private key of another kind": {**KEY, "private_key": EC},
    "a locked private key": {**KEY, "private_key": LOCKED},
}


@pytest.mark.parametrize("secret", BAD_KEYS.values(), ids=BAD_KEYS)
def test_what_is_no_key_of_a_service_account_is_refused_and_not_repeated(
    storage: CloudStorage, google: Google, bucket: str, secret: object
) -> None:
    opened = Opened(storage, google, bucket, secret)
    with pytest.raises(Terminal, match="gcloud iam service-accounts keys create") as caught:
        opened.store.info("file")
    assert caught.value.code == "bad_credential"
    told = "".join(traceback.format_exception(caught.value))
    assert CANARY not in told
    assert EC[30:60] not in told
    assert google.asked == []
    assert storage.requests == []


@pytest.mark.parametrize("token_uri", ["http://127.0.0.1/token", f"{TOKEN_URI}/..", "", "file:///"])
def test_a_key_leads_to_no_address_of_its_own(
    storage: CloudStorage, google: Google, bucket: str, token_uri: str
) -> None:
    opened = Opened(storage, google, bucket, google.key(token_uri=token_uri))
    with pytest.raises(Terminal, match="token_uri") as caught:
        opened.store.info("file")
    assert caught.value.code == "bad_credential"
    assert google.asked == []


def test_an_emulator_checks_the_form_of_the_key_too(storage: CloudStorage, bucket: str) -> None:
    store = GcsStore(
        f"gs://{bucket}",
        lambda: Secret("{}"),
        now=lambda: NOON,
        sleep=lambda _: None,
        random=random.random,
        api=f"http://{storage.host}",
        token_uri=None,
    )
    with pytest.raises(Terminal):
        store.info("file")
    assert storage.requests == []
