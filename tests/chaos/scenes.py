"""Scenes, how one is drawn from a seed, and what must be so at the end of each, wherever it is played."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple, Protocol, TypeAlias

import msgspec

from shared.core.run import Result as AttemptResult
from shared.core.run import RunStatus, StepStatus
from tests.chaos.left import Ended, Left, Loaded
from tests.chaos.proxies import Freeze, Kill
from tests.support.doors import Way


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A run to submit; the key makes whoever asks again find the one it had submitted."""

    org: str
    address: str
    key: str
    day: str


class Outside(NamedTuple):
    """A kill from outside, so many seconds after the process (in the cloud: the scene) began."""

    seconds: float
    function: str = ""


class Away(NamedTuple):
    """A dependency that cannot be used for a while, from so many seconds after the scene began."""

    name: str
    way: Way
    at: float
    seconds: float


Blow: TypeAlias = Kill | Freeze | Outside | Away

LIGHT = (Ask(org="acme", address="engine/noop/diamond", key="chaos", day="2025-02-10"),)
ONE = (Ask(org="acme", address="engine/chaos/work", key="chaos", day="2025-02-10"),)
SEVERAL = (
    *ONE,
    Ask(org="acme", address="engine/noop/diamond", key="beside", day="2025-02-10"),
    Ask(org="beta", address="engine/chaos/work", key="chaos", day="2025-02-10"),
    Ask(org="gamma", address="engine/chaos/work", key="chaos", day="2025-02-11"),
)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Runs that are asked for, and what hits the processes that are to bring them to their end."""

    blows: Sequence[Blow] = ()
    asks: tuple[Ask, ...] = ONE
    twice: int | None = None
    cold: bool = False  # embedded, every process starts an interpreter of its own
    claims_anyhow: bool = False  # in the cloud, the functions break a rule: nobody loses a claim


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What is there at the end of a scene."""

    left: Left
    changed: list[str]  # attempts that were closed once and are not what they were
    executions: dict[str, int]
    passages: dict[str, int]
    commits: list[int]  # the passages of load.check that a COMMIT followed
    seconds: float


@dataclass(kw_only=True)
class Played:
    """What happened.

    `resumed`: the seconds until each step that was interrupted went on: its attempt folded, the next one
    claimed, or the quota given back. They count from the birth of the next process where that is what a
    step waits for, and else from the death of the one that ran it.
    """

    result: Result
    resumed: list[float] = field(default_factory=list)
    hits: Counter[str] = field(default_factory=Counter)
    deaths: int = 0
    frozen: int = 0
    away: int = 0
    violations: list[str] = field(default_factory=list)

    @property
    def blows(self) -> int:
        """How often something happened that may have cost an attempt."""
        return self.deaths + self.frozen + self.away


class Place(Protocol):
    """Where scenes are played."""

    def play(self, scene: Scene) -> Played:
        """Plays the scene to its end. Raises AssertionError when it has none."""

    def clean_of(self, asks: tuple[Ask, ...]) -> Result:
        """What the first of these runs leaves when it is alone and nothing disturbs it."""

    def asks(self, chance: Random) -> tuple[Ask, ...]:
        """What may be asked for here."""

    def blow(self, chance: Random, clean: Result) -> Blow:
        """One that can hit such a run here."""


def kill_at(point: str, clean: Result, chance: Random, most: int | None = None) -> Kill:
    """A kill at the point, at a passage that a run has."""
    passage = chance.randint(1, clean.passages[point] if most is None else most)
    delay = 0.0
    if point.endswith("load.check") and clean.commits and chance.random() < 0.6:
        passage = chance.choice(clean.commits)  # the last look before a COMMIT
        delay = chance.choice((0.0, 0.0005, 0.001, 0.002, 0.004))
    return Kill(point=point, passage=passage, durable=chance.random() < 0.5, delay_seconds=delay)


def drawn(seed: int, place: Place) -> Scene:
    """The scene of a seed."""
    chance = Random(seed)
    asks = place.asks(chance)
    clean = place.clean_of(asks)
    return Scene(
        blows=[place.blow(chance, clean) for _ in range(chance.choice((1, 1, 2, 2, 3)))],
        asks=asks,
        twice=chance.randrange(1 << 30) if chance.random() < 0.25 else None,
    )


