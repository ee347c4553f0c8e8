"""A system in the cloud mode whose functions are killed, frozen, and cut off from what they need.

Its functions are real processes, two of each, as instances on Cloud Run are; what dies is started again
at once. Scenes are played one after the other in the same system, each with organizations of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Self

import msgspec
import urllib3

from shared.app import App
from shared.core.message import Topic
from shared.core.run import Result as AttemptResult
from shared.core.secret import Secret
from shared.errors import Unavailable
from tests.chaos.deployed import ENVIRON, NOTES, NOW, ORDERS, PASSAGES, TIMING, Orders
from tests.chaos.left import Left, left
from tests.chaos.proxies import Freeze, Kill, noted
from tests.chaos.scenes import (
    LIGHT,
    ONE,
    SEVERAL,
    Ask,
    Away,
    Blow,
    Outside,
    Played,
    Result,
    Scene,
    faults,
    kill_at,
)
from tests.chaos.world import FILES, MONTH, ROWS
from tests.support.cloud import Backends, CloudSystem
from tests.support.doors import Doors, Way
from tests.support.exports import Export, row
from tests.support.gcs import KEY
from tests.support.pubsub import pull, subscribe, tasks
from tests.support.system import configs_in

HERE = Path(__file__).parent
LIMIT_SECONDS = (
    240  # a scene takes ten; four loads on a machine that does ten other things, a minute each
)
LOOK_SECONDS = 0.05
FREEZE_SECONDS = (TIMING.lease + TIMING.lease_grace).total_seconds() + 2
AWAY_SECONDS = 4.0
# The emulator tries again each second, also while a process starts, when Cloud Run would hold the
# request: with the five that are usual a restart alone would make dead letters.
MAX_DELIVERIES = 100
WITNESSED = (Topic.STEPS, Topic.COMPLETIONS)


class CloudWorld:
    """The system, an export in its bucket, and how one undisturbed run of it ends."""

    def __init__(self, folder: Path, backends: Backends) -> None:
        self._folder = folder
        self._backends = backends
        self._scenes = 0
        self._published: set[str] = set()
        self._acknowledged: set[str] = set()
        self._doors = Doors(backends)
        chaos = configs_in(folder) / "engine" / "chaos"
        chaos.mkdir()
        shutil.copy(HERE / "work.yml", chaos)
        self._system = CloudSystem(
            folder,
            backends,
            {**self._doors.environ, ENVIRON: str(folder), "WORKERS": "2"},
            postgres=self._doors.postgres,
            source=HERE / "deployed.py",
            max_deliveries=MAX_DELIVERIES,
        )
        rows = [row(number, MONTH) for number in range(ROWS)]
        export = Export(self._system.objects("shared") / "exports")
        export.deliver(MONTH, *(rows[part::FILES] for part in range(FILES)))
        self._witnesses = [
            subscribe(
                backends.pubsub, self._system.project, f"pipelines-test-{topic}", f"all-{topic}"
            )
            for topic in WITNESSED
        ]
        self._scene = self._told(Scene())
        self._set(self._scene)
        self._system.__enter__()
        try:
            self._light, self._clean = self._undisturbed(LIGHT), self._undisturbed(ONE)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._system.__exit__(None, None, None)
        self._doors.close()

    def clean_of(self, asks: tuple[Ask, ...]) -> Result:
        """See Place."""
        return self._light if asks == LIGHT else self._clean

    def asks(self, chance: Random) -> tuple[Ask, ...]:
        """Mostly a run that loads nothing: BigQuery's emulator takes seconds for one that does."""
        return chance.choices((LIGHT, ONE, SEVERAL), (6, 3, 1))[0]

    def blow(self, chance: Random, clean: Result) -> Blow:
        """A death or a freeze of a function, or a dependency that is away."""
        point = chance.choice(sorted(clean.passages))
        sort = chance.random()
        if sort < 0.15:
            function = chance.choice(sorted(self._system.functions))
            return Outside(chance.uniform(0, clean.seconds), function)
        if sort < 0.3:
            return Freeze(point=point, passage=chance.randint(1, clean.passages[point]))
        if sort < 0.4:
            name = chance.choice(("firestore", "pubsub", "postgres"))
            way = chance.choice((Way.SLOW, Way.SILENT, Way.SHUT))
            return Away(name, way, chance.uniform(0, clean.seconds), AWAY_SECONDS)
        kill = kill_at(point, clean, chance)
        return msgspec.structs.replace(kill, machine=chance.random() < 0.2)

    def play(self, scene: Scene) -> Played:
        """Plays the scene. Its organizations have the names that it gives them, and its number."""
        before, folder = self._scene, self._told(scene)
        orgs = {ask.org: f"{ask.org}_{self._scenes}" for ask in scene.asks}
        for org in orgs.values():
            self._organize(org)
        self._set(folder)
        times = 1 if scene.twice is None else 2
        with (
            ThreadPoolExecutor(times * len(scene.asks)) as pool,
            _Stage(self._system, self._doors, scene, folder) as stage,
        ):
            callers = [
                pool.submit(_called, self._system, ask, orgs[ask.org], stage.deadline)
                for ask in scene.asks
                for _ in range(times)
            ]
            stage.wait(lambda: [caller for caller in callers if not caller.done()])
            run_ids = list(dict.fromkeys(caller.result() for caller in callers))
            stage.wait(lambda: _unfinished(self._system.app, run_ids))
            seconds = time.time() - stage.began
            stage.wait(lambda: self._messages(before, folder))
        return _played(stage, folder, left(self._system.app, run_ids, orgs), seconds)

    def _undisturbed(self, asks: tuple[Ask, ...]) -> Result:
        scene = Scene(asks=asks)
        alone = self.play(scene)
        wrong = faults(alone, scene, alone.result)
        assert not wrong, wrong
        return alone.result

    def _messages(self, *scenes: Path) -> list[str]:
        """Those that are not acknowledged, and those that are for later.

        What a process had acknowledged when it died comes again, and may bring about others, a scene
        later; and also a witness may hear of a message again. So none is forgotten.
        """
        for witness in self._witnesses:
            self._published |= pull(self._backends.pubsub, witness)
        for scene in scenes:
            self._acknowledged |= {note.text for note in noted(scene / NOTES)["acknowledged"]}
        queue = self._system.settings_environ["PIPELINES_TASKS_QUEUE"]
        return sorted(self._published - self._acknowledged) + tasks(self._backends.tasks, queue)

    def _told(self, scene: Scene) -> Path:
        """A folder for the scene, with what the functions have to know of it."""
        self._scenes += 1
        folder = self._folder / f"scene{self._scenes}"
        (folder / PASSAGES).mkdir(parents=True)
        blows = [blow for blow in scene.blows if isinstance(blow, Kill | Freeze)]
        orders = Orders(blows=blows, twice=scene.twice, claims_anyhow=scene.claims_anyhow)
        (folder / ORDERS).write_bytes(msgspec.json.encode(orders))
        return folder

    def _set(self, folder: Path) -> None:
        """From now on it is what the functions play."""
        link = self._folder / "next"
        link.symlink_to(folder.name)
        link.replace(self._folder / NOW)
        self._scene = folder

    def _organize(self, org: str) -> None:
        app, system = self._system.app, self._system
        app.accounts.create_organization(org, org, "enterprise", app.now())
        metadata = {"source": f"gs://{system.bucket}/shared/exports", "export_name": "costs"}
        app.vault.put(org, "aws", "main", Secret(json.dumps(KEY).encode()), metadata)


