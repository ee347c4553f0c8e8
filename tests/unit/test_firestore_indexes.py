"""Every query of the Firestore backends has its index, and nothing else is indexed.

The emulator answers any query; Google's service refuses one without an index, and a query planner is
not to be had offline. So the stores' queries are seen as they are made, and held against
`configs/system/firestore.indexes.json` by the documented rules (firebase.google.com/docs/firestore/
query-data/index-overview: single-field indexes, composite indexes, index merging).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from shared.bus import Outgoing
from shared.bus.letters import PART_BYTES, FirestoreLetters
from shared.core.message import Topic
from shared.core.plan import Plan
from shared.core.run import (
    Attempt,
    AttemptStatus,
    Outcome,
    Params,
    Result,
    Run,
    RunStatus,
    StepState,
    Trigger,
)
from shared.core.secret import Secret
from shared.errors import Terminal
from shared.firestore import (
    KEY,
    Committed,
    Database,
    Fields,
    Path,
    Query,
    Ref,
    Stored,
    Where,
    Write,
)
from shared.settings import ROOT
from shared.state import Close, HistoryFilter, LogChunk, StoredAttempt
from shared.state.firestore import FirestoreRunStore
from shared.vault.firestore import FirestoreVault

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PLAN = Plan(
    address="a/b/c",
    pipeline_id="p",
    provider="a",
    domain="b",
    version="1",
    config_hash="",
    steps=(),
)


class Indexes(NamedTuple):
    """What the file declares. A single field without an override has both directions."""

    composite: list[
        tuple[str, tuple[tuple[str, bool], ...]]
    ]  # (collection, ((field, descending), …))
    single: dict[tuple[str, str], list[bool]]  # (collection, field): directions
    ttl: set[tuple[str, str]]


def declared() -> Indexes:
    raw = json.loads((ROOT / "configs" / "system" / "firestore.indexes.json").read_text())
    assert raw.keys() == {"indexes", "fieldOverrides"}
    composite = []
    for index in raw["indexes"]:
        assert index.keys() == {"collectionGroup", "queryScope", "fields"}
        assert index["queryScope"] == "COLLECTION"
        fields = tuple((field["fieldPath"], _descending(field)) for field in index["fields"])
        composite.append((index["collectionGroup"], fields))
    single, ttl = {}, set()
    for field in raw["fieldOverrides"]:
        assert field.keys() <= {"collectionGroup", "fieldPath", "indexes", "ttl"}
        place = (field["collectionGroup"], field["fieldPath"])
        assert place not in single
        single[place] = [_descending(index) for index in field["indexes"]]
        if field.get("ttl"):
            ttl.add(place)
    return Indexes(composite, single, ttl)


def _descending(index: dict[str, Any]) -> bool:
    assert index["order"] in ("ASCENDING", "DESCENDING")
    return bool(index["order"] == "DESCENDING")


def served(query: Query, indexes: Indexes) -> bool:
    """Has Google's service an index for the query?"""
    equal = {where.field for where in query.where if where.operator == "=="}
    ranges = {where.field for where in query.where if where.operator != "=="}
    order = list(query.order)
    assert len(ranges) <= 1
    if ranges and not order:
        order = [(field, False) for field in ranges]
    assert ranges <= {order[0][0]} if ranges else True, (
        "a range is over the first field of the order"
    )
    if order and order[-1][0] == KEY:
        _, direction = order.pop()
        if direction != (order[-1][1] if order else False):
            return False  # a path follows in the direction of the field before it
    if not order:
        # Found by path, or by the merged indexes of single fields.
        return all(False in _directions(query, field, indexes) for field in equal)
    if not equal and len(order) == 1:
        return order[0][1] in _directions(query, order[0][0], indexes)
    covered: set[str] = set()
    fits = False
    for collection, fields in indexes.composite:
        prefix, rest = fields[: len(fields) - len(order)], fields[len(fields) - len(order) :]
        named = {field for field, _ in prefix}
        if collection == query.collection and rest == tuple(order) and named <= equal:
            fits = True
            covered |= named
    return fits and covered == equal


def _directions(query: Query, field: str, indexes: Indexes) -> list[bool]:
    return indexes.single.get((query.collection, field), [False, True])


