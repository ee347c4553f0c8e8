"""The parent of the processes that are killed: their folders, their births, and what they must leave."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from random import Random
from typing import IO, NamedTuple

import msgspec

from shared.core.run import Result as AttemptResult
from shared.core.run import RunStatus, StepStatus
from shared.settings import ROOT
from tests.chaos.child import Ask, Birth, Ended, Life, Loaded, Result
from tests.chaos.proxies import POINTS, Kill
from tests.support.exports import Export, row

HERE = Path(__file__).parent
ORGS = ("acme", "beta", "gamma")
MONTH = "2025-02"
ROWS = 1_000
FILES = 3
LIMIT_SECONDS = 60
DIED = -signal.SIGKILL

ONE = (Ask(org="acme", address="engine/chaos/work", key="chaos", day="2025-02-10"),)
SEVERAL = (
    *ONE,
    Ask(org="acme", address="engine/noop/diamond", key="beside", day="2025-02-10"),
    Ask(org="beta", address="engine/chaos/work", key="chaos", day="2025-02-10"),
    Ask(org="gamma", address="engine/chaos/work", key="chaos", day="2025-02-11"),
)


class Outside(NamedTuple):
    """A kill from outside, so many seconds after the process began."""

    seconds: float


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Processes killed one after the other over one folder; the last one is let to its end."""

    kills: Sequence[Kill | Outside] = ()
    asks: tuple[Ask, ...] = ONE
    twice: int | None = None
    cold: bool = False  # every process starts its own interpreter


@dataclass(kw_only=True)
class Played:
    """What happened. `result` is what the last process found.

    `resumed`: seconds from the birth of a process until each step that its predecessor had left
    unfinished went on (its attempt folded, or the next one claimed), or the quota was given back.
    """

    result: Result
    resumed: list[float] = field(default_factory=list)
    hits: Counter[str] = field(default_factory=Counter)
    deaths: int = 0
    violations: list[str] = field(default_factory=list)