class _Stage:
    """A scene while it is played: strikes from outside, and sees to it that what died lives again."""

    def __init__(self, system: CloudSystem, doors: Doors, scene: Scene, folder: Path) -> None:
        self.began = time.time()
        self.deadline = self.began + LIMIT_SECONDS
        self.strikes: list[float] = []
        self.away = 0
        self._system = system
        self._doors = doors
        self._notes = folder / NOTES
        self._gone: set[str] = set()
        self._frozen: dict[int, float] = {}  # when they may go on
        self._due: list[tuple[float, Callable[[], None]]] = []
        for blow in scene.blows:
            if isinstance(blow, Outside):
                self._at(blow.seconds, lambda blow=blow: self._kill(blow.function))  # type: ignore[misc]
            if isinstance(blow, Away):
                self._at(blow.at, lambda blow=blow: self._leave(blow))  # type: ignore[misc]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._gone:
            self._doors.by_name[name].set(Way.OPEN)
        for pid in self._frozen:
            _go_on(pid)

    def wait(self, missing: Callable[[], Sequence[object]]) -> None:
        """Returns when nothing is missing, frozen or away."""
        left: Sequence[object] = ()
        while True:
            self._look()
            if not (self._gone or self._frozen):
                try:
                    left = missing()
                except Unavailable as error:  # connections that were cut take a while to come back
                    left = [error]
                if not left:
                    return
            assert time.time() < self.deadline, f"waited for {left}\n{self._said()}"
            time.sleep(LOOK_SECONDS)

    def _look(self) -> None:
        now = time.time()
        for entry in [entry for entry in self._due if entry[0] <= now]:
            self._due.remove(entry)
            entry[1]()
        for function in self._system.functions.values():
            if not function.running:
                function.kill()
                function.start()
        for note in noted(self._notes)["frozen"]:
            pid = int(note.text)
            if note.at + FREEZE_SECONDS > now:
                self._frozen[pid] = note.at
            elif self._frozen.pop(pid, None) is not None:
                _go_on(pid)

    def _at(self, seconds: float, act: Callable[[], None]) -> None:
        self._due.append((self.began + seconds, act))

    def _kill(self, name: str) -> None:
        self.strikes.append(time.time())
        self._system.functions[name].kill()

    def _leave(self, blow: Away) -> None:
        self.away += 1
        self._gone.add(blow.name)
        self._doors.by_name[blow.name].set(blow.way)
        self._at(time.time() - self.began + blow.seconds, lambda: self._return(blow.name))

    def _return(self, name: str) -> None:
        self._doors.by_name[name].set(Way.OPEN)
        self._gone.discard(name)

    def _said(self) -> str:
        logs = [function.log.read_text()[-2_000:] for function in self._system.functions.values()]
        return "\n".join([self._notes.read_text() if self._notes.exists() else "", *logs])


