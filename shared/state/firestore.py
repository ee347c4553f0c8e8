"""Runs in Firestore: `runs/{run}`, `runs/{run}/attempts/{step}.{n}`, `runs/{run}/logs/{step}.{n}.{part}`.

At the top of a document stand the fields that are queried (`configs/system/firestore.indexes.json` has
their indexes) and those that a condition or a person needs; everything else is in the map `doc`, a field
of the record each, as JSON text, so that a write sends only what changed and indexes none of it. Whole
texts (plan, evidence, log) are gzipped bytes, which reads that do not want them leave out.

`expire_at` lets Firestore delete what is old. That it has done so is never relied upon: a document
counts as long as it is there.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple, TypeVar, cast

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from shared.core.plan import Plan
from shared.core.run import Attempt, AttemptStatus, Run, RunStatus, attempt_key
from shared.errors import Invalid, Unavailable
from shared.firestore import (
    KEY,
    Database,
    Path,
    Query,
    Ref,
    Stored,
    Value,
    Where,
    Write,
    changed,
    created,
    sayable,
)
from shared.state import (
    Close,
    HistoryFilter,
    LogChunk,
    Page,
    PlacedChunk,
    StoredAttempt,
    StoredRun,
)

RUNS, ATTEMPTS, LOGS = "runs", "attempts", "logs"
KEEP = timedelta(days=400)  # a year, and time to compare with it
# A chunk bears the time of its writer's clock, and is there when the last try to write it succeeded:
# so long after it, nothing comes before it any more.
SETTLED = timedelta(seconds=15)

# The log that is stored with the close of an attempt follows every chunk flushed while it ran.
LAST_CHUNK = 1 << 30

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_PART_DIGITS = 10  # so that the order of ids is the order of numbers
_RUN = ("doc", "plan", "writer")


class _Source(NamedTuple):
    """The fields of a collection that have a part of the log, and its time."""

    time: str
    text: str


_LOG = {ATTEMPTS: _Source("closed_at", "log"), LOGS: _Source("at", "lines")}

_encode = msgspec.json.Encoder().encode
_texts = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_run = msgspec.json.Decoder(Run).decode
_decode_attempt = msgspec.json.Decoder(Attempt).decode
# What a document that was spoilt, or is of a release we do not know, may raise.
_UNREADABLE = (
    msgspec.MsgspecError,
    KeyError,
    AttributeError,
    TypeError,
    ValueError,
    EOFError,
    OSError,
    zlib.error,
)
T = TypeVar("T", Run, Attempt)


class FirestoreRunStore:
    """RunStore over a Database, which it closes. Every write survives when its method returns."""

    def __init__(
        self,
        database: Database,
        *,
        now: Callable[[], datetime],
        new_id: Callable[[], str],
        keep: timedelta = KEEP,
    ) -> None:
        self._db = database
        self._now = now
        self._new_id = new_id
        self._keep = keep

    def create_run(self, run: Run, plan: Plan, writer: str) -> bool:
        nonce = self._new_id()
        fields = {
            **_columns(run),
            "expire_at": run.created_at + self._keep,
            "creator": nonce,
            "nonce": nonce,
            "writer": writer,
            "doc": _doc(run),
            "plan": _pack(_encode(plan)),
        }
        write = created((RUNS, run.run_id), fields)
        return self._written(f"create {run.run_id}", write, "creator", nonce) is not None

    def run(self, run_id: str) -> StoredRun | None:
        path = (RUNS, run_id)
        found = self._db.get([path], _RUN).get(path)
        if found is None:
            return None
        with _reading(found):
            plan = _decode_plan(found.fields["plan"])
            order = {step.step_id: number for number, step in enumerate(plan.steps)}
            run = _record(found, _decode_run, order)
            return StoredRun(run, plan, found.version, found.fields["writer"])

    def replace_run(self, stored: StoredRun, after: Run, writer: str) -> StoredRun | None:
        nonce = self._new_id()
        changes: dict[Path, Value] = {("nonce",): nonce, ("writer",): writer}
        changes |= _changes(stored.run, after)
        before = _columns(stored.run)
        for name, value in _columns(after).items():
            if value != before[name]:
                changes[name,] = value
        write = changed((RUNS, after.run_id), changes, cast("int", stored.version))
        version = self._written(f"write {after.run_id}", write, "nonce", nonce)
        return None if version is None else StoredRun(after, stored.plan, version, writer)

    def claim(self, attempt: Attempt) -> StoredAttempt | None:
        nonce = self._new_id()
        fields = {
            "step_id": attempt.step_id,
            "closed_at": attempt.closed_at,
            "expire_at": attempt.started_at + self._keep,
            "nonce": nonce,
            "doc": _doc(attempt),
        }
        write = created(_place(attempt), fields)
        version = self._written(f"claim {_said(attempt)}", write, "nonce", nonce)
        return None if version is None else StoredAttempt(attempt, version)

    def attempt(self, run_id: str, step_id: str, number: int) -> StoredAttempt | None:
        return self.attempts(run_id, [(step_id, number)]).get((step_id, number))

    def attempts(
        self, run_id: str, keys: Iterable[tuple[str, int]]
    ) -> Mapping[tuple[str, int], StoredAttempt]:
        places: dict[Path, tuple[str, int]] = {
            (RUNS, run_id, ATTEMPTS, attempt_key(*key)): key for key in keys
        }
        return {
            places[path]: StoredAttempt(_record(found, _decode_attempt), found.version)
            for path, found in self._db.get(places, ("doc",)).items()
        }

    def closed_since(self, run_id: str, mark: datetime | None) -> list[Attempt]:
        found = self._db.query(_closed(run_id, mark, ("doc",)))
        return [_record(stored, _decode_attempt) for stored in found]

    def renew(
        self, stored: StoredAttempt, lease_until: datetime, heartbeat_at: datetime
    ) -> StoredAttempt | None:
        after = replace(stored.attempt, lease_until=lease_until, heartbeat_at=heartbeat_at)
        version = self._change(stored, after, "renew", {})
        return None if version is None else StoredAttempt(after, version)

    def close_attempt(self, stored: StoredAttempt, how: Close) -> bool:
        if stored.attempt.closed:
            return False
        after = replace(
            stored.attempt,
            status=AttemptStatus.CLOSED,
            result=how.result,
            closed_at=how.at,
            summary=how.summary,
            error=how.error,
            retry_after_seconds=how.retry_after_seconds,
        )
        beside: dict[Path, Value] = {("closed_at",): how.at}
        if how.evidence:
            beside["evidence",] = _pack(how.evidence)
        if how.log:
            beside["log",] = _pack(how.log)
        return self._change(stored, after, "close", beside) is not None

    def record_late(self, run_id: str, step_id: str, number: int, late: str) -> None:
        path = (RUNS, run_id, ATTEMPTS, attempt_key(step_id, number))
        change = changed(path, {("doc", "late"): _encode(late).decode()})
        self._db.commit(f"note that {'/'.join(path)} came late", change)

    def run_status(self, run_id: str) -> RunStatus | None:
        path = (RUNS, run_id)
        found = self._db.get([path], ("status",)).get(path)
        if found is None:
            return None
        with _reading(found):
            return RunStatus(found.fields["status"])

    def due(self, now: datetime, limit: int = 500) -> list[str]:
        query = Query(
            (),
            RUNS,
            (),
            where=(Where("wake_at", "<=", now),),
            order=(("wake_at", False),),
            limit=limit,
        )
        return [found.path[-1] for found in self._db.query(query)]

    def history(
        self, org: str, where: HistoryFilter, limit: int = 50, cursor: str | None = None
    ) -> Page:
        conditions = [Where("org", "==", org), Where("tombstone", "==", False)]
        for field, operator, value in (
            ("pipeline_id", "==", where.pipeline_id),
            ("status", "==", where.status),
            ("outcome", "==", where.outcome),
            ("trigger", "==", where.trigger),
            ("created_at", ">=", where.created_from),
            ("created_at", "<", where.created_before),
        ):
            if value is not None:
                conditions.append(Where(field, operator, value))
        query = Query(
            (),
            RUNS,
            ("doc",),
            where=tuple(conditions),
            order=(("created_at", True), (KEY, True)),
            after=() if cursor is None else _read_cursor(cursor),
            limit=limit + 1,
        )
        runs = [_record(found, _decode_run) for found in self._db.query(query)]
        more, runs = len(runs) > limit, runs[:limit]
        return Page(runs, _cursor(runs[-1]) if more else None)

    def attempts_of(self, run_id: str) -> list[Attempt]:
        stored = self._db.query(Query((RUNS, run_id), ATTEMPTS, ("doc",)))
        found = [_record(each, _decode_attempt) for each in stored]
        return sorted(found, key=lambda attempt: (attempt.started_at, attempt.key))

    def evidence(self, run_id: str) -> list[tuple[str, int, bytes]]:
        found = []
        for stored in self._db.query(_closed(run_id, None, ("evidence",))):
            if "evidence" in stored.fields:
                evidence = _unpacked(stored, "evidence")
                found.append((*_attempt_of(stored.path), evidence))
        return found

    def append_log(self, run_id: str, chunk: LogChunk, at: datetime) -> None:
        fields = {
            "step_id": chunk.step_id,
            "at": at,
            "expire_at": at + self._keep,
            "lines": _pack(chunk.lines),
        }
        name = f"{attempt_key(chunk.step_id, chunk.attempt)}.{chunk.number:0{_PART_DIGITS}}"
        path = (RUNS, run_id, LOGS, name)
        # One that is there has the same lines, and keeps its place in the order.
        self._db.commit(f"store {'/'.join(path)}", created(path, fields))

    def read_log(
        self,
        run_id: str,
        after: str | None = None,
        step_id: str | None = None,
        *,
        live: bool = False,
        limit: int = 4,
    ) -> list[PlacedChunk]:
        place = None if after is None else _read_place(after)
        if step_id is not None and not sayable((step_id,)):
            return []
        until = self._now() - SETTLED if live else None
        # By time, and of one time the closes of attempts first.
        found: list[tuple[_Place, Stored]] = []
        for collection, (time, text) in _LOG.items():
            query = Query(
                (RUNS, run_id),
                collection,
                (time, text),
                where=_log_of(step_id, time, until),
                order=((time, False), (KEY, False)),
                after=_behind(run_id, place, collection),
                limit=limit,
            )
            for stored in self._db.query(query):
                with _reading(stored):
                    key = _Place(stored.fields[time], collection, stored.path[-1])
                found.append((key, stored))
        return [
            PlacedChunk(_said_place(key), _chunk(stored)) for key, stored in sorted(found)[:limit]
        ]

    def sync(self) -> None:
        """Nothing: every write is waited for."""

    def close(self) -> None:
        self._db.close()

    def _change(
        self, stored: StoredAttempt, after: Attempt, verb: str, beside: Mapping[Path, Value]
    ) -> int | None:
        nonce = self._new_id()
        changes = {("nonce",): nonce, **_changes(stored.attempt, after), **beside}
        write = changed(_place(after), changes, cast("int", stored.version))
        return self._written(f"{verb} {_said(after)}", write, "nonce", nonce)

    def _written(self, what: str, write: Write, field: str, nonce: str) -> int | None:
        """The version written. None: somebody else's write was first.

        In doubt, `field` of the document says whose write stands. The nonce also makes every write
        change something: one that changes nothing keeps the update time, so two of it would both win.
        """
        done = self._db.commit(what, write)
        if done.versions is not None:
            return done.versions[0]
        if done.in_doubt:
            there = self._db.get([write.path], (field,)).get(write.path)
            if there is not None and there.fields.get(field) == nonce:
                return there.version
        return None


# --- records and documents ---


def _columns(run: Run) -> dict[str, Value]:
    """What is queried of a run. Every name is in here, also with None: a later write compares."""
    return {
        "org": run.org,
        "pipeline_id": run.pipeline_id,
        "status": run.status,
        "outcome": run.outcome,
        "trigger": run.trigger,
        "tombstone": run.tombstone,
        "created_at": run.created_at,
        "wake_at": run.wake_at,
        "shard": run.shard,
    }


def _doc(record: Run | Attempt) -> dict[str, Value]:
    """The record's fields as JSON texts; `steps` has one for each step."""
    texts: dict[str, Value] = {}
    for name, raw in _texts(_encode(record)).items():
        if name == "steps":
            texts[name] = {step: bytes(state).decode() for step, state in _texts(raw).items()}
        else:
            texts[name] = bytes(raw).decode()
    return texts


