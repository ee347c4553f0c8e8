"""Functions in the cloud mode that are killed, frozen and cut off, and held to the same as one process.

Firestore, Pub/Sub, Cloud Tasks, BigQuery, Cloud Storage and Cloud KMS are emulators, PostgreSQL is real.
A failing scene names its seed; play it again with `pytest tests/chaos -m cloud --seed SEED`.
"""

from __future__ import annotations

import pytest

from shared.core.run import Attempt, Result
from tests.chaos.cloud import CloudWorld
from tests.chaos.conftest import Figures
from tests.chaos.proxies import Freeze, Kill
from tests.chaos.scenes import LIGHT, ONE, Played, Scene, drawn, faults

pytestmark = [pytest.mark.cloud, pytest.mark.kill, pytest.mark.slow, pytest.mark.timeout(600)]


def played(world: CloudWorld, scene: Scene, seed: int, figures: Figures) -> Played:
    """Plays a scene, and fails with all that is wrong at its end."""
    told = f"seed {seed}: {scene}"
    print(told)
    made = world.play(scene)
    figures.add(seed, made)
    wrong = faults(made, scene, world.clean_of(scene.asks))
    assert not wrong, "\n".join([told, *wrong])
    return made


def test_a_drawn_scene_ends_as_a_clean_run(
    number: int, cloud_world: CloudWorld, first_seed: int, figures: Figures
) -> None:
    seed = first_seed + number
    played(cloud_world, drawn(seed, cloud_world), seed, figures)


def test_a_worker_that_was_frozen_before_it_told_its_result_is_not_heard(
    cloud_world: CloudWorld, first_seed: int, figures: Figures
) -> None:
    blow = Freeze(point="step_worker attempt.before")
    made = played(cloud_world, Scene(blows=[blow], asks=LIGHT), first_seed, figures)
    assert made.frozen == 1
    assert lost(made).late == Result.OK


def test_a_worker_that_was_frozen_near_its_commit_finds_that_it_lost(
    campaign: None, cloud_world: CloudWorld, first_seed: int, figures: Figures
) -> None:
    blow = Freeze(
        point="step_worker load.checked", passage=cloud_world.clean_of(ONE).commits[0] - 2
    )
    made = played(cloud_world, Scene(blows=[blow]), first_seed, figures)
    assert made.frozen == 1
    assert lost(made).late is not None


def test_a_call_that_was_frozen_until_its_quota_was_given_back_makes_one_run(
    campaign: None, cloud_world: CloudWorld, first_seed: int, figures: Figures
) -> None:
    blow = Freeze(point="api reserve.after")
    made = played(cloud_world, Scene(blows=[blow], asks=LIGHT), first_seed, figures)
    assert made.frozen == 1


def test_a_machine_that_dies_in_the_middle_of_a_step_is_replaced(
    campaign: None, cloud_world: CloudWorld, first_seed: int, figures: Figures
) -> None:
    blow = Kill(point="step_worker processor.exit", passage=2, machine=True)
    made = played(cloud_world, Scene(blows=[blow], asks=LIGHT), first_seed, figures)
    assert made.deaths == 1
    assert made.resumed


def test_a_claim_that_nobody_loses_is_noticed(cloud_world: CloudWorld, first_seed: int) -> None:
    scene = Scene(asks=LIGHT, twice=first_seed, claims_anyhow=True)
    wrong = faults(cloud_world.play(scene), scene, cloud_world.clean_of(LIGHT))
    assert [text for text in wrong if text.endswith("was run twice")], wrong


def lost(played: Played) -> Attempt:
    """The one attempt that was."""
    (ended,) = played.result.left.runs.values()
    (found,) = (one for one in ended.attempts if one.result is Result.LOST)
    return found