def _unfinished(app: App, run_ids: list[str]) -> list[str]:
    stored = [app.runs.run(run_id) for run_id in run_ids]
    return [str(each) for each in stored if each is None or not each.run.effects_done]


def _go_on(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def _called(system: CloudSystem, ask: Ask, org: str, deadline: float) -> str:
    """The run that the API says it started, asked again until it says so."""
    body = {"start_date": ask.day, "end_date": ask.day}
    headers = {"Idempotency-Key": ask.key}
    while True:
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            path = f"/pipelines/run/{org}/{ask.address}"
            reply = system.call("POST", path, body, headers=headers)
            if reply.status == 202:
                run_id: str = reply.json["run_id"]
                return run_id
            assert reply.status == 503, reply
        assert time.time() < deadline, ask
        time.sleep(0.2)


def _played(stage: _Stage, folder: Path, found: Left, seconds: float) -> Played:
    notes = noted(folder / NOTES)
    # The runs of a scene that was given up may go on in this one: they are none of its.
    ran, closed = (
        [told for note in notes[kind] if (told := tuple(json.loads(note.text)))[0] in found.runs]
        for kind in ("ran", "closed")
    )
    results = {
        (run_id, one.key): one.result
        for run_id, ended in found.runs.items()
        for one in ended.attempts
    }
    violations = [note.text for note in notes["violation"]]
    violations += [f"{one} was run twice" for one, count in Counter(ran).items() if count > 1]
    closes = Counter((run_id, key) for run_id, key, _ in closed)
    violations += [f"{one} was closed twice" for one, count in closes.items() if count > 1]
    result = Result(
        left=found,
        changed=[f"{run} {key}" for run, key, how in closed if results.get((run, key)) != how],
        executions=dict(Counter(f"{run_id} {step_id}" for run_id, step_id, _ in ran)),
        passages={path.name: path.stat().st_size for path in (folder / PASSAGES).iterdir()},
        commits=[int(note.text) for note in notes["commit"]],
        seconds=seconds,
    )
    strikes = [*stage.strikes, *(note.at for note in notes["hit"] + notes["frozen"])]
    return Played(
        result=result,
        resumed=_resumed(found, strikes),
        hits=Counter(note.text for note in notes["hit"]),
        deaths=len(stage.strikes) + len(notes["hit"]),
        frozen=len(notes["frozen"]),
        away=stage.away,
        violations=violations,
    )


def _resumed(found: Left, strikes: list[float]) -> list[float]:
    """From the last blow before an attempt was given up until the next one began."""
    waits = []
    for ended in found.runs.values():
        begun = {(one.step_id, one.number): one.started_at.timestamp() for one in ended.attempts}
        for one in ended.attempts:
            if one.result is AttemptResult.LOST and one.closed_at is not None:
                given_up, again = one.closed_at.timestamp(), begun[one.step_id, one.number + 1]
                waits += [again - max(at for at in strikes if at < given_up)] if strikes else []
    return waits