def _changes(before: Run | Attempt, after: Run | Attempt) -> dict[Path, Value]:
    """The paths in which the documents of two records differ."""
    old, new = _doc(before), _doc(after)
    changes: dict[Path, Value] = {}
    for name in old | new:
        if name == "steps":
            old_steps, new_steps = old.get(name, {}), new.get(name, {})
            for step in old_steps | new_steps:
                if old_steps.get(step) != new_steps.get(step):
                    changes["doc", name, step] = new_steps.get(step)
        elif old.get(name) != new.get(name):
            changes["doc", name] = new.get(name)
    return changes


@contextmanager
def _reading(stored: Stored) -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as error:
        place = "/".join(stored.path)
        raise Unavailable(f"{place} cannot be read: {type(error).__name__}: {error}") from error


def _record(stored: Stored, decode: Callable[[bytes], T], order: Mapping[str, int] = {}) -> T:
    """The record of a document; its steps in `order`, since a map in Firestore has none."""
    with _reading(stored):
        fields: dict[str, Raw] = {}
        for name, text in stored.fields["doc"].items():
            if name == "steps":
                steps = sorted(text, key=lambda step: (order.get(step, len(order)), step))
                fields[name] = Raw(_encode({step: Raw(text[step].encode()) for step in steps}))
            else:
                fields[name] = Raw(text.encode())
        return decode(_encode(fields))


