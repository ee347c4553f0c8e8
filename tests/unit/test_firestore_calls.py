"""What a call of Firestore comes to when it is refused, unanswered, or about what cannot be."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from google.api_core import exceptions as api
from google.auth.exceptions import RefreshError
from google.cloud.firestore_v1.types import BatchGetDocumentsResponse

from shared.errors import Unavailable
from shared.firestore import BUSY_TRIES, TRIES, Database, Query, Ref, Where, changed, created
from shared.state.firestore import FirestoreRunStore

PLACE = ("runs", "r1")


class Scripted:
    """A client that answers every call with the next of its errors."""

    def __init__(self, database: Database, errors: list[Exception]) -> None:
        self.transport = database._rpc.transport
        self.errors = errors
        self.calls = 0
        database._rpc = self

    def _next(self, **options: Any) -> Any:
        assert options["timeout"] > 0
        assert options["retry"] is None, "the library's own tries would hide what was applied"
        self.calls += 1
        raise self.errors.pop(0)

    def commit(self, request: Any, **options: Any) -> Any:
        return self._next(**options)

    batch_get_documents = run_query = commit


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def database(slept: list[float]) -> Iterator[Database]:
    # Nothing listens there, and no test here gets that far.
    made = Database("p", sleep=slept.append, random=lambda: 0.5, emulator="127.0.0.1:1")
    yield made
    made.close()


def error(kind: type[Exception], text: str = "said") -> Exception:
    return kind(text)


UNANSWERED = (api.ServiceUnavailable, api.DeadlineExceeded, api.InternalServerError, api.Unknown)
FINAL = (api.PermissionDenied, api.InvalidArgument, api.Unauthenticated, RefreshError)


@pytest.mark.parametrize("kind", UNANSWERED)
def test_without_an_answer_it_is_tried_a_few_times_and_then_unavailable(
    database: Database, kind: type[Exception], slept: list[float]
) -> None:
    client = Scripted(database, [error(kind) for _ in range(TRIES)])
    with pytest.raises(Unavailable, match=r"create r1 \(waiting may help\).*said"):
        database.commit("create r1", created(PLACE, {}))
    assert client.calls == TRIES
    assert sum(slept) < 1


@pytest.mark.parametrize("kind", [api.Aborted, api.ResourceExhausted])
def test_where_others_write_it_is_tried_more_often_with_growing_pauses(
    database: Database, kind: type[Exception], slept: list[float]
) -> None:
    client = Scripted(database, [error(kind) for _ in range(BUSY_TRIES)])
    with pytest.raises(Unavailable, match="waiting may help"):
        database.commit("create r1", created(PLACE, {}))
    assert client.calls == BUSY_TRIES
    assert slept == sorted(slept)
    assert sum(slept) < 3


@pytest.mark.parametrize("kind", FINAL)
def test_what_waiting_does_not_help_is_said_at_once(
    database: Database, kind: type[Exception]
) -> None:
    for call in (
        lambda: database.commit("create r1", created(PLACE, {})),
        lambda: database.get([PLACE]),
        lambda: database.query(Query((), "runs", ())),
    ):
        client = Scripted(database, [error(kind)])
        with pytest.raises(Unavailable, match=r"waiting does not help.*said"):
            call()
        assert client.calls == 1


@pytest.mark.parametrize("kind", [api.AlreadyExists, api.FailedPrecondition])
def test_a_condition_that_does_not_hold_is_an_answer(
    database: Database, kind: type[Exception]
) -> None:
    Scripted(database, [error(kind)])
    assert database.commit("create r1", created(PLACE, {})) == (None, False)


@pytest.mark.parametrize(
    ("first", "in_doubt"),
    [(api.ServiceUnavailable, True), (api.DeadlineExceeded, True), (api.Aborted, False)],
)
def test_only_a_try_without_an_answer_leaves_a_doubt(
    database: Database, first: type[Exception], in_doubt: bool
) -> None:
    Scripted(database, [error(first), error(api.FailedPrecondition)])
    assert database.commit("write r1", changed(PLACE, {("a",): 1}, 5)) == (None, in_doubt)


def test_a_document_that_is_gone_is_an_answer_and_a_database_that_is_gone_is_not(
    database: Database,
) -> None:
    Scripted(database, [error(api.NotFound)])
    assert database.commit("write r1", changed(PLACE, {("a",): 1}, 5)).versions is None
    Scripted(database, [error(api.NotFound)])
    with pytest.raises(Unavailable, match="said"):
        database.commit("create r1", created(PLACE, {}))
    Scripted(database, [error(api.NotFound)])
    with pytest.raises(Unavailable, match="said"):
        database.get([PLACE])


def test_a_query_that_lacks_its_index_is_not_a_condition(database: Database) -> None:
    Scripted(database, [error(api.FailedPrecondition, "The query requires an index")])
    with pytest.raises(Unavailable, match="requires an index"):
        database.query(Query((), "runs", ()))


def test_a_path_that_cannot_be_is_never_sent(database: Database) -> None:
    client = Scripted(database, [])
    assert database.get([("runs", "a/b"), ("runs", "")]) == {}
    assert database.query(Query(("runs", ".."), "attempts", ())) == []
    with pytest.raises(ValueError, match="no path"):
        database.commit("create", created(("runs", "__x__"), {}))
    assert client.calls == 0


def test_a_value_that_no_document_has_is_refused_before_it_is_sent(database: Database) -> None:
    client = Scripted(database, [])
    with pytest.raises(TypeError, match="list"):
        database.commit("create", created(PLACE, {"a": [1]}))
    with pytest.raises(ValueError, match="range"):
        database.commit("create", created(PLACE, {"a": 2**63}))
    assert client.calls == 0


def test_a_store_that_is_not_there_is_unavailable_at_once(slept: list[float]) -> None:
    database = Database("p", sleep=slept.append, random=lambda: 0.5, emulator="127.0.0.1:1")
    with pytest.raises(Unavailable, match="waiting may help"):
        database.get([PLACE])
    database.close()


def test_a_store_that_never_answers_is_unavailable_when_its_time_is_up(slept: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        database = Database(
            "p",
            sleep=slept.append,
            random=lambda: 0.5,
            emulator=f"127.0.0.1:{deaf.getsockname()[1]}",
            timeout_seconds=0.2,
        )
        with pytest.raises(Unavailable, match="DeadlineExceeded"):
            database.get([PLACE])
        database.close()


def test_without_credentials_the_database_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/at/all.json")
    with pytest.raises(Unavailable, match=r"cannot be opened.*/nowhere/at/all"):
        Database("p", sleep=lambda _: None, random=lambda: 0.5)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"doc": {"run_id": '"r1"'}}, id="a field is missing"),
        pytest.param({"doc": {"status": '"unheard of"'}}, id="a value of another release"),
        pytest.param({"doc": "text"}, id="another kind of field"),
        pytest.param({"plan": b""}, id="cut to nothing"),
        pytest.param({"plan": b"not gzip at all"}, id="not packed"),
        pytest.param({"plan": gzip.compress(b"{}")[:-6]}, id="cut"),
    ],
)
def test_a_document_that_cannot_be_read_is_unavailable_and_named(
    database: Database, fields: dict[str, Any]
) -> None:
    plan = gzip.compress(
        b'{"address":"","pipeline_id":"","provider":"","domain":"","version":"","config_hash":"",'
        b'"steps":[]}'
    )

    class One:
        transport = database._rpc.transport

        def batch_get_documents(self, request: Any, **options: Any) -> list[Any]:
            answer = BatchGetDocumentsResponse.pb()()
            answer.found.name = database._full(PLACE)
            for name, value in {"doc": {}, "plan": plan, "writer": "w", **fields}.items():
                database._put(answer.found.fields, name, value)
            return [BatchGetDocumentsResponse.wrap(answer)]

    database._rpc = One()
    store = FirestoreRunStore(database, now=lambda: datetime.now(UTC), new_id=lambda: "n")
    with pytest.raises(Unavailable, match="runs/r1 cannot be read"):
        store.run("r1")


def test_a_field_is_quoted_where_it_is_no_identifier(database: Database) -> None:
    seen: list[Any] = []

    class Seen(Scripted):
        def commit(self, request: Any, **options: Any) -> Any:
            seen.append(request)
            return self._next(**options)

    Seen(database, [error(api.FailedPrecondition)])
    odd = {("doc", "steps", "part-001"): "x", ("a",): None, ("b", "`\\"): True}
    database.commit("write", changed(PLACE, odd, 1_000_000_002))
    (write,) = seen[0].writes
    assert list(write.update_mask.field_paths) == ["doc.steps.`part-001`", "a", "b.`\\`\\\\`"]
    assert set(write.update.fields) == {"doc", "b"}, "what is named and not there is deleted"
    condition = type(write).pb(write).current_document.update_time
    assert (condition.seconds, condition.nanos) == (1, 2)


def test_a_reference_is_written_whole(database: Database) -> None:
    seen: list[Any] = []

    class Seen(Scripted):
        def run_query(self, request: Any, **options: Any) -> Any:
            seen.append(request)
            return []

    Seen(database, [])
    database.query(Query((), "runs", (), where=(Where("__name__", "<", Ref(PLACE)),)))
    (filter_,) = seen[0].structured_query.where.composite_filter.filters
    assert filter_.field_filter.value.reference_value == (
        "projects/p/databases/(default)/documents/runs/r1"
    )