class Recorder(Database):
    """Stands for a database: keeps what it is asked, and holds what a test puts into it."""

    def __init__(self) -> None:
        self.queries: list[Query] = []
        self.writes: list[Write] = []
        self.there: dict[Path, Stored] = {}

    def get(self, paths: Iterable[Path], select: Sequence[str] | None = None) -> dict[Path, Stored]:
        return {path: self.there[path] for path in paths if path in self.there}

    def query(self, query: Query) -> list[Stored]:
        self.queries.append(query)
        return []

    def commit(self, what: str, *writes: Write) -> Committed:
        self.writes += writes
        for number, write in enumerate(writes):
            if write.delete:
                del self.there[write.path]
                continue
            kept = self.there.get(write.path)
            fields = _merged({} if kept is None else kept.fields, write.fields)
            self.there[write.path] = Stored(write.path, fields, number)
        return Committed(tuple(range(len(writes))), in_doubt=False)

    def close(self) -> None:
        """There is nothing to close."""


def _merged(old: Fields, new: Fields) -> dict[str, Any]:
    merged = dict(old)
    for name, value in new.items():
        merged[name] = _merged(old.get(name, {}), value) if isinstance(value, dict) else value
    return merged


class Ring:
    def wrap(self, key: bytes, context: bytes) -> bytes:
        return key

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        return wrapped


def run() -> Run:
    return Run(
        run_id="r1",
        org="acme",
        dataset="acme_dev",
        address="a/b/c",
        pipeline_id="p",
        trigger=Trigger.API,
        request_hash="h",
        created_at=NOW,
        status=RunStatus.RUNNING,
        params=Params(start_date=NOW.date(), end_date=NOW.date()),
        wake_at=NOW,
        steps={"a": StepState()},
    )


def attempt() -> Attempt:
    return Attempt(
        run_id="r1",
        step_id="a",
        number=1,
        owner="w",
        status=AttemptStatus.OPEN,
        started_at=NOW,
    )


def filters() -> list[HistoryFilter]:
    """Every combination of filters of a history."""
    values: dict[str, Any] = {
        "pipeline_id": "p",
        "status": RunStatus.FAILED,
        "outcome": "ok",
        "trigger": "api",
        "created_from": NOW,
        "created_before": NOW,
    }
    return [
        HistoryFilter(**{name: values[name] for name in names})
        for count in range(len(values) + 1)
        for names in itertools.combinations(values, count)
    ]


def use_the_store(recorder: Recorder) -> set[str]:
    """Calls every method there is, in every way that changes its query; the names of those called."""
    store = FirestoreRunStore(recorder, now=lambda: NOW, new_id=lambda: "n")
    called = Calls(store)
    assert called.create_run(run(), PLAN, "w")
    stored = called.run("r1")
    assert stored is not None
    after = replace(stored.run, status=RunStatus.COMPLETED, outcome=Outcome.OK, wake_at=None)
    assert called.replace_run(stored, after, "w2")
    claimed = called.claim(attempt())
    assert claimed is not None
    renewed = called.renew(claimed, NOW, NOW)
    assert isinstance(renewed, StoredAttempt)
    assert called.close_attempt(renewed, Close(Result.OK, NOW, evidence=b"{}", log=b"x\n"))
    called.record_late("r1", "a", 1, "ok")
    called.append_log("r1", LogChunk("a", 1, 1, b"x\n"), NOW)
    called.attempt("r1", "a", 1)
    called.attempts("r1", [("a", 1)])
    called.closed_since("r1", None)
    called.closed_since("r1", NOW)
    called.run_status("r1")
    called.due(NOW)
    for where in filters():
        for cursor in (None, "1.r1"):
            called.history("acme", where, cursor=cursor)
    called.attempts_of("r1")
    called.evidence("r1")
    for step_id, live in itertools.product((None, "a"), (False, True)):
        for place in (None, "1/logs/a.1.1", "1/attempts/a.1"):
            called.read_log("r1", place, step_id, live=live)
    called.sync()
    called.close()
    return called.names


def use_the_vault(recorder: Recorder) -> set[str]:
    vault = FirestoreVault(
        recorder,
        Ring(),
        now=lambda: NOW,
        new_id=lambda: "n",
        sleep=lambda _: None,
        random=lambda: 0.5,
    )
    called = Calls(vault)
    called.put("acme", "openai", "main", Secret("first-secret"), {})
    called.put("acme", "openai", "main", Secret("second-secret"), {})
    assert called.open("acme", "openai", "main").secret == Secret("second-secret")
    called.info("acme", "openai", "main")
    called.find("acme", "openai")
    called.find("acme")
    called.rewrap("acme")
    assert called.deactivate("acme", "openai", "main")
    with pytest.raises(Terminal):
        vault.open("acme", "openai", "main")
    return called.names