class World:
    """An export, a folder to begin with, and how one undisturbed run of it ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._scenes = 0
        self._log = (folder / "stderr").open("a+")
        self._zygote = self._popen([], stdin=subprocess.PIPE)
        configs = folder / "configs"
        shutil.copytree(ROOT / "configs" / "system", configs / "system")
        shutil.copytree(HERE.parent / "pipelines", configs, dirs_exist_ok=True)
        (configs / "engine" / "chaos").mkdir(parents=True)
        shutil.copy(HERE / "work.yml", configs / "engine" / "chaos" / "work.yml")
        for org in ORGS:
            export = Export(folder / "objects" / org / "exports")
            rows = [row(number, MONTH) for number in range(ROWS)]
            export.deliver(MONTH, *(rows[part::FILES] for part in range(FILES)))
        first = self._life(folder / "first", Scene(asks=()))
        assert self._live(msgspec.structs.replace(first, organizations=ORGS), cold=False) == 0
        alone = self.play(Scene())
        self.clean = alone.result
        wrong = faults(alone, Scene(), self.clean)
        assert not wrong, wrong

    def close(self) -> None:
        if self._zygote.stdin is not None:
            self._zygote.stdin.close()
        self._zygote.wait(LIMIT_SECONDS)
        if self._zygote.stdout is not None:
            self._zygote.stdout.close()
        self._log.close()

    def play(self, scene: Scene) -> Played:
        """Plays the scene in a folder of its own."""
        self._scenes += 1
        folder = self._folder / f"scene{self._scenes}"
        shutil.copytree(self._folder / "first", folder)
        deaths = 0
        for number, kill in enumerate([*scene.kills, None]):
            life = self._life(folder, scene)
            outside = kill if isinstance(kill, Outside) else None
            if isinstance(kill, Kill):
                life = msgspec.structs.replace(life, kill=kill)
            if scene.twice is not None:
                life = msgspec.structs.replace(life, twice=scene.twice + number)
            code = self._live(life, cold=scene.cold, outside=outside)
            if code == DIED:
                deaths += 1
                continue
            assert code == 0, f"{kill}: the process ended with {code}\n{self._said()}"
            break
        else:
            raise AssertionError(f"a process died that nobody killed\n{self._said()}")
        notes = _noted(folder / "notes")
        result = msgspec.json.decode((folder / "out").read_bytes(), type=Result)
        shutil.rmtree(folder)
        return Played(
            result=result,
            resumed=_resumed(notes, result),
            hits=Counter(notes["hit"]),
            deaths=deaths,
            violations=notes["violation"],
        )

    def _life(self, folder: Path, scene: Scene) -> Life:
        folder.mkdir(exist_ok=True)
        return Life(
            data=str(folder / "data"),
            configs=str(self._folder / "configs"),
            objects=str(self._folder / "objects"),
            out=str(folder / "out"),
            notes=str(folder / "notes"),
            asks=scene.asks,
            limit_seconds=LIMIT_SECONDS,
        )

    def _live(self, life: Life, *, cold: bool, outside: Outside | None = None) -> int:
        """The exit code; a process that does not end by itself is ended, and has failed."""
        born = time.time()
        raw = msgspec.json.encode(msgspec.structs.replace(life, born=born))
        if cold:
            path = Path(life.out).with_name("life.json")
            path.write_bytes(raw)
            process = self._popen([str(path)])
            with process, _killed(process.pid, outside):
                return process.wait()
        stdin, stdout = self._zygote.stdin, self._zygote.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(raw + b"\n")
        stdin.flush()
        with _killed(int(self._line(stdout)), outside):
            return int(self._line(stdout))

    def _line(self, stdout: IO[bytes]) -> bytes:
        line = stdout.readline()
        assert line, f"the process that forks is gone\n{self._said()}"
        return line

    def _popen(self, arguments: list[str], stdin: int | None = None) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.child", *arguments],
            cwd=HERE.parents[1],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read()[-4_000:]


def _noted(path: Path) -> dict[str, list[str]]:
    notes: dict[str, list[str]] = {"hit": [], "violation": [], "born": [], "settling": []}
    for line in path.read_bytes().splitlines():
        kind, text = msgspec.json.decode(line, type=tuple[str, str])
        notes[kind].append(text)
    return notes


def _resumed(notes: dict[str, list[str]], result: Result) -> list[float]:
    births = [msgspec.json.decode(text, type=Birth) for text in notes["born"]]
    settling = [msgspec.json.decode(text, type=tuple[str, float]) for text in notes["settling"]]
    deaths = [birth.at for birth in births[1:]] + [inf]
    found = []
    for birth, death in zip(births, deaths, strict=True):
        waits = [_signs(result.runs[run], step) for run, step in birth.released]
        waits += [[at for of, at in settling if of == run] for run in birth.unsettled]
        for signs in waits:
            # Nothing seen before the next death: it waited at least for so long.
            first = min((at for at in signs if birth.at < at), default=inf)
            found.append(min(first, death) - birth.at)
    return found


def _signs(ended: Ended, step_id: str) -> list[float]:
    claims = [one.started_at for one in ended.attempts if one.step_id == step_id]
    folds = [m.at for m in ended.run.transitions if m.step == step_id and m.to == "completed"]
    return [at.timestamp() for at in claims + folds]


class _killed:  # noqa: N801  # reads as what it does
    """Kills the process at its time, or when it has taken too long; not after the `with`."""

    def __init__(self, pid: int, outside: Outside | None) -> None:
        seconds = LIMIT_SECONDS + 5 if outside is None else outside.seconds
        self._timer = threading.Timer(seconds, self._kill, [pid])

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    @staticmethod
    def _kill(pid: int) -> None:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # it has ended just now


def faults(played: Played, scene: Scene, clean: Result) -> list[str]:
    """What is not as it has to be, in words."""
    result = played.result
    wrong = [*played.violations, *(f"dead letter: {why}" for why in result.dead_letters)]
    wrong += [f"{key}: was closed, and changed afterwards" for key in result.changed]
    if len(result.runs) != len(scene.asks):
        wrong.append(f"{len(result.runs)} runs, {len(scene.asks)} were asked for")
    for ended in result.runs.values():
        wrong += [f"{ended.run.org} {ended.run.address}: {text}" for text in _of_run(ended, played)]
    if not played.deaths:
        wrong += [
            f"{key}: ran {count} times" for key, count in result.executions.items() if count != 1
        ]
    for org, used in result.used.items():
        asked = sum(ask.org == org for ask in scene.asks)
        counted = (used.concurrent, used.month, used.succeeded, used.failed)
        if counted != (0, asked, asked, 0) or used.today not in (asked, 0):
            wrong.append(f"{org}: quota {used}, of {asked} runs")
        wrong += [f"{org}: {text}" for text in _of_tables(org, result, clean)]
    return wrong


def _of_run(ended: Ended, played: Played) -> list[str]:
    run, wrong = ended.run, []
    if run.status is not RunStatus.COMPLETED:
        wrong.append(f"{run.status}: {run.error}")
    if not run.effects_done or run.wake_at is not None:
        wrong.append(f"is not over: effects_done={run.effects_done}, wake_at={run.wake_at}")
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
        if results[-1:] != [AttemptResult.OK] or set(results[:-1]) - {AttemptResult.LOST}:
            wrong.append(f"{step_id}: attempts ended {results}")
        if len(attempts) > 1 + played.deaths:
            wrong.append(f"{step_id}: {len(attempts)} attempts after {played.deaths} deaths")
        done = [m for m in run.transitions if m.step == step_id and m.to == StepStatus.COMPLETED]
        if len(done) != 1:
            wrong.append(f"{step_id}: was completed {len(done)} times")
    return wrong


def _of_tables(org: str, result: Result, clean: Result) -> list[str]:
    wrong = []
    for table, held in result.tables[org].items():
        if held != clean.tables[ONE[0].org][table]:
            wrong.append(
                f"{table} is {held}, one clean run leaves {clean.tables[ONE[0].org][table]}"
            )
    loads = result.loads[org]
    if list(map(_slice, loads)) != list(map(_slice, clean.loads[ONE[0].org])):
        wrong.append(f"_loads has {loads}")
    for loaded in loads:
        counted = result.runs[loaded.run_id].run.steps[loaded.step_id].counted
        if loaded.attempt != counted:
            wrong.append(f"{loaded} was committed by attempt {loaded.attempt}, {counted} counts")
    if result.rejects[org]:
        wrong.append(f"{result.rejects[org]} rows in _rejects")
    return wrong


def _slice(loaded: Loaded) -> tuple[str, str, int, int]:
    return loaded.table, loaded.slice.split(" ", 1)[1], loaded.rows, loaded.rejected


def kill_at(point: str, world: World, chance: Random, most: int | None = None) -> Kill:
    """A kill at the point, at a passage that a run has."""
    passage = chance.randint(1, world.clean.passages[point] if most is None else most)
    delay = 0.0
    if point == "load.check" and chance.random() < 0.6:
        passage = chance.choice(world.clean.commits)  # the last look before a COMMIT
        delay = chance.choice((0.0, 0.0005, 0.001, 0.002, 0.004))
    return Kill(point=point, passage=passage, durable=chance.random() < 0.5, delay_seconds=delay)


def drawn(seed: int, world: World) -> Scene:
    """The scene of a seed."""
    chance = Random(seed)
    names = [point for points in POINTS.values() for point in points]
    kills: list[Kill | Outside] = []
    for _ in range(chance.choice((1, 1, 2, 2, 3))):
        if chance.random() < 0.25:
            kills.append(Outside(chance.uniform(0.02, world.clean.seconds)))
        else:
            kills.append(kill_at(chance.choice(names), world, chance))
    several = chance.random() < 0.2
    return Scene(
        kills=kills,
        asks=SEVERAL if several else ONE,
        twice=chance.randrange(1 << 30) if chance.random() < 0.25 else None,
    )
