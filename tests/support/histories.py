"""Histories to try the protocol with: random ones by seed, and small ones by enumeration."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from msgspec.structs import replace

from shared.core.plan import OnFailure, Plan, RetryPolicy, StepPlan
from shared.core.resume import RetryMode
from shared.core.run import Result, Timing
from tests.support.virtual import Actor
from tests.support.world import PS_TYPE, REAL, TIMING, Build, Faults, Trouble, World

# Calls at which a freeze has found something before; uniform chance finds these too seldom.
THEMES = (
    "runs.run",
    "runs.create_run",
    "runs.claim",
    "runs.attempts",
    "runs.close_attempt",
    "runs.renew",
    "runs.replace_run",
    "accounts.reserve",
    "accounts.settle",
    "accounts.orphans",
    "bus.publish",
)


RETRIED_AT = 30.0  # seconds: a plain run of a few steps has ended, also after a fault


def step(step_id: str, *depends_on: str, **changes: object) -> StepPlan:
    made = StepPlan(
        step_id=step_id,
        ps_type=PS_TYPE,
        depends_on=depends_on,
        timeout_seconds=20,
        retry=RetryPolicy(max_attempts=3, backoff_seconds=1),
    )
    return replace(made, **changes)


def shape(*steps: StepPlan, minutes: float = 2) -> Plan:
    return Plan(
        address="",
        pipeline_id="pipeline",
        provider="test",
        domain="cost",
        version="1",
        config_hash="",
        steps=steps,
        timeout_minutes=minutes,
    )


CHAIN = shape(step("a"), step("b", "a"))
DIAMOND = shape(step("a"), step("b", "a"), step("c", "a"), step("d", "b", "c"))
ONE = shape(step("a"))
JOIN = shape(step("a"), step("b"), step("c", "a", "b"))
WIDE = shape(*(step(f"s{i}") for i in range(10)), step("end", *(f"s{i}" for i in range(10))))


# --- by seed ---


def chaos(
    seed: int, build: Build = REAL, *, embedded: bool = False, retries: bool = False
) -> World:
    """A random world: some runs, every fault, for about a minute; then none.

    `retries`: clients ask for retries of these runs, too.
    """
    chance = random.Random(f"chaos {seed}")
    good = chance.random() < 0.3
    faults = _faults(chance)
    if embedded:
        faults = faults._replace(lose=0.0, freeze_machine=0.0, kill=chance.choice((0.01, 0.03)))
    shapes = {f"test/cost/s{i}": _random_shape(chance) for i in range(2)}
    world = World(
        seed,
        shapes=shapes,
        faults=faults,
        fault_seconds=chance.choice((5.0, 20.0, 60.0)),
        machines=chance.choice((1, 2, 3)),
        concurrent=chance.choice((1, 1, 2, 3)),
        skew=chance.choice((0.0, 0.4)),  # two of them stay below the grace of a lease
        timing=_random_timing(chance),
        build=build,
        results=_results(seed, good=good),
        work_seconds=_work_seconds(seed),
        embedded=embedded,
    )
    span = min(world.fault_seconds, 20.0)
    names = list(shapes)
    for i in range(chance.choice((1, 1, 2, 3))):
        key, name = f"k{i}", chance.choice(names)
        for _ in range(chance.choice((1, 1, 2, 3))):
            world.submit(key, name, at=chance.uniform(0, span), tries=chance.choice((1, 3)))
        if chance.random() < 0.3:
            for _ in range(chance.choice((1, 2))):
                world.cancel(key, at=chance.uniform(0, span))
        for _ in range(chance.choice((1, 2, 4)) if retries else 0):
            mode = chance.choice(tuple(RetryMode))
            client, tries = f"{mode} {chance.choice('xy')}", chance.choice((1, 3))
            world.retry(key, client, mode, at=chance.uniform(0, 2 * span), tries=tries)
    for i in range(chance.choice((0, 0, 1, 2))):
        run_id = f"w{i}"
        world.wait_for_quota(run_id, chance.choice(names), at=chance.uniform(0, span))
        if chance.random() < 0.4:
            world.cancel(run_id, at=chance.uniform(0, span))
    for _ in range(chance.choice((0, 0, 5, 20))):
        world.tick(at=chance.uniform(0, world.fault_seconds))
    return world


def _faults(chance: random.Random) -> Faults:
    def some(*choices: float) -> float:
        return chance.choice((0.0, *choices))

    lease, orphan = TIMING.lease.total_seconds(), TIMING.orphan_age.total_seconds()
    themed = chance.random() < 0.6
    return Faults(
        kill=some(0.005, 0.02, 0.05),
        freeze=some(0.01, 0.04),
        freeze_machine=some(0.005, 0.02),
        refuse=some(0.01, 0.05),
        lose=some(0.05, 0.3),
        double=some(0.1, 0.5),
        delay=some(0.1, 0.4),
        theme=chance.choice(THEMES) if themed else "",
        theme_after=chance.random() < 0.5,
        theme_seconds=chance.choice((1.0, 1.3 * orphan, 1.5 * lease, 3 * lease)),
    )


def _random_shape(chance: random.Random) -> Plan:
    if chance.random() < 0.05:
        return WIDE
    names = "abcdef"[: chance.choice((1, 2, 2, 3, 4, 6))]
    return shape(
        *(
            step(
                name,
                *chance.sample(names[:i], min(i, chance.choice((0, 1, 1, 2)))),
                retry=RetryPolicy(
                    max_attempts=chance.choice((1, 2, 3)),
                    backoff_seconds=chance.choice((0, 1, 6)),
                    exponential=chance.random() < 0.5,
                ),
                on_failure=chance.choice((OnFailure.STOP, OnFailure.STOP, OnFailure.CONTINUE)),
                enabled=chance.random() < 0.95,
            )
            for i, name in enumerate(names)
        ),
        minutes=chance.choice((0.3, 2, 2, 2)),
    )


def _random_timing(chance: random.Random) -> Timing:
    """Any values are safe; so some of them are far from what anybody would choose."""
    changes: dict[str, timedelta] = {}
    for name, seconds in (
        ("lease", (2.0, 10.0, 10.0)),
        ("requeue", (0.5, 4.0, 4.0)),
        ("cancel_grace", (0.0, 5.0, 5.0)),
        ("deadline_grace", (0.0, 3.0, 3.0)),
        ("effects_delay", (0.0, 2.0, 2.0)),
        ("orphan_age", (0.02, 8.0, 8.0)),
    ):
        changes[name] = timedelta(seconds=chance.choice(seconds))
    changes["heartbeat"] = changes["lease"] / 3
    return replace(TIMING, **changes)


def _results(seed: int, *, good: bool) -> Callable[[str, str, int], Result]:
    def result(run_id: str, step_id: str, number: int) -> Result:
        if good:
            return Result.OK
        chance = random.Random(f"{seed} {run_id} {step_id} {number}")
        kinds = (Result.OK, Result.TRANSIENT, Result.TERMINAL, Result.LOST)
        return chance.choices(kinds, (80, 12, 5, 3))[0]

    return result


def _work_seconds(seed: int) -> Callable[[str, str, int], float]:
    def seconds(run_id: str, step_id: str, number: int) -> float:
        chance = random.Random(f"work {seed} {run_id} {step_id} {number}")
        return chance.choice((0.0, 0.01, 0.1, 1.0, 4.0, 14.0))

    return seconds


# --- by enumeration ---


class Case(NamedTuple):
    """A small history that differs from the plain one in one thing."""

    name: str
    world: Callable[[], World]


def plain(plan: Plan, build: Build = REAL, *, tries: int = 3, **options: Any) -> World:
    """One run of one plan, submitted at once; nothing goes wrong."""
    world = World(shapes={"test/cost/plain": plan}, build=build, **options)
    world.submit("k", "test/cost/plain", tries=tries)
    world.promises.must_complete = "results" not in options
    return world


def retried(plan: Plan, build: Build = REAL, *, tries: int = 3, **options: Any) -> World:
    """One run whose last step fails, and after its end its resume, in which nothing fails."""
    last = plan.steps[-1].step_id

    def result(run_id: str, step_id: str, _: int) -> Result:
        return Result.TERMINAL if (run_id, step_id) == (world.run_id("k"), last) else Result.OK

    world = World(shapes={"test/cost/plain": plan}, build=build, results=result, **options)
    world.submit("k", "test/cost/plain", tries=3)
    world.retry("k", "client", at=RETRIED_AT, tries=tries)
    return world


def each_call(
    name: str,
    trouble: Callable[[World], Trouble],
    plan: Plan,
    build: Build = REAL,
    *,
    history: Callable[..., World] = plain,
    **options: Any,
) -> Iterator[Case]:
    """`trouble` at every call that the history makes, one history each."""
    calls = _done(history(plan, **options)).calls
    for k in range(1, calls + 1):

        def make(k: int = k) -> World:
            world = history(plan, build, **options)
            world.at_call[k] = lambda: trouble(world)
            return world

        yield Case(f"{name} at call {k}", make)


def each_pair(
    name: str,
    first: Callable[[World], Trouble],
    second: Callable[[World], Trouble],
    plan: Plan,
    build: Build = REAL,
    *,
    reach: int = 1,
    **options: Any,
) -> Iterator[Case]:
    """`first` at every call, `second` at each that follows, as many (times `reach`) as there are."""
    calls = _done(plain(plan, **options)).calls
    for k in range(1, calls + 1):
        for later in range(1, reach * calls + 1):

            def make(k: int = k, later: int = later) -> World:
                world = plain(plan, build, **options)

                def both() -> Trouble:
                    world.at_call[world.calls + later] = lambda: second(world)
                    return first(world)

                world.at_call[k] = both
                return world

            yield Case(f"{name} at call {k} and {later} later", make)


def each_message(copies: int, plan: Plan, build: Build = REAL, **options: Any) -> Iterator[Case]:
    """Every message is lost (0) or doubled (2), one history each."""
    messages = _done(plain(plan, **options)).messages
    for n in range(1, messages + 1):

        def make(n: int = n) -> World:
            world = plain(plan, build, **options)
            world.at_message[n] = copies
            return world

        yield Case(f"{copies} copies of message {n}", make)


def death(world: World) -> Trouble:
    return world.kill_machine()


def freeze(seconds: float) -> Callable[[World], Trouble]:
    return lambda world: _hang(world, Trouble(before=seconds))


def slow_answer(seconds: float) -> Callable[[World], Trouble]:
    return lambda world: _hang(world, Trouble(after=seconds))


def _hang(world: World, trouble: Trouble) -> Trouble:
    past_the_deadline = trouble.before + trouble.after > 60
    world.promises.must_complete = world.promises.must_complete and not past_the_deadline
    return trouble


def refusal(world: World) -> Trouble:
    return Trouble(refused="before")


def lost_answer(world: World) -> Trouble:
    return Trouble(refused="after")


def cancel(held: float = 0.0) -> Callable[[World], Trouble]:
    """The run is cancelled just then, while the caller hangs for `held` seconds."""

    def trouble(world: World) -> Trouble:
        world.cancel("k")
        world.promises.must_complete = False
        return Trouble(before=held)

    return trouble


def tick(held: float = 0.0) -> Callable[[World], Trouble]:
    """A tick just then, while the caller hangs for `held` seconds."""

    def trouble(world: World) -> Trouble:
        world.tick()
        return Trouble(before=held)

    return trouble


def replay(held: float = 0.0) -> Callable[[World], Trouble]:
    """The client posts again just then, while the first caller hangs for `held` seconds."""

    def trouble(world: World) -> Trouble:
        world.submit("k", "test/cost/plain")
        return Trouble(before=held)

    return trouble


def retry_again(held: float = 0.0) -> Callable[[World], Trouble]:
    """The client asks for the retry again just then, while the first caller hangs for `held` seconds."""

    def trouble(world: World) -> Trouble:
        world.retry("k", "client", at=max(0.0, RETRIED_AT - world.scheduler.now))
        return Trouble(before=held)

    return trouble


def _done(world: World) -> World:
    world.run()
    return world


# --- by turns ---


def each_order(make: Callable[[], World], switches: int) -> Iterator[Case]:
    """Every order of turns in which at most `switches` actors are interrupted.

    An actor that ends, or waits, hands over to any other for free. Each case must be run before the
    next one is asked for: the turns it had say which others there are.
    """
    todo: list[tuple[int, ...]] = [()]
    while todo:
        script = todo.pop()
        seen: list[tuple[int, bool]] = []

        def world(script: tuple[int, ...] = script, seen: list[tuple[int, bool]] = seen) -> World:
            made = make()
            last: list[Actor | None] = [None]

            def choose(ready: Sequence[Actor]) -> Actor:
                goes_on = last[0] in ready
                ordered = sorted(ready, key=lambda actor: actor is not last[0])
                position = len(seen)
                seen.append((len(ordered), goes_on))
                chosen = ordered[script[position] if position < len(script) else 0]
                last[0] = chosen
                return chosen

            made.scheduler.choose = choose
            return made

        yield Case(f"turns {''.join(map(str, script)) or '-'}", world)
        spent = sum(1 for turn, (_, goes_on) in zip(script, seen, strict=False) if turn and goes_on)
        for position in range(len(script), len(seen)):
            count, goes_on = seen[position]
            if goes_on and spent + 1 > switches:
                continue
            padding = (0,) * (position - len(script))
            todo.extend((*script, *padding, other) for other in range(1, count))


# Graces of nothing and leases of a few turns, so that the clock takes part in the race.
HASTY = replace(
    TIMING,
    lease=timedelta(milliseconds=6),
    heartbeat=timedelta(milliseconds=3),
    lease_grace=timedelta(0),
    requeue=timedelta(milliseconds=4),
    cancel_grace=timedelta(milliseconds=2),
    orphan_age=timedelta(milliseconds=1),
    lost_budget=100,
)


def submit_race(build: Build = REAL) -> World:
    """Two posts of one key and a tick that finds their reservation old at once."""
    world = World(
        shapes={"test/cost/plain": ONE},
        build=build,
        concurrent=1,
        timing=replace(TIMING, orphan_age=timedelta(0)),
    )
    for _ in range(2):
        world.submit("k", "test/cost/plain", racing=True)
    world.tick(racing=True)
    return world


def retry_race(build: Build = REAL) -> World:
    """Two posts of one retry, and a tick that finds their reservation old at once."""
    world = World(
        shapes={"test/cost/plain": CHAIN},
        build=build,
        concurrent=1,
        timing=replace(TIMING, orphan_age=timedelta(0)),
    )
    world.ended("old", "test/cost/plain")
    for _ in range(2):
        world.retry("old", "client", racing=True)
    world.tick(racing=True)
    return world


def cancel_race(build: Build = REAL, timing: Timing = TIMING) -> World:
    """A run of one step whose every message is handled in turns, beside a cancel."""
    world = _racing(build, timing)
    world.cancel("k")
    return world


def lease_race(build: Build = REAL) -> World:
    """A run of one step whose lease lasts six turns, beside a tick that looks for lost ones."""
    world = _racing(build, HASTY)
    world.tick()
    return world


def _racing(build: Build, timing: Timing) -> World:
    shapes = {"test/cost/plain": ONE}
    world = World(shapes=shapes, build=build, timing=timing, work_seconds=lambda *_: 0.0)
    world.race = True
    world.submit("k", "test/cost/plain")
    return world
