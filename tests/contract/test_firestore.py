"""What only the Firestore backends have to promise: lost answers, partial writes, what is not fetched."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from shared.core.plan import Plan, StepPlan
from shared.core.run import (
    Attempt,
    AttemptStatus,
    Params,
    Result,
    Run,
    RunStatus,
    StepState,
    StepStatus,
    Trigger,
)
from shared.core.secret import Secret
from shared.errors import Unavailable
from shared.firestore import Database, changed
from shared.state import Close, HistoryFilter, LogChunk
from shared.state.firestore import SETTLED, FirestoreRunStore
from shared.vault.firestore import FirestoreVault
from shared.vault.local import LocalKeyRing
from tests.support.emulators import Emulator
from tests.support.firestore import Watch, lost
from tests.support.stores import firestore_database, new_id

pytestmark = pytest.mark.cloud

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
STEPS = ("zeta", "part-001", "alpha")
PLAN = Plan(
    address="a/b/c",
    pipeline_id="p",
    provider="a",
    domain="b",
    version="1",
    config_hash="",
    steps=tuple(StepPlan(step_id=step, ps_type="generic.noop") for step in STEPS),
)
ACME = ("acme", "openai", "main")


class Firestore:
    """A watched database with a store and a vault over it, and another store that nobody disturbs."""

    def __init__(self, host: str, project: str, folder: Path) -> None:
        self._place = host, project
        self._folder = folder
        self._databases: list[Database] = []
        self.database = self._open()
        self.watch = Watch(self.database)
        self.runs = self.store(self.database)
        self.other = self.store(self._open())
        self.vault = self._vault(self.database)
        self.other_vault = self._vault(self._open())

    def _open(self) -> Database:
        self._databases.append(firestore_database(*self._place))
        return self._databases[-1]

    def store(self, database: Database, keep: timedelta = timedelta(days=400)) -> FirestoreRunStore:
        return FirestoreRunStore(database, now=lambda: NOW, new_id=new_id, keep=keep)

    def _vault(self, database: Database) -> FirestoreVault:
        return FirestoreVault(
            database,
            LocalKeyRing(self._folder / "vault.key"),
            now=lambda: NOW,
            new_id=new_id,
            sleep=time.sleep,
            random=random.random,
        )

    def close(self) -> None:
        for database in self._databases:
            database.close()


@pytest.fixture
def firestore(
    firestore_emulator: Emulator, firestore_project: str, tmp_path: Path
) -> Iterator[Firestore]:
    made = Firestore(firestore_emulator.host, firestore_project, tmp_path)
    yield made
    made.close()


def run(**changes: object) -> Run:
    made = Run(
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
        steps={step: StepState(status=StepStatus.QUEUED, attempt=1) for step in STEPS},
    )
    return replace(made, **changes)


def attempt(owner: str = "w1") -> Attempt:
    return Attempt(
        run_id="r1",
        step_id="alpha",
        number=1,
        owner=owner,
        status=AttemptStatus.OPEN,
        started_at=NOW,
        lease_until=NOW + timedelta(minutes=3),
    )


def once(first: Callable[[], object]) -> Callable[[int], None]:
    """The next commit gets no answer; `first` happens just before that."""
    left = [first]

    def trouble(number: int) -> None:
        if left:
            left.pop()()
            lost(number)

    return trouble


def nothing() -> None:
    """Nobody comes between."""


# --- an answer is lost ---


def test_a_write_whose_answer_is_lost_counts_once_and_is_known_to(firestore: Firestore) -> None:
    runs, watch = firestore.runs, firestore.watch
    watch.after = lost  # every one
    assert runs.create_run(run(), PLAN, "n1")
    stored = runs.run("r1")
    assert stored is not None
    after = runs.replace_run(stored, replace(stored.run, stop_reason="x"), "n2")
    assert after is not None
    assert after == runs.run("r1")
    claimed = runs.claim(attempt())
    assert claimed is not None
    renewed = runs.renew(claimed, NOW + timedelta(hours=1), NOW)
    assert renewed is not None
    assert renewed == runs.attempt("r1", "alpha", 1)
    assert runs.close_attempt(renewed, Close(Result.OK, NOW))
    watch.after = once(nothing)  # a blind write is not refused when it comes again
    runs.record_late("r1", "alpha", 1, "ok")
    watch.after = once(nothing)
    runs.append_log("r1", LogChunk("alpha", 1, 1, b"x\n"), NOW)
    assert [chunk.lines for _, chunk in runs.read_log("r1")] == [b"", b"x\n"]


def test_what_another_wrote_first_is_never_taken_for_ones_own(firestore: Firestore) -> None:
    runs, other, watch = firestore.runs, firestore.other, firestore.watch
    watch.before = once(lambda: other.create_run(run(org="other_org"), PLAN, "n1"))
    assert not runs.create_run(run(), PLAN, "n1")
    stored = runs.run("r1")
    assert stored is not None
    assert stored.run.org == "other_org"
    watch.before = once(lambda: other.replace_run(stored, replace(stored.run, org="c"), "n2"))
    assert runs.replace_run(stored, replace(stored.run, org="b"), "n2") is None
    watch.before = once(lambda: other.claim(attempt("w2")))
    assert runs.claim(attempt()) is None
    claimed = runs.attempt("r1", "alpha", 1)
    assert claimed is not None
    assert claimed.attempt.owner == "w2"
    watch.before = once(lambda: other.close_attempt(claimed, Close(Result.LOST, NOW)))
    assert not runs.close_attempt(claimed, Close(Result.OK, NOW))
    ended = runs.attempt("r1", "alpha", 1)
    assert ended is not None
    assert ended.attempt.result is Result.LOST


def test_a_run_that_was_moved_on_since_its_creation_is_still_ones_own(
    firestore: Firestore,
) -> None:
    def move_on() -> None:
        stored = firestore.other.run("r1")
        assert stored is not None
        firestore.other.replace_run(stored, replace(stored.run, stop_reason="x"), "n2")

    firestore.watch.after = once(move_on)
    assert firestore.runs.create_run(run(), PLAN, "n1")


def test_a_credential_whose_answer_is_lost_is_one_version(firestore: Firestore) -> None:
    vault, watch = firestore.vault, firestore.watch
    watch.after = lost
    for number in (1, 2, 3):
        assert vault.put(*ACME, Secret(f"secret-number-{number}"), {}).version == number
    assert vault.open(*ACME).secret == Secret("secret-number-3")
    assert vault.deactivate(*ACME)
    assert not vault.deactivate(*ACME)
    watch.after = once(nothing)
    assert vault.rewrap("acme") == 1


def test_a_credential_that_was_replaced_while_its_answer_was_lost_is_not_put_back(
    firestore: Firestore,
) -> None:
    vault, other = firestore.vault, firestore.other_vault
    vault.put(*ACME, Secret("the-first-secret"), {})
    firestore.watch.after = once(lambda: other.put(*ACME, Secret("the-newest-secret"), {}))
    assert vault.put(*ACME, Secret("the-second-secret"), {}).version == 2
    assert vault.open(*ACME).secret == Secret("the-newest-secret")
    info = vault.info(*ACME)
    assert info is not None
    assert info.version == 3


# --- only what changed, only what is wanted ---


def test_only_what_changed_is_written(firestore: Firestore) -> None:
    runs = firestore.runs
    runs.create_run(run(), PLAN, "n1")
    stored = runs.run("r1")
    assert stored is not None
    steps = {**stored.run.steps, "part-001": StepState(status=StepStatus.COMPLETED, attempt=1)}
    assert runs.replace_run(stored, replace(stored.run, steps=steps, mark=NOW), "n2")
    assert firestore.watch.masks[-1] == {"nonce", "writer", "doc.steps.`part-001`", "doc.mark"}
    again = runs.run("r1")
    assert again is not None
    assert runs.replace_run(again, replace(again.run, wake_at=None), "n3")
    assert firestore.watch.masks[-1] == {"nonce", "writer", "wake_at", "doc.wake_at"}
    assert runs.due(NOW + timedelta(days=1)) == []


def test_a_field_that_a_newer_release_wrote_survives_an_older_ones_write(
    firestore: Firestore,
) -> None:
    runs, path = firestore.runs, ("runs", "r1")
    runs.create_run(run(), PLAN, "n1")
    firestore.database.commit("add", changed(path, {("doc", "new"): '{"a":1}', ("top",): 1}))
    stored = runs.run("r1")
    assert stored is not None
    assert runs.replace_run(stored, replace(stored.run, stop_reason="x"), "n2")
    fields = firestore.database.get([path])[path].fields
    assert (fields["doc"]["new"], fields["top"]) == ('{"a":1}', 1)


def test_the_steps_of_a_run_come_in_the_order_of_its_plan(firestore: Firestore) -> None:
    firestore.runs.create_run(run(), PLAN, "n1")
    stored = firestore.runs.run("r1")
    assert stored is not None
    assert tuple(stored.run.steps) == STEPS


def test_reading_attempts_fetches_neither_evidence_nor_log(firestore: Firestore) -> None:
    runs, watch = firestore.runs, firestore.watch
    claimed = runs.claim(attempt())
    assert claimed is not None
    noise = os.urandom(200_000)
    assert runs.close_attempt(claimed, Close(Result.OK, NOW, evidence=noise, log=noise))
    runs.create_run(run(), PLAN, "n1")
    runs.attempt("r1", "alpha", 1)
    runs.closed_since("r1", None)
    runs.attempts_of("r1")
    runs.history("acme", HistoryFilter())
    runs.run("r1")
    assert watch.received_bytes < 10_000
    assert runs.evidence("r1") == [("alpha", 1, noise)]
    assert [chunk.lines for _, chunk in runs.read_log("r1")] == [noise]


def test_the_logs_of_one_step_are_found_without_reading_those_of_others(
    firestore: Firestore,
) -> None:
    runs, watch = firestore.runs, firestore.watch
    for step in ("alpha", "alpha-b", "alph", "alpha1", "beta"):
        for number in (1, 2, 11):
            lines = f"{step} {number}\n".encode()
            runs.append_log("r1", LogChunk(step, 10, number, lines), NOW)
    found = [chunk.lines for _, chunk in runs.read_log("r1", step_id="alpha")]
    assert found == [b"alpha 1\n", b"alpha 2\n", b"alpha 11\n"]
    assert watch.read["logs by at"] == 3
    assert len(runs.read_log("r1", limit=100)) == 15


def test_of_a_run_at_work_what_is_too_young_is_left_out(firestore: Firestore) -> None:
    runs, now = firestore.runs, NOW
    for step, at in (("alpha", now - SETTLED), ("beta", now)):
        claimed = runs.claim(replace(attempt(), step_id=step))
        assert claimed is not None
        runs.append_log("r1", LogChunk(step, 1, 1, b"x\n"), at)
        assert runs.close_attempt(claimed, Close(Result.OK, at, log=b"y\n"))
    assert {chunk.step_id for _, chunk in runs.read_log("r1", live=True)} == {"alpha"}
    assert len(runs.read_log("r1")) == 4


# --- limits ---


def test_a_document_counts_as_long_as_it_is_there(firestore: Firestore) -> None:
    expired = firestore.store(firestore.database, keep=timedelta(days=-2))
    assert expired.create_run(run(), PLAN, "n1")
    assert expired.claim(attempt()) is not None
    expired.append_log("r1", LogChunk("alpha", 1, 1, b"x\n"), NOW)
    path = ("runs", "r1")
    assert firestore.database.get([path])[path].fields["expire_at"] < NOW
    assert not expired.create_run(run(), PLAN, "n2")
    assert expired.claim(attempt("w2")) is None
    assert expired.due(NOW) == ["r1"]
    assert len(expired.history("acme", HistoryFilter()).runs) == 1
    assert len(expired.read_log("r1")) == 1


def test_what_is_larger_than_a_document_is_unavailable_and_changes_nothing(
    firestore: Firestore,
) -> None:
    runs = firestore.runs
    claimed = runs.claim(attempt())
    assert claimed is not None
    with pytest.raises(Unavailable, match="waiting does not help"):
        runs.close_attempt(claimed, Close(Result.OK, NOW, evidence=os.urandom(1_100_000)))
    assert runs.attempt("r1", "alpha", 1) == claimed
    # what can be packed may be larger
    assert runs.close_attempt(claimed, Close(Result.OK, NOW, evidence=b"[" + b"1," * 2_000_000))
