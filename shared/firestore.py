"""One Firestore database: conditional writes, reads by path and queries, for the backends over it.

Never a transaction: those serialise on a shared document in production and livelock on the emulator.
Every call has a timeout and few tries, so that a store that is gone is Unavailable within seconds. A
write whose answer was lost is tried again under the same condition; when that then does not hold, the
outcome is in doubt, and the caller reads back whose write stands.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, NoReturn, TypeAlias

from shared.channel import CHANNEL_OPTIONS
from shared.errors import Unavailable

# Collection, id, collection, id …; a name that cannot be one of ours is never sent.
Path: TypeAlias = tuple[str, ...]
# None (the field is not there), a boolean, an integer of 64 bits, a text, bytes, a time, a Ref, or a map.
Value: TypeAlias = Any
Fields: TypeAlias = Mapping[str, Value]

KEY = "__name__"  # the field that stands for a document's path in queries
MAX_DOCUMENT_BYTES = 1_048_576

TIMEOUT_SECONDS = 4.0
TRIES = 3  # of a call without an answer
BUSY_TRIES = 6  # of a call that was refused because others write to the same place
_FIRST_PAUSE = 0.05
_HOST = "firestore.googleapis.com"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@|-]{0,399}")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPERATORS = {
    "==": "EQUAL",
    "<": "LESS_THAN",
    "<=": "LESS_THAN_OR_EQUAL",
    ">": "GREATER_THAN",
    ">=": "GREATER_THAN_OR_EQUAL",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Ref(NamedTuple):
    """A document's path as a value in a query."""

    path: Path


class Stored(NamedTuple):
    """A document as read. `version` is its update time in nanoseconds: what a condition names."""

    path: Path
    fields: dict[str, Value]
    version: int


class Write(NamedTuple):
    """One document's part of a commit. `mask` names the fields that change; without one, all do.

    `version` and `exists` are the condition; without either the write is blind. `delete` takes the
    document away; its fields are then of no matter.
    """

    path: Path
    fields: Fields
    mask: tuple[Path, ...] | None = None
    exists: bool | None = None
    version: int | None = None
    delete: bool = False


class Committed(NamedTuple):
    """The new versions, or None: a condition did not hold, and nothing was written by this try.

    `in_doubt`: an earlier try of the same commit got no answer, so it may be what stands there.
    """

    versions: tuple[int, ...] | None
    in_doubt: bool


class Where(NamedTuple):
    """A condition of a query: `==`, `<`, `<=`, `>` or `>=`."""

    field: str
    operator: str
    value: Value


class Query(NamedTuple):
    """The documents of one collection. `select` names the fields to fetch; empty, only the paths."""

    parent: Path
    collection: str
    select: tuple[str, ...]
    where: tuple[Where, ...] = ()
    order: tuple[tuple[str, bool], ...] = ()  # (field, descending)
    after: tuple[Value, ...] = ()  # values of `order`: the page begins behind them
    limit: int | None = None


def created(path: Path, fields: Fields) -> Write:
    """The document, if there is none yet."""
    return Write(path, fields, exists=False)


def changed(path: Path, changes: Mapping[Path, Value], version: int | None = None) -> Write:
    """The fields at these paths, on the version read (or blindly); None takes a field away."""
    fields: dict[str, Any] = {}
    for names, value in changes.items():
        place = fields
        for name in names[:-1]:
            place = place.setdefault(name, {})
        place[names[-1]] = value
    exists = True if version is None else None
    return Write(path, fields, tuple(changes), exists, version)


def deleted(path: Path, version: int | None = None) -> Write:
    """Without the document, if it is as it was read; or blindly, whether it is there or not."""
    return Write(path, {}, version=version, delete=True)


