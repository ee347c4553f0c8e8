"""The promises of every run store (`shared.state.RunStore`)."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from msgspec.structs import replace

from shared.core.plan import Plan, StepPlan
from shared.core.record import Json
from shared.core.run import (
    Attempt,
    AttemptStatus,
    ErrorInfo,
    Params,
    Result,
    Run,
    RunStatus,
    StepState,
    StepStatus,
    Summary,
    Transition,
    Trigger,
)
from shared.errors import Invalid, Unavailable
from shared.settings import ROOT
from shared.state import Close, HistoryFilter, LogChunk, RunStore
from tests.support import stores
from tests.support.stores import open_runs

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
PLAN = Plan(
    address="aws/cost/billing",
    pipeline_id="aws_cost_billing",
    provider="aws",
    domain="cost",
    version="1",
    config_hash="c0ffee",
    steps=(StepPlan(step_id="extract", ps_type="generic.noop", config={"rows": 3}),),
)

Opener = Callable[[], RunStore]


def _sqlite(request: pytest.FixtureRequest) -> str:
    return f"sqlite {request.getfixturevalue('tmp_path') / 'state.db'}"


def _firestore(request: pytest.FixtureRequest) -> str:
    emulator, project = map(request.getfixturevalue, ("firestore_emulator", "firestore_project"))
    return f"firestore {emulator.host} {project}"


BACKENDS = {"sqlite": _sqlite, "firestore": _firestore}


@pytest.fixture(params=["sqlite", pytest.param("firestore", marks=pytest.mark.cloud)])
def spec(request: pytest.FixtureRequest) -> str:
    """The name of an empty store, by which any process can open it."""
    return BACKENDS[request.param](request)


@pytest.fixture
def reopen(spec: str) -> Iterator[Opener]:
    """Opens the same store again, as another process would."""
    opened: list[RunStore] = []

    def again() -> RunStore:
        store = open_runs(spec)
        opened.append(store)
        return store

    yield again
    for store in opened:
        store.close()


@pytest.fixture
def runs(reopen: Opener) -> RunStore:
    return reopen()


def run(run_id: str = "r1", **changes: object) -> Run:
    made = Run(
        run_id=run_id,
        org="acme",
        dataset="acme_dev",
        address=PLAN.address,
        pipeline_id=PLAN.pipeline_id,
        trigger=Trigger.API,
        request_hash="h",
        created_at=NOW,
        status=RunStatus.RUNNING,
        params=Params(start_date=NOW.date(), end_date=NOW.date()),
        wake_at=NOW + timedelta(seconds=60),
        steps={"extract": StepState(status=StepStatus.QUEUED, attempt=1)},
    )
    return replace(made, **changes)


def attempt(number: int = 1, **changes: object) -> Attempt:
    made = Attempt(
        run_id="r1",
        step_id="extract",
        number=number,
        owner="w1",
        status=AttemptStatus.OPEN,
        started_at=NOW,
        lease_until=NOW + timedelta(seconds=180),
    )
    return replace(made, **changes)


def closing(result: Result = Result.OK, at: datetime = NOW) -> Close:
    return Close(result, at, summary=Summary(extracted=3, loaded=3))


def race(count: int, action: Callable[[int], object]) -> list[object]:
    """What `action` returned in each of `count` threads that start together."""
    barrier = threading.Barrier(count)
    answers: list[object] = [None] * count

    def go(index: int) -> None:
        barrier.wait()
        answers[index] = action(index)

    threads = [threading.Thread(target=go, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_a_run_comes_back_as_it_was_written(runs: RunStore) -> None:
    full = run(
        outcome=None,
        cancel_at=NOW,
        error=ErrorInfo(code="x", message="ü\x00\U0001f600"),
        transitions=(Transition(at=NOW, to="running"),),
        mark=NOW + timedelta(microseconds=1),
    )
    assert runs.create_run(full, PLAN, "n1")
    stored = runs.run("r1")
    assert stored is not None
    assert stored.run == full
    assert stored.plan == PLAN
    assert stored.writer == "n1"


def test_a_run_that_is_not_there_is_none(runs: RunStore) -> None:
    assert runs.run("r1") is None
    assert runs.run_status("r1") is None
    assert runs.attempt("r1", "extract", 1) is None


def test_of_two_creations_the_first_stays(runs: RunStore) -> None:
    assert runs.create_run(run(org="first_org"), PLAN, "n1")
    assert not runs.create_run(run(org="second_org"), PLAN, "n2")
    stored = runs.run("r1")
    assert stored is not None
    assert (stored.run.org, stored.writer) == ("first_org", "n1")


def test_sixteen_creations_at_once_have_one_winner(runs: RunStore) -> None:
    for round_ in range(20):
        made = run(f"r{round_}")
        answers = race(
            16,
            lambda index, made=made: runs.create_run(made, PLAN, f"n{index}"),  # type: ignore[misc]
        )
        assert answers.count(True) == 1
        stored = runs.run(made.run_id)
        assert stored is not None
        assert stored.writer == f"n{answers.index(True)}"


def test_a_run_is_written_back_only_as_it_was_read(runs: RunStore) -> None:
    runs.create_run(run(), PLAN, "n1")
    read = runs.run("r1")
    assert read is not None
    after = runs.replace_run(read, replace(read.run, status=RunStatus.CANCELLING), "n2")
    assert after is not None
    assert runs.replace_run(read, replace(read.run, status=RunStatus.COMPLETED), "n3") is None
    stored = runs.run("r1")
    assert stored == after
    assert runs.run_status("r1") is RunStatus.CANCELLING


def test_what_a_write_returns_can_be_written_back_again(runs: RunStore) -> None:
    runs.create_run(run(), PLAN, "n1")
    stored = runs.run("r1")
    for number in range(5):
        assert stored is not None
        stored = runs.replace_run(stored, replace(stored.run, stop_reason=str(number)), "n")
    assert stored is not None
    assert stored == runs.run("r1")


def test_of_sixteen_writes_on_one_version_one_counts(runs: RunStore) -> None:
    runs.create_run(run(), PLAN, "n1")
    for _ in range(20):
        read = runs.run("r1")
        assert read is not None
        answers = race(
            16,
            lambda index, read=read: runs.replace_run(  # type: ignore[misc]
                read, replace(read.run, stop_reason=str(index)), "n"
            ),
        )
        winners = [index for index, answer in enumerate(answers) if answer is not None]
        stored = runs.run("r1")
        assert stored is not None
        assert [stored.run.stop_reason] == [str(index) for index in winners]


def test_two_writes_of_the_same_on_one_version_do_not_both_count(runs: RunStore) -> None:
    runs.create_run(run(), PLAN, "n")
    read = runs.run("r1")
    assert read is not None
    assert runs.replace_run(read, read.run, "n") is not None
    assert runs.replace_run(read, read.run, "n") is None


def test_an_attempt_is_claimed_once(runs: RunStore) -> None:
    assert runs.claim(attempt(owner="w1")) is not None
    assert runs.claim(attempt(owner="w2")) is None
    stored = runs.attempt("r1", "extract", 1)
    assert stored is not None
    assert stored.attempt == attempt(owner="w1")


def test_a_closed_attempt_keeps_everybody_from_claiming_it(runs: RunStore) -> None:
    grave = attempt(owner="", status=AttemptStatus.CLOSED, result=Result.CANCELLED, closed_at=NOW)
    assert runs.claim(grave) is not None
    assert runs.claim(attempt()) is None
    stored = runs.attempt("r1", "extract", 1)
    assert stored is not None
    assert stored.attempt.result is Result.CANCELLED


def test_sixteen_claims_at_once_have_one_winner(runs: RunStore) -> None:
    for number in range(1, 21):
        answers = race(
            16,
            lambda index, number=number: runs.claim(attempt(number, owner=str(index))),  # type: ignore[misc]
        )
        assert sum(answer is not None for answer in answers) == 1


def test_an_attempt_is_closed_once_by_whoever_is_first(runs: RunStore) -> None:
    claimed = runs.claim(attempt())
    assert claimed is not None
    assert runs.close_attempt(claimed, closing(Result.LOST))
    assert not runs.close_attempt(claimed, closing(Result.OK))
    stored = runs.attempt("r1", "extract", 1)
    assert stored is not None
    assert (stored.attempt.result, stored.attempt.closed_at) == (Result.LOST, NOW)
    assert not runs.close_attempt(stored, closing(Result.OK))


def test_sixteen_closes_at_once_have_one_winner(runs: RunStore) -> None:
    for number in range(1, 21):
        claimed = runs.claim(attempt(number))
        assert claimed is not None
        answers = race(
            16,
            lambda index, claimed=claimed: runs.close_attempt(  # type: ignore[misc]
                claimed, closing(at=NOW + timedelta(seconds=index))
            ),
        )
        assert answers.count(True) == 1
        stored = runs.attempt("r1", "extract", number)
        assert stored is not None
        assert stored.attempt.closed_at == NOW + timedelta(seconds=answers.index(True))


def test_a_renewal_refuses_a_close_that_read_before_it(runs: RunStore) -> None:
    claimed = runs.claim(attempt())
    assert claimed is not None
    later = NOW + timedelta(seconds=60)
    renewed = runs.renew(claimed, later + timedelta(seconds=180), later)
    assert renewed is not None
    assert renewed.attempt.heartbeat_at == later
    assert not runs.close_attempt(claimed, closing(Result.LOST))
    assert runs.close_attempt(renewed, closing())


def test_a_renewal_after_the_close_is_refused(runs: RunStore) -> None:
    claimed = runs.claim(attempt())
    assert claimed is not None
    assert runs.close_attempt(claimed, closing(Result.LOST))
    assert runs.renew(claimed, NOW + timedelta(hours=1), NOW) is None


def test_a_late_result_changes_nothing_but_the_note(runs: RunStore) -> None:
    claimed = runs.claim(attempt())
    assert claimed is not None
    runs.close_attempt(claimed, closing(Result.LOST))
    runs.record_late("r1", "extract", 1, "ok")
    stored = runs.attempt("r1", "extract", 1)
    assert stored is not None
    assert (stored.attempt.result, stored.attempt.late) == (Result.LOST, "ok")
    runs.record_late("r1", "extract", 9, "ok")
    assert runs.attempt("r1", "extract", 9) is None


def test_those_of_the_named_attempts_that_exist_are_found(runs: RunStore) -> None:
    runs.claim(attempt(1))
    runs.claim(attempt(3))
    keys = [("extract", number) for number in range(1, 5)]
    assert sorted(runs.attempts("r1", keys)) == [("extract", 1), ("extract", 3)]
    assert runs.attempts("r1", []) == {}


def test_attempts_closed_after_the_mark_are_found(runs: RunStore) -> None:
    for number in range(1, 5):
        claimed = runs.claim(attempt(number))
        assert claimed is not None
        if number < 4:
            runs.close_attempt(claimed, closing(at=NOW + timedelta(microseconds=number)))
    everything = runs.closed_since("r1", None)
    assert sorted(found.number for found in everything) == [1, 2, 3]
    later = runs.closed_since("r1", NOW + timedelta(microseconds=1))
    assert sorted(found.number for found in later) == [2, 3]


def test_due_runs_come_earliest_first_and_at_their_time(runs: RunStore) -> None:
    for number, wake in enumerate([30, 10, None, 20]):
        at = None if wake is None else NOW + timedelta(seconds=wake)
        runs.create_run(run(f"r{number}", wake_at=at), PLAN, "n")
    assert runs.due(NOW + timedelta(seconds=20, microseconds=-1)) == ["r1"]
    assert runs.due(NOW + timedelta(seconds=20)) == ["r1", "r3"]
    assert runs.due(NOW + timedelta(hours=1)) == ["r1", "r3", "r0"]
    assert runs.due(NOW + timedelta(hours=1), limit=2) == ["r1", "r3"]
    stored = runs.run("r1")
    assert stored is not None
    runs.replace_run(stored, replace(stored.run, wake_at=None), "n")
    assert runs.due(NOW + timedelta(hours=1)) == ["r3", "r0"]


def test_history_pages_through_every_run_of_one_organization(runs: RunStore) -> None:
    for number in range(25):
        runs.create_run(
            run(f"r{number:02}", created_at=NOW + timedelta(seconds=number // 3)), PLAN, "n"
        )
    runs.create_run(run("other", org="other_org"), PLAN, "n")
    runs.create_run(run("grave", tombstone=True), PLAN, "n")
    seen: list[str] = []
    cursor = None
    while True:
        page = runs.history("acme", HistoryFilter(), limit=4, cursor=cursor)
        seen += [found.run_id for found in page.runs]
        cursor = page.cursor
        if cursor is None:
            break
    assert sorted(seen) == [f"r{number:02}" for number in range(25)]
    times = [int(run_id[1:]) // 3 for run_id in seen]
    assert times == sorted(times, reverse=True)


def test_history_filters(runs: RunStore) -> None:
    runs.create_run(run("a", status=RunStatus.FAILED), PLAN, "n")
    runs.create_run(run("b", pipeline_id="p2", trigger=Trigger.SCHEDULE), PLAN, "n")
    runs.create_run(run("c", created_at=NOW + timedelta(days=1)), PLAN, "n")

    def found(where: HistoryFilter) -> list[str]:
        return [run.run_id for run in runs.history("acme", where).runs]

    assert found(HistoryFilter(status=RunStatus.FAILED)) == ["a"]
    assert found(HistoryFilter(pipeline_id="p2")) == ["b"]
    assert found(HistoryFilter(trigger="schedule")) == ["b"]
    assert found(HistoryFilter(created_from=NOW + timedelta(hours=1))) == ["c"]
    assert found(HistoryFilter(created_before=NOW)) == []


@pytest.mark.slow
def test_a_long_history_is_paged_whole_and_filtered(runs: RunStore) -> None:
    count = 10_000
    made = [
        run(
            f"r{number:05}",
            created_at=NOW + timedelta(seconds=number),
            status=RunStatus.FAILED if number % 10 == 0 else RunStatus.COMPLETED,
            trigger=Trigger.SCHEDULE if number % 4 == 0 else Trigger.API,
        )
        for number in range(count)
    ]
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(lambda each: runs.create_run(each, PLAN, "n"), made))

    def pages(where: HistoryFilter) -> list[str]:
        seen: list[str] = []
        cursor = None
        while True:
            page = runs.history("acme", where, limit=500, cursor=cursor)
            assert len(page.runs) <= 500
            seen += [found.run_id for found in page.runs]
            cursor = page.cursor
            if cursor is None:
                return seen

    def expected(step: int) -> list[str]:
        return [f"r{number:05}" for number in reversed(range(0, count, step))]

    assert pages(HistoryFilter()) == expected(1)
    assert pages(HistoryFilter(status=RunStatus.FAILED)) == expected(10)
    both = HistoryFilter(status=RunStatus.FAILED, trigger="schedule")
    assert pages(both) == expected(20)
    last = HistoryFilter(created_from=NOW + timedelta(seconds=count - 3))
    assert pages(last) == expected(1)[:3]


@pytest.mark.parametrize("cursor", ["", "x", "1", "-1.r", "1" * 30 + ".r", "١.r"])
def test_a_cursor_that_is_not_ours_is_invalid(runs: RunStore, cursor: str) -> None:
    with pytest.raises(Invalid, match="cursor"):
        runs.history("acme", HistoryFilter(), cursor=cursor)


def lines_of(runs: RunStore, step_id: str | None = None, limit: int = 4) -> list[bytes]:
    """The chunks of the run's log that are not empty, read `limit` at a time."""
    lines: list[bytes] = []
    after = None
    while page := runs.read_log("r1", after, step_id, limit=limit):
        assert len(page) <= limit
        lines += [chunk.lines for _, chunk in page if chunk.lines]
        after = page[-1].place
    return lines