def use_the_letters(recorder: Recorder) -> set[str]:
    called = Calls(FirestoreLetters(recorder, now=lambda: NOW, new_id=lambda: "n"))
    for _ in range(2):
        called.park(Outgoing(Topic.STEPS, b"x" * (PART_BYTES + 1)), "why", 1, None)
    called.oldest(100)
    (letter_id,) = {path[1] for path in recorder.there if path[0] == "dead_letters"}
    assert called.get(letter_id) is not None
    assert called.drop(letter_id)
    return called.names


class Calls:
    """Passes calls on, and remembers their names."""

    def __init__(self, port: object) -> None:
        self._port = port
        self.names: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        self.names.add(name)
        return getattr(self._port, name)


@pytest.fixture
def used() -> Recorder:
    recorder = Recorder()
    for called, backend in (
        (use_the_store(recorder), FirestoreRunStore),
        (use_the_vault(recorder), FirestoreVault),
        (use_the_letters(recorder), FirestoreLetters),
    ):
        public = {name for name in vars(backend) if not name.startswith("_")}
        assert called == public, (
            "a method that is not called here may have a query without an index"
        )
    return recorder


def test_every_query_has_its_index(used: Recorder) -> None:
    indexes = declared()
    without = [query for query in used.queries if not served(query, indexes)]
    assert without == []
    assert {query.collection for query in used.queries} >= {
        "runs",
        "attempts",
        "logs",
        "credentials",
        "dead_letters",
    }


def test_no_index_is_there_for_nothing(used: Recorder) -> None:
    indexes = declared()
    for index in indexes.composite:
        fewer = indexes._replace(composite=[other for other in indexes.composite if other != index])
        assert not all(served(query, fewer) for query in used.queries), index
    for place, directions in indexes.single.items():
        for direction in directions:
            rest = [other for other in directions if other != direction]
            fewer = indexes._replace(single={**indexes.single, place: rest})
            assert not all(served(query, fewer) for query in used.queries), place


def test_every_field_that_is_written_is_exempted_or_indexed_on_purpose(used: Recorder) -> None:
    written = {(write.path[-2], name) for write in used.writes for name in write.fields}
    assert written == declared().single.keys()
    assert len(written) < 200, "Firestore allows 200 overrides a database"


def test_what_grows_for_ever_has_a_time_to_live(used: Recorder) -> None:
    grows = {"runs", "attempts", "logs", "dead_letters", "parts"}
    assert declared().ttl == {(collection, "expire_at") for collection in grows}
    for write in used.writes:
        if write.path[-2] in grows and write.mask is None and not write.delete:
            assert write.fields["expire_at"] > NOW + timedelta(days=365)


EQUAL = Where("org", "==", "acme")


@pytest.mark.parametrize(
    "query",
    [
        pytest.param(Query((), "runs", (), where=(EQUAL,)), id="an exempted field"),
        pytest.param(Query((), "runs", (), order=(("created_at", True),)), id="an exempted order"),
        pytest.param(Query((), "runs", (), order=(("wake_at", True),)), id="the other direction"),
        pytest.param(
            Query((), "runs", (), where=(EQUAL,), order=(("created_at", True),)),
            id="less than an index has",
        ),
        pytest.param(
            Query(
                (),
                "runs",
                (),
                where=(EQUAL, Where("shard", "==", 1)),
                order=(("created_at", True),),
            ),
            id="more than an index has",
        ),
        pytest.param(Query((), "runs", (), order=((KEY, True),)), id="paths backwards"),
        pytest.param(
            Query(
                (),
                "runs",
                (),
                where=(EQUAL, Where("tombstone", "==", False)),
                order=(("created_at", True), (KEY, False)),
            ),
            id="paths against the order",
        ),
        pytest.param(
            Query((), "other", (), where=(EQUAL,), order=(("created_at", True),)),
            id="another collection",
        ),
    ],
)
def test_a_query_without_an_index_is_found(query: Query) -> None:
    assert not served(query, declared())


def test_a_query_by_path_needs_no_index() -> None:
    bounds = (Where(KEY, ">=", Ref(("runs", "a"))), Where(KEY, "<", Ref(("runs", "b"))))
    assert served(Query((), "runs", (), where=bounds, order=((KEY, False),)), declared())