def faults(played: Played, scene: Scene, clean: Result) -> list[str]:
    """What is not as it has to be, in words."""
    result, left = played.result, played.result.left
    wrong = [*played.violations, *(f"dead letter: {why}" for why in left.dead_letters)]
    wrong += [f"{key}: was closed, and changed afterwards" for key in result.changed]
    if len(left.runs) != len(scene.asks):
        wrong.append(f"{len(left.runs)} runs, {len(scene.asks)} were asked for")
    for ended in left.runs.values():
        wrong += [f"{ended.run.org} {ended.run.address}: {text}" for text in _of_run(ended, played)]
    if not played.blows:
        wrong += [
            f"{key}: ran {count} times" for key, count in result.executions.items() if count != 1
        ]
    for org, used in left.used.items():
        asked = sum(ask.org == org for ask in scene.asks)
        counted = (used.concurrent, used.month, used.succeeded, used.failed)
        if counted != (0, asked, asked, 0) or used.today not in (asked, 0):
            wrong.append(f"{org}: quota {used}, of {asked} runs")
        wrong += [f"{org}: {text}" for text in _of_tables(org, left, clean.left)]
    return wrong


def _of_run(ended: Ended, played: Played) -> list[str]:
    run, wrong = ended.run, []
    if run.status is not RunStatus.COMPLETED:
        errors = {one.key: one.error.message for one in ended.attempts if one.error is not None}
        wrong.append(f"{run.status}: {run.error}, of {errors}")
    if not run.effects_done or run.wake_at is not None:
        wrong.append(f"is not over: effects_done={run.effects_done}, wake_at={run.wake_at}")
    # What cannot reach a store says so, and its step is tried again.
    before_the_last = {AttemptResult.LOST}
    if played.away:
        before_the_last.add(AttemptResult.TRANSIENT)
    for step_id, state in run.steps.items():
        attempts = sorted(
            (one for one in ended.attempts if one.step_id == step_id), key=lambda one: one.number
        )
        results = [one.result for one in attempts]
        numbers = [one.number for one in attempts]
        if state.status is not StepStatus.COMPLETED:
            wrong.append(f"{step_id}: is {state.status}")
        if numbers != list(range(1, state.attempt + 1)) or state.counted != state.attempt:
            wrong.append(f"{step_id}: attempts {numbers}, {state.counted} counted")
        if results[-1:] != [AttemptResult.OK] or set(results[:-1]) - before_the_last:
            wrong.append(f"{step_id}: attempts ended {results}")
        if len(attempts) > 1 + played.blows:
            wrong.append(f"{step_id}: {len(attempts)} attempts after {played.blows} blows")
        done = [m for m in run.transitions if m.step == step_id and m.to == StepStatus.COMPLETED]
        if len(done) != 1:
            wrong.append(f"{step_id}: was completed {len(done)} times")
    return wrong


def _of_tables(org: str, left: Left, clean: Left) -> list[str]:
    wrong = []
    for table, held in left.tables[org].items():
        wanted = clean.tables[ONE[0].org][table]
        if held != wanted:
            wrong.append(f"{table} is {held}, one clean run leaves {wanted}")
    loads = left.loads[org]
    if list(map(_slice, loads)) != list(map(_slice, clean.loads[ONE[0].org])):
        wrong.append(f"_loads has {loads}")
    for loaded in loads:
        counted = left.runs[loaded.run_id].run.steps[loaded.step_id].counted
        if loaded.attempt != counted:
            wrong.append(f"{loaded} was committed by attempt {loaded.attempt}, {counted} counts")
    if left.rejects[org] != clean.rejects[ONE[0].org]:
        wrong.append(f"{left.rejects[org]} rows in _rejects")
    return wrong


def _slice(loaded: Loaded) -> tuple[str, str, int, int]:
    return loaded.table, loaded.slice.split(" ", 1)[1], loaded.rows, loaded.rejected