def test_log_chunks_come_as_they_were_stored_and_the_same_chunk_twice_is_once(
    runs: RunStore,
) -> None:
    claimed = runs.claim(attempt())
    assert claimed is not None
    for number, lines in ((1, b"one\n"), (2, b"two\n"), (1, b"one\n")):
        runs.append_log("r1", LogChunk("extract", 1, number, lines), NOW)
    at = NOW + timedelta(seconds=1)
    runs.close_attempt(claimed, closing(at=at)._replace(log=b"last\n", evidence=b"{}"))
    assert lines_of(runs) == [b"one\n", b"two\n", b"last\n"]
    assert lines_of(runs, "extract") == [b"one\n", b"two\n", b"last\n"]
    assert lines_of(runs, "other") == []
    assert runs.evidence("r1") == [("extract", 1, b"{}")]
    assert [found.number for found in runs.attempts_of("r1")] == [1]


def test_whoever_reads_on_behind_a_chunk_sees_every_chunk_once(runs: RunStore) -> None:
    both: list[bytes] = []
    for second in range(1, 13):
        step, at = ("left", "right")[second % 2], NOW + timedelta(seconds=second)
        line = f"{step} {second}\n".encode()
        both.append(line)
        if second % 3:
            runs.append_log("r1", LogChunk(step, 1, second, line), at)
        else:
            claimed = runs.claim(attempt(second, step_id=step))
            assert claimed is not None
            runs.close_attempt(claimed, closing(at=at)._replace(log=line))
    for limit in (1, 2, 5, 100):
        assert lines_of(runs, limit=limit) == both
        assert lines_of(runs, "left", limit) == [line for line in both if b"left" in line]