def _pack(data: bytes) -> bytes:
    return gzip.compress(data, 6, mtime=0)


def _unpacked(stored: Stored, field: str) -> bytes:
    with _reading(stored):
        return gzip.decompress(stored.fields[field])


@lru_cache(maxsize=512)
def _decode_plan(packed: bytes) -> Plan:
    return msgspec.json.decode(gzip.decompress(packed), type=Plan)


def _place(attempt: Attempt) -> Path:
    return (RUNS, attempt.run_id, ATTEMPTS, attempt.key)


def _said(attempt: Attempt) -> str:
    return "/".join(_place(attempt))


def _attempt_of(path: Path) -> tuple[str, int]:
    step_id, _, number = path[-1].rpartition(".")
    return step_id, int(number)


# --- queries ---


def _closed(run_id: str, mark: datetime | None, select: tuple[str, ...]) -> Query:
    """The attempts closed after the mark, in the order of their close."""
    return Query(
        (RUNS, run_id),
        ATTEMPTS,
        select,
        where=(Where("closed_at", ">", mark or _EPOCH),),
        order=(("closed_at", False),),
    )


class _Place(NamedTuple):
    """Where a chunk stands in a run's log. `attempts` sorts before `logs`."""

    at: datetime
    collection: str
    name: str


def _log_of(step_id: str | None, time: str, until: datetime | None) -> tuple[Where, ...]:
    where = [] if step_id is None else [Where("step_id", "==", step_id)]
    if until is not None:
        where.append(Where(time, "<=", until))
    return tuple(where)