class Database:
    """A connection, shared by all threads of the process. Closed by its owner; twice is once."""

    def __init__(
        self,
        project: str,
        database: str = "(default)",
        *,
        sleep: Callable[[float], None],
        random: Callable[[], float],
        emulator: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        """`emulator` is HOST:PORT of a Firestore emulator, instead of Google's service.

        Raises Unavailable when this process has no credentials.
        """
        # Half a second of imports: only a process that uses Firestore pays for them.
        from google.api_core import exceptions as api  # noqa: PLC0415
        from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415
        from google.cloud.firestore_v1.services.firestore import FirestoreClient  # noqa: PLC0415
        from google.cloud.firestore_v1.services.firestore.transports import (  # noqa: PLC0415
            FirestoreGrpcTransport,
        )
        from google.cloud.firestore_v1.types import document, firestore, query  # noqa: PLC0415

        self.name = f"projects/{project}/databases/{database}"
        self._documents = f"{self.name}/documents"
        self._sleep = sleep
        self._random = random
        self._timeout = timeout_seconds
        self._closed = False
        self._metadata = [("google-cloud-resource-prefix", self.name)]
        self._refusals_of_creation = (api.AlreadyExists, api.FailedPrecondition)
        self._refusals = (*self._refusals_of_creation, api.NotFound)
        self._busy = (api.Aborted, api.ResourceExhausted)  # certainly not applied
        self._unanswered = (api.ServerError, api.Cancelled, api.RetryError)
        self._any = (api.GoogleAPIError, GoogleAuthError)
        self._value = document.Value.pb()
        self._commit = firestore.CommitRequest
        self._batch_get = firestore.BatchGetDocumentsRequest
        self._run_query = firestore.RunQueryRequest
        self._direction = query.StructuredQuery.Direction
        self._operators = query.StructuredQuery.FieldFilter.Operator.__members__
        self._and = query.StructuredQuery.CompositeFilter.Operator.AND
        try:
            if emulator is None:
                channel = FirestoreGrpcTransport.create_channel(_HOST, options=CHANNEL_OPTIONS)
            else:
                import grpc  # type: ignore[import-untyped]  # noqa: PLC0415  # has no stubs

                channel = grpc.insecure_channel(emulator, options=CHANNEL_OPTIONS)
                self._metadata.append(("authorization", "Bearer owner"))
            self._rpc: Any = FirestoreClient(transport=FirestoreGrpcTransport(channel=channel))
        except self._any as error:
            raise Unavailable(f"{self.name}: cannot be opened: {error}") from error

    def get(self, paths: Iterable[Path], select: Sequence[str] | None = None) -> dict[Path, Stored]:
        """Those of the documents that exist, with the selected fields or all."""
        wanted = [path for path in dict.fromkeys(paths) if sayable(path)]
        if not wanted:
            return {}
        request = self._batch_get.pb()(
            database=self.name, documents=[self._full(path) for path in wanted]
        )
        if select is not None:
            request.mask.field_paths.extend(select)
            request.mask.SetInParent()
        answers, _ = self._ask(
            f"read {_said(wanted[0])}{' and more' if wanted[1:] else ''}",
            lambda **options: [
                type(answer).pb(answer)
                for answer in self._rpc.batch_get_documents(
                    self._batch_get.wrap(request), **options
                )
            ],
        )
        found = [self._stored(answer.found) for answer in answers if answer.HasField("found")]
        return {stored.path: stored for stored in found}

    def query(self, query: Query) -> list[Stored]:
        """The documents, in the query's order."""
        if not sayable((*query.parent, query.collection)):
            return []
        request = self._run_query.pb()(parent=self._full(query.parent))
        asked = request.structured_query
        asked.SetInParent()
        asked.from_.add().collection_id = query.collection
        for name in query.select or (KEY,):
            asked.select.fields.add().field_path = name
        if query.where:
            asked.where.composite_filter.op = self._and
        for field, operator, value in query.where:
            filter_ = asked.where.composite_filter.filters.add().field_filter
            filter_.field.field_path = field
            filter_.op = self._operators[_OPERATORS[operator]]
            self._set(filter_.value, value)
        for field, descending in query.order:
            order = asked.order_by.add()
            order.field.field_path = field
            order.direction = (
                self._direction.DESCENDING if descending else self._direction.ASCENDING
            )
        for value in query.after:
            self._set(asked.start_at.values.add(), value)
        if query.limit is not None:
            asked.limit.value = query.limit
        answers, _ = self._ask(
            f"query {_said((*query.parent, query.collection))}",
            lambda **options: [
                type(answer).pb(answer)
                for answer in self._rpc.run_query(self._run_query.wrap(request), **options)
            ],
        )
        return [self._stored(answer.document) for answer in answers if answer.HasField("document")]

    def commit(self, what: str, *writes: Write) -> Committed:
        """Makes all of the writes, or none of them. `what` says in errors what was asked.

        Raises ValueError for a path that cannot be one.
        """
        request = self._commit.pb()(database=self.name)
        for write in writes:
            if not sayable(write.path):
                raise ValueError(f"{write.path!r} is no path of a document")
            made = request.writes.add()
            if write.delete:
                made.delete = self._full(write.path)
            else:
                made.update.name = self._full(write.path)
            for name, value in write.fields.items():
                self._put(made.update.fields, name, value)
            if write.mask is not None:
                made.update_mask.field_paths.extend(_field_path(names) for names in write.mask)
                made.update_mask.SetInParent()
            if write.version is not None:
                seconds, nanos = divmod(write.version, 1_000_000_000)
                made.current_document.update_time.seconds = seconds
                made.current_document.update_time.nanos = nanos
            elif write.exists is not None:
                made.current_document.exists = write.exists
        refusals: tuple[type[Exception], ...] = self._refusals
        if all(write.exists is False or _blind(write) for write in writes):
            refusals = self._refusals_of_creation  # no document is missing here, but the database
        answer, in_doubt = self._ask(
            what,
            lambda **options: self._rpc.commit(self._commit.wrap(request), **options),
            refusals,
        )
        if answer is None:
            return Committed(None, in_doubt)
        results = type(answer).pb(answer).write_results
        return Committed(tuple(_nanos(result.update_time) for result in results), in_doubt)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._rpc.transport.close()

    # --- calls ---

    def _ask(
        self,
        what: str,
        call: Callable[..., Any],
        refusals: tuple[type[Exception], ...] = (),
    ) -> tuple[Any, bool]:
        """What the call answers (None: one of `refusals`), and whether a try went unanswered."""
        unanswered = busy = 0
        while True:
            if self._closed:
                raise Unavailable(f"{self.name} is closed: could not {what}")
            try:
                answer = call(retry=None, timeout=self._timeout, metadata=self._metadata)
            except refusals:
                return None, bool(unanswered)
            except self._busy as error:
                busy += 1
                if busy == BUSY_TRIES:
                    self._fail(what, error, "waiting may help")
                self._pause(busy)
            except self._unanswered as error:
                unanswered += 1
                if unanswered == TRIES:
                    self._fail(what, error, "waiting may help")
                self._pause(unanswered)
            except self._any as error:
                self._fail(what, error)
            except ValueError:  # gRPC's word for a channel that another thread has closed
                if not self._closed:
                    raise
            else:
                return answer, bool(unanswered)

    def _pause(self, tries: int) -> None:
        self._sleep(_FIRST_PAUSE * 2 ** (tries - 1) * (0.5 + self._random()))

    def _fail(self, what: str, error: Exception, hope: str = "waiting does not help") -> NoReturn:
        kind = type(error).__name__
        raise Unavailable(f"{self.name}: could not {what} ({hope}): {kind}: {error}") from error

    # --- documents ---

    def _full(self, path: Path) -> str:
        return "/".join((self._documents, *path))

    def _put(self, fields: Any, name: str, value: Value) -> None:
        if value is not None:
            self._set(fields[name], value)

    def _set(self, target: Any, value: Value) -> None:
        match value:
            case bool():
                target.boolean_value = value
            case int():
                target.integer_value = value
            case str():
                target.string_value = value
            case bytes():
                target.bytes_value = value
            case datetime():
                micros = (value - _EPOCH) // timedelta(microseconds=1)
                seconds, micros = divmod(micros, 1_000_000)
                target.timestamp_value.seconds = seconds
                target.timestamp_value.nanos = micros * 1000
                target.timestamp_value.SetInParent()
            case Ref():
                target.reference_value = self._full(value.path)
            case Mapping():
                target.map_value.SetInParent()
                for name, inner in value.items():
                    self._put(target.map_value.fields, name, inner)
            case _:
                raise TypeError(f"no value of a document: {type(value).__name__}")

    def _stored(self, found: Any) -> Stored:
        path = tuple(found.name[len(self._documents) + 1 :].split("/"))
        fields = {name: _plain(value) for name, value in found.fields.items()}
        return Stored(path, fields, _nanos(found.update_time))


def _plain(value: Any) -> Value:
    kind = value.WhichOneof("value_type")
    if kind == "map_value":
        return {name: _plain(inner) for name, inner in value.map_value.fields.items()}
    if kind == "timestamp_value":
        at = value.timestamp_value
        return _EPOCH + timedelta(seconds=at.seconds, microseconds=at.nanos // 1000)
    if kind in ("boolean_value", "integer_value", "string_value", "bytes_value"):
        return getattr(value, kind)
    raise Unavailable(f"a document has a field of the kind {kind}, which no release of ours writes")


def _nanos(at: Any) -> int:
    nanos: int = at.seconds * 1_000_000_000 + at.nanos
    return nanos


def sayable(path: Path) -> bool:
    """Can there be a document, or a collection, at the path?"""
    return all(_NAME.fullmatch(name) for name in path)


def _blind(write: Write) -> bool:
    return write.exists is None and write.version is None


def _said(path: Path) -> str:
    return "/".join(path)


def _field_path(names: Path) -> str:
    """Quoted where it is no plain identifier (a step may be called `part-001`)."""
    return ".".join(
        name
        if _PLAIN.fullmatch(name)
        else "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"
        for name in names
    )