def test_chunks_of_one_moment_are_each_seen_once(runs: RunStore) -> None:
    lines = []
    for step in ("one", "two", "three"):
        claimed = runs.claim(attempt(step_id=step))
        assert claimed is not None
        runs.append_log("r1", LogChunk(step, 1, 1, step.encode()), NOW)
        runs.close_attempt(claimed, closing()._replace(log=step.upper().encode()))
        lines += [step.encode(), step.upper().encode()]
    for limit in (1, 2, 3, 100):
        assert sorted(lines_of(runs, limit=limit)) == sorted(lines)


@pytest.mark.parametrize("place", ["", "x", "-1", "1" * 30, "1" * 30 + "/logs/a", "1/runs/a", "١"])
def test_a_place_in_a_log_that_is_not_ours_is_invalid(runs: RunStore, place: str) -> None:
    with pytest.raises(Invalid, match="cursor"):
        runs.read_log("r1", place)


def test_a_run_and_a_claim_survive_the_store(reopen: Opener) -> None:
    first = reopen()
    first.create_run(run(), PLAN, "n1")
    first.claim(attempt())
    stored = first.run("r1")
    assert stored is not None
    first.replace_run(stored, replace(stored.run, stop_reason="x"), "n2")
    first.sync()
    second = reopen()
    again = second.run("r1")
    assert again is not None
    assert again.run.stop_reason == "x"
    assert second.attempt("r1", "extract", 1) is not None


