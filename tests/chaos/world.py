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
from math import inf
from pathlib import Path
from random import Random
from typing import IO

import msgspec

from shared.bootstrap.compiled import compile_catalog
from tests.chaos.child import Birth, Life
from tests.chaos.left import Ended, Left
from tests.chaos.proxies import POINTS, Kill, Note, noted
from tests.chaos.scenes import (
    ONE,
    SEVERAL,
    Ask,
    Blow,
    Outside,
    Played,
    Result,
    Scene,
    faults,
    kill_at,
)
from tests.support.exports import Export, row
from tests.support.system import configs_in

HERE = Path(__file__).parent
ORGS = ("acme", "beta", "gamma")
MONTH = "2025-02"
ROWS = 1_000
FILES = 3
LIMIT_SECONDS = 60
DIED = -signal.SIGKILL


class World:
    """An export, a folder to begin with, and how one undisturbed run of it ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._scenes = 0
        self._log = (folder / "stderr").open("a+")
        self._zygote = self._popen([], stdin=subprocess.PIPE)
        configs = configs_in(folder)
        (configs / "engine" / "chaos").mkdir(parents=True)
        shutil.copy(HERE / "work.yml", configs / "engine" / "chaos" / "work.yml")
        compile_catalog(configs)  # a life that is killed after a second parses none of them
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
        for number, blow in enumerate([*scene.blows, None]):
            life = self._life(folder, scene)
            outside = blow if isinstance(blow, Outside) else None
            if isinstance(blow, Kill):
                life = msgspec.structs.replace(life, kill=blow)
            if scene.twice is not None:
                life = msgspec.structs.replace(life, twice=scene.twice + number)
            code = self._live(life, cold=scene.cold, outside=outside)
            if code == DIED:
                deaths += 1
                continue
            assert code == 0, f"{blow}: the process ended with {code}\n{self._said()}"
            break
        else:
            raise AssertionError(f"a process died that nobody killed\n{self._said()}")
        notes = noted(folder / "notes")
        result = msgspec.json.decode((folder / "out").read_bytes(), type=Result)
        shutil.rmtree(folder)
        return Played(
            result=result,
            resumed=_resumed(notes, result.left),
            hits=Counter(note.text for note in notes["hit"]),
            deaths=deaths,
            violations=[note.text for note in notes["violation"]],
        )

    def clean_of(self, asks: tuple[Ask, ...]) -> Result:
        """See Place."""
        return self.clean

    def asks(self, chance: Random) -> tuple[Ask, ...]:
        """See Place."""
        return SEVERAL if chance.random() < 0.2 else ONE

    def blow(self, chance: Random, clean: Result) -> Blow:
        """A kill of the process that is everything here."""
        if chance.random() < 0.25:
            return Outside(chance.uniform(0.02, clean.seconds))
        names = [point for points in POINTS.values() for point in points]
        return kill_at(chance.choice(names), clean, chance)

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


def _resumed(notes: dict[str, list[Note]], left: Left) -> list[float]:
    births = [msgspec.json.decode(note.text, type=Birth) for note in notes["born"]]
    deaths = [birth.at for birth in births[1:]] + [inf]
    found = []
    for birth, death in zip(births, deaths, strict=True):
        waits = [_signs(left.runs[run], step) for run, step in birth.released]
        waits += [
            [note.at for note in notes["settling"] if note.text == run] for run in birth.unsettled
        ]
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