def _behind(run_id: str, place: _Place | None, collection: str) -> tuple[Value, ...]:
    """What the documents of the collection that are behind the place come after."""
    if place is None:
        return ()
    if place.collection == collection:
        return place.at, Ref((RUNS, run_id, collection, place.name))
    return (place.at if collection < place.collection else place.at - _MICROSECOND,)


def _chunk(stored: Stored) -> LogChunk:
    *_, collection, name = stored.path
    text = _LOG[collection].text
    lines = _unpacked(stored, text) if text in stored.fields else b""
    with _reading(stored):
        if collection == ATTEMPTS:
            return LogChunk(*_attempt_of(stored.path), LAST_CHUNK, lines)
        step_id, attempt, number = name.rsplit(".", 2)
        return LogChunk(step_id, int(attempt), int(number), lines)


def _said_place(place: _Place) -> str:
    return f"{(place.at - _EPOCH) // _MICROSECOND}/{place.collection}/{place.name}"


def _read_place(text: str) -> _Place:
    micros, _, rest = text.partition("/")
    collection, _, name = rest.partition("/")
    known = micros.isascii() and micros.isdigit() and collection in _LOG and sayable((name,))
    if known and len(micros) <= 18:
        try:
            return _Place(_EPOCH + int(micros) * _MICROSECOND, collection, name)
        except OverflowError:
            pass  # later than any time there is
    raise Invalid("cursor: not a place in a log of ours")


def _cursor(run: Run) -> str:
    return f"{(run.created_at - _EPOCH) // _MICROSECOND}.{run.run_id}"


def _read_cursor(cursor: str) -> tuple[Value, ...]:
    micros, dot, run_id = cursor.partition(".")
    known = dot and sayable((run_id,)) and micros.isascii() and micros.isdigit()
    if known and len(micros) <= 18:
        try:
            return _EPOCH + int(micros) * _MICROSECOND, Ref((RUNS, run_id))
        except OverflowError:
            pass  # later than any time there is
    raise Invalid("cursor: not one of ours; take it from `next` of the page before")