def another_process(spec: str, owner: str, count: int, *options: str) -> subprocess.Popen[str]:
    """A process that waits for a line, then claims the attempts of `r1` from 1 to `count`."""
    process = subprocess.Popen(
        [sys.executable, stores.__file__, spec, owner, str(count), *options],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_two_processes_that_race_for_each_claim_share_them(reopen: Opener, spec: str) -> None:
    count = 40
    racing = [another_process(spec, owner, count) for owner in ("one", "two")]
    for process in racing:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    got = [json.loads(process.communicate(timeout=60)[0]) for process in racing]
    assert [process.returncode for process in racing] == [0, 0]
    assert sorted(got[0] + got[1]) == list(range(1, count + 1))
    runs = reopen()
    for owner, numbers in zip(("one", "two"), got, strict=True):
        for number in numbers:
            stored = runs.attempt("r1", "extract", number)
            assert stored is not None
            assert stored.attempt.owner == owner


def test_a_claim_outlives_the_process_that_made_it_and_can_be_ended_by_another(
    reopen: Opener, spec: str
) -> None:
    dying = another_process(spec, "dead", 3, "--die")
    said, _ = dying.communicate("go\n", timeout=60)
    assert json.loads(said) == [1, 2, 3]
    assert dying.returncode == -signal.SIGKILL
    runs = reopen()
    for number in (1, 2, 3):
        assert runs.claim(attempt(number, owner="other")) is None
        stored = runs.attempt("r1", "extract", number)
        assert stored is not None
        assert (stored.attempt.owner, stored.attempt.closed) == ("dead", False)
        assert runs.close_attempt(stored, closing(Result.LOST))


def test_an_id_that_nobody_can_have_made_is_not_there(runs: RunStore) -> None:
    runs.create_run(run(), PLAN, "n")
    runs.claim(attempt())
    for odd in (
        "",
        ".",
        "..",
        "/",
        "r1/attempts/extract.1",
        "__r1__",
        "r1\x00",
        "r" * 2000,
        "ключ",
    ):
        assert runs.run(odd) is None
        assert runs.run_status(odd) is None
        assert runs.attempt(odd, "extract", 1) is None
        assert runs.attempt("r1", odd, 1) is None
        assert runs.closed_since(odd, None) == []
        assert runs.attempts_of(odd) == []
        assert runs.evidence(odd) == []
        assert runs.read_log(odd) == []
        assert runs.read_log("r1", step_id=odd) == []


def test_parameters_are_whatever_json_can_say(runs: RunStore) -> None:
    parameters: dict[str, Json] = {
        "": None,
        "__odd__": [[1, [2]], {"": {"a.b": "`"}}],
        "large": 2**63 - 1,
        "small": -(2**63),
        "real": 1e-300,
        "text": "\x00\U0001f600\ud7ff",
        "list": [],
        "map": {},
    }
    params = Params(start_date=NOW.date(), end_date=NOW.date(), parameters=parameters)
    assert runs.create_run(run(params=params), PLAN, "n")
    stored = runs.run("r1")
    assert stored is not None
    assert stored.run.params == params


def test_a_closed_store_says_so(runs: RunStore) -> None:
    runs.close()
    runs.close()
    with pytest.raises(Unavailable, match="closed"):
        runs.run("r1")


def test_a_run_of_two_hundred_steps_and_half_a_mebibyte_is_one_document(runs: RunStore) -> None:
    steps = {
        f"step_{number}": StepState(
            status=StepStatus.FAILED,
            attempt=3,
            look_at=NOW,
            summary=Summary(message="m" * 700),
            error=ErrorInfo(code="c", message="e" * 1500),
        )
        for number in range(200)
    }
    full = run(steps=steps, transitions=(Transition(at=NOW, to="x", reason="r" * 1000),) * 60)
    assert len(msgspec.json.encode(full)) > 512 * 1024
    assert runs.create_run(full, PLAN, "n")
    stored = runs.run("r1")
    assert stored is not None
    assert stored.run.steps == steps
    fewer = {**steps, "step_7": StepState()}
    written = runs.replace_run(stored, replace(full, steps=fewer), "n")
    assert written is not None
    again = runs.run("r1")
    assert again is not None
    assert again.run.steps == fewer
    assert [found.run_id for found in runs.history("acme", HistoryFilter()).runs] == ["r1"]
