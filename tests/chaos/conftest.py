"""Options, seeds and figures of the chaos suite.

pytest tests/chaos --seeds 200              more scenes than in CI
pytest tests/chaos --seed 4711              that scene alone, and the points' scenes drawn from it
pytest tests/chaos -m cloud --seeds 20      on emulators
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from shared.settings import ROOT
from tests.chaos.scenes import Played
from tests.chaos.world import World

if TYPE_CHECKING:
    from tests.chaos.cloud import CloudWorld

SEEDS = 30  # in CI, beside a scene for each of the ten sorts of points
CLOUD_SEEDS = 2  # in `make test-cloud`: on emulators a scene takes ten seconds and more


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", type=int, help="how many chaos scenes to draw")
    parser.addoption("--seed", type=int, help="the one chaos scene to play")
    parser.addoption("--every", action="store_true", help="kill at every passage of every point")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted = {"every": "--every", "campaign": "--seeds"}
    unwanted = {name for name, option in wanted.items() if not config.getoption(option, None)}
    left_out = [item for item in items if unwanted & set(getattr(item, "fixturenames", ()))]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "number" in metafunc.fixturenames:
        # This file is not read early enough for its options when all tests are asked for.
        alone = metafunc.config.getoption("--seed", None) is not None
        usual = CLOUD_SEEDS if "cloud_world" in metafunc.fixturenames else SEEDS
        count = 1 if alone else metafunc.config.getoption("--seeds", None) or usual
        metafunc.parametrize("number", range(count))


@pytest.fixture(scope="session")
def first_seed(request: pytest.FixtureRequest) -> int:
    """The seeds change with every commit, so that CI does not look at the same scenes for ever."""
    given: int | None = request.config.getoption("--seed", None)
    if given is not None:
        return given
    head = subprocess.run(
        ["git", "rev-parse", "--short=6", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return int(head.stdout.strip() or "1", 16) * 1_000


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("chaos"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def cloud_world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CloudWorld]:
    from tests.chaos.cloud import CloudWorld

    backends = request.getfixturevalue("cloud_backends")
    made = CloudWorld(tmp_path_factory.mktemp("chaos"), backends)
    yield made
    made.close()


@pytest.fixture
def every() -> None:
    """Asked for by what is run with --every only."""


@pytest.fixture
def campaign() -> None:
    """Asked for by what takes long: it is run when --seeds says how much is wanted."""


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    return Figures(request.node)


class Figures:
    """What a test has to tell at the end of the session, also from another process."""

    def __init__(self, node: pytest.Item) -> None:
        self._properties = node.user_properties

    def add(self, seed: int, played: Played) -> None:
        self._properties += [
            ("seed", seed),
            ("hits", dict(played.hits)),
            ("deaths", played.deaths),
            ("frozen", played.frozen),
            ("away", played.away),
            ("resumed", played.resumed),
        ]

    def cold(self, seconds: list[float]) -> None:
        self._properties.append(("cold", seconds))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    found: dict[str, list[object]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call":
                for name, value in report.user_properties:
                    found.setdefault(name, []).append(value)
    if "seed" not in found:
        return
    hits: Counter[str] = Counter()
    for counted in found["hits"]:
        assert isinstance(counted, dict)
        hits.update(counted)
    deaths, frozen, away = (_sum(found[name]) for name in ("deaths", "frozen", "away"))
    line = terminalreporter.write_line
    terminalreporter.section("chaos")
    line("seeds " + " ".join(str(seed) for seed in dict.fromkeys(found["seed"])))
    line(f"{len(found['seed'])} scenes, {deaths} processes killed, at")
    line("  " + ", ".join(f"{point} {hits[point]}" for point in sorted(hits)))
    line(f"  and {deaths - hits.total()} from outside at any time")
    if frozen or away:
        line(f"{frozen} processes frozen past their lease, {away} dependencies away")
    for name, what in (
        ("resumed", "interrupted steps went on after"),
        ("cold", "of these, after a start of the interpreter"),
    ):
        times = sorted(time for value in found.get(name, []) for time in _floats(value))
        if times:
            middle, most = times[len(times) // 2], times[-1]
            line(f"{what}: p50 {middle:.3f} s, max {most:.3f} s ({len(times)})")


def _sum(values: list[object]) -> int:
    return sum(value for value in values if isinstance(value, int))


def _floats(value: object) -> list[float]:
    assert isinstance(value, list)
    return value
